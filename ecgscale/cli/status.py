"""`ecgscale status` and `ecgscale quarantine`: what is going on below a ROOT, what is held back, and why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ecgscale.cli.command import command, say
from ecgscale.cli.options import PLACE, archive_option
from ecgscale.errors import UsageError
from ecgscale.progress import Progress
from ecgscale.tables import Table
from ecgscale.words import age, by_reason, counted, grouped, named, size, typed

if TYPE_CHECKING:
    from ecgscale.nightly.history import History
    from ecgscale.nightly.status import DatasetStatus, HeldLine, RootStatus
    from ecgscale.store.dataset import ExplainedDataset


NAMED = 5


@click.command()
@click.argument("root", type=PLACE)
@archive_option
@click.option("--history", type=click.IntRange(min=0), default=0, metavar="N",
              help="Also the last N manifests, and the last N decisions: who, when, why.")  # fmt: skip
@command
def status(progress: Progress, root: Path, archive: Path | None, history: int) -> dict[str, Any]:
    """Say what is published below ROOT, what waits, what failed or is held back, and how the last runs ended.

    One table a dataset. Nothing but listings and small records is read, so it takes seconds. Ages are by the clock of
    the store. With --history, also what was published before, by which command and run (`ecgscale rollback` goes back
    to one of these manifests), and what people released, rejected, rolled back and promoted.

    \b
    Example:
      ecgscale status results
      ecgscale status results --history 10
      ecgscale status s3://bucket/results --json
    """
    from ecgscale.nightly.history import root_history
    from ecgscale.nightly.status import root_status

    found = root_status(root, archive)
    past = root_history(root, history) if history else None
    say(*[*_tables(found), *(_history(past) if past else ())])
    return {**found.to_dict(), **({"history": past.to_dict()} if past else {})}


def _tables(found: RootStatus) -> Iterator[str | Table]:
    for dataset in found.datasets:
        title = f"dataset {dataset.dataset_id}" + (" (served)" if dataset.served else "")
        yield from (Table.of_facts(title, _facts(dataset)), "")
    if not found.datasets:
        yield f"no explanations lie below {found.root} yet"
    if found.running:
        yield f"under way: {found.running}"
    rows = [
        [
            run.command or "",
            (run.started or "")[:19].replace("T", " "),
            age((found.time - run.ended).total_seconds()) + " ago",
            run.outcome,
            "" if run.exit_code is None else str(run.exit_code),
            "" if run.records is None else f"{run.records:,}",
            age(run.seconds),
        ]
        for run in found.runs
    ]
    heads = ["run", "started (UTC)", "ended", "outcome", "exit", "computed", "took"]
    if rows:
        yield Table.of(heads, rows, "last runs", right=("exit", "computed", "took"))
    if found.remark:
        yield f"note: {found.remark}"


def _history(past: History) -> Iterator[str | Table]:
    manifests = [
        [
            line.dataset_id,
            str(line.number),
            _minute(line.created),
            line.by or "not known",
            line.run_id[:12],
            f"{line.records:,}",
            f"{line.shards:,}",
            f"{line.held:,}",
        ]
        for line in past.manifests
    ]
    heads = ["dataset", "manifest", "published (UTC)", "by", "run", "records", "shards", "held"]
    if manifests:
        numbers = ("manifest", "records", "shards", "held")
        yield from ("", Table.of(heads, manifests, "last manifests", numbers))
    decisions = [
        [
            _minute(line.at),
            line.who,
            line.what,
            named(line.shards, 2) if line.shards else f"dataset {line.dataset_id}",
            line.reason,
        ]
        for line in past.decisions
    ]
    if decisions:
        heads = ["decided (UTC)", "by", "what", "on", "reason"]
        yield from ("", Table.of(heads, decisions, "last decisions"))
    else:
        yield from ("", "nobody has released, rejected, rolled back or promoted anything yet")


def _minute(time: str) -> str:
    return time[:16].replace("T", " ")


def _facts(dataset: DatasetStatus) -> Iterator[tuple[str, str]]:
    yield "model", dataset.model_id
    yield "archive", f"{dataset.archive or 'not known'} ({dataset.archive_id})"
    number = f"{dataset.manifest}, {age(dataset.published_s)} old" if dataset.manifest else "none: nothing is published"
    yield "manifest", number
    yield "shards published", f"{dataset.shards:,}"
    yield "records", f"{dataset.records:,}" + (f", {dataset.superseded:,} superseded" if dataset.superseded else "")
    yield "size", size(dataset.bytes)
    waiting = dataset.waiting
    yield "committed, not published", f"{waiting.unpublished:,}"
    unknown = f"not known: {waiting.remark}"
    yield "pending in the archive", unknown if waiting.pending is None else f"{waiting.pending:,}"
    if waiting.gone:
        yield "gone from the archive", f"{waiting.gone:,}"
    yield "failed", _named(dataset.failed)
    yield "held", _named(dataset.held)
    yield "rejected", _named(dataset.rejected)
    yield "set aside", _named(dataset.set_aside)
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in dataset.quarantined.items())
    total = sum(dataset.quarantined.values())
    yield "records quarantined", f"{total:,}" + (f": {reasons}" if reasons else "")


def _named(shards: Mapping[str, str]) -> str:
    """How many, and the first reasons with their shards, a line each."""
    return "\n".join([f"{len(shards):,}", *by_reason(shards, NAMED)])


@click.command()
@click.argument("root", type=PLACE)
@click.option("--dataset", metavar="ID", help="Id of a dataset below ROOT. Default: the one that is served.")
@click.option("--held", is_flag=True, help="List the shards that are held back or rejected, and how to look at them.")
@click.option("--reason", metavar="STATUS", help="Records of this status alone, such as flat_signal.")
@click.option("--limit", type=click.IntRange(min=0), default=50, show_default=True, metavar="N",
              help="List the first N; all are counted.")  # fmt: skip
@command
def quarantine(
    progress: Progress, root: Path, dataset: str | None, held: bool, reason: str | None, limit: int
) -> dict[str, Any]:
    """List the quarantined records of what is published below ROOT: record id, shard, row, status, flags.

    A quarantined record keeps its row, with a status that says why it has no facts; docs/operations.md says what to do
    about each. Patient ids are not shown.

    Whole shards that the quality gates hold back are not published, and so not among them: --held lists those, since
    when and why, with a recording of each to plot. The files that --json names hold all that was explained of them.

    \b
    Example:
      ecgscale quarantine results
      ecgscale quarantine results --reason bad_units --limit 1000
      ecgscale quarantine results --held
      ecgscale plot results RECORD_ID --held -o odd.png
    """
    from ecgscale.store.dataset import find_dataset

    if held and reason is not None:
        raise UsageError("--reason picks records, and --held lists shards: leave one of them out")
    found = find_dataset(root, dataset)
    return _held(found, root, limit) if held else _quarantined(found, root, reason, limit)


def _quarantined(found: ExplainedDataset, root: Path, reason: str | None, limit: int) -> dict[str, Any]:
    from ecgscale.nightly.status import quarantined_records

    assert found.manifest is not None
    totals = found.manifest.content.totals
    records = quarantined_records(found.store, found.manifest, reason, limit)
    everything = sum(totals.quarantined.values())
    total = everything if reason is None else totals.quarantined.get(reason, 0)
    rows = [[r.record_id or "", r.shard, str(r.row), r.status, grouped(r.flags)] for r in records]
    say(
        f"dataset {found.dataset_id}, manifest {found.manifest.number}: {everything:,} of "
        f"{counted(totals.records, 'record')} {'is' if everything == 1 else 'are'} quarantined"
    )
    for status, count in sorted(totals.quarantined.items(), key=lambda pair: -pair[1]):
        say(f"  {count:,} {status}")
    if rows:
        say(Table.of(["record", "shard", "row", "status", "flags"], rows, right=("row",)))
    if total > len(records):
        say(f"and {total - len(records):,} more; --limit shows more of them")
    back = len(found.manifest.content.held)
    if back:
        verb = "is" if back == 1 else "are"
        say(f"{counted(back, 'shard')} {verb} held back or rejected: ecgscale quarantine {typed(root)} --held")
    return {
        "dataset_id": found.dataset_id,
        "manifest": found.manifest.number,
        "quarantined": everything,
        "by_reason": dict(totals.quarantined),
        "records": [record.to_dict() for record in records],
        "left_out": total - len(records),
    }


def _held(found: ExplainedDataset, root: Path, limit: int) -> dict[str, Any]:
    from ecgscale.nightly.status import held_lines

    assert found.manifest is not None
    lines = held_lines(found)
    say(*_held_summary(found, lines, lines[:limit], typed(root)))
    return {
        "dataset_id": found.dataset_id,
        "manifest": found.manifest.number,
        "held": [vars(line) for line in lines[:limit]],
        "left_out": len(lines) - len(lines[:limit]),
    }


def _held_summary(
    found: ExplainedDataset, lines: list[HeldLine], shown: list[HeldLine], root: str
) -> Iterator[str | Table]:
    """Which shards, why, and what to type next."""
    assert found.manifest is not None
    where = f"dataset {found.dataset_id}, manifest {found.manifest.number}"
    if not lines:
        yield f"{where}: no shard is held back"
        return
    states = {state: [line for line in lines if line.state == state] for state in ("held", "rejected")}
    counts = [f"{counted(len(of), 'shard')} {state}" for state, of in states.items() if of]
    yield f"{where}: {', '.join(counts)}, of {counted(sum(line.records for line in lines), 'record')}"
    heads = ["shard", "state", "since (UTC)", "records", "quarantined", "a record to plot"]
    rows = [
        [
            line.shard,
            line.state,
            line.held_at[:16].replace("T", " "),
            f"{line.records:,}",
            f"{line.quarantined:,}",
            line.record_id or "none",
        ]
        for line in shown
    ]
    if rows:
        yield Table.of(heads, rows, right=("records", "quarantined"))
    if len(lines) > len(shown):
        yield f"and {counted(len(lines) - len(shown), 'shard')} more; --limit shows more of them"
    for state, of in states.items():
        yield from (f"{state}: {line}" for line in by_reason({line.shard: line.reason for line in of}))
    some = next((line.record_id for line in lines if line.record_id is not None), None)
    if some is not None:
        yield f"look:   ecgscale plot {root} {typed(some)} --held -o odd.png"
    if states["held"]:
        yield f"decide: ecgscale release {root} {states['held'][0].shard} --reason TEXT     (or reject)"
