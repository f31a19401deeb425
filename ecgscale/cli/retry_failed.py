"""`ecgscale retry-failed`: let the next run try shards again that were given up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ecgscale.cli.command import command
from ecgscale.cli.options import PLACE
from ecgscale.progress import Progress


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
    from ecgscale.errors import UsageError, did_you_mean
    from ecgscale.store.dataset import dataset_store
    from ecgscale.store.failures import failures, forget
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
            forget(stores[dataset_id], failure)
            click.echo(f"{failure.source.key} of dataset {dataset_id} will be tried again; it failed: {failure.reason}")
            forgotten.append(
                {
                    "dataset_id": dataset_id,
                    "shard": failure.source.key,
                    "reason": failure.reason,
                    "failed_at": failure.failed_at,
                }
            )
    if not forgotten:
        click.echo("no shard was given up")
    return {"root": str(where), "forgotten": forgotten}
