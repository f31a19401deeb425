"""Counts, lists, sizes and ages as people write them: 1 shard, 1,200 records, "a, b and 3 more", 3.4 MiB, 12 d."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

MOST_NAMED = 5


def counted(n: int, noun: str, several: str | None = None) -> str:
    """`n` with its noun: "1 shard", "1,200 shards". `several` is the plural where it is not the noun with an s."""
    return f"{n:,} {noun if n == 1 else several or noun + 's'}"


def named(names: Sequence[str], most: int = MOST_NAMED) -> str:
    """All of a few names; of many the first `most`, and how many more there are."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def by_reason(shards: Mapping[str, str], most: int | None = None) -> list[str]:
    """Shards with a reason each, a line a reason: "part-00012.parquet: …", "12 shards, first part-00012.parquet: …".

    In the order of the shards; with `most`, so many reasons, and a line that counts the shards with others.
    """
    groups: dict[str, list[str]] = {}
    for key, reason in sorted(shards.items()):
        groups.setdefault(reason, []).append(key)
    lines = [
        (f"{counted(len(keys), 'shard')}, first {keys[0]}" if len(keys) > 1 else keys[0]) + f": {reason}"
        for reason, keys in groups.items()
    ]
    left = sum(len(keys) for keys in list(groups.values())[most:]) if most is not None else 0
    return lines[:most] + ([f"and {counted(left, 'shard')} more"] if left else [])


def size(n: int) -> str:
    """Bytes in the largest unit that leaves a number above 1: "3.4 MiB"."""
    value, units = float(n), ["bytes", "KiB", "MiB", "GiB", "TiB"]
    while value >= 1024 and len(units) > 1:
        value /= 1024
        units.pop(0)
    return f"{n} bytes" if units[0] == "bytes" else f"{value:,.1f} {units[0]}"


def age(seconds: float | None) -> str:
    """ "4 min", "3 h", "12 d"; "" when it is not known."""
    if seconds is None:
        return ""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"
