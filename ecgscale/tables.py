"""Tables, printed as text, Markdown or HTML, and how numbers are written in them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from typing import Any

from markupsafe import Markup, escape

from ecgscale.words import one_line, printable

WIDTH = 110
"""Columns of printed text."""
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
    """A caption, names of columns, rows. The first column, `corner`, names the rows; without any names of columns it is
    a table of facts, without a head. What a column of numbers is, its first row says."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    corner: str = ""

    @classmethod
    def of(
        cls, heads: Sequence[str], rows: Iterable[Sequence[str]], caption: str = "", right: Sequence[str] = ()
    ) -> Table:
        """Plain rows below `heads`, of which those named in `right` are over numbers."""
        made = (
            Row(first, tuple(Cell(text, number=head in right) for head, text in zip(heads[1:], cells, strict=True)))
            for first, *cells in rows
        )
        return cls(caption, tuple(heads[1:]), tuple(made), heads[0])

    @classmethod
    def of_facts(cls, caption: str, facts: Iterable[tuple[str, str]]) -> Table:
        """What, and how much."""
        return cls(caption, ("",), tuple(Row(name, (Cell(value),)) for name, value in facts))

    @property
    def heads(self) -> tuple[str, ...]:
        """The names of all columns; empty for a table of facts."""
        heads = (self.corner, *self.columns)
        return heads if any(heads) else ()

    def numeric(self, column: int) -> bool:
        """Whether a column of `columns` holds numbers."""
        return bool(self.rows) and self.rows[0].cells[column].number

    def text(self) -> str:
        """Lines without the last line break, of one width wherever they go, so that logs show what terminals show.

        Nothing is cut off; control characters are shown as escapes, line breaks too: only facts may have several lines.
        """
        from rich import box
        from rich.console import Console
        from rich.table import Table as Lines

        lines = Lines(
            title=one_line(self.caption) or None,
            title_justify="left",
            box=box.SIMPLE_HEAD,
            show_header=bool(self.heads),
            pad_edge=False,
        )
        lines.add_column(one_line(self.corner), overflow="fold", no_wrap=not self.heads)
        for i, head in enumerate(self.columns):
            lines.add_column(one_line(head), justify="right" if self.numeric(i) else "left", overflow="fold")
        for row in self._plain():
            lines.add_row(*map(one_line if self.heads else printable, row))
        stream = StringIO()
        Console(file=stream, width=WIDTH, no_color=True, highlight=False, markup=False, emoji=False).print(lines)
        return "\n".join(line.rstrip() for line in stream.getvalue().rstrip().splitlines())

    def markdown(self) -> str:
        """A pipe table, every line with its line break, without the caption."""
        rule = ("---", *("---:" if self.numeric(i) else "---" for i in range(len(self.columns))))
        rows = [(self.corner, *self.columns), rule, *self._plain()]
        cells = ([printable(cell).replace("|", r"\|").replace("\n", " ") for cell in row] for row in rows)
        return "".join(f"| {' | '.join(row)} |\n" for row in cells)

    def html(self) -> Markup:
        """A `<table>` in which everything is escaped; a row about a recording has its name on a button."""
        right = [_right(self.numeric(i)) for i in range(len(self.columns))]
        parts = [tag("caption", self.caption)] if self.caption else []
        if self.heads:
            named = (tag("th", name, scope="col", class_=side) for name, side in zip(self.columns, right, strict=True))
            parts.append(tag("thead", tag("tr", tag("th", self.corner, scope="col"), *named)))
        rows = []
        for row in self.rows:
            opens = tag("button", row.name, type="button", class_="open", data_record=row.record)
            name = tag("th", opens if row.record else row.name, scope="row")
            cells = []
            for cell in row.cells:
                note = (" ", tag("span", cell.note, class_="note")) if cell.note else ()
                cells.append(tag("td", cell.text, *note, class_=_right(cell.number)))
            rows.append(tag("tr", name, *cells, class_=row.kind or None))
        return tag("table", *parts, tag("tbody", *rows), class_=None if self.heads else "facts")

    def _plain(self) -> list[tuple[str, ...]]:
        return [(row.name, *(" ".join(filter(None, (c.text, c.note))) for c in row.cells)) for row in self.rows]


def aligned(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns of text, the first to the left and the others to the right."""
    shown = [[one_line(cell) for cell in row] for row in (heads, *rows)]
    widths = [max(len(row[i]) for row in shown) for i in range(len(heads))]
    return [
        "  " + "  ".join(cell.ljust(width) if i == 0 else cell.rjust(width) for i, (cell, width) in enumerate(pairs))
        for pairs in (list(zip(row, widths, strict=True)) for row in shown)
    ]


def bracketed(interval: Sequence[float] | None, gap: str = " ") -> str:
    """ " [0.812, 0.930]" behind a score, or nothing."""
    return f"{gap}[{interval[0]:.3f}, {interval[1]:.3f}]" if interval else ""


def tag(name: str, *children: object, **attributes: object) -> Markup:
    """`<name a="…">…</name>`; `_` in an attribute's name becomes `-` (a trailing one is dropped), None leaves it out.

    Children that are no `Markup` are escaped; numbers are written with as few digits as a screen can show.
    """
    shown = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_short(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    inner = Markup("").join(escape(child) for child in children)
    return Markup(f"<{name}{shown}>{inner}</{name}>")


def _short(value: object) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def _right(number: bool) -> str | None:
    return "n" if number else None


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
