"""`ecgscale promote`: serve another dataset of explanations."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import click

from ecgscale.cli.command import command
from ecgscale.cli.options import PLACE
from ecgscale.progress import Progress


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
    from ecgscale.words import counted, named

    done = serve_from_now_on(root, dataset, reason, incomplete)
    content = done.now.content
    verb = "now serves" if done.changed else "serves"
    click.echo(
        f"{root} {verb} dataset {content.dataset_id}, model {content.identity.model_id}: "
        f"{counted(content.totals.records, 'record')} in {counted(content.totals.shards, 'shard')}"
    )
    if not done.changed:
        click.echo(f"  since {done.pointer.promoted_at[:16]}, {done.pointer.promoted_by}: {done.pointer.reason}")
    waiting = [key for key in done.lacking if key not in done.kept_out]
    if waiting:
        them = "explains it" if len(waiting) == 1 else "explains them"
        click.echo(f"  lacking {counted(len(waiting), 'shard')} of what was served; the next nightly run {them}")
    if done.kept_out:
        there = f"held back or rejected in this dataset ({named(done.kept_out)})"
        click.echo(f"  lacking {counted(len(done.kept_out), 'shard')} {there}; only ecgscale release brings them back")
    if done.changed and done.before is not None:
        before = done.before.content.dataset_id
        click.echo(f"way back: ecgscale promote {shlex.quote(str(root))} {before} --reason TEXT")
    return {**done.to_dict(), "root": str(root)}
