"""`ecgscale quarantine`: the records that could not be explained, and why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ecgscale.cli.command import command
from ecgscale.cli.options import PLACE
from ecgscale.progress import Progress


@click.command()
@click.argument("root", type=PLACE)
@click.option("--dataset", metavar="ID", help="Id of a dataset below ROOT. Default: the one that is served.")
@click.option("--reason", metavar="STATUS", help="Those of this status alone, such as flat_signal.")
@click.option("--limit", type=click.IntRange(min=0), default=50, show_default=True, metavar="N",
              help="List the first N; all are counted.")  # fmt: skip
@command
def quarantine(progress: Progress, root: Path, dataset: str | None, reason: str | None, limit: int) -> dict[str, Any]:
    """List the quarantined records of what is published below ROOT: record id, shard, row, status, flags.

    A quarantined record keeps its row, with a status that says why it has no facts; docs/operations.md says what to do
    about each. Patient ids are not shown.

    \b
    Example:
      ecgscale quarantine results
      ecgscale quarantine results --reason bad_units --limit 1000
    """
    from ecgscale.cli.tables import rows_table
    from ecgscale.nightly.quarantined import quarantined_records
    from ecgscale.store.dataset import find_dataset

    found = find_dataset(root, dataset)
    assert found.manifest is not None
    totals = found.manifest.content.totals
    records = quarantined_records(found.store, found.manifest, reason, limit)
    total = sum(totals.quarantined.values()) if reason is None else totals.quarantined.get(reason, 0)
    rows = [[r.record_id or "", r.shard, str(r.row), r.status, ", ".join(r.flags)] for r in records]
    click.echo(
        f"dataset {found.dataset_id}, manifest {found.manifest.number}: {sum(totals.quarantined.values()):,} of "
        f"{totals.records:,} records are quarantined"
    )
    for status, count in sorted(totals.quarantined.items(), key=lambda pair: -pair[1]):
        click.echo(f"  {count:,} {status}")
    if rows:
        click.echo(rows_table(["record", "shard", "row", "status", "flags"], rows, right=("row",)))
    if total > len(records):
        click.echo(f"and {total - len(records):,} more; --limit shows more of them")
    return {
        "dataset_id": found.dataset_id,
        "manifest": found.manifest.number,
        "quarantined": sum(totals.quarantined.values()),
        "by_reason": dict(totals.quarantined),
        "records": [record.to_dict() for record in records],
        "left_out": total - len(records),
    }
