"""`ecgscale gc`: remove what nobody refers to any more."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ecgscale.cli.command import command
from ecgscale.cli.options import PLACE
from ecgscale.progress import Progress

if TYPE_CHECKING:
    from ecgscale.store.garbage import Cleaned

_MEANING = {
    "manifests": "older manifests",
    "commits": "commit records that something newer replaced",
    "data": "data files that nothing refers to",
    "temporary": "files of writers that were killed",
    "checkpoints": "checkpoints of fits that nobody goes on with",
    "preflight": "objects with which the store was tried",
}


@click.command()
@click.argument("root", type=PLACE)
@click.option("--grace", type=click.FloatRange(min=0), default=72.0, show_default=True, metavar="HOURS",
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
    a nightly run is under way.

    \b
    Example:
      ecgscale gc results --dry-run
      ecgscale gc s3://bucket/results --grace 168 --keep-manifests 30
    """
    from datetime import timedelta
    from uuid import uuid4

    from ecgscale.store.garbage import collect_garbage
    from ecgscale.store.lease import Lease
    from ecgscale.store.root import existing_root

    # A nightly run may be about to refer to what lies about.
    lease = nullcontext() if dry_run else Lease(existing_root(root), uuid4().hex, "ecgscale gc")
    with lease:
        cleaned = collect_garbage(root, timedelta(hours=grace), keep_manifests, dry_run, progress)
    click.echo(told(cleaned))
    return cleaned.to_dict()


def told(cleaned: Cleaned) -> str:
    """What went, as lines for people."""
    from ecgscale.cli.tables import size
    from ecgscale.words import counted

    facts = cleaned.to_dict()
    verb = "would be removed" if cleaned.dry_run else "removed"
    stay = "stays" if facts["kept"] == 1 else "stay"
    lines = [f"{counted(facts['removed'], 'object')} of {size(facts['bytes'])} {verb}, {facts['kept']:,} {stay}"]
    lines += [
        f"  {removed.count:,} {_MEANING[kind]}, {size(removed.bytes)}"
        for kind, removed in cleaned.by_kind.items()
        if removed.count
    ]
    return "\n".join(lines)
