"""Columns of a source's CSV tables: read whole, with their own types, and said where they do not fit."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv

from ecgscale.archive.sources.pseudonyms import QuotesSource
from ecgscale.archive.sources.source import IngestOptions
from ecgscale.errors import ArchiveError, did_you_mean


def read_csv(path: Path, required: Sequence[str] = (), texts: Sequence[str] = ()) -> pa.Table:
    """A source's table with inferred types, or of the columns `texts` as text; empty cells are null.

    `ArchiveError` if it is absent, not CSV, or lacks a required column.
    """
    if not path.is_file():
        raise ArchiveError(f"{path} is missing; it belongs to the source's native layout")
    types = dict.fromkeys(texts, pa.string())
    try:
        table = pyarrow.csv.read_csv(
            path,
            parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
            convert_options=pyarrow.csv.ConvertOptions(strings_can_be_null=True, column_types=types),
        )
    except pa.ArrowInvalid as error:
        raise QuotesSource(f"{path} is not a readable CSV: {error}", f"{path} is not a readable CSV") from error
    absent = [column for column in required if column not in table.column_names]
    if absent:
        lacks = f"{path} lacks {', '.join(absent)}"
        raise QuotesSource(f"{lacks}; it has {', '.join(table.column_names)}", lacks)
    return table


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


def column_values(table: pa.Table, name: str, kind: pa.DataType | None = None) -> list[Any]:
    """One column as Python values, cast to `kind`; all null where the table has no such column.

    Raises `ArchiveError` naming the column if a value does not fit.
    """
    if name not in table.column_names:
        return [None] * table.num_rows
    column = table.column(name)
    return list((column if kind is None else _cast(column, name, kind)).to_pylist())


def whole_number_texts(table: pa.Table, name: str) -> list[str | None]:
    """Identifiers as text without a decimal point: 15709.0 -> "15709"; texts stay as they are."""
    if name not in table.column_names:
        return [None] * table.num_rows
    column = table.column(name)
    if pa.types.is_floating(column.type):
        column = _cast(column, name, pa.int64())
    return list(_cast(column, name, pa.string()).to_pylist())


def _cast(column: pa.ChunkedArray, name: str, kind: pa.DataType) -> pa.ChunkedArray:
    try:
        return column.cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        fits = f"column {name} is {column.type} and does not fit {kind}"
        raise QuotesSource(f"{fits}: {error}", fits) from error


def utc(moment: datetime | None) -> datetime | None:
    """A time without a zone, taken as UTC."""
    return moment.replace(tzinfo=UTC) if moment is not None and moment.tzinfo is None else moment
