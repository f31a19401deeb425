"""Tables, sizes and ages as operators read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import StringIO

from rich import box
from rich.console import Console
from rich.table import Table

from ecgscale.words import counted

WIDTH = 110


def facts_table(title: str, facts: Mapping[str, str]) -> str:
    """A table of two columns: what, and how much. Text of several lines, without the last line break."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row(name, value)
    return _text(table)


def rows_table(heads: Sequence[str], rows: Sequence[Sequence[str]], title: str = "", right: Sequence[str] = ()) -> str:
    """A table with a head; columns named in `right` are numbers. Text of several lines, without the last line break."""
    table = Table(title=title or None, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for head in heads:
        table.add_column(head, justify="right" if head in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    return _text(table)


def _text(table: Table) -> str:
    """Plain text, of one width wherever it goes, so that logs and tests see what a terminal shows."""
    stream = StringIO()
    Console(file=stream, width=WIDTH, no_color=True, highlight=False, markup=False, emoji=False).print(table)
    return "\n".join(line.rstrip() for line in stream.getvalue().rstrip().splitlines())


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
