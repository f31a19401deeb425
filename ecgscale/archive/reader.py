"""Reading an archive: listing, footers, and batches of records streamed row group by row group.

Nothing here holds more than one row group and one batch, so memory does not grow with the archive. Samples are never
touched by Python: a batch's signals are one flat array that shares memory with what Parquet decoded. Chosen recordings
come from the row groups that they are in, and no other is read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ecgscale.archive.listing import ARCHIVE_JSON, archive_info, list_archive
from ecgscale.archive.schema import CORE_COLUMNS, REQUIRED_COLUMNS, SCHEMA_VERSION, signal_of
from ecgscale.archive.shard import Shard, ShardFooter, open_parquet, read_footer, record_tables, unreadable
from ecgscale.errors import ArchiveError, ShardError, did_you_mean
from ecgscale.io.objects import open_objects
from ecgscale.io.parquet import UNREADABLE
from ecgscale.io.places import Place, is_remote, nearly, place
from ecgscale.leads import canonical_lead
from ecgscale.store.columns import joined
from ecgscale.words import counted, named

BATCH_RECORDS = 32
AT_ONCE = 64
BATCH_COLUMNS = ("patient_id", *REQUIRED_COLUMNS)
"""Columns a batch always reads."""


@dataclass(frozen=True)
class RawBatch:
    """N records as they stand in the archive, unchecked (`archive.validate` checks them).

    values: flat samples of all records, int16 or float32, sharing memory with the decoded Parquet page
    offsets: int64 (N + 1,), record i has values[offsets[i]:offsets[i + 1]], lead after lead
    table: the other columns that were asked for; record_id, patient_id, leads and the like included
    leads: canonical names, in the order of the samples
    sampling_rate, units_per_mv: float32 (N,), NaN where null
    valid_start, valid_stop: int32 (N,), the whole record where null
    """

    shard: str
    first_row: int
    table: pa.RecordBatch
    record_ids: list[str | None]
    values: NDArray[np.int16] | NDArray[np.float32]
    offsets: NDArray[np.int64]
    leads: list[tuple[str, ...]]
    sampling_rate: NDArray[np.float32]
    units_per_mv: NDArray[np.float32]
    valid_start: NDArray[np.int32]
    valid_stop: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.record_ids)

    @cached_property
    def n_samples(self) -> NDArray[np.int64]:
        """int64 (N,): samples per lead, rounded down where the samples are no multiple of the leads."""
        return np.diff(self.offsets) // np.array([max(len(leads), 1) for leads in self.leads], dtype=np.int64)

    def signal(self, i: int) -> NDArray[np.int16] | NDArray[np.float32]:
        """(n_leads, n_samples) view of record i; only for records that passed the check."""
        return self.values[self.offsets[i] : self.offsets[i + 1]].reshape(len(self.leads[i]), -1)


def raw_batch(shard: str, first_row: int, table: pa.Table) -> RawBatch:
    """The batch of a slice of a shard; `table` has `BATCH_COLUMNS` (patient_id may be absent) and others."""
    record = table.combine_chunks().to_batches()[0] if table.num_rows else pa.RecordBatch.from_pylist([], table.schema)
    values, offsets = _samples(record.column("signal"))
    others = record.select([name for name in record.schema.names if name != "signal"])
    leads = [_canonical(tuple(names or ())) for names in record.column("leads").to_pylist()]
    whole = np.diff(offsets) // np.array([max(len(names), 1) for names in leads], dtype=np.int64)
    return RawBatch(
        shard=shard,
        first_row=first_row,
        table=others,
        record_ids=record.column("record_id").cast(pa.string()).to_pylist(),
        values=values,
        offsets=offsets,
        leads=leads,
        sampling_rate=_numbers(record.column("sampling_rate"), np.nan, np.float32),
        units_per_mv=_numbers(record.column("units_per_mv"), np.nan, np.float32),
        valid_start=_numbers(record.column("valid_start"), 0, np.int32),
        valid_stop=_numbers(record.column("valid_stop"), whole, np.int32),
    )


@lru_cache(maxsize=1024)
def _canonical(leads: tuple[str | None, ...]) -> tuple[str, ...]:
    # "lead 3" stands for the third channel in archives that were made under pseudonyms: its name was free text.
    return tuple(lead if re.fullmatch(r"lead \d+", lead) else canonical_lead(lead) for lead in map(_text, leads))


def _text(lead: str | None) -> str:
    return lead or ""


def _numbers(array: pa.Array, missing: float | NDArray, dtype: type[np.generic]) -> NDArray:
    values = array.to_numpy(zero_copy_only=False)
    if array.null_count:
        values = np.where(array.is_null().to_numpy(zero_copy_only=False), missing, values)
    return values.astype(dtype)


def _samples(signal: pa.Array) -> tuple[NDArray, NDArray[np.int64]]:
    """Flat samples and record boundaries of a list column; a null list is an empty one, a null sample is NaN."""
    offsets = np.zeros(len(signal) + 1, dtype=np.int64)
    np.cumsum(pc.list_value_length(signal).fill_null(0).to_numpy(zero_copy_only=False), out=offsets[1:])
    flat = signal.flatten()
    if flat.null_count:
        # int16 has no NaN; float32 holds every int16 exactly.
        flat = flat.cast(pa.float32()).fill_null(float("nan"))
    return flat.to_numpy(zero_copy_only=True), offsets


@dataclass(frozen=True)
class Archive:
    """A finished archive. `Archive.open` lists it; everything else reads shards on demand.

    shards: all that are called so, odd ones too; others: names of what else lies in its folder, and is not read
    """

    path: Place
    info: dict[str, Any]
    shards: tuple[Shard, ...]
    others: tuple[str, ...] = ()

    @classmethod
    def open(cls, path: str | Path) -> Archive:
        """The archive in a folder; `ArchiveError` if there is none, it is unfinished, empty, or of another schema."""
        folder = place(path)
        if not is_remote(folder) and not folder.is_dir():
            raise ArchiveError(
                f"{folder}: no such folder; an archive is a folder that `ecgscale ingest` wrote.{nearly(folder)}"
            )
        info = _archive_json(folder)
        found = list_archive(folder)
        if not found.shards:
            raise ArchiveError(
                f"{folder} has an _archive.json but no part-*.parquet: is a disk not mounted? Else ingest it again"
            )
        return cls(folder, info, found.shards, found.others)

    @property
    def archive_id(self) -> str:
        """The identity minted when the archive was made."""
        return str(self.info["archive_id"])

    def notes(self) -> Iterator[str]:
        """What somebody should know of the listing: files that nobody reads, and shards that have gone."""
        if self.others:
            yield f"{counted(len(self.others), 'file')} of {self.path} that is no shard, not read: {named(self.others)}"
        then = self.info.get("shards")
        if isinstance(then, int) and len(self.shards) < then:
            yield f"{self.path} has {counted(len(self.shards), 'shard')}, and had {then:,} when it was made or fed last"

    def shard(self, key: str) -> Shard:
        """The shard of that file name; `ArchiveError` naming the nearest one otherwise."""
        for shard in self.shards:
            if shard.key == key:
                return shard
        raise ArchiveError(f"{self.path} has no shard {key!r}.{did_you_mean(key, [s.key for s in self.shards])}")

    def readable(self, say: Callable[[str], None]) -> Archive:
        """The same archive without the shards that cannot be opened, of which each is said with the reason.

        `ArchiveError` if none can.
        """
        found = []
        for shard in self.shards:
            try:
                with open_parquet(shard):
                    found.append(shard)
            except ShardError as error:
                say(f"left out: {error}")
        if not found:
            raise ArchiveError(f"{self.path}: none of {len(self.shards)} shards can be read")
        return replace(self, shards=tuple(found))

    def footer(self, shard: Shard) -> ShardFooter:
        """Rows, schema and content digest, without reading the data (see `shard.read_footer`)."""
        found = read_footer(shard)
        self._check_signal(shard, found.schema)
        return found

    def columns_of(self, shard: Shard) -> pa.Schema:
        """The columns of a shard; raises as `footer` does."""
        with self.opened(shard) as file:
            return file.schema_arrow.remove_metadata()

    def opened(self, shard: Shard, whole: bool = False) -> pq.ParquetFile:
        """`shard.open_parquet`; `ShardError` also for samples of another type than the archive's."""
        file = open_parquet(shard, whole)
        try:
            self._check_signal(shard, file.schema_arrow)
        except ShardError:
            file.close()
            raise
        return file

    def _check_signal(self, shard: Shard, schema: pa.Schema) -> None:
        """An archive has one type of samples: that of `_archive.json`."""
        expected, found = self.info.get("signal"), signal_of(schema)
        if expected in ("int16", "float32") and found != expected:
            raise ShardError(
                f"{shard.path}: signal is {found}, and {expected} in this archive, which has one of them for all its "
                "shards. Write the shard again, or an archive of its own"
            )

    def schema(self) -> pa.Schema:
        """The schema of the first shard that can be read; `ArchiveError` if none can."""
        return self._schema

    @cached_property
    def _schema(self) -> pa.Schema:
        reasons = []
        for shard in self.shards:
            try:
                return self.columns_of(shard)
            except ShardError as error:
                reasons.append(str(error))
        raise ArchiveError(f"{self.path}: none of {len(self.shards)} shards can be read; first: {reasons[0]}")

    def label_columns(self) -> list[str]:
        """The source's own columns: labels and metadata."""
        return [name for name in self.schema().names if name not in CORE_COLUMNS]

    def batches(
        self, shard: Shard, columns: Sequence[str] | None = None, batch_records: int = BATCH_RECORDS
    ) -> Iterator[RawBatch]:
        """The shard's records in order, `batch_records` at a time; only the last batch may be shorter.

        `columns` are read besides those a batch always has (None: all). Raises `ArchiveError` for an unknown column
        and `ShardError` when the file breaks off while it is read.
        """
        with self.opened(shard, whole=True) as file:
            names = file.schema_arrow.names
            if columns is not None:
                # Absent from the archive: the caller's mistake. Absent from this shard alone: the shard's.
                self._check_columns([name for name in columns if name not in names], self.schema().names, shard)
                self._check_columns(columns, names, shard, ShardError)
                wanted = {*columns, *BATCH_COLUMNS}
                names = [name for name in names if name in wanted]
            first_row = 0
            for table in record_tables(file, shard, names, batch_records):
                yield raw_batch(shard.key, first_row, table)
                first_row += table.num_rows

    def metadata(self, columns: Sequence[str], unreadable: list[ShardError] | None = None) -> pa.Table:
        """These columns of all shards, without signals, and where each row stands: `shard` (string), `row` (int32).

        Raises `ArchiveError` for a column that is not there. A shard that cannot be read raises `ShardError`, or is
        left out and named in `unreadable` where such a list is given.
        """
        self._check_columns(columns, self.schema().names, self.shards[0])
        tables, schema = [], pa.schema([])
        for shard in self.shards:
            try:
                table = self.shard_metadata(shard, columns)
                schema = joined(schema, table.schema, shard.path)
                tables.append(table)
            except ShardError as error:
                if unreadable is None:
                    raise
                unreadable.append(error)
        if not tables:
            raise ArchiveError(f"{self.path}: none of {len(self.shards)} shards can be read")
        return pa.concat_tables([table.cast(schema) for table in tables])

    def shard_metadata(self, shard: Shard, columns: Sequence[str]) -> pa.Table:
        """What `metadata` gives, of one shard; `ShardError` if it cannot be read or lacks a column."""
        with self.opened(shard) as file:
            self._check_columns(columns, file.schema_arrow.names, shard, ShardError)
            try:
                table = file.read(columns=list(columns), use_threads=False).select(list(columns))
                if table.num_rows != file.metadata.num_rows:
                    raise pa.ArrowInvalid(f"{table.num_rows} of {file.metadata.num_rows} rows")
            except UNREADABLE as error:
                raise unreadable(shard, error) from error
        return table.append_column("shard", pa.repeat(shard.key, table.num_rows)).append_column(
            "row", pa.array(range(table.num_rows), pa.int32())
        )

    def _check_columns(
        self, columns: Sequence[str], names: Sequence[str], shard: Shard, kind: type[Exception] = ArchiveError
    ) -> None:
        for column in columns:
            if column not in names:
                raise kind(
                    f"{self.path} ({shard.key}) has no column {column!r}.{did_you_mean(column, names)} "
                    f"There are: {', '.join(names)}"
                )


