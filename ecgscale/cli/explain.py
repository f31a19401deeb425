"""`ecgscale explain` and `ecgscale nightly`: every record of an archive to facts, at once or night by night."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ecgscale.cli.command import command, say
from ecgscale.cli.options import (
    PLACE,
    Job,
    Where,
    job_of,
    option_of,
    options_of,
    recompute_option,
    runtime_options,
    withdrawal_option,
)
from ecgscale.config import ExplainConfig, RunConfig, load_config
from ecgscale.progress import Progress
from ecgscale.words import by_reason, counted, cropped_line, named, typed

if TYPE_CHECKING:
    from ecgscale.nightly.night import NightResult
    from ecgscale.passes.explain.explain import ExplainResult


@click.command()
@click.argument("archive", type=PLACE)
@click.option(
    "--model",
    type=PLACE,
    metavar="PATH|ID",
    help="Cluster model: ROOT/models/ID, or its ID alone. Default: the only one below ROOT, or the one that is served.",
)
@click.option("--out", "root", required=True, type=PLACE, help="ROOT to write explanations below.")
@options_of(ExplainConfig, "entropy")
@option_of(RunConfig, "batch", help="Records in a forward pass; part of the dataset's identity.")
@click.option(
    "--include-padding/--exclude-padding",
    default=None,
    help="Explain zero padding too, as the published method does; by default as the model was fitted.",
)
@option_of(RunConfig, "fill_gaps", metavar="MS", default=None, show_default="as the model was fitted")
@options_of(RunConfig, "device")
@recompute_option
@withdrawal_option
@runtime_options
@command
def explain(
    progress: Progress,
    archive: Path,
    model: Path | None,
    root: Path,
    device: str,
    allow_recompute: bool,
    allow_withdrawal: bool,
    where: Where,
    **asked: Any,
) -> dict[str, Any]:
    """Say for every record of ARCHIVE when the network is in which cluster, and how surely.

    Writes one Parquet file for each shard of the archive and publishes them together. Stopped or failed in the
    middle, type the same command again: what is committed is not computed again, and unchanged shards are not
    even read. A shard that cannot be read is set aside (exit code 3); the rest goes on.

    Nothing is changed (exit code 2) where more than a tenth of what is published would go, because its shards are gone
    from the archive (a disk that is not mounted), or more than a twentieth would be computed again, unless that is
    allowed.

    \b
    Example:
      ecgscale explain archive --out out
      ecgscale explain archive --out out --model k20-1a2b3c4d5e6f --runtime ray --workers 16 --device cuda
    Then, in Python:
      import duckdb, ecgscale
      ds = ecgscale.open_explanations("out")
      duckdb.sql("SELECT status, count(*) FROM ds GROUP BY status").show()
    """
    from ecgscale.archive.reader import Archive
    from ecgscale.passes.explain.chosen_model import model_of_root, named_model
    from ecgscale.passes.explain.explain import explain_archive
    from ecgscale.passes.explain.guard import Guard
    from ecgscale.runtime.run_record import run_record

    if model is None:
        chosen = model_of_root(root)
        progress.say(f"with model {chosen.name}; --model names another")
    else:
        chosen = named_model(root, model)
    place = where.placement(device, progress)
    with run_record(root, "explain", place.facts(), progress) as record:
        result = explain_archive(
            Archive.open(archive),
            chosen,
            root,
            device=place.device,
            progress=progress,
            pool=place.pool,
            watch=record,
            guard=Guard(root, allow_recompute, allow_withdrawal),
            **asked,
        )
        record.add(result.exit_code, explained=result.to_dict())
    say(*explain_summary(result, root))
    return {**result.to_dict(), "exit_code": int(result.exit_code)}


def explain_summary(result: ExplainResult, root: Path) -> list[str]:
    """What was done, and what to do next."""
    from ecgscale.store.dataset import current

    quarantined = sum(result.quarantined.values())
    done = [("computed", result.computed), ("unchanged", result.unchanged), ("re-stamped", result.restamped)]
    done += [("retired", result.retired), ("set aside", len(result.set_aside))]
    lines = [
        f"{counted(result.records, 'record')} in {counted(result.shards, 'shard')}, {result.records - quarantined:,} "
        f"explained and {quarantined:,} quarantined, in {result.seconds:.1f} s",
        "  shards: " + ", ".join(f"{count:,} {name}" for name, count in done if count),
    ]
    if result.withdrawn:
        lines.append(f"  withdrawn: {counted(result.withdrawn, 'record')} of shards that were published before")
    if result.cropped:
        lines.append(f"  {cropped_line(result.cropped, result.network_seconds)}")
    if result.quarantined:
        reasons = ", ".join(f"{count:,} {status}" for status, count in result.quarantined.items())
        lines.append(f"  quarantined: {reasons}")
    lines += [f"  {counted(count, 'recording')} {what}" for count, what in _came_again(result)]
    lines += [f"  set aside {aside.key} (why: `ecgscale status`)" for aside in result.set_aside]
    for state in ("held", "rejected"):
        held = {shard.key: shard.reason for shard in result.held if shard.state == state}
        lines += [f"  {state} {line}" for line in by_reason(held)]
    published = "published as" if result.published else "nothing new; still"
    lines.append(f"  {published} manifest {result.manifest} of {result.path}")
    pointer = current(root)
    if pointer is not None and pointer.dataset_id != result.dataset_id:
        lines.append(
            f"  served is still {pointer.dataset_id}; ecgscale promote {typed(root)} {result.dataset_id} changes that"
        )
    lines += [
        "",
        "Next, in Python: which clusters are the records in, and where is the network least sure?",
        "  import duckdb, ecgscale",
        f"  ds = ecgscale.open_explanations({str(root)!r})",
        "  duckdb.sql(\"SELECT record_id, mean_entropy, proportions FROM ds WHERE status = 'ok' "
        'ORDER BY mean_entropy DESC LIMIT 10").show()',
        f"Or look at one: ecgscale plot {typed(root)} RECORD_ID -o ecg.png",
    ]
    return lines


def _came_again(result: ExplainResult) -> list[tuple[int, str]]:
    """How many recordings of an id that was known already, and what became of them."""
    again = [
        (result.superseded, "gave way to newer ones of the same id"),
        (result.repeated, "came twice alike: kept once"),
        (result.conflicts, "quarantined: another patient has the id"),
    ]
    return [(count, what) for count, what in again if count]


@click.command()
@click.argument("config", type=PLACE)
@click.option(
    "--model", type=PLACE, metavar="PATH|ID", help="Explain with this model. Default: that of what is served."
)
@recompute_option
@withdrawal_option
@command
def nightly(
    progress: Progress, config: Path, model: Path | None, allow_recompute: bool, allow_withdrawal: bool
) -> dict[str, Any]:
    """Ingest, explain, judge and publish what is new since the last time, with the model that is served.

    What to type every night, from cron or `ray job submit`. It takes a lock, ingests source files that have arrived and
    settled, explains new and changed shards, holds back those that the quality gates find wrong, publishes the rest,
    and refreshes surrogate and drift. Nothing new: seconds. Stopped at any point: the same command goes on.

    \b
      [nightly]
      settle_minutes = 15         # files must have been as they are for so long
      deadline = "05:30"          # UTC; no shard is begun after it
    \b
      [gates]
      quarantine_rate = 0.05

    Exit codes: 0 done, 3 shards were set aside, 4 the gates held shards back (ecgscale quarantine --held, then release
    or reject), 5 another run is under way, 6 cut short.

    Example:  ecgscale nightly configs/nightly.toml
    """
    with job_of(load_config(config), "nightly", progress) as job:
        return night_facts(job, model, allow_recompute, allow_withdrawal)


def night_facts(job: Job, model: Path | None, allow_recompute: bool, allow_withdrawal: bool) -> dict[str, Any]:
    """Run the night, tell it, and put it into the run record; the facts of the command."""
    from ecgscale.nightly.night import run_night
    from ecgscale.passes.explain.chosen_model import named_model

    result = run_night(
        job.config,
        watch=job.record,
        model_dir=named_model(job.config.root, model) if model is not None else None,
        allow_recompute=allow_recompute,
        allow_withdrawal=allow_withdrawal,
        pool=job.where.pool,
        device=job.where.device,
        progress=job.progress,
    )
    facts = result.to_dict()
    job.record.add(result.exit_code, night=facts)
    say(*night_summary(result, job.config.root))
    return {**facts, "exit_code": int(result.exit_code)}


def night_summary(result: NightResult, root: Path) -> list[str]:
    """What a person wants to know of a night, a line each, and what to type next."""
    explained = result.explained
    lines = []
    if result.arrivals is not None:
        came = result.arrivals
        records, shards = counted(came.records, "record"), counted(len(came.shards), "shard")
        lines.append(f"arrived: {records} in {shards}; {came.waiting:,} settle still")
    new = explained.computed + explained.restamped
    counts = [(explained.retired, "withdrawn: gone from the archive"), (len(explained.left), "left for later")]
    lines.append(
        f"explained: {counted(explained.computed, 'shard')} computed, {explained.restamped:,} moved, "
        f"{explained.unchanged:,} unchanged" + "".join(f", {count:,} {what}" for count, what in counts if count)
    )
    lines += [f"recordings: {count:,} {what}" for count, what in _came_again(explained)]
    if explained.quarantined:
        lines.append("quarantined: " + ", ".join(f"{n:,} {status}" for status, n in explained.quarantined.items()))
    lines += [f"set aside: {aside.key} (why: `ecgscale status`)" for aside in explained.set_aside]
    lines += [f"{'gate' if found.alarm else 'note'}: {found.message}" for found in result.report.findings]
    held = [shard.key for shard in explained.held if shard.state == "held"]
    if held:
        where = typed(root)
        lines.append(f"{counted(len(held), 'shard')} held back: {named(held)}")
        lines.append(f"look:   ecgscale quarantine {where} --held")
        lines.append(f"decide: ecgscale release {where} {held[0]} --reason TEXT     (or reject)")
    state = "published" if explained.published else ("nothing new" if not new else "nothing published")
    if explained.withdrawn:
        withdrawn = counted(explained.withdrawn, "record")
        lines.append(f"withdrawn: {withdrawn} of shards that were published before and are not now")
    records = counted(explained.records, "record")
    lines.append(f"{state}: manifest {explained.manifest}, {records}: {explained.path}")
    return lines
