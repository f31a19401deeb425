"""CODE-15 % (Ribeiro et al. 2021, Zenodo 4916206) in its native layout as an archive.

`exams_part*.hdf5` hold `tracings` (N, 4096, 12) and `exam_id` (N,); `exams.csv` has one row an exam. Parts are streamed
a slab at a time. Each released part ends with an all-zero row of exam_id 0, which is no recording and is dropped
(and counted). Exams shorter than 4096 samples are zero-padded on both sides; the samples between the first and the
last that is not zero in some lead are the valid span.

The published scale is ambiguous, so values stay as released (float32); `units_per_mv` says what 1 mV is taken to be
in them, 1.0 unless given otherwise, and the encoder's contract scales by it.
"""

from __future__ import annotations

import fnmatch
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import h5py
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ecgscale.archive.schema import archive_schema
from ecgscale.archive.sources.files import Known, SourceFolder, SourceSet
from ecgscale.archive.sources.source import (
    DEFAULTS,
    Ingest,
    IngestOptions,
    IngestResult,
    Portion,
    Source,
    ingest_whole,
)
from ecgscale.archive.sources.tables import carried_columns, column_values, read_csv, whole_number_texts
from ecgscale.errors import ArchiveError
from ecgscale.io.places import Place
from ecgscale.io.settings import s3
from ecgscale.leads import CANONICAL_LEADS

if TYPE_CHECKING:
    from ecgscale.config import ArchiveConfig

SAMPLING_RATE = 400.0

EXAMS = "exams.csv"
PARTS = "exams_part*.hdf5"
_SLAB_RECORDS = 128
_EXAM_BYTES = 4096 * 12 * 4
"""Of an exam as HDF5 holds it at most."""
_LABELS = (
    *(pa.field(name, pa.bool_()) for name in ("1dAVb", "RBBB", "LBBB", "SB", "ST", "AF", "normal_ecg")),
    pa.field("nn_predicted_age", pa.float32()),
)
_SEXES = {True: "male", False: "female"}


class BrokenPart(ArchiveError):
    """One part that is no whole HDF5 file of CODE's layout."""


def ingest_code15(
    src: str | Path, archive_path: str | Path, units_per_mv: float = 1.0, options: IngestOptions = DEFAULTS
) -> IngestResult:
    """Write an archive from CODE-15 %, in the order of the parts and of the rows in them.

    The leads are DI … V6 in the released order. An exam that is not in `exams.csv` is kept without labels and named.
    Raises `ArchiveError` if `units_per_mv` is not positive, the layout is not CODE's, or a column does not exist.
    """
    if not (math.isfinite(units_per_mv) and units_per_mv > 0):
        raise ArchiveError(f"--units-per-mv {units_per_mv}: expected a positive number, such as 1 or 1000")
    holds = f"{PARTS} and {EXAMS}"
    return ingest_whole(lambda files: Code15Source(files, units_per_mv), src, archive_path, options, holds)


