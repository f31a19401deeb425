"""The three kinds of sources, as places where files arrive: which sets a listing shows, and how some are ingested."""

from __future__ import annotations

import fnmatch
import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from ecgscale.archive.sources.code15 import EXAMS, PARTS, BrokenPart, ingest_code15, part_exams, part_number
from ecgscale.archive.sources.ptbxl import DATABASE, NEEDED, STATEMENTS, file_column, ingest_ptbxl
from ecgscale.archive.sources.sets import Known, SourceSet, name_records
from ecgscale.archive.sources.signal_files import HEADER, with_signal_files
from ecgscale.archive.sources.source import (
    IngestOptions,
    IngestResult,
    column_values,
    read_csv,
    read_csv_texts,
    require_columns,
    signal_of,
    whole_number_texts,
)
from ecgscale.archive.sources.view import SourceFile, SourceView
from ecgscale.archive.sources.wfdb_records import (
    BY_NAME,
    BY_PATH,
    LEAD_SUFFIXES,
    HeaderReader,
    ingest_wfdb,
    natural_order,
    wfdb_schema,
)
from ecgscale.errors import ArchiveError
from ecgscale.io.settings import s3

_RECORD_SUFFIXES = frozenset({"hea", "dat", "mat", *LEAD_SUFFIXES})


class Feed(Protocol):
    """One source. `tables` are files that all sets depend on: nothing is taken while one of them is unsettled."""

    tables: tuple[SourceFile, ...]
    one_by_one: bool
    """Whether each set is large enough to be a portion of its own."""

    @property
    def facts(self) -> dict[str, Any]:
        """What `_archive.json` of a new archive says of the source, beside what its ingest says."""

    def sets(self, known: Known, until: datetime | None = None) -> list[SourceSet]:
        """All sets that the listing shows; files older than `until` come first where two claim one name."""

    def looked_into(self, sets: Sequence[SourceSet], schema: pa.Schema | None) -> list[SourceSet]:
        """These sets with what they lack, and all their files; `schema` is that of the archive, if there is one."""

    def schema(self, sets: Sequence[SourceSet], options: IngestOptions) -> pa.Schema | None:
        """The schema of a new archive of these sets, where it has to be known before the first of them is ingested."""

    def ingest(self, target: Path, options: IngestOptions) -> IngestResult:
        """Write the sets of `options.portion` to a new archive."""


class WfdbFeed:
    """Any folder of WFDB records. `by_path` says how the archive knows its records; None: there is none yet."""

    one_by_one = False
    tables: tuple[SourceFile, ...] = ()

    def __init__(self, view: SourceView, units_per_mv: float | None, by_path: bool | None) -> None:
        self._view = view
        self._units_per_mv = units_per_mv
        self._read = HeaderReader(units_per_mv)
        self._by_path = by_path

    @property
    def facts(self) -> dict[str, Any]:
        return {"record_ids": BY_PATH if self._by_path else BY_NAME}

    def sets(self, known: Known, until: datetime | None = None) -> list[SourceSet]:
        groups: dict[str, list[SourceFile]] = {}
        for name, file in self._view.files.items():
            stem, _, suffix = name.rpartition(".")
            if suffix in _RECORD_SUFFIXES:
                groups.setdefault(stem, []).append(file)
        stems = [stem for stem in groups if stem + HEADER in self._view.files]
        if self._by_path is None:
            names = Counter(stem.rsplit("/", 1)[-1] for stem in stems)
            self._by_path = max(names.values(), default=1) > 1

        if until is not None:
            stems.sort(key=lambda stem: self._view.files[stem + HEADER].modified > until)
        return name_records({stem: tuple(groups[stem]) for stem in stems}, known, self._by_path)

    def looked_into(self, sets: Sequence[SourceSet], schema: pa.Schema | None) -> list[SourceSet]:
        ordered = sorted(sets, key=lambda one: natural_order(one.name))
        return with_signal_files(self._view, ordered, self._read, schema is not None and signal_of(schema) == "int16")

    def schema(self, sets: Sequence[SourceSet], options: IngestOptions) -> pa.Schema | None:
        return wfdb_schema([self._view.path(one.name) for one in sets], self._read, options)

    def ingest(self, target: Path, options: IngestOptions) -> IngestResult:
        return ingest_wfdb(self._view.folder, target, self._units_per_mv, options)


