"""Facts of any shape as name–value pairs, tables and remarks.

Evaluations grow new facts; a page that knows the main ones shows the others too, plainly, instead of dropping them.
What it looks for: `intervals` beside scores of the same names, `scores` and `intervals` within rows, `score_sd` beside
`score`, and `{"value": …, "interval": …}` for a score of its own; an interval or a spread becomes the score's note.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from ecgscale.report.tables import Cell, Row, Table, between, number, readable, scored, written

MOST_ROWS, MOST_COLUMNS = 200, 40
HIDDEN = ("patient_id",)
"""Columns that a page does not need to name."""
_DEEPEST = 3

Words = Mapping[str, str]


@dataclass
class Facts:
    """What facts of any shape come to. `words` says what keys are called; others are their own name."""

    words: Words = field(default_factory=dict)
    pairs: list[tuple[str, str]] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def called(self, key: str) -> str:
        """A key in words."""
        return self.words.get(key, readable(key))


def facts_of(facts: Mapping[str, Any], skip: Iterable[str] = (), words: Words | None = None) -> Facts:
    """Everything in `facts` but the keys to `skip`."""
    found = Facts(words or {})
    left = {str(key): value for key, value in facts.items() if key not in set(skip)}
    spread = left.get("intervals")
    rows = []
    if isinstance(spread, Mapping) and spread:
        rows = [Row(found.called(key), (scored(left.pop(key), spread[key]),)) for key in list(left) if key in spread]
        del left["intervals"]
    alone = [key for key, value in left.items() if _is_score(value)]
    rows += [Row(found.called(key), (_cell(left.pop(key)),)) for key in alone]
    if rows:
        found.tables.append(Table("Scores, with 95 % intervals", ("score",), tuple(rows)))
    _collect(left, (), found)
    return found


def arrow_table(table: pa.Table, caption: str, words: Words | None = None) -> Table:
    """The first rows and columns of an evaluation's table."""
    called = Facts(words or {}).called
    names = [name for name in table.column_names if name not in HIDDEN][:MOST_COLUMNS]
    shown = table.select(names).slice(0, MOST_ROWS).to_pylist()
    more = f" (first {MOST_ROWS} of {table.num_rows:,} rows)" if table.num_rows > MOST_ROWS else ""
    rows = tuple(Row(written(row[names[0]]), tuple(_cell(row[name]) for name in names[1:])) for row in shown)
    return Table(caption + more, tuple(map(called, names[1:])), rows, called(names[0]) if names else "")


def _collect(facts: Mapping[str, Any], path: tuple[str, ...], found: Facts) -> None:
    for key, value in facts.items():
        here = (*path, found.called(str(key)))
        caption = ", ".join(here)
        if key == "remarks" and isinstance(value, Sequence) and not isinstance(value, str):
            found.remarks.extend(str(remark) for remark in value)
        elif _is_rows(value):
            found.tables.append(_from_rows(value, caption, found))
        elif isinstance(value, Mapping) and value:
            inner = list(value.values())
            if all(isinstance(one, Mapping) and not _is_deep(_spread(one)) for one in inner):
                found.tables.append(_from_named(value, caption, found))
            elif len(here) < _DEEPEST and any(isinstance(one, Mapping) or _is_rows(one) for one in inner):
                _collect(value, here, found)
            else:
                found.pairs.append((caption, written(value)))
        else:
            found.pairs.append((caption, written(value)))


def _is_rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, Mapping) for one in value)


def _is_score(value: Any) -> bool:
    return isinstance(value, Mapping) and "value" in value and "interval" in value


def _is_deep(value: Mapping[str, Any]) -> bool:
    inner = (one for one in value.values() if isinstance(one, Mapping) and not _is_score(one))
    return any(isinstance(leaf, Mapping) for one in inner for leaf in one.values())


def _spread(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row with scores in a mapping of their own, or with SDs beside them, as one row of cells."""
    scores, intervals = row.get("scores"), row.get("intervals")
    if isinstance(scores, Mapping):
        notes = intervals if isinstance(intervals, Mapping) else {}
        kept = {key: value for key, value in row.items() if key not in ("scores", "intervals")}
        return {**kept, **{str(key): scored(value, notes.get(key)) for key, value in scores.items()}}
    beside = {key.removesuffix("_sd"): value for key, value in row.items() if key.endswith("_sd")}
    return {
        key: number(value, f"± {written(beside[key])}") if beside.get(key) is not None else value
        for key, value in row.items()
        if not (key.endswith("_sd") and key.removesuffix("_sd") in row)
    }


def _from_rows(given: list[Mapping[str, Any]], caption: str, found: Facts) -> Table:
    rows = [_spread(row) for row in given]
    names = _names(rows)
    shown = tuple(Row(written(row.get(names[0])), _cells(row, names[1:])) for row in rows[:MOST_ROWS])
    more = f" (first {MOST_ROWS} of {len(rows)})" if len(rows) > MOST_ROWS else ""
    return Table(caption + more, _columns(names[1:], found), shown, found.called(names[0]))


def _from_named(given: Mapping[str, Mapping[str, Any]], caption: str, found: Facts) -> Table:
    rows = {str(name): _spread(row) for name, row in given.items()}
    names = _names(list(rows.values()))
    shown = tuple(Row(found.called(name), _cells(row, names)) for name, row in list(rows.items())[:MOST_ROWS])
    return Table(caption, _columns(names, found), shown)


def _names(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(str(key) for row in rows for key in row if key not in HIDDEN))[:MOST_COLUMNS]


def _cells(row: Mapping[str, Any], names: Sequence[str]) -> tuple[Cell, ...]:
    """An interval beside a value is that value's note, not a column."""
    paired = "value" in names
    return tuple(
        number(row.get(name), between(row.get("interval"))) if paired and name == "value" else _cell(row.get(name))
        for name in names
        if not (paired and name == "interval")
    )


def _columns(names: Sequence[str], found: Facts) -> tuple[str, ...]:
    return tuple(found.called(name) for name in names if not (name == "interval" and "value" in names))


def _cell(value: Any) -> Cell:
    if isinstance(value, Cell):
        return value
    if _is_score(value):
        return scored(value["value"], value["interval"])
    is_number = value is None or (isinstance(value, int | float) and not isinstance(value, bool))
    return Cell(written(value), number=is_number)
