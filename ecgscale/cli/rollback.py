"""`ecgscale rollback`: serve an earlier manifest again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ecgscale.cli.command import command
from ecgscale.cli.options import PLACE
from ecgscale.progress import Progress
from ecgscale.words import counted


@click.command()
@click.argument("root", type=PLACE)
@click.argument("number", type=click.IntRange(min=1), metavar="N")
@click.option("--reason", required=True, help="Why; kept with the shards that are held back by it.")
@click.option("--dataset", help="Id of a dataset below ROOT. Default: the one that is served.")
@command
def rollback(progress: Progress, root: Path, number: int, reason: str, dataset: str | None) -> dict[str, Any]:
    """Publish again what manifest N said; shards that came since are held until they are released.

    No file is changed or removed, and the manifests in between stay. `ecgscale status ROOT` shows what is held.

    \b
      ecgscale rollback ROOT 41 --reason "wrong units since Tuesday"
      ecgscale release ROOT --all --reason "units mended"
    """
    from ecgscale.cli.tables import by_reason
    from ecgscale.nightly.decisions import roll_back

    manifest = roll_back(root, number, reason, dataset)
    content = manifest.content
    records = counted(content.totals.records, "record")
    click.echo(f"manifest {manifest.number} says what manifest {number} said: {records}")
    for line in by_reason({shard.key: shard.reason for shard in content.held}):
        click.echo(f"held back: {line}")
    return {
        "manifest": manifest.number,
        "as": number,
        "dataset_id": content.dataset_id,
        "records": content.totals.records,
        "held": [shard.key for shard in content.held],
    }