class Code15Source(Source):
    """Parts, each with the exams that it holds."""

    kind = "code15"
    tables = (EXAMS,)
    one_by_one = True

    def __init__(self, files: SourceFolder, units_per_mv: float = 1.0) -> None:
        super().__init__(files)
        self._units_per_mv = units_per_mv

    @classmethod
    def configured(cls, files: SourceFolder, config: ArchiveConfig) -> Self:
        return cls(files, config.units_per_mv or 1.0)

    @cached_property
    def _table(self) -> pa.Table:
        self.files.fetch(self.tables)
        return read_csv(self.files.path(EXAMS), ("exam_id", "age", "is_male", "patient_id"))

    @cached_property
    def _parts(self) -> dict[str, int]:
        """Parts in their order, and how many exams they have: of remote ones about.

        Those that are local are opened, so that a broken one is found before any work.
        """
        if self.files.is_local:
            names = self._ordered(path.name for path in self.files.folder.glob(PARTS))
            return {name: len(part_exams(self.files.path(name))) for name in names}
        return {name: self.files.listed[name].size // _EXAM_BYTES for name in self._ordered(self.files.listed)}

    def _ordered(self, names: Iterable[str]) -> list[str]:
        """The parts among names, in their order; `ArchiveError` if there is none."""
        parts = sorted((name for name in fnmatch.filter(names, PARTS) if "/" not in name), key=part_number)
        if not parts:
            raise ArchiveError(f"{self.files.src} holds no {PARTS}; unpack the released archives there")
        return parts

    def _columns(self, options: IngestOptions) -> list[pa.Field]:
        return [*_LABELS, *carried_columns(self._table, options, self.files.path(EXAMS))]

    def ingest(self, target: Place, options: IngestOptions = DEFAULTS, listed_at: str | None = None) -> IngestResult:
        if options.portion is None:
            names = self._ordered(path.name for path in self.files.folder.glob(PARTS))
        else:
            names = sorted(options.portion.sets, key=part_number)
        extra = self._columns(options)
        total = sum(len(part_exams(self.files.path(name))) for name in names)
        facts = {"parts": names, "units_per_mv": self._units_per_mv}
        ingest = self.writing(target, options, listed_at, facts, "float32", extra)
        return ingest.write(self._rows(ingest, names, self._exam_facts(ingest.extra)), total)

    def _exam_facts(self, extra: Sequence[pa.Field]) -> Callable[[int], dict[str, Any]]:
        """What gives column to value of an exam; nothing for one that is not listed."""
        table = self._table
        # A list a column: a dictionary an exam would take ten times the memory.
        columns = {
            "patient_id": whole_number_texts(table, "patient_id"),
            "age": column_values(table, "age", pa.float32()),
            "sex": [_SEXES.get(value) for value in column_values(table, "is_male", pa.bool_())],
            **{column.name: column_values(table, column.name, column.type) for column in extra},
        }
        row_of = {exam: row for row, exam in enumerate(column_values(table, "exam_id", pa.int64()))}

        def facts_of(exam: int) -> dict[str, Any]:
            row = row_of.get(exam)
            return {} if row is None else {name: values[row] for name, values in columns.items()}

        return facts_of

    def _rows(
        self, ingest: Ingest, names: Sequence[str], facts_of: Callable[[int], dict[str, Any]]
    ) -> Iterator[dict[str, Any]]:
        fixed = {"leads": list(CANONICAL_LEADS), "sampling_rate": SAMPLING_RATE, "units_per_mv": self._units_per_mv}
        for name in names:
            for exam_ids, tracings_NTL in _slabs(self.files.path(name)):
                starts, stops = valid_spans(tracings_NTL)
                signals_NLT = np.ascontiguousarray(tracings_NTL.transpose(0, 2, 1), dtype=np.float32)
                for exam, signal, start, stop in zip(exam_ids.tolist(), signals_NLT, starts, stops, strict=True):
                    if exam == 0 and start == stop:
                        ingest.dropped += 1
                        continue
                    known = facts_of(exam)
                    if not known:
                        ingest.problems.add(str(exam), f"in {name} but not in {EXAMS}; kept without labels")
                    # All zeros: the whole record is the span, and its leads are found flat later.
                    span = {"valid_start": int(start), "valid_stop": int(stop)} if start < stop else {}
                    yield {"record_id": str(exam), "signal": signal, **fixed, **known, **span}

    @property
    def total(self) -> int | None:
        return sum(self._parts.values()) if self.files.is_local else None

    @property
    def facts(self) -> dict[str, Any]:
        return {"parts": list(self._parts)}

    def schema(self, options: IngestOptions) -> pa.Schema:
        return archive_schema("float32", self._columns(options))

    def pieces(self, options: IngestOptions) -> list[Portion]:
        return [
            Portion({name: name}, what=name, records=records, files=(name,)) for name, records in self._parts.items()
        ]

    def sets(self, known: Known, until: datetime | None = None) -> list[SourceSet]:
        listed = self.files.listed
        names = sorted((name for name in fnmatch.filter(listed, PARTS) if "/" not in name), key=part_number)
        return [SourceSet(name, name, (listed[name],)) for name in names]

    def looked_into(self, sets: Sequence[SourceSet], schema: pa.Schema | None) -> list[SourceSet]:
        if not sets:
            return []
        listed = set(column_values(self._table, "exam_id", pa.int64()))
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

    def _exams(self, name: str) -> NDArray[np.int64]:
        if not self.files.is_local:
            try:
                with s3().open(self.files.location(name), "rb") as stream:
                    return part_exams(Path(name), stream)
            except BrokenPart:
                # HDF5 does not tell a torn file from a network that failed: a whole copy does.
                self.files.fetch([name])
        return part_exams(self.files.path(name))


def part_number(name: str) -> tuple[int, str]:
    """Sorts exams_part2.hdf5 before exams_part10.hdf5."""
    digits = re.search(r"(\d+)$", Path(name).stem)
    return int(digits.group()) if digits else -1, name


def part_exams(path: Path, opened: Any = None) -> NDArray[np.int64]:
    """The exam_ids of one part, which `opened` reads where it is no local file.

    Raises `BrokenPart` unless it is HDF5 with the datasets of CODE.
    """
    try:
        with h5py.File(opened or path) as file:
            _check_shapes(path, file)
            return np.asarray(file["exam_id"][:], dtype=np.int64)
    except OSError as error:
        raise BrokenPart(f"{path} is not a whole HDF5 file ({error}); download it again") from error


def _check_shapes(path: Path, file: h5py.File) -> None:
    shapes = {name: file[name].shape for name in ("tracings", "exam_id") if name in file}
    tracings, exam_id = shapes.get("tracings"), shapes.get("exam_id")
    if tracings is None or exam_id is None or len(tracings) != 3 or tracings[2] != 12 or exam_id != tracings[:1]:
        raise BrokenPart(f"{path} holds {shapes}; expected tracings (N, samples, 12) and exam_id (N,)")


def _slabs(part: Path) -> Iterator[tuple[NDArray[np.int64], NDArray[Any]]]:
    with h5py.File(part) as file:
        for start in range(0, len(file["exam_id"]), _SLAB_RECORDS):
            rows = slice(start, start + _SLAB_RECORDS)
            try:
                yield file["exam_id"][rows], file["tracings"][rows]
            except OSError as error:
                raise BrokenPart(f"{part} breaks off after row {start} ({error}); download it again") from error


def valid_spans(tracings: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First and one past the last sample with a non-zero lead, for tracings (N, T, leads); (0, 0) where all is zero."""
    alive_NT = (tracings != 0).any(axis=2)
    starts = alive_NT.argmax(axis=1)
    stops = np.where(alive_NT.any(axis=1), alive_NT.shape[1] - alive_NT[:, ::-1].argmax(axis=1), 0)
    return starts, stops
