"""CODE-15 % (Ribeiro et al. 2021, Zenodo 4916206) in its native layout as an archive.

`exams_part*.hdf5` hold `tracings` (N, 4096, 12) and `exam_id` (N,); `exams.csv` has one row an exam. Parts are streamed
a slab at a time. Each released part ends with an all-zero row of exam_id 0, which is no recording and is dropped
(and counted). Exams shorter than 4096 samples are zero-padded on both sides; the samples between the first and the
last that is not zero in some lead are the valid span.

The published scale is ambiguous, so values stay as released (float32); `units_per_mv` says what 1 mV is taken to be
in them, 1.0 unless told otherwise, and the encoder's contract scales by it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ecgscale.archive.schema import archive_schema
from ecgscale.archive.sources.source import (
    DEFAULTS,
    Ingest,
    IngestOptions,
    IngestResult,
    carried_columns,
    column_values,
    folder_name,
    read_csv,
    require_columns,
    source_folder,
    whole_number_texts,
)
from ecgscale.errors import ArchiveError
from ecgscale.io.places import place
from ecgscale.leads import CANONICAL_LEADS
from ecgscale.store.provenance import utc_now

SAMPLING_RATE = 400.0

EXAMS = "exams.csv"
PARTS = "exams_part*.hdf5"
_SLAB_RECORDS = 128
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

    The leads are DI … V6 in the released order. An exam that is not in `exams.csv` is kept without labels and told.
    Raises `ArchiveError` if `units_per_mv` is not positive, the layout is not CODE's, or a column does not exist.
    """
    if not (math.isfinite(units_per_mv) and units_per_mv > 0):
        raise ArchiveError(f"--units-per-mv {units_per_mv}: expected a positive number, such as 1 or 1000")
    target, listed_at = place(archive_path), utc_now()
    folder = source_folder(src, target, options, f"{PARTS} and {EXAMS}")
    parts = find_parts(folder, options.portion.sets if options.portion else None)
    table = read_exams(folder)
    sizes = [len(part_exams(part)) for part in parts]
    ingest = Ingest(
        archive_path=target,
        source={
            "kind": "code15",
            "folder": folder_name(folder),
            "listed_at": listed_at,
            "parts": [part.name for part in parts],
            "units_per_mv": units_per_mv,
            "carry": list(options.carry),
        },
        signal="float32",
        extra=_columns(folder, table, options),
        options=options,
    )
    return ingest.write(_rows(ingest, parts, _exam_facts(table, ingest.extra), units_per_mv), sum(sizes))


def find_parts(folder: Path, names: Iterable[str] | None = None) -> list[Path]:
    """The parts in a local folder (or those of these names), in their order; `ArchiveError` if there is none."""
    found = folder.glob(PARTS) if names is None else [folder / name for name in names]
    parts = sorted(found, key=lambda part: part_number(part.name))
    require_parts(folder, parts)
    return parts


def require_parts(folder: str | Path, parts: Sequence[Any]) -> None:
    """`ArchiveError` for a folder in which no part was found."""
    if not parts:
        raise ArchiveError(f"{folder} holds no {PARTS}; unpack the released archives there")


def read_exams(folder: Path) -> pa.Table:
    """The table of all exams; `ArchiveError` if it is not CODE's."""
    table = read_csv(folder / EXAMS)
    require_columns(table, ("exam_id", "age", "is_male", "patient_id"), folder / EXAMS)
    return table


def code15_schema(folder: Path, options: IngestOptions) -> pa.Schema:
    """The schema of a new archive; `ArchiveError` for a column to carry that is not there."""
    return archive_schema("float32", _columns(folder, read_exams(folder), options))


def _columns(folder: Path, table: pa.Table, options: IngestOptions) -> list[pa.Field]:
    return [*_LABELS, *carried_columns(table, options, folder / EXAMS)]


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


@dataclass(frozen=True)
class _ExamFacts:
    """Metadata of all exams, a list a column: a dictionary an exam would take ten times the memory."""

    columns: dict[str, list[Any]]
    row_of: dict[int, int]

    def of(self, exam: int) -> dict[str, Any]:
        """Column to value; empty for an exam that is not listed."""
        row = self.row_of.get(exam)
        return {} if row is None else {name: values[row] for name, values in self.columns.items()}


def _exam_facts(table: pa.Table, extra: Sequence[pa.Field]) -> _ExamFacts:
    columns = {
        "patient_id": whole_number_texts(table, "patient_id"),
        "age": column_values(table, "age", pa.float32()),
        "sex": [_SEXES.get(value) for value in column_values(table, "is_male", pa.bool_())],
        **{column.name: column_values(table, column.name, column.type) for column in extra},
    }
    exams = column_values(table, "exam_id", pa.int64())
    return _ExamFacts(columns, {exam: row for row, exam in enumerate(exams)})


def _rows(ingest: Ingest, parts: Sequence[Path], facts: _ExamFacts, units_per_mv: float) -> Iterator[dict[str, Any]]:
    fixed = {"leads": list(CANONICAL_LEADS), "sampling_rate": SAMPLING_RATE, "units_per_mv": units_per_mv}
    for part in parts:
        for exam_ids, tracings_NTL in _slabs(part):
            starts, stops = valid_spans(tracings_NTL)
            signals_NLT = np.ascontiguousarray(tracings_NTL.transpose(0, 2, 1), dtype=np.float32)
            for exam, signal, start, stop in zip(exam_ids.tolist(), signals_NLT, starts, stops, strict=True):
                if exam == 0 and start == stop:
                    ingest.dropped += 1
                    continue
                known = facts.of(exam)
                if not known:
                    ingest.problems.add(str(exam), f"in {part.name} but not in {EXAMS}; kept without labels")
                # All zeros: the whole record is the span, and its leads are found flat later.
                span = {"valid_start": int(start), "valid_stop": int(stop)} if start < stop else {}
                yield {"record_id": str(exam), "signal": signal, **fixed, **known, **span}


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
