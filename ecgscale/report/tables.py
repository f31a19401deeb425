"""Tables as the page shows them, and how numbers are written in them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MOST_LISTED = 12


@dataclass(frozen=True)
class Cell:
    """A number or a text; `note` stands behind it in small print (an interval, a count)."""

    text: str
    note: str = ""
    number: bool = False


@dataclass(frozen=True)
class Row:
    """`kind`: "own" for what the table is about, "ceiling" for what cannot be beaten, "" for the rest. `record` is the
    id of the recording that the row is about: it opens in the browser of recordings, if the page holds it."""

    name: str
    cells: tuple[Cell, ...]
    kind: str = ""
    record: str = ""


@dataclass(frozen=True)
class Table:
    """A caption, names of columns, rows. The first column, `corner`, names the rows."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    corner: str = ""


def number(value: Any, note: str = "") -> Cell:
    """A score with three decimals, a count as it is, a dash for what could not be computed."""
    return Cell(written(value), note, number=True)


def scored(value: Any, interval: Any = None) -> Cell:
    """A score and its interval."""
    return number(value, between(interval))


def between(interval: Any) -> str:
    """ "[0.81, 0.93]", or nothing."""
    if not isinstance(interval, Sequence) or isinstance(interval, str) or len(interval) != 2 or None in interval:
        return ""
    return f"[{written(interval[0])}, {written(interval[1])}]"


def percent(share: float, digits: int = 0) -> str:
    """0.416 → "42 %", held together."""
    return f"{100 * share:.{digits}f}\N{NO-BREAK SPACE}%"


def written(value: Any) -> str:
    """Any plain value as text."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    if isinstance(value, float):
        return _real(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{readable(str(key))} {written(inner)}" for key, inner in value.items())
    if isinstance(value, Iterable) and not isinstance(value, str):
        listed = list(value)
        if len(listed) > MOST_LISTED:
            return f"{', '.join(written(one) for one in listed[:3])}, … ({len(listed)} values)"
        return ", ".join(written(one) for one in listed) or "none"
    return str(value)


def readable(key: str) -> str:
    """A key as words; what follows a digit or comes before one (a layer's name) stays as it is."""
    return re.sub(r"(?<=[a-z])_(?=[a-z])", " ", key)


def _real(value: float) -> str:
    if not math.isfinite(value):
        return "–"
    if 0 < abs(value) < 0.0005:
        return "< 0.001" if value > 0 else "> −0.001"
    digits = 0 if value == int(value) and abs(value) >= 10 else 1 if abs(value) >= 100 else 3
    return f"{value:,.{digits}f}".replace("-", "−")
