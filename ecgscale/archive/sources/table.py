"""Recordings in arrays and tables of any layout, which a small TOML describes: HDF5, Parquet, NumPy and CSV.

`Layout` says what may stand in it. Nothing is guessed: what a layout does not say, and the file does not either, is an
error that says what to write. A signal file is an array of many records (HDF5, NumPy, Parquet), or holds one record a
file (NumPy, CSV); a table may say more of them, matched by id, or by order where the file has no ids.
"""

from __future__ import annotations

import fnmatch
import posixpath
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import datetime
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ecgscale.archive.schema import archive_schema
from ecgscale.archive.sources.files import Known, SourceFolder, SourceSet, ingest_whole
from ecgscale.archive.sources.hdf5 import BrokenPart, Signals, signals_in, valid_span
from ecgscale.archive.sources.source import DEFAULTS, MATCHED, Ingest, IngestOptions, IngestResult, Portion, Source
from ecgscale.archive.sources.source import empty_signal as empty
from ecgscale.archive.sources.tables import (
    Odd,
    carried_columns,
    column_values,
    id_text,
    ids_of,
    read_table,
    rows_by_id,
    telling,
)
from ecgscale.archive.sources.tombstones import full_shards
from ecgscale.archive.sources.wfdb_files import name_by, name_records
from ecgscale.archive_config import READY, Layout, read_layout
from ecgscale.errors import ArchiveError, UsageError
from ecgscale.io.places import Place

if TYPE_CHECKING:
    from ecgscale.config import ArchiveConfig

_WITHOUT_ROW = "{:,} records have no row in the table"

Record = tuple[str, int, str | None]
"""Name of its file (where each has one record, without suffix), number in it, id."""


def ingest_table(
    src: str | Path, archive_path: str | Path, layout: Layout, options: IngestOptions = DEFAULTS
) -> IngestResult:
    """Write an archive from the signal files of a layout, float32, in the order of files and records.

    Raises `ArchiveError` if there is no such file, or a table does not fit.
    """
    return ingest_whole(lambda files: TableSource(files, layout), src, archive_path, options, layout.signal.file)


