"""Recordings in arrays and tables of any layout, which a small TOML describes: HDF5, Parquet, NumPy and CSV.

`Layout` says what may stand in it. Nothing is guessed: what a layout does not say, and the file does not either, is an
error that says what to write. A signal file is an array of many records (HDF5, NumPy, Parquet), or holds one record a
file (NumPy, CSV); a table may say more of them, matched by id, or by order where the file has no ids.
"""

from __future__ import annotations

import fnmatch
import posixpath
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ecgscale.archive.schema import archive_schema
from ecgscale.archive.sources.code15 import valid_spans
from ecgscale.archive.sources.files import Known, SourceFolder, SourceSet, ingest_whole
from ecgscale.archive.sources.hdf5 import BrokenPart, Signals, signals_in
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
from ecgscale.archive_config import READY, Layout, read_layout
from ecgscale.errors import ArchiveError, UsageError
from ecgscale.io.places import Place

if TYPE_CHECKING:
    from ecgscale.config import ArchiveConfig

_WITHOUT_ROW = "{:,} records have no row in the table"


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
        self.tables = () if layout.table is None else (layout.table.file,)  # type: ignore[misc]
        self._many = "record" in layout.signal.axes
        self.one_by_one = self._many  # type: ignore[misc]

    @classmethod
    def configured(cls, files: SourceFolder, config: ArchiveConfig) -> Self:
        if config.layout is None:
            raise UsageError(f"a table source needs a layout: --layout FILE.toml, or one of {', '.join(READY)}")
        return cls(files, read_layout(config.layout))

    def _among(self, names: Sequence[str]) -> list[str]:
        return sorted(name for name in names if fnmatch.fnmatch(name, self._layout.signal.file))

    @cached_property
    def _records(self) -> list[tuple[str, int, str | None]]:
        """File, number in it, and id of every record; broken files are set aside. `ArchiveError` when none is left."""
        names = self._among(list(self.files.names()))
        if not names:
            raise ArchiveError(f"{self.files.src} holds no {self._layout.signal.file}")
        self.files.fetch(names)
        found = self._of_files(names)
        if not found and self.set_aside:
            raise BrokenPart(next(iter(self.set_aside.values())))
        return found

    def _of_files(self, names: Sequence[str]) -> list[tuple[str, int, str | None]]:
        found: list[tuple[str, int, str | None]] = []
        table = self._layout.table
        for name in names:
            if not self._many:
                found.append((name, 0, id_text(posixpath.splitext(posixpath.basename(name))[0])))
                continue
            try:
                with self._opened(name) as signals:
                    ids = signals.ids()
                    stem = posixpath.splitext(name)[0]
                    numbered = [f"{stem}/{i}" if len(names) > 1 else str(i) for i in range(len(signals))]
                    found += [(name, i, ids[i] if ids else numbered[i]) for i in range(len(signals))]
            except BrokenPart as error:
                self.set_aside[name] = str(error)
        if table is not None and table.by == "order":
            rows = self._table.num_rows
            if len(names) > 1 or rows != len(found):
                files = f"{len(names):,} files with {len(found):,} records"
                raise ArchiveError(
                    f'by = "order" wants a row a record of one file: {files}, {rows:,} rows of {table.file}'
                )
            if table.id is not None:
                named = ids_of(self._table, table.id)
                found = [(name, i, named[i]) for name, i, _ in found]
        return found

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
        portion, records = options.portion, self._records if options.portion is None else []
        first = 0
        if portion is not None and portion.rows is not None:
            first, records = portion.rows[0], self._records[slice(*portion.rows)]
        elif portion is not None:
            self.files.fetch(portion.sets)
            records = self._of_files(self._among(list(portion.sets)))
            if self.set_aside:
                raise BrokenPart(next(iter(self.set_aside.values())))
        self._check(records if portion is None else [])
        facts = {"parts": list(dict.fromkeys(name for name, _, _ in records)), "layout": self._layout.digest}
        ingest = self.writing(target, options, listed_at, facts, "float32", self._columns(options))
        return ingest.write(self._rows(ingest, records, first), len(records))

    def _check(self, records: Sequence[tuple[str, int, str | None]]) -> None:
        """`ArchiveError` where the table is of none of the records."""
        rows, table = self._row_of[0], self._layout.table
        ids = [one for _, _, one in records if one is not None]
        if table and rows and ids and not rows.keys() & set(ids):
            like = f"{table.id} is like {next(iter(rows))!r}, records are called {ids[0]!r}"
            raise ArchiveError(
                f"none of {len(ids):,} records has a row in {table.file}: {like}; mend table.id or signal.ids"
            )

    def _rows(
        self, ingest: Ingest, records: Sequence[tuple[str, int, str | None]], first: int
    ) -> Iterator[dict[str, Any]]:
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
        for place, (array, (name, number, record), reason) in enumerate(self._samples(records), first):
            row_id = record or f"{number + 1} of {name}"
            row = (
                place if self._layout.table and self._layout.table.by == "order" else self._row_of[0].get(record or "")
            )
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
            span: dict[str, int] = {}
            if signal.trim_zeros and array is not None:
                starts, stops = valid_spans(array.T[None])
                span = {"valid_start": int(starts[0]), "valid_stop": int(stops[0])} if starts[0] < stops[0] else {}
            said = {column: value for column, value in said.items() if value is not None}
            yield {"record_id": record, "signal": values, **fixed, **said, **span}

    def _samples(
        self, records: Sequence[tuple[str, int, str | None]]
    ) -> Iterator[tuple[NDArray[np.float32] | None, tuple[str, int, str | None], str]]:
        """(leads, samples) of each record, or None and why."""
        for name in dict.fromkeys(name for name, _, _ in records):
            own = [one for one in records if one[0] == name]
            done = 0
            try:
                with self._opened(name) as signals:
                    for one in own:
                        array, reason = signals.read(one[1])
                        done += 1
                        yield array, one, reason
            except BrokenPart as error:
                yield from ((None, one, str(error)) for one in own[done:])

    def _opened(self, name: str) -> AbstractContextManager[Signals]:
        layout = self._layout.signal
        return signals_in(self.files.path(name), layout.dataset, layout.axes, layout.leads, layout.ids)

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
        return {"parts": list(dict.fromkeys(name for name, _, _ in self._records))}

    def schema(self, options: IngestOptions) -> pa.Schema:
        return archive_schema("float32", self._columns(options))

    def pieces(self, options: IngestOptions) -> list[Portion]:
        self._check(self._records)
        known = self._known((), Odd()).get("patient_id")
        by_order = self._layout.table is not None and self._layout.table.by == "order"
        people = []
        for i, (_, _, record) in enumerate(self._records):
            row = i if by_order else self._row_of[0].get(record or "")
            people.append((record or "", known[row] if known and row is not None else None))
        ends = full_shards(people, options)
        return [Portion(rows=(first, stop), what=what, records=stop - first) for first, stop, what in ends]

    def sets(self, known: Known, until: datetime | None = None) -> list[SourceSet]:
        listed = self.files.listed
        stems = {name: name if self._many else posixpath.splitext(posixpath.basename(name))[0] for name in listed}
        return [
            SourceSet(name, stems[name], (listed[name],), pseudonyms=known.pseudonyms)
            for name in self._among(list(listed))
        ]

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
            "files": self.facts["parts"],
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
            rows = len(records) if layout.table.by == "order" else sum(one[2] in self._row_of[0] for one in records)
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