def _archive_json(folder: Place) -> dict[str, Any]:
    file = folder / ARCHIVE_JSON
    content = open_objects(folder).read(ARCHIVE_JSON)
    if content is None:
        raise ArchiveError(
            f"{folder} has no _archive.json: either no archive, or an ingest that did not finish. "
            "Write one with `ecgscale ingest` or `ecgscale simulate`"
        )
    try:
        info = archive_info(content, file)
        version = info["schema_version"]
        _ = info["archive_id"]
    except KeyError as error:
        raise ArchiveError(f"{file} is damaged ({error!r}); it needs archive_id and schema_version") from error
    if version != SCHEMA_VERSION:
        raise ArchiveError(f"{folder} has archive schema {version!r}, this version reads schema {SCHEMA_VERSION}")
    return info


def chunks(wanted: Mapping[str, Sequence[str]], at_most: int = AT_ONCE) -> list[tuple[str, tuple[str, ...]]]:
    """Shard key → record ids as tasks of at most so many records of one shard; the same ones wherever they are done."""
    return [
        (key, tuple(names[first : first + at_most]))
        for key, names in wanted.items()
        for first in range(0, len(names), at_most)
    ]


def chosen_batches(archive: Archive, wanted: Mapping[str, Sequence[str]]) -> Iterator[tuple[RawBatch, list[int]]]:
    """Batches that hold chosen recordings (shard key → record ids), and the rows of those in the batch, in order.

    A name that the shard does not hold (any more) is left out; of a doubled one the first counts, as for the
    explanations. Raises `ShardError` for a shard that cannot be read and `ArchiveError` for one that is not there.
    """
    for key in sorted(wanted):
        shard, left = archive.shard(key), set(wanted[key])
        with archive.opened(shard) as file:
            columns = [name for name in file.schema_arrow.names if name in BATCH_COLUMNS]
            first_row = 0
            try:
                for group in range(file.num_row_groups):
                    rows = file.metadata.row_group(group).num_rows
                    names = file.read_row_group(group, columns=["record_id"], use_threads=False).column(0).to_pylist()
                    if len(names) != rows:
                        raise pa.ArrowInvalid(f"{len(names)} of {rows} names in row group {group}")
                    first = dict(zip(reversed(names), reversed(range(rows)), strict=True))
                    here = sorted(first[name] for name in left.intersection(names))
                    if here:
                        left.difference_update(names)
                        table = file.read_row_group(group, columns=columns, use_threads=False)
                        # An archive need not have patients, a batch has.
                        if "patient_id" not in columns:
                            table = table.append_column("patient_id", pa.nulls(rows, pa.string()))
                        yield raw_batch(key, first_row, table), here
                    first_row += rows
            except UNREADABLE as error:
                raise unreadable(shard, error) from error
