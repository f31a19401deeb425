"""`ecgscale release` and `ecgscale reject`: decide on shards that the quality gates hold back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import click

from ecgscale.cli.command import command
from ecgscale.cli.options import PLACE
from ecgscale.progress import Progress


def _options(function: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--dataset", help="Id of a dataset below ROOT. Default: the one that is served."),
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
    from ecgscale.errors import UsageError
    from ecgscale.nightly.decisions import decide_on
    from ecgscale.store.dataset import find_dataset

    if not shards and not every:
        raise UsageError("name the SHARDS, or give --all; `ecgscale status ROOT` lists those that are held")
    decided = decide_on(root, shards, state, reason, dataset, every)
    manifest = find_dataset(root, dataset).manifest
    published = {(entry.key, entry.content_digest): entry for entry in manifest.content.shards} if manifest else {}
    for hold in decided:
        entry = published.get((hold.source.key, hold.source.content_digest))
        click.echo(f"{hold.source.key} {state}: {_then(state, entry.published_rows if entry else None)}")
    return {state: [hold.source.key for hold in decided], "reason": reason.strip()}


def _then(state: str, published: int | None) -> str:
    """What comes of a decision on a shard of which so many records are published; None: it is not published."""
    from ecgscale.words import counted

    if state == "released":
        return "the next nightly run publishes it" if published is None else "it is published, and stays so"
    if published is None:
        return "it stays unpublished"
    return f"it is published now; the next night withdraws its {counted(published, 'record')}"