class TableSource(Source):
    """Signal files, each with its records, and perhaps a table."""

    kind = "table"
    one_by_one = True

    def __init__(self, files: SourceFolder, layout: Layout) -> None:
        super().__init__(files)
        self._layout = layout
        self.tables = () if layout.table is None else (layout.table.file,)
        self._many = self.one_by_one = "record" in layout.signal.axes
        self._suffix = "" if self._many else posixpath.splitext(layout.signal.file)[1]

    @classmethod
    def configured(cls, files: SourceFolder, config: ArchiveConfig) -> Self:
        if config.layout is None:
            raise UsageError(f"a table source needs a layout: --layout FILE.toml, or one of {', '.join(READY)}")
        return cls(files, read_layout(config.layout))

    def _among(self, names: Iterable[str]) -> list[str]:
        return sorted(name.removesuffix(self._suffix) for name in fnmatch.filter(names, self._layout.signal.file))

    @cached_property
    def _ids(self) -> tuple[dict[str, str], str]:
        """The files, what the records of those that hold one are called, and whether that is by name or by path."""
        names = self._among(self.files.names())
        if not names:
            raise ArchiveError(f"{self.files.src} holds no {self._layout.signal.file}")
        self.files.fetch(name + self._suffix for name in names)
        ids, called = name_by(names)
        return dict(zip(names, ids, strict=True)), called

    @cached_property
    def _records(self) -> list[Record]:
        """All of them; files that are broken are set aside. `ArchiveError` when none is left."""
        found: list[Record] = []
        for name, record in self._ids[0].items():
            try:
                found += self._of_file(name, record)
            except BrokenPart as error:
                self.set_aside[name] = str(error)
        if not found and self.set_aside:
            raise BrokenPart(next(iter(self.set_aside.values())))
        return self._in_order(found)

    def _of_file(self, name: str, record: str) -> list[Record]:
        if not self._many:
            return [(name, 0, record)]
        with self._opened(name) as signals:
            # By the pattern, not by how many files there are: more may come.
            stem = f"{posixpath.splitext(name)[0]}/" if self._layout.signal.is_pattern else ""
            ids = signals.ids() or [f"{stem}{i}" for i in range(signals.count)]
            return [(name, i, one) for i, one in enumerate(ids)]

    def _in_order(self, found: list[Record]) -> list[Record]:
        """The records as a table that goes by order calls them, if there is one and it has a row for each."""
        table = self._layout.table
        if table is None or table.by != "order":
            return found
        if (rows := self._table.num_rows) != len(found):
            there = f"{len(found):,} records of {self._layout.signal.file}, {rows:,} rows of {table.file}"
            raise ArchiveError(f'by = "order" wants a row a record: {there}')
        named = None if table.id is None else ids_of(self._table, table.id)
        return [(name, i, named[i]) for name, i, _ in found] if named else found

    @cached_property
    def _table(self) -> pa.Table:
        table = self._layout.table
        assert table is not None
        self.files.fetch(self.tables)
        path = self.files.path(table.file)
        if not path.is_file():
            raise ArchiveError(f"{path} is missing; the layout names it as table.file")
        named = (table.id, table.patient, table.age, table.sex, table.sampling_rate, *table.labels)
        ids = [name for name in (table.id, table.patient) if name is not None]
        return read_table(path, [name for name in named if name is not None], ids=ids, notes=self.notes)

    def _columns(self, options: IngestOptions) -> list[pa.Field]:
        if self._layout.table is None:
            return []
        table, options = self._table, replace(options, carry=(*self._layout.table.labels, *options.carry))
        return carried_columns(table, options, self.files.path(self._layout.table.file))

    @cached_property
    def _row_of(self) -> tuple[dict[str, int], int]:
        table = self._layout.table
        return rows_by_id(ids_of(self._table, str(table.id))) if table and table.by == "id" else ({}, 0)

    def _known(self, extra: Sequence[pa.Field], odd: Odd) -> dict[str, list[Any]]:
        """Columns of the archive from the table, a list of all rows each."""
        layout = self._layout.table
        if layout is None:
            return {}
        table, known = self._table, {}
        if layout.patient:
            known["patient_id"] = ids_of(table, layout.patient)
        if layout.age:
            known["age"] = column_values(table, layout.age, pa.float32(), odd)
        if layout.sex:
            words = {word.casefold(): sex for sex in ("male", "female") for word in getattr(layout, sex)}
            texts = [
                None if one is None else str(one).strip().casefold() for one in table.column(layout.sex).to_pylist()
            ]
            known["sex"] = [None if text is None else words.get(text) for text in texts]
            for row, text in enumerate(texts):
                if text is not None and text not in words:
                    odd.setdefault(row, []).append(f"{layout.sex} is {text[:60]!r}, expected a word of male or female")
        if layout.sampling_rate:
            known["sampling_rate"] = column_values(table, layout.sampling_rate, pa.float32(), odd)
        return known | {field.name: column_values(table, field.name, field.type, odd) for field in extra}

    def ingest(self, target: Place, options: IngestOptions = DEFAULTS, listed_at: str | None = None) -> IngestResult:
        portion, facts = options.portion, {"layout": self._layout.digest}
        if portion is None:
            records, facts = self._records, facts | self.facts
            self._check(records)
        else:
            self.files.fetch(name + self._suffix for name in portion.sets)
            records = self._in_order([one for item in portion.sets.items() for one in self._of_file(*item)])
            records = records[slice(*(portion.rows or (None,)))]
        ingest = self.writing(target, options, listed_at, facts, "float32", self._columns(options))
        return ingest.write(self._rows(ingest, records), len(records))

    def _row(self, record: Record) -> int | None:
        """That of the table which says more of a record."""
        by_order = self._layout.table is not None and self._layout.table.by == "order"
        return record[1] if by_order else self._row_of[0].get(id_text(record[2]) or "")

    def _check(self, records: Sequence[Record]) -> None:
        """`ArchiveError` where the table is of none of the records."""
        rows, table = self._row_of[0], self._layout.table
        ids = [one for _, _, name in records if (one := id_text(name)) is not None]
        if table and rows and ids and not rows.keys() & set(ids):
            like = f"{table.id} is like {next(iter(rows))!r}, records are called {ids[0]!r}"
            raise ArchiveError(
                f"none of {len(ids):,} records has a row in {table.file}: {like}; mend table.id or signal.ids"
            )

    def _rows(self, ingest: Ingest, records: Sequence[Record]) -> Iterator[dict[str, Any]]:
        signal, odd = self._layout.signal, Odd()
        known = self._known(ingest.extra, odd)
        if self._row_of[1]:
            ingest.note(
                f"{self._row_of[1]:,} rows of the table are of records with another row further down, which counts"
            )
        fixed = {
            "leads": list(signal.leads),
            "sampling_rate": signal.sampling_rate,
            "units_per_mv": signal.units_per_mv,
        }
        for array, (name, number, record), reason in self._samples(records):
            row_id = record or f"{number + 1} of {name}"
            row = self._row((name, number, record))
            said = {column: values[row] for column, values in known.items()} if row is not None else {}
            if row is not None:
                telling(ingest.problems.add, row_id, odd.get(row, ()))
                ingest.counted[MATCHED] += 1
            elif self._layout.table is not None:
                ingest.counted[_WITHOUT_ROW] += 1
            if record is None:
                ingest.problems.add(row_id, "it has no id; kept without one")
            if reason:
                ingest.problems.add(row_id, f"{reason}; kept with an empty signal")
            values = empty("float32", len(signal.leads)) if array is None else array
            span = valid_span(values) if signal.trim_zeros else {}
            said = {column: value for column, value in said.items() if value is not None}
            yield {"record_id": record, "signal": values, **fixed, **said, **span}

    def _samples(self, records: Sequence[Record]) -> Iterator[tuple[NDArray[np.float32] | None, Record, str]]:
        """(leads, samples) of each record, or None and why; those of a file come one after the other."""
        for name, of_file in groupby(records, key=lambda one: one[0]):
            own, done = list(of_file), 0
            try:
                with self._opened(name) as signals:
                    for array, reason in signals.between(own[0][1], own[-1][1] + 1):
                        done += 1
                        yield array, own[done - 1], reason
            except BrokenPart as error:
                yield from ((None, one, str(error)) for one in own[done:])

    def _opened(self, name: str) -> AbstractContextManager[Signals]:
        layout = self._layout.signal
        return signals_in(self.files.path(name + self._suffix), layout.dataset, layout.axes, layout.leads, layout.ids)

    def last_words(self, counted: Any) -> list[str]:
        if self._layout.table is None:
            return []
        without = self._table.num_rows - counted.get(MATCHED, 0)
        return [f"{without:,} rows of {self._layout.table.file} are of no record"] if without > 0 else []

    @property
    def total(self) -> int:
        return len(self._records)

    @property
    def facts(self) -> dict[str, Any]:
        names, called = self._ids
        return (
            {"parts": [name for name in names if name not in self.set_aside]} if self._many else {"record_ids": called}
        )

    def schema(self, options: IngestOptions) -> pa.Schema:
        return archive_schema("float32", self._columns(options))

    def pieces(self, options: IngestOptions) -> list[Portion]:
        records, pieces = self._records, []
        self._check(records)
        for first, stop, what in full_shards([one or "" for _, _, one in records], self._patients, options):
            own = records[first:stop]
            sets = {name: self._ids[0][name] for name, _, _ in own}
            before = own[0][1] if own else 0
            files = tuple(name + self._suffix for name in sets)
            pieces.append(Portion(sets, rows=(before, before + len(own)), what=what, records=len(own), files=files))
        return pieces

    def _patients(self) -> list[str | None]:
        patients = ids_of(self._table, self._layout.table.patient or "") if self._layout.table else []
        return [None if (row := self._row(one)) is None else patients[row] for one in self._records]

    def sets(self, known: Known, until: datetime | None = None) -> list[SourceSet]:
        files = {name: (self.files.listed[name + self._suffix],) for name in self._among(self.files.listed)}
        if self._many:
            return [SourceSet(name, name, own, pseudonyms=known.pseudonyms) for name, own in files.items()]
        known.record_ids = known.record_ids or name_by(list(files))[1]
        return name_records(files, known)

    def looked_into(self, sets: Sequence[SourceSet], schema: pa.Schema | None) -> list[SourceSet]:
        return list(sets)

    def understood(self, options: IngestOptions = DEFAULTS) -> dict[str, Any]:
        """What a dry run shows: counts, the first record, its leads with their ranges in mV, labels, what is unused."""
        layout, records = self._layout, self._records
        self._check(records)
        array, _, reason = next(self._samples(records[:1]), (None, None, "there is no record"))
        scale = layout.signal.units_per_mv
        ranges = (
            {}
            if array is None or not array.size
            else {
                lead: [round(float(low) / scale, 4), round(float(high) / scale, 4)]
                for lead, low, high in zip(layout.signal.leads, array.min(axis=1), array.max(axis=1), strict=True)
            }
        )
        facts: dict[str, Any] = {
            "files": list(dict.fromkeys(name + self._suffix for name, _, _ in records)),
            "records": len(records),
            "set_aside": dict(self.set_aside),
            "first": {
                "record_id": records[0][2] if records else None,
                "samples": 0 if array is None else array.shape[1],
            },
            "problem": reason,
            "millivolts": ranges,
            "sampling_rate": layout.signal.sampling_rate,
            "units_per_mv": scale,
        }
        if layout.table is not None:
            odd, extra = Odd(), self._columns(options)
            known = self._known(extra, odd)
            used = {*known, *(str(value) for value in layout.table.model_dump().values() if isinstance(value, str))}
            rows = sum(self._row(one) is not None for one in records)
            facts["table"] = {
                "rows": self._table.num_rows,
                "records_with_a_row": rows,
                "set": {name: sum(one is not None for one in values) for name, values in known.items()},
                "true": {
                    field.name: sum(map(bool, known[field.name])) for field in extra if pa.types.is_boolean(field.type)
                },
                "odd_rows": len(odd),
                "not_used": [name for name in self._table.column_names if name not in used],
            }
        facts["notes"] = list(self.notes)
        return facts
