"""`ecgscale release`: decide on shards that the quality gates hold back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ecgscale.cli.command import command
from ecgscale.cli.options import PLACE
from ecgscale.progress import Progress


@click.command()
@click.argument("root", type=PLACE)
@click.argument("shards", nargs=-1)
@click.option("--all", "every", is_flag=True, help="All shards that are held.")
@click.option("--reason", required=True, help="Why; kept with the shard.")
@click.option("--dataset", help="Id of a dataset below ROOT. Default: the one that is served.")
@command
def release(
    progress: Progress, root: Path, shards: tuple[str, ...], every: bool, reason: str, dataset: str | None
) -> dict[str, Any]:
    """Publish SHARDS after all: the next nightly run takes them in.

    \b
      ecgscale status ROOT
      ecgscale release ROOT part-00012.parquet --reason "new carts on ward 3, checked with cardiology"
    """
    from ecgscale.errors import UsageError
    from ecgscale.nightly.decisions import decide_on

    if not shards and not every:
        raise UsageError("name the SHARDS, or give --all; `ecgscale status ROOT` lists those that are held")
    decided = decide_on(root, shards, "released", reason, dataset, every)
    for hold in decided:
        click.echo(f"{hold.source.key} released: the next nightly run publishes it")
    return {"released": [hold.source.key for hold in decided], "reason": reason.strip()}
