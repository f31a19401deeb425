"""Counts, lists, sizes and ages as people write them: 1 shard, 1,200 records, "a, b and 3 more", 3.4 MiB, 12 d; and
foreign words so that they are only read: by a terminal, by a spreadsheet. Sizes and lengths of time that people type.
"""

from __future__ import annotations

import math
import re
import shlex
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

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
        one_line((f"{counted(len(keys), 'shard')}, first {keys[0]}" if len(keys) > 1 else keys[0]) + f": {reason}")
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


def printable(text: str) -> str:
    """Text that a terminal only shows: control characters (but tabs and line breaks) become escapes such as \\x1b.

    So do those that turn the direction of writing, end a line in some other way, or are no characters (of names of
    files that are not UTF-8).
    """
    return "".join(
        c
        if c in "\t\n" or not (unicodedata.category(c)[0] == "C" or unicodedata.category(c) in ("Zl", "Zp"))
        else c.encode("unicode_escape").decode()
        for c in text
    )


def one_line(text: str) -> str:
    """`printable`, with line breaks as escapes too."""
    return printable(text).replace("\n", r"\n")


_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


def spreadsheet_safe(value: Any) -> Any:
    """A cell of a CSV file that no spreadsheet takes for a formula: such a text gets a ' in front. Numbers stay.

    Of everything that is written to a CSV file for people: ids and labels come from whoever made the archive.
    """
    if not isinstance(value, str) or not value.startswith(_FORMULA):
        return value
    return value if _NUMBER.fullmatch(value) else f"'{value}"


_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")


def byte_size(text: str) -> int:
    """ "8GiB", "500M", "1073741824" → bytes; ValueError for anything else."""
    units = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
    plain = text.strip().upper().removesuffix("B").removesuffix("I")
    unit = plain[-1:] if plain[-1:].isalpha() else ""
    try:
        return int(float(plain.removesuffix(unit)) * units[unit])
    except (KeyError, ValueError, OverflowError):
        raise ValueError(f"{text!r} is not a size such as 8GiB or 500MiB") from None


def typed(place: object) -> str:
    """A place as it is typed in a shell, where blanks and quotes in its name mean something."""
    return shlex.quote(str(place))


def duration_s(text: str) -> float:
    """ "10s", "2500ms", "1min", "10" → seconds; ValueError for anything else, or nothing."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|min|h|)\s*", text)
    seconds = float(found[1]) * {"ms": 0.001, "s": 1.0, "": 1.0, "min": 60.0, "h": 3600.0}[found[2]] if found else 0.0
    if not 0 < seconds < math.inf:
        raise ValueError(f"{text!r} is not a length of time such as 10s, 2500ms or 1min")
    return seconds


def cropped_line(records: int, seconds: float) -> str:
    """That so many recordings are longer than what a network sees."""
    were = "1 recording was" if records == 1 else f"{records:,} recordings were"
    return f"{were} cropped: the network sees {seconds:g} s, and of a longer recording the first (flag cropped)"


def longer_line(records: int, of: int, seconds: float) -> str:
    """That so many recordings will be cropped."""
    are = "is" if records == 1 else "are"
    return (
        f"{records:,} of {counted(of, 'record')} {are} longer than the {seconds:g} s that the network sees: the first "
        "are explained (flag cropped); --windows of `ecgscale ingest` cuts recordings into records"
    )


def grouped(flags: Iterable[str]) -> str:
    """Flags by their kind: "needs:II", "needs:V1", "has:ECG" → "needs II, V1; has ECG"."""
    kinds: dict[str, list[str]] = {}
    for flag in flags:
        kind, _, detail = flag.partition(":")
        kinds.setdefault(kind, []).append(detail)
    return "; ".join(f"{kind} {', '.join(details)}".rstrip() for kind, details in kinds.items())
