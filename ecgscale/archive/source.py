"""What the sources share: options, a drive from rows to shards, problems that are told, and columns of a CSV.

A source never drops a record in silence. One that cannot be read keeps a row with an empty signal, which becomes the
status `empty_signal` later, and its reason is counted, told in the summary, and kept in `_archive.json`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv

from ecgscale.archive.schema import SignalType
from ecgscale.archive.writer import ArchiveWriter, check_target
from ecgscale.errors import ArchiveError, did_you_mean
from ecgscale.progress import SILENT, Progress

PROBLEMS_KEPT = 1000


@dataclass(frozen=True)
class IngestOptions:
    """What every source takes: replace an archive, records per shard, further columns, who hears of progress."""

    overwrite: bool = False
    shard_records: int | None = None
    carry: tuple[str, ...] = ()
    progress: Progress = SILENT


DEFAULTS = IngestOptions()


@dataclass
class Problems:
    """Records with something wrong: all counted, the first ones told."""

    count: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, record_id: str, reason: str) -> None:
        """Record one problem; `reason` says what was found and what became of the record."""
        self.count += 1
        if len(self.first) < PROBLEMS_KEPT:
            self.first.append(f"record {record_id}: {reason}")


@dataclass(frozen=True)
class IngestResult:
    """A finished ingest; `dropped` are rows of the source that are no recordings, `notes` hold for all of it."""

    archive: str
    archive_id: str
    records: int
    shards: int
    signal: SignalType
    dropped: int
    problems: Problems
    notes: tuple[str, ...]


@dataclass
class Ingest:
    """One ingest on its way: where it goes, what it is, and what was found so far."""

    archive_path: Path
    source: dict[str, Any]
    signal: SignalType
    extra: Sequence[pa.Field]
    options: IngestOptions
    problems: Problems = field(default_factory=Problems)
    dropped: int = 0
    notes: list[str] = field(default_factory=list)

    def write(self, rows: Iterator[dict[str, Any]], total: int | None) -> IngestResult:
        """Write all rows (dicts of column to value, see `ArchiveWriter.append`) and finish the archive."""
        options = self.options
        writer = ArchiveWriter(
            self.archive_path,
            self.source,
            self.signal,
            self.extra,
            shard_records=options.shard_records,
            overwrite=options.overwrite,
            progress=options.progress,
        )
        with writer, options.progress.stage("ingest", total, "records") as stage:
            for row in rows:
                writer.append(row)
                stage.advance()
            writer.source |= {
                "dropped": self.dropped,
                "notes": self.notes,
                "problems": self.problems.count,
                "first_problems": self.problems.first,
            }
        return IngestResult(
            archive=str(writer.path),
            archive_id=writer.archive_id,
            records=writer.records,
            shards=writer.shards,
            signal=self.signal,
            dropped=self.dropped,
            problems=self.problems,
            notes=tuple(self.notes),
        )


def source_folder(src: str | Path, archive_path: str | Path, options: IngestOptions, holds: str) -> Path:
    """The source as a path; `ArchiveError` before any work if it is no folder or the target is not free."""
    folder = Path(src)
    if not folder.is_dir():
        raise ArchiveError(f"{folder}: no such folder; expected one with {holds}")
    check_target(Path(archive_path), options.overwrite)
    return folder


def empty_signal(signal: SignalType, n_leads: int) -> np.ndarray:
    """The signal of a record that could not be read."""
    return np.zeros((n_leads, 0), dtype=signal)


def read_csv(path: Path) -> pa.Table:
    """A source's table with inferred types; empty cells are null. `ArchiveError` if it is absent or not CSV."""
    if not path.is_file():
        raise ArchiveError(f"{path} is missing; it belongs to the source's native layout")
    try:
        return pyarrow.csv.read_csv(
            path,
            parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
            convert_options=pyarrow.csv.ConvertOptions(strings_can_be_null=True),
        )
    except pa.ArrowInvalid as error:
        raise ArchiveError(f"{path} is not a readable CSV: {error}") from error


def require_columns(table: pa.Table, columns: Sequence[str], path: Path) -> None:
    """`ArchiveError` naming the columns that a CSV lacks."""
    absent = [column for column in columns if column not in table.column_names]
    if absent:
        raise ArchiveError(f"{path} lacks {', '.join(absent)}; it has {', '.join(table.column_names)}")


def carried_columns(table: pa.Table, carry: Sequence[str], path: Path) -> list[pa.Field]:
    """Fields of the columns asked for with --carry, in the CSV's own types; `ArchiveError` listing those there are."""
    for column in carry:
        if column not in table.column_names:
            raise ArchiveError(
                f"--carry {column}: {path.name} has no such column.{did_you_mean(column, table.column_names)} "
                f"There are: {', '.join(table.column_names)}"
            )
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
        raise ArchiveError(f"column {name} is {column.type} and does not fit {kind}: {error}") from error


def utc(moment: datetime | None) -> datetime | None:
    """A time without a zone, taken as UTC."""
    return moment.replace(tzinfo=UTC) if moment is not None and moment.tzinfo is None else moment
