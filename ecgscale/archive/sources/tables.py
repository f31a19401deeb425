"""Tables of a source, CSV or Parquet: read whole, with their own types, and said where something does not fit.

Nothing odd in a table ends an ingest: a line with too many or too few cells is left out and told, a cell that is not
what its column should hold is null and told with its record. Identifiers are read as text and brought into one form, so
that 7, 7.0 and b'7' are one id, and 7 and 007 are two.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from ecgscale.archive.sources.pseudonyms import QuotesSource
from ecgscale.archive.sources.source import IngestOptions
from ecgscale.errors import ArchiveError, did_you_mean

Odd = dict[int, list[str]]
"""What was odd in the cells of a row, by the number of the row."""

_SEPARATORS = (",", ";", "\t")
_LINES_NAMED = 5
_PARQUET = (".parquet", ".pq")
_NO_ID = frozenset({"", "nan", "none", "null", "<na>", "nat"})
_WANTED = (
    (pa.types.is_boolean, "true or false"),
    (pa.types.is_integer, "a whole number"),
    (pa.types.is_floating, "a number"),
    (pa.types.is_timestamp, "a date and time"),
)
_BOOLS = {
    **dict.fromkeys(("true", "t", "yes", "y", "1", "1.0"), True),
    **dict.fromkeys(("false", "f", "no", "n", "0", "0.0"), False),
}


def read_csv(
    path: Path,
    required: Sequence[str] = (),
    texts: Sequence[str] = (),
    ids: Sequence[str] = (),
    notes: dict[str, None] | None = None,
) -> pa.Table:
    """A source's table with inferred types, or of the columns `texts` as text; empty cells are null.

    The columns `ids` are text in the form of `id_text`. What was left out or taken otherwise than usual is added to
    `notes`. `ArchiveError` if the table is absent, not CSV, or lacks a required column.
    """
    if not path.is_file():
        raise ArchiveError(f"{path} is missing; it belongs to the source's native layout")
    notes = {} if notes is None else notes
    table = _parsed(path, dict.fromkeys([*texts, *ids], pa.string()), required, notes)
    return _with_ids(_checked(path, table, required, notes), ids)


def read_headless(path: Path, names: Sequence[str], notes: dict[str, None]) -> pa.Table:
    """A table of two columns that may lack a line of names, and then has these; the first one is read as ids."""
    with open(path, "rb") as stream:
        cells = stream.readline(2**12).count(b",") + 1
    names = names if cells == len(names) else ()
    table = _checked(path, _parsed(path, dict.fromkeys(names, pa.string()), (), notes, names), (), notes)
    return _with_ids(table, table.column_names[:1])


def read_table(
    path: Path, required: Sequence[str] = (), ids: Sequence[str] = (), notes: dict[str, None] | None = None
) -> pa.Table:
    """`read_csv` for a table of the user's own: CSV, or Parquet by its suffix (.parquet, .pq)."""
    if path.suffix.lower() not in _PARQUET:
        return read_csv(path, required, ids=ids, notes=notes)
    try:
        table = pq.read_table(path, partitioning=None, use_threads=False)
    except (OSError, pa.ArrowException) as error:
        raise QuotesSource(f"{path} is not readable Parquet: {error}", f"{path} is not readable Parquet") from error
    return _with_ids(_checked(path, table, required, {} if notes is None else notes), ids)


def _parsed(
    path: Path,
    types: Mapping[str, pa.DataType],
    required: Sequence[str],
    notes: dict[str, None],
    names: Sequence[str] = (),
) -> pa.Table:
    encoding = _encoding(path, notes)
    skipped: list[tuple[int | None, int, int]] = []

    def skip(row: Any) -> str:
        skipped.append((row.number, row.actual_columns, row.expected_columns))
        return "skip"

    try:
        table = pyarrow.csv.read_csv(
            path,
            # One thread: then the lines that are left out have numbers.
            read_options=pyarrow.csv.ReadOptions(use_threads=False, encoding=encoding, column_names=names),
            parse_options=pyarrow.csv.ParseOptions(
                newlines_in_values=True, delimiter=_separator(path, required), invalid_row_handler=skip
            ),
            convert_options=pyarrow.csv.ConvertOptions(strings_can_be_null=True, column_types=dict(types)),
        )
    except (pa.ArrowException, UnicodeError) as error:
        raise QuotesSource(f"{path} is not a readable CSV: {error}", f"{path} is not a readable CSV") from error
    if skipped:
        named = ", ".join(f"{number} ({found} cells, not {right})" for number, found, right in skipped[:_LINES_NAMED])
        more = f" and {len(skipped) - _LINES_NAMED:,} more" if len(skipped) > _LINES_NAMED else ""
        notes[f"{path.name}: {len(skipped):,} rows are broken and were left out: {named}{more}"] = None
    return table


