"""What operators decide: `release`, `reject`, `rollback`, `promote`, `retry-failed`, `gc` and `forget`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from uuid import uuid4

import click

from ecgscale.cli.command import command, say
from ecgscale.cli.options import PLACE, option_of
from ecgscale.config import NightlyConfig
from ecgscale.errors import UsageError, did_you_mean
from ecgscale.progress import Progress
from ecgscale.words import by_reason, counted, named, size, typed

if TYPE_CHECKING:
    from ecgscale.nightly.forget.forget import ForgetResult
    from ecgscale.store.garbage import Cleaned


_GARBAGE = {
    "manifests": "older manifests",
    "commits": "commit records that something newer replaced",
    "data": "data files that nothing refers to",
    "temporary": "files of writers that were killed",
    "checkpoints": "checkpoints of fits that nobody goes on with",
    "preflight": "objects with which the store was tried",
}

served_option = click.option("--dataset", help="Id of a dataset below ROOT. Default: the one that is served.")


def _options(function: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        served_option,
        click.option("--reason", required=True, help="Why; kept with the shard."),
        click.option("--all", "every", is_flag=True, help="All shards that are held."),
        click.argument("shards", nargs=-1),
        click.argument("root", type=PLACE),
    ):
        function = option(function)
    return function


@click.command()
@_options
@command
def release(progress: Progress, **asked: Any) -> dict[str, Any]:
    """Publish SHARDS after all: the next nightly run takes them in.

    \b
      ecgscale status ROOT
      ecgscale release ROOT part-00012.parquet --reason "new carts on ward 3, checked with cardiology"
    """
    return _decide("released", **asked)


@click.command()
@_options
@command
def reject(progress: Progress, **asked: Any) -> dict[str, Any]:
    """Keep SHARDS out of what is published, until they come again with other content.

    \b
      ecgscale status ROOT
      ecgscale reject ROOT part-00012.parquet --reason "arm leads reversed on cart 4; recordings are repeated"
    """
    return _decide("rejected", **asked)


def _decide(
    state: Literal["released", "rejected"],
    root: Path,
    shards: tuple[str, ...],
    every: bool,
    reason: str,
    dataset: str | None,
) -> dict[str, Any]:
    from ecgscale.nightly.history import decide_on
    from ecgscale.store.dataset import find_dataset

    if not shards and not every:
        raise UsageError("name the SHARDS, or give --all; `ecgscale status ROOT` lists those that are held")
    decided = decide_on(root, shards, state, reason, dataset, every)
    manifest = find_dataset(root, dataset).manifest
    published = {entry.identity: entry for entry in manifest.content.shards} if manifest else {}
    for hold in decided:
        entry = published.get(hold.source.identity)
        say(f"{hold.source.key} {state}: {_then(state, entry.published_rows if entry else None)}")
    return {state: [hold.source.key for hold in decided], "reason": reason.strip()}


def _then(state: str, published: int | None) -> str:
    """What comes of a decision on a shard of which so many records are published; None: it is not published."""
    if state == "released":
        return "the next nightly run publishes it" if published is None else "it is published, and stays so"
    if published is None:
        return "it stays unpublished"
    return f"it is published now; the next night withdraws its {counted(published, 'record')}"


@click.command()
@click.argument("root", type=PLACE)
@click.argument("number", type=click.IntRange(min=1), metavar="N")
@click.option("--reason", required=True, help="Why; kept with the shards that are held back by it.")
@served_option
@command
def rollback(progress: Progress, root: Path, number: int, reason: str, dataset: str | None) -> dict[str, Any]:
    """Publish again what manifest N said; shards that came since are held until they are released.

    No file is changed or removed, and the manifests in between stay. `ecgscale status ROOT` shows what is held.

    \b
      ecgscale rollback ROOT 41 --reason "wrong units since Tuesday"
      ecgscale release ROOT --all --reason "units mended"
    """
    from ecgscale.nightly.history import roll_back

    manifest = roll_back(root, number, reason, dataset)
    content = manifest.content
    records = counted(content.totals.records, "record")
    say(f"manifest {manifest.number} says what manifest {number} said: {records}")
    for line in by_reason({shard.key: shard.reason for shard in content.held}):
        say(f"held back: {line}")
    return {
        "manifest": manifest.number,
        "as": number,
        "dataset_id": content.dataset_id,
        "records": content.totals.records,
        "held": [shard.key for shard in content.held],
    }


@click.command()
@click.argument("root", type=PLACE)
@click.argument("dataset")
@click.option("--reason", required=True, help="Why; kept with the decision.")
@click.option("--incomplete", is_flag=True, help="Also when shards are lacking that are served now.")
@command
def promote(progress: Progress, root: Path, dataset: str, reason: str, incomplete: bool) -> dict[str, Any]:
    """Serve DATASET: what `open_explanations(ROOT)` opens, and what the nights go on with, from now on.

    It has to be published, and to have every shard of what is served now. Nothing is moved or copied: a numbered
    pointer below ROOT/explanations/_served says what is served, since when, by whom and why. Promoting an earlier
    dataset is the way back.

    \b
      ecgscale promote results 0123456789abcdef --reason "refit on 2026, looked at by cardiology"
    """
    from ecgscale.nightly.models.promote import promote as serve_from_now_on

    done = serve_from_now_on(root, dataset, reason, incomplete)
    content = done.now.content
    verb = "now serves" if done.changed else "serves"
    say(
        f"{root} {verb} dataset {content.dataset_id}, model {content.identity.model_id}: "
        f"{counted(content.totals.records, 'record')} in {counted(content.totals.shards, 'shard')}"
    )
    if not done.changed:
        say(f"  since {done.pointer.promoted_at[:16]}, {done.pointer.promoted_by}: {done.pointer.reason}")
    waiting = [key for key in done.lacking if key not in done.kept_out]
    if waiting:
        them = "explains it" if len(waiting) == 1 else "explains them"
        say(f"  lacking {counted(len(waiting), 'shard')} of what was served; the next nightly run {them}")
    if done.kept_out:
        there = f"held back or rejected in this dataset ({named(done.kept_out)})"
        say(f"  lacking {counted(len(done.kept_out), 'shard')} {there}; only ecgscale release brings them back")
    if done.changed and done.before is not None:
        before = done.before.content.dataset_id
        say(f"way back: ecgscale promote {typed(root)} {before} --reason TEXT")
    return {**done.to_dict(), "root": str(root)}


@click.command("retry-failed")
@click.argument("root", type=PLACE)
@click.option("--dataset", metavar="ID", help="Of this dataset alone. Default: of all below ROOT.")
@click.option("--shard", "shards", multiple=True, metavar="KEY", help="This shard alone; may be given several times.")
@command
def retry_failed(progress: Progress, root: Path, dataset: str | None, shards: tuple[str, ...]) -> dict[str, Any]:
    """Forget that shards were given up, so that the next run tries them again.

    A shard that takes its worker along every time it is tried is remembered, and not tried again until its content or
    the code changes. Do this when the cause was something else: too little memory, a bad node.

    \b
    Example:
      ecgscale retry-failed results
      ecgscale retry-failed results --shard part-00012.parquet
    """
    from ecgscale.store.dataset import dataset_store
    from ecgscale.store.failures import failures
    from ecgscale.store.failures import forget as forget_failure
    from ecgscale.store.root import chosen_datasets, existing_root

    where = existing_root(root)
    stores = {dataset_id: dataset_store(where, dataset_id) for dataset_id in chosen_datasets(where, dataset)}
    known = [(dataset_id, failure) for dataset_id, store in stores.items() for failure in failures(store)]
    keys = sorted({failure.source.key for _, failure in known})
    for shard in shards:
        if shard not in keys:
            raise UsageError(
                f"shard {shard!r} is not among those that were given up.{did_you_mean(shard, keys)} "
                f"There are: {', '.join(keys) or 'none'}"
            )
    forgotten = []
    for dataset_id, failure in known:
        if not shards or failure.source.key in shards:
            forget_failure(stores[dataset_id], failure)
            say(f"{failure.source.key} of dataset {dataset_id} will be tried again; it failed: {failure.reason}")
            facts = {"dataset_id": dataset_id, "shard": failure.source.key, "reason": failure.reason}
            forgotten.append({**facts, "failed_at": failure.failed_at})
    if not forgotten:
        say("no shard was given up")
    return {"root": str(where), "forgotten": forgotten}


@click.command()
@click.argument("root", type=PLACE)
@option_of(NightlyConfig, "gc_grace_hours", "--grace", type=click.FloatRange(min=0), metavar="HOURS",
           help="Touch nothing younger than this, by the store's clock; longer than any run takes.")  # fmt: skip
@click.option("--keep-manifests", type=click.IntRange(min=1), metavar="N",
              help="Keep the newest N manifests; older ones go with what they alone refer to.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Say what would go, and remove nothing.")
@command
def gc(progress: Progress, root: Path, grace: float, keep_manifests: int | None, dry_run: bool) -> dict[str, Any]:
    """Remove from ROOT what nobody refers to any more.

    What goes: data files that no manifest and no commit record names, commit records that a newer one has replaced and
    no manifest shows, what killed processes left, and checkpoints of fits that nobody goes on with. What is published,
    held back, or may still be published stays. Stopped in the middle, nothing dangles: type it again. Exit code 5 while
    anybody else is at work below ROOT, and nothing goes then.

    \b
    Example:
      ecgscale gc results --dry-run
      ecgscale gc s3://bucket/results --grace 168 --keep-manifests 30
    """
    from ecgscale.store.garbage import collect_garbage
    from ecgscale.store.lease import Lease
    from ecgscale.store.root import existing_root

    # A nightly run may be about to refer to what lies about.
    lease = nullcontext() if dry_run else Lease(existing_root(root), uuid4().hex, "ecgscale gc")
    with lease:
        cleaned = collect_garbage(root, timedelta(hours=grace), keep_manifests, dry_run, progress)
    say(*gc_summary(cleaned))
    return cleaned.to_dict()


def gc_summary(cleaned: Cleaned) -> list[str]:
    """What went, as lines for people."""
    facts = cleaned.to_dict()
    verb = "would be removed" if cleaned.dry_run else "removed"
    stay = "stays" if facts["kept"] == 1 else "stay"
    lines = [f"{counted(facts['removed'], 'object')} of {size(facts['bytes'])} {verb}, {facts['kept']:,} {stay}"]
    lines += [
        f"  {removed.count:,} {_GARBAGE[kind]}, {size(removed.bytes)}"
        for kind, removed in cleaned.by_kind.items()
        if removed.count
    ]
    return lines


_PLACES = 10


@click.command()
@click.argument("root", type=PLACE)
@click.argument("patient_id")
@click.option("--archive", type=PLACE, required=True, help="The archive that ROOT was made of.")
@click.option("--key", type=PLACE, metavar="KEYFILE",
              help="PATIENT_ID is that of the source, and the archive was pseudonymised with this key.")  # fmt: skip
@click.option("--record", is_flag=True, help="PATIENT_ID is a record_id: for archives that know no patients.")
@click.option("--reason", default="", help="Why; kept beside the datasets, so without any id.")
@click.option("--encoder", "encoders", type=PLACE, multiple=True, metavar="DIR",
              help="An encoder elsewhere, whose list of what it has seen is mended too; may be repeated.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Say what would go, and change nothing.")
@command
def forget(
    progress: Progress,
    root: Path,
    patient_id: str,
    archive: Path,
    key: Path | None,
    record: bool,
    reason: str,
    encoders: tuple[Path, ...],
    dry_run: bool,
) -> dict[str, Any]:
    """Remove a patient from the archive and from everything below ROOT, and show that nothing is left.

    Shards of the archive are written again without the patient's recordings, and so is everything that was explained
    or probed of them; earlier manifests that held them go, so nobody can roll back to them. Evaluations that name a
    recording go, lists of what networks have seen and records of runs are mended, and a hash keeps the patient from
    coming back with the next ingest. In the end every object is searched. Stopped at any point: type it again.

    PATIENT_ID is as in the archive, or as in the source with --key; "-" reads it from standard input, so that no shell
    keeps it. Reports that you made, backups, and earlier versions in a bucket are yours to remove (docs/privacy.md).

    \b
    Example:
      ecgscale forget results 15709 --archive ptbxl.archive --dry-run
      ecgscale forget s3://bucket/results - --archive s3://bucket/archive --key ecg.key --reason "withdrawn" < id.txt

    Exit codes: 0 nothing is left, 1 something is (it is named), 5 a nightly run or another
    command is at work below ROOT: wait until it ends.
    """
    from ecgscale.nightly.forget.forget import Whom, forget_patient

    given = sys.stdin.readline().strip() if patient_id == "-" else patient_id
    result = forget_patient(
        root,
        Whom(given, key, record),
        archive,
        reason=reason,
        encoders=encoders,
        dry_run=dry_run,
        progress=progress,
    )
    say(*forget_summary(result))
    return {**result.to_dict(), "exit_code": result.exit_code}


def forget_summary(result: ForgetResult) -> list[str]:
    """What was done, as lines for people; nobody is named."""
    would = "would be " if result.dry_run else ""
    rewritten, gone = counted(result.shards_rewritten, "shard"), counted(result.files_removed, "object")
    lines = [
        f"{counted(result.records, 'record')}, {rewritten} of the archive {would}written again, {gone} {would}removed, "
        f"{result.manifests_removed:,} of them manifests"
    ]
    if result.again:
        waits = f"{counted(result.again, 'shard')} {'waits' if result.again == 1 else 'wait'} for the next run"
        lines.append(f"{waits}: what was published was out of date")
    lines += [f"note: {note}" for note in result.notes]
    searched = f"{counted(result.objects_searched, 'object')} searched"
    if not result.left:
        return [*lines, f"{searched}: nothing is left"]
    says = "tell of the patient now" if result.dry_run else "still tell of the patient"
    lines.append(f"{searched}, {len(result.left):,} {says}:")
    lines += [f"  {where}" for where in result.left[:_PLACES]]
    if len(result.left) > _PLACES:
        lines.append(f"  and {len(result.left) - _PLACES:,} more")
    if not result.dry_run:
        lines.append("remove what is yours, and type the same command again")
    return lines
