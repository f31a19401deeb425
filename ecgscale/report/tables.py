"""Tables as the page shows them, and facts of any shape made into tables.

Evaluations grow new facts; a page that knows the main ones shows the others too, plainly, instead of dropping them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

MOST_ROWS, MOST_COLUMNS, MOST_LISTED = 200, 40, 12
HIDDEN = ("patient_id",)
"""Columns that a page does not need to name."""
_DEEPEST = 3


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


@dataclass(frozen=True)
class Facts:
    """What facts of any shape come to: name–value pairs, tables, remarks in words."""

    pairs: list[tuple[str, str]] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


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
    """A key as words."""
    return key.replace("_", " ")


def facts_of(facts: Mapping[str, Any], skip: Iterable[str] = (), words: Mapping[str, str] | None = None) -> Facts:
    """Everything in `facts` but the keys to `skip`; `intervals` beside scores of the same names become their notes.

    `words` says what scores are called.
    """
    found, left = Facts(), {key: value for key, value in facts.items() if key not in set(skip)}
    spread = left.get("intervals")
    if isinstance(spread, Mapping) and spread:
        scores = {key: left.pop(key) for key in list(left) if key in spread}
        del left["intervals"]
        called = words or {}
        rows = tuple(Row(called.get(k, readable(k)), (scored(value, spread[k]),)) for k, value in scores.items())
        if rows:
            found.tables.append(Table("Scores, with 95 % intervals", ("score",), rows))
    _collect(left, (), found)
    return found


def arrow_table(table: pa.Table, caption: str) -> Table:
    """The first rows and columns of an evaluation's table."""
    names = [name for name in table.column_names if name not in HIDDEN][:MOST_COLUMNS]
    shown = table.select(names).slice(0, MOST_ROWS).to_pylist()
    more = f" (first {MOST_ROWS} of {table.num_rows:,} rows)" if table.num_rows > MOST_ROWS else ""
    rows = tuple(Row(written(row[names[0]]), tuple(_cell(row[name]) for name in names[1:])) for row in shown)
    return Table(caption + more, tuple(map(readable, names[1:])), rows, readable(names[0]) if names else "")


def _collect(facts: Mapping[str, Any], path: tuple[str, ...], found: Facts) -> None:
    for key, value in facts.items():
        here = (*path, readable(str(key)))
        caption = ", ".join(here)
        if key == "remarks" and isinstance(value, Sequence) and not isinstance(value, str):
            found.remarks.extend(str(remark) for remark in value)
        elif _is_rows(value):
            found.tables.append(_from_rows(value, caption))
        elif isinstance(value, Mapping) and value:
            inner = list(value.values())
            if all(isinstance(one, Mapping) and not _is_deep(_spread(one)) for one in inner):
                found.tables.append(_from_named(value, caption))
            elif len(here) < _DEEPEST and any(isinstance(one, Mapping) or _is_rows(one) for one in inner):
                _collect(value, here, found)
            else:
                found.pairs.append((caption, written(value)))
        else:
            found.pairs.append((caption, written(value)))


def _is_rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, Mapping) for one in value)


def _is_deep(value: Mapping[str, Any]) -> bool:
    inner = (one for one in value.values() if isinstance(one, Mapping))
    return any(isinstance(leaf, Mapping) for one in inner for leaf in one.values())


def _spread(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row whose scores and intervals stand in mappings of their own, as one row of cells."""
    scores, intervals = row.get("scores"), row.get("intervals")
    if not isinstance(scores, Mapping):
        return _with_sd(row)
    notes = intervals if isinstance(intervals, Mapping) else {}
    kept = {key: value for key, value in row.items() if key not in ("scores", "intervals")}
    return {**kept, **{str(key): scored(value, notes.get(key)) for key, value in scores.items()}}


def _with_sd(row: Mapping[str, Any]) -> dict[str, Any]:
    """`score_sd` beside `score` becomes its note."""
    spread = {key for key in row if key.endswith("_sd") and key.removesuffix("_sd") in row}
    return {
        key: number(value, f"± {written(row[f'{key}_sd'])}" if row[f"{key}_sd"] is not None else "")
        if f"{key}_sd" in spread
        else value
        for key, value in row.items()
        if key not in spread
    }


def _from_rows(given: list[Mapping[str, Any]], caption: str) -> Table:
    rows = [_spread(row) for row in given]
    names = list(dict.fromkeys(str(key) for row in rows for key in row if key not in HIDDEN))[:MOST_COLUMNS]
    shown = tuple(Row(written(row.get(names[0])), _cells(row, names[1:])) for row in rows[:MOST_ROWS])
    more = f" (first {MOST_ROWS} of {len(rows)})" if len(rows) > MOST_ROWS else ""
    return Table(caption + more, _columns(names[1:]), shown, readable(names[0]))


def _from_named(given: Mapping[str, Mapping[str, Any]], caption: str) -> Table:
    rows = {name: _spread(row) for name, row in given.items()}
    names = list(dict.fromkeys(str(key) for row in rows.values() for key in row if key not in HIDDEN))[:MOST_COLUMNS]
    shown = tuple(Row(readable(str(name)), _cells(row, names)) for name, row in list(rows.items())[:MOST_ROWS])
    return Table(caption, _columns(names), shown)


def _cells(row: Mapping[str, Any], names: Sequence[str]) -> tuple[Cell, ...]:
    """An interval beside a value is that value's note, not a column."""
    paired = "value" in names
    note = between(row.get("interval"))
    return tuple(
        number(row.get(name), note) if paired and name == "value" else _cell(row.get(name))
        for name in names
        if not (paired and name == "interval")
    )


def _columns(names: Sequence[str]) -> tuple[str, ...]:
    kept = [name for name in names if not (name == "interval" and "value" in names)]
    return tuple(map(readable, kept))


def _cell(value: Any) -> Cell:
    if isinstance(value, Cell):
        return value
    is_number = value is None or (isinstance(value, int | float) and not isinstance(value, bool))
    return Cell(written(value), number=is_number)


def _real(value: float) -> str:
    if not math.isfinite(value):
        return "–"
    if 0 < abs(value) < 0.0005:
        return "< 0.001" if value > 0 else "> −0.001"
    digits = 0 if value == int(value) and abs(value) >= 10 else 1 if abs(value) >= 100 else 3
    return f"{value:,.{digits}f}".replace("-", "−")
