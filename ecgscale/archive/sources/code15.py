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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pyarrow as pa

from ecgscale.archive.schema import archive_schema
from ecgscale.archive.sources.files import Known, SourceFolder, SourceSet, ingest_whole
from ecgscale.archive.sources.hdf5 import BrokenPart, Signals, signals_in, valid_span
from ecgscale.archive.sources.pseudonyms import QuotesSource
from ecgscale.archive.sources.source import (
    DEFAULTS,
    MATCHED,
    Ingest,
    IngestOptions,
    IngestResult,
    Portion,
    Source,
    empty_signal,
)
from ecgscale.archive.sources.tables import Odd, carried_columns, column_values, ids_of, read_csv, rows_by_id, telling
from ecgscale.errors import ArchiveError
from ecgscale.io.places import Place
from ecgscale.io.settings import s3
from ecgscale.leads import CANONICAL_LEADS

if TYPE_CHECKING:
    from ecgscale.config import ArchiveConfig

SAMPLING_RATE = 400.0

EXAMS = "exams.csv"
PARTS = "exams_part*.hdf5"
_EXAM_BYTES = 4096 * 12 * 4
"""Of an exam as HDF5 holds it at most."""
_LABELS = (
    *(pa.field(name, pa.bool_()) for name in ("1dAVb", "RBBB", "LBBB", "SB", "ST", "AF", "normal_ecg")),
    pa.field("nn_predicted_age", pa.float32()),
)
_SEXES = {True: "male", False: "female"}


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
        return read_csv(
            self.files.path(EXAMS), ("exam_id", "age", "is_male"), ids=("exam_id", "patient_id"), notes=self.notes
        )

    @cached_property
    def _parts(self) -> dict[str, int]:
        """Parts in their order, and how many exams they have: of remote ones about.

        Those that are local are opened, so that a broken one is found, and set aside, before any work.
        """
        if self.files.is_local:
            return {name: len(exams) for name, exams in self._whole_parts.items()}
        return {name: self.files.listed[name].size // _EXAM_BYTES for name in self._ordered(self.files.listed)}

    @cached_property
    def _whole_parts(self) -> dict[str, list[str | None]]:
        """The local parts that are whole, with their exams; `BrokenPart` when none is."""
        exams: dict[str, list[str | None]] = {}
        broken: list[BrokenPart] = []
        for name in self._ordered(path.name for path in self.files.folder.glob(PARTS)):
            try:
                exams[name] = part_exams(self.files.path(name))
            except BrokenPart as error:
                broken.append(error)
                self.set_aside[name] = str(error)
        if not exams:
            raise broken[0]
        known = set(ids_of(self._table, "exam_id"))
        found = {exam for ids in exams.values() for exam in ids if exam not in (None, "0")}
        if found and not found & known:
            like = " and ".join(f"{min(filter(None, ids), default='none')!r}" for ids in (found, known))
            text = f"none of {len(found):,} exams in {PARTS} is in {EXAMS}, so no label would find its record"
            raise QuotesSource(f"{self.files.src}: {text}; their ids look like {like}", f"{self.files.src}: {text}")
        return exams

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
            parts = self._whole_parts
        else:
            names = sorted(options.portion.sets, key=part_number)
            parts = {name: part_exams(self.files.path(name)) for name in names}
        extra = self._columns(options)
        total = sum(map(len, parts.values()))
        facts = {"parts": list(parts), "units_per_mv": self._units_per_mv}
        ingest = self.writing(target, options, listed_at, facts, "float32", extra)
        whole = options.portion is not None and options.portion.whole_files
        return ingest.write(self._rows(ingest, parts, self._exam_facts(ingest), whole), total)

    def _exam_facts(self, ingest: Ingest) -> Callable[[str | None], dict[str, Any]]:
        """What gives column to value of an exam; nothing for one that is not listed."""
        table, odd = self._table, Odd()
        # A list a column: a dictionary an exam would take ten times the memory.
        columns = {
            "patient_id": ids_of(table, "patient_id"),
            "age": column_values(table, "age", pa.float32(), odd),
            "sex": [_SEXES.get(value) for value in column_values(table, "is_male", pa.bool_(), odd)],
            **{column.name: column_values(table, column.name, column.type, odd) for column in ingest.extra},
        }
        row_of, hidden = rows_by_id(ids_of(table, "exam_id"))
        if hidden:
            ingest.note(f"{hidden:,} rows of {EXAMS} are of exams with another row further down, which counts")

        def facts_of(exam: str | None) -> dict[str, Any]:
            row = None if exam is None else row_of.get(exam)
            if exam is None or row is None:
                return {}
            telling(ingest.problems.add, exam, odd.get(row, ()))
            ingest.counted[MATCHED] += 1
            return {name: values[row] for name, values in columns.items()}

        return facts_of

    def _rows(
        self,
        ingest: Ingest,
        parts: Mapping[str, Sequence[str | None]],
        facts_of: Callable[[str | None], dict[str, Any]],
        whole: bool,
    ) -> Iterator[dict[str, Any]]:
        fixed = {"leads": list(CANONICAL_LEADS), "sampling_rate": SAMPLING_RATE, "units_per_mv": self._units_per_mv}
        for name, exams in parts.items():
            with _part(self.files.path(name)) as signals:
                for row, (read, unreadable) in enumerate(signals.between(0, signals.count)):
                    exam, signal = exams[row], empty_signal("float32", len(CANONICAL_LEADS)) if read is None else read
                    # All zeros: the whole record is the span, and its leads are found flat later.
                    span = valid_span(signal)
                    if exam == "0" and read is not None and not span:
                        ingest.dropped += 1
                        continue
                    if unreadable and whole:
                        path = self.files.path(name)
                        raise BrokenPart(f"{path} breaks off after row {row}: {unreadable}; download it again")
                    if unreadable:
                        ingest.problems.add(str(exam), f"{unreadable}; kept with an empty signal")
                    known = facts_of(exam)
                    if exam is None:
                        ingest.problems.add(f"{row + 1} of {name}", "its exam_id is none; kept without an id")
                    elif not known:
                        ingest.problems.add(exam, f"in {name} but not in {EXAMS}; kept without labels")
                    yield {"record_id": exam, "signal": signal, **fixed, **known, **span}

    def last_words(self, counted: Mapping[str, int]) -> list[str]:
        without = self._table.num_rows - counted.get(MATCHED, 0)
        return [f"{without:,} rows of {EXAMS} are of exams that are in none of the parts"] if without > 0 else []

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
        listed = set(ids_of(self._table, "exam_id"))
        return [self._looked_into(one, listed) for one in sets]

    def _looked_into(self, one: SourceSet, listed: set[str | None]) -> SourceSet:
        try:
            exams = {exam for exam in self._exams(one.name) if exam not in (None, "0")}
        except BrokenPart as error:
            return replace(one, lacks=str(error), hopeless=True)
        absent = len(exams - listed)
        if not absent:
            return one
        # Looked at again every night: the part stays as it is when the table catches up.
        facts = (f"listed {len(exams) - absent}",)
        return replace(one, lacks=f"{absent:,} of its exams are not in {EXAMS}", facts=facts, look=True)

    def _exams(self, name: str) -> list[str | None]:
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


def part_exams(path: Path, opened: Any = None) -> list[str | None]:
    """The exam_ids of one part, which `opened` reads where it is no local file; None for what can be no id.

    Raises `BrokenPart` unless it is HDF5 with the datasets of CODE.
    """
    with _part(path, opened) as signals:
        return signals.ids() or []


def _part(path: Path, opened: Any = None) -> AbstractContextManager[Signals]:
    """Tracings (N, samples, 12) and exam_id (N,) or (N, 1)."""
    return signals_in(path, "tracings", ("record", "sample", "lead"), CANONICAL_LEADS, "exam_id", opened)