class PtbxlFeed:
    """PTB-XL's layout: a row of the database and its two files at one rate."""

    one_by_one = False

    def __init__(self, view: SourceView, rate: int, carry: Sequence[str]) -> None:
        self._view = view
        self._rate = rate
        self._carry = carry
        self.tables = _tables(view, DATABASE, STATEMENTS)

    @property
    def facts(self) -> dict[str, Any]:
        return {}

    def sets(self, known: Known, until: datetime | None = None) -> list[SourceSet]:
        self._view.fetch(self.tables)
        path = self._view.path(DATABASE)
        table, texts = read_csv(path), read_csv_texts(path)
        require_columns(table, NEEDED, path)
        used = texts.select([name for name in texts.column_names if name in {*NEEDED, *_DATED, *self._carry}])
        files: dict[str, dict[str, SourceFile]] = {}
        rows: dict[str, list[str]] = {}
        stems = table.column(file_column(self._rate)).to_pylist()
        for name, stem, row in zip(whole_number_texts(table, "ecg_id"), stems, used.to_pylist(), strict=True):
            there = files.setdefault(str(name), {})
            there |= {f: self._view.files[f] for f in (f"{stem}.hea", f"{stem}.dat") if f in self._view.files}
            rows.setdefault(str(name), []).append(_row_digest(row))
        hidden = known.pseudonyms
        return [
            SourceSet(name, name, tuple(own.values()), tuple(rows[name]), pseudonyms=hidden)
            for name, own in files.items()
        ]

    def looked_into(self, sets: Sequence[SourceSet], schema: pa.Schema | None) -> list[SourceSet]:
        int16_only = schema is not None and signal_of(schema) == "int16"
        return with_signal_files(self._view, sets, HeaderReader(None), int16_only)

    def schema(self, sets: Sequence[SourceSet], options: IngestOptions) -> pa.Schema | None:
        return None

    def ingest(self, target: Path, options: IngestOptions) -> IngestResult:
        return ingest_ptbxl(self._view.folder, target, self._rate, options)


class Code15Feed:
    """CODE-15 %'s layout: each part with the exams that it holds."""

    one_by_one = True

    def __init__(self, view: SourceView, units_per_mv: float) -> None:
        self._view = view
        self._units_per_mv = units_per_mv
        self.tables = _tables(view, EXAMS)

    @property
    def facts(self) -> dict[str, Any]:
        return {}

    def sets(self, known: Known, until: datetime | None = None) -> list[SourceSet]:
        names = sorted(fnmatch.filter(self._view.files, PARTS), key=part_number)
        return [SourceSet(name, name, (self._view.files[name],)) for name in names if "/" not in name]

    def looked_into(self, sets: Sequence[SourceSet], schema: pa.Schema | None) -> list[SourceSet]:
        if not sets:
            return []
        self._view.fetch(self.tables)
        path = self._view.path(EXAMS)
        table = read_csv(path)
        require_columns(table, ("exam_id",), path)
        listed = set(column_values(table, "exam_id", pa.int64()))
        return [self._looked_into(one, listed) for one in sets]

    def _looked_into(self, one: SourceSet, listed: set[int]) -> SourceSet:
        try:
            exams = {exam for exam in self._exams(one.name).tolist() if exam != 0}
        except BrokenPart as error:
            return replace(one, lacks=str(error), hopeless=True)
        absent = len(exams - listed)
        if not absent:
            return one
        # Looked at again every night: the part stays as it is when the table catches up.
        facts = (f"listed {len(exams) - absent}",)
        return replace(one, lacks=f"{absent:,} of its exams are not in {EXAMS}", facts=facts, look=True)

    def _exams(self, name: str) -> Any:
        if self._view.is_local:
            return part_exams(self._view.path(name))
        try:
            with s3().open(self._view.location(name), "rb") as stream:
                return part_exams(Path(name), stream)
        except BrokenPart:
            # HDF5 does not tell a torn file from a network that failed: a whole copy does.
            self._view.fetch([self._view.files[name]])
            return part_exams(self._view.path(name))

    def schema(self, sets: Sequence[SourceSet], options: IngestOptions) -> pa.Schema | None:
        return None

    def ingest(self, target: Path, options: IngestOptions) -> IngestResult:
        return ingest_code15(self._view.folder, target, self._units_per_mv, options)


_DATED = ("recording_date", "site", "device")
"""Columns of PTB-XL's database that are read where they are there."""


def _tables(view: SourceView, *names: str) -> tuple[SourceFile, ...]:
    for name in names:
        if name not in view.files:
            raise ArchiveError(f"{view.location(name)} is missing; it belongs to the source's native layout")
    return tuple(view.files[name] for name in names)


def _row_digest(row: dict[str, str | None]) -> str:
    """Changes when a value does; 56 and 56.0 are one value, because tools rewrite whole columns so."""
    facts = {name: _value(text) for name, text in row.items()}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def _value(text: str | None) -> str:
    try:
        return repr(float(text or ""))
    except ValueError:
        return (text or "").strip()
