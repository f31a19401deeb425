"""Facts of any shape as tables and remarks: evaluations grow new ones, and a page that knows the main ones shows the
others too, plainly, instead of dropping them.

What it looks for: `intervals` alongside scores of the same names, `scores` and `intervals` within rows, `score_sd`
alongside `score`, and `{"value": …, "interval": …}` for a score of its own; an interval or a spread becomes the score's
note.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
from markupsafe import Markup

from ecgscale.errors import EcgscaleError
from ecgscale.evaluate.written import Evaluation
from ecgscale.report.blocks import boxed, folded, remark, remarks_of
from ecgscale.tables import Cell, Row, Table, number, readable, scored, written

MOST_ROWS, MOST_COLUMNS = 200, 40
HIDDEN = ("patient_id",)
"""Columns that a page does not need to name."""
_DEEPEST, _LONG = 3, 15

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

    def blocks(self) -> list[Markup]:
        """Pairs and tables for the page; long tables are folded."""
        found = [boxed(Table.of_facts("", self.pairs))] if self.pairs else []
        for table in self.tables:
            found.append(folded(f"Table: {table.caption}", [boxed(table)]) if len(table.rows) > _LONG else boxed(table))
        return found


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


def any_blocks(found: Evaluation, words: Words | None = None) -> list[Markup]:
    """Any evaluation: its remarks, its facts, its tables (folded)."""
    left = facts_of(found.facts, skip=("remarks",), words=words)
    return [*remarks_of(found.facts), *left.blocks(), *tables_of(found)]


def tables_of(found: Evaluation) -> list[Markup]:
    """The tables of an evaluation, folded."""
    blocks = []
    for name in found.table_names:
        try:
            blocks.append(folded(f"Table: {readable(name)}", [boxed(_arrow_table(found.table(name), readable(name)))]))
        except EcgscaleError as error:
            blocks.append(remark(str(error), warn=True))
    return blocks


def _arrow_table(table: pa.Table, caption: str) -> Table:
    """The first rows and columns of an evaluation's table."""
    names = [name for name in table.column_names if name not in HIDDEN][:MOST_COLUMNS]
    more = f" (first {MOST_ROWS} of {table.num_rows:,} rows)" if table.num_rows > MOST_ROWS else ""
    shown = table.select(names).slice(0, MOST_ROWS).to_pylist()
    rows = tuple(Row(written(row[names[0]]), tuple(_cell(row[name]) for name in names[1:])) for row in shown)
    return Table(caption + more, tuple(map(readable, names[1:])), rows, readable(names[0]) if names else "")


def _collect(facts: Mapping[str, Any], path: tuple[str, ...], found: Facts) -> None:
    for key, value in facts.items():
        here = (*path, found.called(str(key)))
        caption = ", ".join(here)
        inner = list(value.values()) if isinstance(value, Mapping) else []
        if key == "remarks" and isinstance(value, Sequence) and not isinstance(value, str):
            found.remarks.extend(str(one) for one in value)
        elif _is_rows(value):
            found.tables.append(_from_rows([("", row) for row in value], caption, found))
        elif inner and all(isinstance(one, Mapping) and not _is_deep(_spread(one)) for one in inner):
            found.tables.append(
                _from_rows([(found.called(str(name)), row) for name, row in value.items()], caption, found)
            )
        elif len(here) < _DEEPEST and any(isinstance(one, Mapping) or _is_rows(one) for one in inner):
            _collect(value, here, found)
        else:
            found.pairs.append((caption, written(value)))


def _from_rows(given: list[tuple[str, Mapping[str, Any]]], caption: str, found: Facts) -> Table:
    """A table of rows with names, or of rows that their first values name."""
    rows = [(name, _spread(row)) for name, row in given]
    names = list(dict.fromkeys(str(key) for _, row in rows for key in row if key not in HIDDEN))[:MOST_COLUMNS]
    corner = "" if given[0][0] else names.pop(0)
    # An interval alongside a value is that value's note, not a column.
    shown = [name for name in names if name != "interval" or "value" not in names]
    lines = tuple(
        Row(
            written(row.get(corner)) if corner else called,
            tuple(scored(row.get(n), row.get("interval")) if n == "value" else _cell(row.get(n)) for n in shown),
        )
        for called, row in rows[:MOST_ROWS]
    )
    more = f" (first {MOST_ROWS} of {len(rows)})" if len(rows) > MOST_ROWS else ""
    return Table(caption + more, tuple(map(found.called, shown)), lines, found.called(corner) if corner else "")


def _spread(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row with scores in a mapping of their own, or with SDs alongside them, as one row of cells."""
    scores, intervals = row.get("scores"), row.get("intervals")
    if isinstance(scores, Mapping):
        notes = intervals if isinstance(intervals, Mapping) else {}
        kept = {key: value for key, value in row.items() if key not in ("scores", "intervals")}
        return {**kept, **{str(key): scored(value, notes.get(key)) for key, value in scores.items()}}
    spreads = {key.removesuffix("_sd"): value for key, value in row.items() if key.endswith("_sd")}
    return {
        key: number(value, f"± {written(spreads[key])}") if spreads.get(key) is not None else value
        for key, value in row.items()
        if not (key.endswith("_sd") and key.removesuffix("_sd") in row)
    }


def _cell(value: Any) -> Cell:
    if isinstance(value, Cell):
        return value
    if _is_score(value):
        return scored(value["value"], value["interval"])
    is_number = value is None or (isinstance(value, int | float) and not isinstance(value, bool))
    return Cell(written(value), number=is_number)


def _is_rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, Mapping) for one in value)


def _is_score(value: Any) -> bool:
    return isinstance(value, Mapping) and "value" in value and "interval" in value


def _is_deep(value: Mapping[str, Any]) -> bool:
    inner = (one for one in value.values() if isinstance(one, Mapping) and not _is_score(one))
    return any(isinstance(leaf, Mapping) for one in inner for leaf in one.values())
