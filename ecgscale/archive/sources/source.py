"""What the sources share: options, a drive from rows to shards, problems that are told, and columns of a CSV.

A source never drops a record in silence. One that cannot be read keeps a row with an empty signal, which becomes the
status `empty_signal` later, and its reason is counted, told in the summary, and kept in `_archive.json`.

A source is taken whole, or a `Portion` of it: that is how files that arrive later come into an archive that is there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv

from ecgscale.archive.schema import CORE_COLUMNS, SignalType, archive_schema
from ecgscale.archive.sources.pseudonyms import PSEUDONYMISED, Pseudonyms
from ecgscale.archive.sources.tombstones import Admission, Tombstones, check_tombstones, read_tombstones
from ecgscale.archive.writer import ArchiveWriter, check_target
from ecgscale.errors import ArchiveError, did_you_mean
from ecgscale.io.places import Place, local_copy
from ecgscale.progress import SILENT, Progress

PROBLEMS_KEPT = 1000


@dataclass(frozen=True)
class Portion:
    """Some sets of a source, to become shards of an archive that may be there already.

    sets: what to take, and the record_id for it: paths of WFDB records below the folder; ecg_ids; names of HDF5 parts
    (whose exams have ids of their own)
    schema: that of the archive, which is kept to; None when there is none yet: then the portion decides, like a whole
    source
    rows: first and one past the last row of PTB-XL's table to take, in place of the sets: ids may be there twice
    """

    sets: Mapping[str, str]
    schema: pa.Schema | None = None
    rows: tuple[int, int] | None = None


@dataclass(frozen=True)
class IngestOptions:
    """What every source takes: replace an archive, records per shard, further columns, who hears of progress.

    portion: take this part of the source alone
    pseudonyms: what ids become (None: they stay); tombstones: who is left out (None: those of the archive itself)
    """

    overwrite: bool = False
    shard_records: int | None = None
    carry: tuple[str, ...] = ()
    progress: Progress = SILENT
    portion: Portion | None = None
    pseudonyms: Pseudonyms | None = None
    tombstones: Tombstones | None = None

    @property
    def schema(self) -> pa.Schema | None:
        """The schema to keep to, where an archive has one already."""
        return self.portion.schema if self.portion else None


DEFAULTS = IngestOptions()


class QuotesSource(ArchiveError):
    """An error that repeats words of the source, which may hold ids or names; `bare` says the same without them."""

    def __init__(self, text: str, bare: str) -> None:
        super().__init__(text)
        self.bare = bare

    def __reduce__(self) -> tuple[Any, ...]:
        # From a worker it has to arrive as what it is.
        return type(self), (str(self), self.bare)


@dataclass
class Problems:
    """Records with something wrong: all counted, the first ones told."""

    count: int = 0
    first: list[str] = field(default_factory=list)
    pseudonyms: Pseudonyms | None = None

    def add(self, record_id: str, reason: str) -> None:
        """Record one problem; `reason` says what was found and what became of the record."""
        self.count += 1
        if self.pseudonyms is not None:
            record_id, reason = self.pseudonyms.record(record_id), self.pseudonyms.problem(reason)
        if len(self.first) < PROBLEMS_KEPT:
            self.first.append(f"record {record_id}: {reason}")

    def withdraw(self, record_id: str) -> None:
        """Tell nothing of a record, by its id in the archive: it is left out."""
        self.first = [line for line in self.first if not line.startswith(f"record {record_id}: ")]


@dataclass(frozen=True)
class IngestResult:
    """A finished ingest; `dropped` are rows of the source that are no recordings, `notes` hold for all of it.

    `refused`: ids, as the archive would have them, of records that were left out because they were forgotten.
    `counted`: those of the notes that are on so many records, as `told_counts` takes them.
    """

    archive: str
    archive_id: str
    records: int
    shards: int
    signal: SignalType
    dropped: int
    problems: Problems
    notes: tuple[str, ...]
    refused: tuple[str, ...] = ()
    counted: Mapping[str, int] = field(default_factory=dict)


def told_counts(counted: Mapping[str, int]) -> list[str]:
    """Notes on so many records, from their texts, which have {:,} where the number stands."""
    return [text.format(count) for text, count in counted.items() if count]


@dataclass
class Ingest:
    """One ingest on its way: where it goes, what it is, and what was found so far.

    `signal` and `extra` are what the source would have; where the options name a schema, they become that schema's.
    """

    archive_path: Place
    source: dict[str, Any]
    signal: SignalType
    extra: Sequence[pa.Field]
    options: IngestOptions
    problems: Problems = field(default_factory=Problems)
    dropped: int = 0
    notes: list[str] = field(default_factory=list)
    counted: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._admit()
        schema = self.options.schema
        if schema is None:
            return
        left_out = [column.name for column in self.extra if column.name not in schema.names]
        if left_out:
            self.notes.append(f"left out, because the archive has no such column: {', '.join(left_out)}")
        self.extra = [column for column in schema if column.name not in CORE_COLUMNS]
        self.signal = signal_of(schema)

    def _admit(self) -> None:
        """Decide what ids become, and who is left out."""
        pseudonyms = self.options.pseudonyms
        tombstones = self.options.tombstones or read_tombstones(self.archive_path)
        check_tombstones(tombstones, pseudonyms, self.archive_path)
        self._admission = Admission(pseudonyms, tombstones, self.problems.withdraw)
        if pseudonyms is not None:
            pseudonyms.check_carried(self.options.carry)
            self.problems.pseudonyms = pseudonyms
            # A folder may be called after a patient.
            self.source.pop("folder", None)
            self.source[PSEUDONYMISED] = pseudonyms.facts()

    @property
    def schema(self) -> pa.Schema:
        """The schema of what is written."""
        return archive_schema(self.signal, self.extra)

    def write(self, rows: Iterator[dict[str, Any]], total: int | None) -> IngestResult:
        """Write all rows (dicts of column to value, see `ArchiveWriter.append`) and finish the archive.

        A portion without a single row leaves nothing; a source without any raises `ArchiveError`.
        """
        options, admission = self.options, self._admission
        rows = admission.of(rows)
        if options.portion is not None:
            first = next(rows, None)
            if first is None:
                return self._result("", "", 0, 0)
            rows = chain([first], rows)
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
                "notes": self._told(),
                "problems": self.problems.count,
                "first_problems": self.problems.first,
            }
        return self._result(str(writer.path), writer.archive_id, writer.records, writer.shards)

    def _result(self, archive: str, archive_id: str, records: int, shards: int) -> IngestResult:
        return IngestResult(
            archive,
            archive_id,
            records,
            shards,
            self.signal,
            self.dropped,
            self.problems,
            tuple(self._told()),
            tuple(self._admission.refused),
            self.counted,
        )

    def _told(self) -> list[str]:
        return [*self.notes, *told_counts(self.counted), *self._admission.told()]


def source_folder(src: str | Path, archive_path: Place, options: IngestOptions, holds: str) -> Path:
    """The source as a local folder; `ArchiveError` before any work if there is none or the target is not free.

    What lies in an object store is copied into the user's cache, because the readers of all three formats want files.
    """
    check_target(archive_path, options.overwrite)
    try:
        folder = local_copy(src)
    except FileNotFoundError as error:
        raise ArchiveError(f"{src} holds nothing; expected {holds}") from error
    if not folder.is_dir():
        raise ArchiveError(f"{folder}: no such folder; expected one with {holds}")
    return folder


def folder_name(folder: Path) -> str:
    """The last name of a source's path, links followed: what `_archive.json` says of where records came from."""
    return folder.resolve().name


