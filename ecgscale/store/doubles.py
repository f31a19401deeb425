"""What is said when record ids stand in several shards and nothing tells which of them holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

from ecgscale.errors import PublishError

NAMED_DOUBLES = 5

Places = tuple[str, Sequence[tuple[str, int]]]
"""A record id, and the shards and rows where it stands."""


def refuse_doubles(doubled: Sequence[Places]) -> NoReturn:
    """Raise `PublishError` naming all places of the first five ids."""
    lines = [
        f"  record_id {record_id!r}: " + " and ".join(f"shard {key} row {row}" for key, row in places)
        for record_id, places in doubled[:NAMED_DOUBLES]
    ]
    if len(doubled) > NAMED_DOUBLES:
        lines.append(f"  … and {len(doubled) - NAMED_DOUBLES:,} more")
    many = "1 record id stands" if len(doubled) == 1 else f"{len(doubled):,} record ids stand"
    raise PublishError(
        f"{many} in more than one shard of the archive, so nothing was published:\n"
        + "\n".join(lines)
        + "\nEverything is committed. Make the ids unique in the archive (ingest it again, or remove the shard that "
        "came twice) and type the same command again: only what changed is computed. Or publish the shards one after "
        "the other, as a nightly run does: then the newer one holds."
    )
