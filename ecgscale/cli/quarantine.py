"""`ecgscale quarantine`: the records that could not be explained, the shards that are held back, and why."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ecgscale.cli.command import command
from ecgscale.cli.options import PLACE
from ecgscale.progress import Progress

if TYPE_CHECKING:
    from ecgscale.nightly.rows import HeldLine
    from ecgscale.store.dataset import ExplainedDataset


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
    from ecgscale.errors import UsageError
    from ecgscale.store.dataset import find_dataset

    if held and reason is not None:
        raise UsageError("--reason picks records, and --held lists shards: leave one of them out")
    found = find_dataset(root, dataset)
    return _held(found, root, limit) if held else _quarantined(found, root, reason, limit)


def _quarantined(found: ExplainedDataset, root: Path, reason: str | None, limit: int) -> dict[str, Any]:
    from ecgscale.cli.tables import rows_table
    from ecgscale.nightly.rows import quarantined_records
    from ecgscale.words import counted

    assert found.manifest is not None
    totals = found.manifest.content.totals
    records = quarantined_records(found.store, found.manifest, reason, limit)
    everything = sum(totals.quarantined.values())
    total = everything if reason is None else totals.quarantined.get(reason, 0)
    rows = [[r.record_id or "", r.shard, str(r.row), r.status, ", ".join(r.flags)] for r in records]
    click.echo(
        f"dataset {found.dataset_id}, manifest {found.manifest.number}: {everything:,} of "
        f"{counted(totals.records, 'record')} {'is' if everything == 1 else 'are'} quarantined"
    )
    for status, count in sorted(totals.quarantined.items(), key=lambda pair: -pair[1]):
        click.echo(f"  {count:,} {status}")
    if rows:
        click.echo(rows_table(["record", "shard", "row", "status", "flags"], rows, right=("row",)))
    if total > len(records):
        click.echo(f"and {total - len(records):,} more; --limit shows more of them")
    back = len(found.manifest.content.held)
    if back:
        verb = "is" if back == 1 else "are"
        click.echo(f"{counted(back, 'shard')} {verb} held back or rejected: ecgscale quarantine {_typed(root)} --held")
    return {
        "dataset_id": found.dataset_id,
        "manifest": found.manifest.number,
        "quarantined": everything,
        "by_reason": dict(totals.quarantined),
        "records": [record.to_dict() for record in records],
        "left_out": total - len(records),
    }


def _held(found: ExplainedDataset, root: Path, limit: int) -> dict[str, Any]:
    from ecgscale.nightly.rows import held_lines

    assert found.manifest is not None
    lines = held_lines(found)
    for text in _held_told(found, lines, lines[:limit], _typed(root)):
        click.echo(text)
    return {
        "dataset_id": found.dataset_id,
        "manifest": found.manifest.number,
        "held": [line.to_dict() for line in lines[:limit]],
        "left_out": len(lines) - len(lines[:limit]),
    }


def _held_told(found: ExplainedDataset, lines: list[HeldLine], shown: list[HeldLine], root: str) -> Iterator[str]:
    """Which shards, why, and what to type next."""
    from ecgscale.cli.tables import by_reason, rows_table
    from ecgscale.words import counted

    assert found.manifest is not None
    where = f"dataset {found.dataset_id}, manifest {found.manifest.number}"
    if not lines:
        yield f"{where}: no shard is held back"
        return
    states = {state: [line for line in lines if line.state == state] for state in ("held", "rejected")}
    told = [f"{counted(len(of), 'shard')} {state}" for state, of in states.items() if of]
    yield f"{where}: {', '.join(told)}, of {counted(sum(line.records for line in lines), 'record')}"
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
        yield rows_table(heads, rows, right=("records", "quarantined"))
    if len(lines) > len(shown):
        yield f"and {counted(len(lines) - len(shown), 'shard')} more; --limit shows more of them"
    for state, of in states.items():
        yield from (f"{state}: {line}" for line in by_reason({line.shard: line.reason for line in of}))
    some = next((line.record_id for line in lines if line.record_id is not None), None)
    if some is not None:
        yield f"look:   ecgscale plot {root} {shlex.quote(some)} --held -o odd.png"
    if states["held"]:
        yield f"decide: ecgscale release {root} {states['held'][0].shard} --reason TEXT     (or reject)"


def _typed(root: Path) -> str:
    return shlex.quote(str(root))
