"""Counts and lists as people write them: 1 shard, 1,200 records, "a, b and 3 more"."""

from __future__ import annotations

from collections.abc import Sequence

MOST_NAMED = 5


def counted(n: int, noun: str, several: str | None = None) -> str:
    """`n` with its noun: "1 shard", "1,200 shards". `several` is the plural where it is not the noun with an s."""
    return f"{n:,} {noun if n == 1 else several or noun + 's'}"


def named(names: Sequence[str], most: int = MOST_NAMED) -> str:
    """All of a few names; of many the first `most`, and how many more there are."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
