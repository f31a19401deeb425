"""Writing an archive: whole shards, built in memory, visible only when the archive is complete.

Shards are first called `_writing-…`, which no reader takes for a shard. Leaving the writer cleanly renames them to
`part-00000.parquet` … and then writes `_archive.json`; leaving it through an exception removes them. So a folder with
`_archive.json` holds a finished archive, and an archive that is being overwritten stays readable until its
replacement is there. In an object store, where nothing is renamed, shards have their names from the start, and an
archive that is to be overwritten is taken away before.

Shards that workers make wait in a folder `_writing-…/` of the archive until the writer takes them in.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any
from uuid import uuid4

import numpy as np
import pyarrow as pa

from ecgscale.archive.listing import ARCHIVE_JSON, archive_json
from ecgscale.archive.schema import SCHEMA_VERSION, SignalType, archive_schema
from ecgscale.archive.shard import ROW_GROUP_RECORDS, ShardInMemory, is_shard_name
from ecgscale.errors import ArchiveError
from ecgscale.io.objects import open_objects, put_whole
from ecgscale.io.places import Place, is_remote, place
from ecgscale.progress import SILENT, Progress

SHARD_BYTES = 128 * 2**20
GROUP_BYTES = 128 * 2**20
"""Of signals that wait for a row group, at most; less than ROW_GROUP_RECORDS recordings of a day have that."""
MOST_SAMPLES = 2**31 - 1
"""Of one record: offsets of a list are 32 bits."""
_AT_ONCE = 16
FORGOTTEN = "_forgotten.json"
"""Who was forgotten stays so: `tombstones` are not taken away with the archive that they are of."""


class ArchiveWriter:
    """A context manager that takes records and leaves a finished archive.

    `source` goes into `_archive.json` as it is at the end, so facts found while writing may be added to
    `writer.source`. `extra` are the source's own columns. A shard is closed after `shard_records` records, or, where
    that is not given, when it reaches `shard_bytes`. Raises `ArchiveError` if `path` is something else than a new or
    empty folder, or, with `overwrite`, an archive.
    """

    def __init__(
        self,
        path: str | Path,
        source: dict[str, Any],
        signal: SignalType = "int16",
        extra: Sequence[pa.Field] = (),
        *,
        shard_records: int | None = None,
        shard_bytes: int = SHARD_BYTES,
        archive_id: str | None = None,
        overwrite: bool = False,
        progress: Progress = SILENT,
    ) -> None:
        if shard_records is not None and shard_records < 1:
            raise ArchiveError(f"records per shard must be at least 1, not {shard_records}")
        self.path = place(path)
        self.source = dict(source)
        self.schema = archive_schema(signal, extra)
        self.signal: SignalType = signal
        self.archive_id = archive_id or uuid4().hex
        self.records = 0
        self.shards = 0
        self._shard_records = shard_records
        self._shard_bytes = shard_bytes
        self._overwrite = overwrite
        self._progress = progress
        self._token = uuid4().hex[:12]
        self._rows: list[dict[str, Any]] = []
        self._row_bytes = 0
        self._pending: list[pa.Table] = []
        self._pending_rows = 0
        self._shard: ShardInMemory | None = None
        check_target(self.path, overwrite)

    def __enter__(self) -> ArchiveWriter:
        if is_remote(self.path):
            # The mark of a finished archive first: what is left after a crash here is no archive.
            store = open_objects(self.path)
            for key in sorted(store.list_prefix(""), key=lambda key: key != "_archive.json"):
                if key != FORGOTTEN:
                    store.delete(key)
        else:
            self.path.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._finish()
        except BaseException:
            self._abandon()
            raise
        if kind is not None:
            self._abandon()

    def append(self, rows: Mapping[str, Any]) -> None:
        """Add one record: column name to value; columns left out are null.

        `signal` is a (n_leads, n_samples) array of the archive's dtype; masked samples of a `MaskedArray` become
        null. Without `valid_start` and `valid_stop` the whole signal is valid. Raises `ArchiveError` for an unknown
        column or a signal of another dtype or rank.
        """
        unknown = [name for name in rows if name not in self.schema.names]
        if unknown:
            raise ArchiveError(f"column {unknown[0]!r} is not in this archive; it has {', '.join(self.schema.names)}")
        signal = np.asanyarray(rows["signal"])
        if signal.dtype != self.signal or signal.ndim != 2:
            raise ArchiveError(
                f"record {rows.get('record_id')!r}: signal is {signal.dtype} of shape {signal.shape}, expected "
                f"{self.signal} of shape (leads, samples)"
            )
        if signal.size > MOST_SAMPLES:
            raise ArchiveError(
                f"record {rows.get('record_id')!r} has {signal.size:,} samples, more than one record can: cut it"
            )
        if self._row_bytes + signal.nbytes > GROUP_BYTES:
            self._rows_to_table()
            self._write_full_groups(everything=True)
        self._row_bytes += signal.nbytes
        # A copy, so that the caller may use its buffer again before the row group is written.
        row = {"valid_start": 0, "valid_stop": signal.shape[1], **rows, "signal": signal.copy().reshape(-1)}
        self._rows.append(row)
        if len(self._rows) == ROW_GROUP_RECORDS:
            self._rows_to_table()
            self._write_full_groups()

    def append_table(self, table: pa.Table) -> None:
        """Add many records at once; the schema must equal that of `archive_schema`."""
        if not table.schema.equals(self.schema):
            raise ArchiveError(
                f"the table's schema is not the archive's; found\n{table.schema}\nexpected\n{self.schema}"
            )
        self._rows_to_table()
        self._pending.append(table)
        self._pending_rows += table.num_rows
        self._write_full_groups()

    def _rows_to_table(self) -> None:
        if not self._rows:
            return
        rows, self._rows, self._row_bytes = self._rows, [], 0
        signals = [row["signal"] for row in rows]
        offsets = np.cumsum([0, *map(len, signals)])
        missing = any(isinstance(signal, np.ma.MaskedArray) for signal in signals)
        samples = np.ma.concatenate(signals) if missing else np.concatenate(signals)
        values = pa.array(np.ma.getdata(samples), mask=np.ma.getmaskarray(samples) if missing else None)
        columns = [
            pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values)
            if field.name == "signal"
            else pa.array([row.get(field.name) for row in rows], field.type)
            for field in self.schema
        ]
        self._pending.append(pa.Table.from_arrays(columns, schema=self.schema))
        self._pending_rows += len(rows)

    def _write_full_groups(self, everything: bool = False) -> None:
        """Write as many whole row groups as are pending; the rest too if `everything`."""
        while self._pending_rows and (everything or self._pending_rows >= self._group_size()):
            pending = pa.concat_tables(self._pending)
            size = min(self._group_size(), pending.num_rows)
            if self._shard is None:
                self._shard = ShardInMemory(self.schema)
            self._shard.write(pending.slice(0, size))
            rest = pending.slice(size)
            self._pending, self._pending_rows = [rest], rest.num_rows
            if self._shard.rows == self._shard_records or self._is_large():
                self._close_shard()

    def _is_large(self) -> bool:
        # Whoever asks for a number of records gets it: workers have to know beforehand where a shard ends.
        return self._shard is not None and self._shard_records is None and self._shard.bytes >= self._shard_bytes

    def _group_size(self) -> int:
        room = ROW_GROUP_RECORDS
        if self._shard_records is not None:
            room = self._shard_records - (self._shard.rows if self._shard else 0)
        return min(ROW_GROUP_RECORDS, room)

    def _close_shard(self) -> None:
        assert self._shard is not None
        put_whole(self.writing(self.shards), self._shard.close())
        self.adopt(self._shard.rows)
        self._shard = None

    def writing(self, number: int) -> Place:
        """Where shard `number` lies until the archive is finished."""
        if is_remote(self.path):
            return self.path / f"part-{number:05d}.parquet"
        return self.path / f"_writing-{self._token}-{number:05d}.parquet"

    def adopt(self, rows: int) -> None:
        """Take in the next shard, of so many rows, that somebody has put at `writing(self.shards)`."""
        self.records += rows
        self.shards += 1

    @property
    def staging(self) -> str:
        """Key of the folder in which shards wait that others make; no reader looks there."""
        return f"_writing-{self._token}"

    def open_staging(self) -> None:
        """Make that folder; whoever comes too late to stage something finds it gone."""
        if not is_remote(self.path):
            (self.path / self.staging).mkdir()

    def adopt_staged(self, shards: Sequence[tuple[str, int]]) -> None:
        """Take in shards from the staging folder in this order: names there, and rows."""
        moves = [(f"{self.staging}/{name}", self.writing(self.shards + i)) for i, (name, _) in enumerate(shards)]
        if is_remote(self.path):
            store = open_objects(self.path)
            with ThreadPoolExecutor(_AT_ONCE) as pool:
                list(pool.map(lambda move: store.copy(move[0], move[1].name), moves))
        else:
            for staged, to in moves:
                os.rename(self.path / staged, to)
        for _, rows in shards:
            self.adopt(rows)
        self._remove_staged()

    def _remove_staged(self) -> None:
        if is_remote(self.path):
            store = open_objects(self.path)
            for key in store.list_prefix(self.staging):
                store.delete(key)
        else:
            _remove(self.path / self.staging)

    def _finish(self) -> None:
        self._rows_to_table()
        self._write_full_groups(everything=True)
        if self._shard is not None:
            self._close_shard()
        if not self.records:
            raise ArchiveError(f"{self.path}: no records came from the source, so there is no archive to write")
        if not is_remote(self.path):
            self._rename()
        info = {
            "archive_id": self.archive_id,
            "schema_version": SCHEMA_VERSION,
            "source": self.source,
            "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "records": self.records,
            "shards": self.shards,
            "signal": self.signal,
        }
        put_whole(self.path / ARCHIVE_JSON, archive_json(info))

    def _rename(self) -> None:
        check_target(self.path, self._overwrite)
        (self.path / "_archive.json").unlink(missing_ok=True)
        for old in self.path.glob("part-*.parquet"):
            old.unlink()
        for number in range(self.shards):
            os.rename(self.writing(number), self.path / f"part-{number:05d}.parquet")
        for left_over in self.path.glob("_writing-*"):
            _remove(left_over)

    def _abandon(self) -> None:
        if is_remote(self.path):
            # All shards there are: those of an archive that was to be replaced have gone before.
            store = open_objects(self.path)
            for key in list(store.list_prefix("")):
                if is_shard_name(key) or key.startswith(f"{self.staging}/"):
                    store.delete(key)
            self._progress.say(f"no archive was written to {self.path}.")
            return
        for own in self.path.glob(f"_writing-{self._token}*"):
            _remove(own)
        kept = " The archive that was there before is untouched." if (self.path / "_archive.json").exists() else ""
        self._progress.say(f"no archive was written to {self.path}.{kept}")


def _remove(path: Path) -> None:
    """A file or a folder, of which somebody who is being stopped may still hold a part."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def check_target(path: Place, overwrite: bool = False) -> None:
    """Raise `ArchiveError` unless an archive may be written to `path`; ask before a long ingest, not after."""
    if is_remote(path):
        names = sorted(open_objects(path).list_prefix(""))
    elif not path.exists():
        return
    elif not path.is_dir():
        raise ArchiveError(f"{path} is a file; an archive is a folder")
    else:
        # A folder that is called like a shard is none, and would be in the way of one.
        names = [f"{entry.name}/" if entry.is_dir() else entry.name for entry in path.iterdir()]
    foreign = sorted(name for name in names if not name.startswith("_") and not is_shard_name(name))
    if foreign:
        raise ArchiveError(f"{path} holds {foreign[0]!r}, which is no part of an archive; give a new or empty folder")
    if not overwrite and any(name == "_archive.json" or is_shard_name(name) for name in names):
        raise ArchiveError(f"{path} already holds an archive; give another folder, or --overwrite to replace it")