def signal_of(schema: pa.Schema) -> SignalType:
    """The sample type of an archive of this schema."""
    return "int16" if schema.field("signal").type.value_type == pa.int16() else "float32"


def empty_signal(signal: SignalType, n_leads: int) -> np.ndarray:
    """The signal of a record that could not be read."""
    return np.zeros((n_leads, 0), dtype=signal)


def read_csv(path: Path) -> pa.Table:
    """A source's table with inferred types; empty cells are null. `ArchiveError` if it is absent or not CSV."""
    return _read_csv(path, {})


def read_csv_texts(path: Path) -> pa.Table:
    """The same rows with every cell as the text that it is."""
    return _read_csv(path, {name: pa.string() for name in read_csv(path).column_names})


def _read_csv(path: Path, types: dict[str, pa.DataType]) -> pa.Table:
    if not path.is_file():
        raise ArchiveError(f"{path} is missing; it belongs to the source's native layout")
    try:
        return pyarrow.csv.read_csv(
            path,
            parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
            convert_options=pyarrow.csv.ConvertOptions(strings_can_be_null=True, column_types=types),
        )
    except pa.ArrowInvalid as error:
        raise QuotesSource(f"{path} is not a readable CSV: {error}", f"{path} is not a readable CSV") from error


def require_columns(table: pa.Table, columns: Sequence[str], path: Path) -> None:
    """`ArchiveError` naming the columns that a CSV lacks."""
    absent = [column for column in columns if column not in table.column_names]
    if absent:
        lacks = f"{path} lacks {', '.join(absent)}"
        raise QuotesSource(f"{lacks}; it has {', '.join(table.column_names)}", lacks)


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