def _encoding(path: Path, notes: dict[str, None]) -> str:
    """UTF-8, or Latin-1 (and a note) where the file is not that."""
    try:
        path.read_bytes().decode()
    except UnicodeDecodeError as error:
        notes[f"{path.name} is not UTF-8 (at byte {error.start:,}); it was read as Latin-1"] = None
        return "latin1"
    return "utf8"


def _separator(path: Path, required: Sequence[str]) -> str:
    """What stands between the cells: a comma, unless the first line has more of the columns with another one."""
    with open(path, "rb") as stream:
        first = stream.readline(2**16).decode("utf-8-sig", "replace").strip()
    if not required:
        return max(_SEPARATORS, key=first.count)
    return max(_SEPARATORS, key=lambda one: len(set(required) & {name.strip('"') for name in first.split(one)}))


def _checked(path: Path, table: pa.Table, required: Sequence[str], notes: dict[str, None]) -> pa.Table:
    """The table without columns that nobody could tell apart; `ArchiveError` where required ones are not there."""
    names = table.column_names
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        table = table.select([i for i, name in enumerate(names) if name not in twice])
        notes[f"{path.name}: column {', '.join(twice)} is there several times, and was left out"] = None
    absent = [column for column in required if column not in table.column_names]
    if absent:
        lacks = f"{path} lacks {', '.join(absent)}"
        raise QuotesSource(f"{lacks}; it has {', '.join(names)}", lacks)
    return table


def _with_ids(table: pa.Table, ids: Sequence[str]) -> pa.Table:
    for name in ids:
        if name in table.column_names:
            place = table.column_names.index(name)
            texts = pa.array([id_text(value) for value in table.column(name).to_pylist()], pa.string())
            table = table.set_column(place, pa.field(name, pa.string()), texts)
    return table


def id_text(value: Any) -> str | None:
    """An identifier as text in one form, whatever its type: 7, 7.0, b"7", "7.0" and " 7 " are "7".

    Leading zeros stay, and so do numbers in scientific notation, which may have lost digits. None for an id that is
    absent (an empty text, NaN) or no id (1.5, a number that is too large for its type to hold exactly, true).
    """
    if isinstance(value, bytes | bytearray | np.bytes_):
        value = bytes(value).decode("utf-8", "replace")
    if isinstance(value, bool | np.bool_) or value is None:
        return None
    if isinstance(value, int | np.integer):
        return str(int(value))
    if isinstance(value, float | np.floating):
        exact = 2 ** (np.finfo(type(value)).nmant + 1)
        return str(int(value)) if math.isfinite(value) and value == int(value) and abs(value) <= exact else None
    if not isinstance(value, str):
        return None
    text = value.strip()
    if written := re.fullmatch(r"b(['\"])(.*)\1", text, re.DOTALL):
        # How Python writes bytes, as tools do that do not decode what HDF5 gives them.
        text = written[2].strip()
    if whole := re.fullmatch(r"([+-]?\d+)\.0*", text):
        text = whole[1]
    return None if text.casefold() in _NO_ID else text


def ids_of(table: pa.Table, name: str) -> list[str | None]:
    """A column that was read as ids; all None where the table has no such column."""
    return [None] * table.num_rows if name not in table.column_names else list(table.column(name).to_pylist())


def rows_by_id(ids: Iterable[str | None]) -> tuple[dict[str, int], int]:
    """Row of each id, the last one where an id is there several times, and how many rows another one hides."""
    rows: dict[str, int] = {}
    hidden = 0
    for row, name in enumerate(ids):
        if name is not None:
            hidden += name in rows
            rows[name] = row
    return rows, hidden


def carried_columns(table: pa.Table, options: IngestOptions, path: Path) -> list[pa.Field]:
    """Fields of the columns asked for with --carry, in the CSV's own types; `ArchiveError` listing those there are.

    Where an archive is there already, its columns count, and one that the CSV lacks tonight is null.
    """
    carry = [name for name in options.carry if options.schema is None or name in table.column_names]
    for column in carry:
        if column not in table.column_names:
            lacks = f"--carry {column}: {path.name} has no such column."
            near = did_you_mean(column, table.column_names)
            raise QuotesSource(f"{lacks}{near} There are: {', '.join(table.column_names)}", lacks)
    # A column that is empty throughout has no type of its own.
    kinds = {name: table.schema.field(name).type for name in carry}
    return [pa.field(name, pa.string() if pa.types.is_null(kind) else kind) for name, kind in kinds.items()]


def column_values(table: pa.Table, name: str, kind: pa.DataType, odd: Odd) -> list[Any]:
    """One column as Python values that fit `kind`; all null where the table has no such column.

    A cell that does not fit is null, and what is odd about it is added to `odd` by its row. True and false may be
    written in words or as 1 and 0; every other number is neither.
    """
    if name not in table.column_names:
        return [None] * table.num_rows
    column = table.column(name)
    if (fitting := _cast(column, kind)) is not None:
        return list(fitting.to_pylist())
    values = []
    wanted = next((words for is_kind, words in _WANTED if is_kind(kind)), f"a {kind}")
    for row, value in enumerate(column.to_pylist()):
        try:
            values.append(None if value is None else _cell(value, kind))
        except (ValueError, TypeError, OverflowError):
            values.append(None)
            odd.setdefault(row, []).append(f"{name} is {str(value)[:60]!r}, expected {wanted}")
    return values


def _cast(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray | None:
    """The column in another type, where every cell of it fits; else None."""
    if column.type == kind and not pa.types.is_floating(kind):
        return column
    if pa.types.is_boolean(kind) and not pa.types.is_boolean(column.type):
        # Arrow would take every number but 0 for true.
        return None
    try:
        cast = column.cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return None
    if pa.types.is_floating(kind) and not pc.all(pc.is_finite(cast.drop_null())).as_py():
        return None
    return cast


def _cell(value: Any, kind: pa.DataType) -> Any:
    """One value in the type of its column; ValueError, TypeError or OverflowError where it does not fit."""
    if pa.types.is_boolean(kind):
        return _bool(value)
    if pa.types.is_integer(kind):
        whole = int(value.strip()) if isinstance(value, str) else int(value)
        if whole != float(value):
            raise ValueError
        return pa.scalar(whole, kind).as_py() if _fits(whole, kind) else _refuse()
    if pa.types.is_floating(kind):
        number = float(value)
        if math.isnan(number):
            return None
        with np.errstate(over="ignore"):
            stored = float(np.array(number, kind.to_pandas_dtype()))
        return stored if math.isfinite(stored) else _refuse()
    if pa.types.is_timestamp(kind):
        return value if isinstance(value, datetime) else datetime.fromisoformat(str(value).strip())
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    return pa.scalar(value, kind).as_py()


def _bool(value: Any) -> bool:
    known = _BOOLS.get(str(value).strip().casefold())
    return _refuse() if known is None else known


def _fits(whole: int, kind: pa.DataType) -> bool:
    limits = np.iinfo(kind.to_pandas_dtype())
    return bool(limits.min <= whole <= limits.max)


def _refuse() -> Any:
    raise ValueError


def utc(moment: datetime | None) -> datetime | None:
    """A time without a zone, taken as UTC."""
    return moment.replace(tzinfo=UTC) if moment is not None and moment.tzinfo is None else moment


def telling(problem: Callable[[str, str], None], record: str, found: Sequence[str]) -> None:
    """Tell of the odd cells in a record's row, each as a problem of its own."""
    for one in found:
        problem(record, f"{one}; left empty")
