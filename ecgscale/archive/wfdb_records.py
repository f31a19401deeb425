"""Any folder of WFDB records as an archive: CinC challenges, LUDB, MIMIC-IV-ECG, one's own exports.

Every `.hea` below the folder is a record. A first pass over the headers alone decides the sample type for the whole
archive: int16 when in every record one resolution represents all leads exactly (that of each record stands in its
`units_per_mv`), else float32 millivolts. Age, sex and SNOMED codes come from header comments, waves from annotation
files named after leads. Other comments, which may be free text, come along only when asked for.

Gains are taken from the headers as released. Some are no calibration: LUDB's make every lead span exactly 1 mV, while
its digital values obey I + III = II to the last bit. Such a source is told about; `units_per_mv` reads the digital
values with one scale for all leads instead.
"""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ecgscale.archive.source import DEFAULTS, Ingest, IngestOptions, IngestResult, empty_signal, source_folder
from ecgscale.archive.wfdb_header import Header, UnreadableRecord, read_header
from ecgscale.archive.wfdb_signal import read_fiducials, read_signal
from ecgscale.errors import ArchiveError, did_you_mean
from ecgscale.leads import CANONICAL_LEADS

ALL_COMMENTS = "comments"

_LEAD_SUFFIXES = tuple(lead.lower() for lead in CANONICAL_LEADS)
_SEXES = {"m": "male", "male": "male", "f": "female", "female": "female"}


@dataclass(frozen=True)
class _Found:
    """One record of the folder: path without suffix, and lead-named annotation files beside it."""

    stem: Path
    annotations: tuple[str, ...]


@dataclass(frozen=True)
class _HeaderReader:
    """Headers as they are, or with one scale for all of them."""

    units_per_mv: float | None

    def __call__(self, stem: Path) -> Header:
        header = read_header(stem)
        return header if self.units_per_mv is None else header.rescaled(self.units_per_mv)


@dataclass
class _FirstPass:
    """What the headers say together."""

    fits_int16: bool = True
    has_codes: bool = False
    comment_keys: Counter[str] = field(default_factory=Counter)


def ingest_wfdb(
    src: str | Path, archive_path: str | Path, units_per_mv: float | None = None, options: IngestOptions = DEFAULTS
) -> IngestResult:
    """Write an archive from all WFDB records below `src`.

    record_id is the record's name, or its path below `src` for all records when two have the same name. A record that
    cannot be read keeps a row with an empty signal. `options.carry` takes "comments" (all of them) or the key of
    `key: value` comments. With `units_per_mv`, gains and baselines of the headers are ignored and 1 mV is that many
    digital units. Raises `ArchiveError` if there are no records or a key is in no header.
    """
    if units_per_mv is not None and not (math.isfinite(units_per_mv) and units_per_mv > 0):
        raise ArchiveError(f"--units-per-mv {units_per_mv}: expected a positive number, such as 1000")
    folder = source_folder(src, archive_path, options, "WFDB records (.hea)")
    found = _find_records(folder)
    if not found:
        raise ArchiveError(f"{folder} holds no .hea file; a WFDB record is a header and its signal files")
    read = _HeaderReader(units_per_mv)
    seen = _first_pass(found, read, options)
    _check_carry(options.carry, seen)
    extra = [pa.field("snomed", pa.list_(pa.string()))] if seen.has_codes else []
    extra += [pa.field(key, pa.list_(pa.string()) if key == ALL_COMMENTS else pa.string()) for key in options.carry]
    ingest = Ingest(
        archive_path=Path(archive_path),
        source={
            "kind": "wfdb",
            "folder": folder.resolve().name,
            "units_per_mv": units_per_mv,
            "carry": list(options.carry),
        },
        signal="int16" if seen.fits_int16 else "float32",
        extra=extra,
        options=options,
    )
    names = Counter(record.stem.name for record in found)
    unique = all(count == 1 for count in names.values())
    return ingest.write(_rows(found, None if unique else folder, read, ingest), len(found))


def _find_records(folder: Path) -> list[_Found]:
    found = []
    for parent, folders, names in os.walk(folder):
        folders.sort()
        present = set(names)
        for name in names:
            if name.endswith(".hea"):
                stem = name.removesuffix(".hea")
                annotations = tuple(lead for lead in _LEAD_SUFFIXES if f"{stem}.{lead}" in present)
                found.append(_Found(Path(parent) / stem, annotations))
    return sorted(found, key=lambda record: _natural(record.stem.relative_to(folder)))


def _natural(path: Path) -> list[tuple[int, int | str]]:
    """Sorts 2 before 10; numbers and words never meet at one place."""
    return [(0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", str(path))]


def _first_pass(found: Sequence[_Found], read: _HeaderReader, options: IngestOptions) -> _FirstPass:
    seen = _FirstPass()
    with options.progress.stage("headers", len(found), "records") as stage:
        for record in found:
            stage.advance()
            try:
                header = read(record.stem)
            except UnreadableRecord:
                # Told in the second pass, where the record gets its row.
                continue
            if header.voltages:
                seen.fits_int16 &= header.fits_int16()
            told = header.told()
            seen.comment_keys.update(told.keys())
            seen.has_codes |= any(key.lower() == "dx" for key in told)
    return seen


def _check_carry(carry: Sequence[str], seen: _FirstPass) -> None:
    for key in carry:
        if key != ALL_COMMENTS and key not in seen.comment_keys:
            known = [ALL_COMMENTS, *(name for name, _ in seen.comment_keys.most_common(30))]
            raise ArchiveError(
                f"--carry {key}: no header has such a comment.{did_you_mean(key, known)} There are: {', '.join(known)}"
            )


def _rows(
    found: Sequence[_Found], relative_to: Path | None, read: _HeaderReader, ingest: Ingest
) -> Iterator[dict[str, Any]]:
    normalised = 0
    for record in found:
        stem = record.stem
        name = stem.name if relative_to is None else stem.relative_to(relative_to).as_posix()
        row: dict[str, Any] = {"record_id": name, "patient_id": _mimic_subject(stem)}
        try:
            header = read(stem)
        except UnreadableRecord as error:
            ingest.problems.add(name, f"{error}; kept with an empty signal")
            yield row | {"signal": empty_signal(ingest.signal, 0), "leads": []}
            continue
        row |= _described(header, ingest.extra)
        row |= _signal(header, name, ingest)
        normalised += _looks_normalised(row["signal"])
        if record.annotations:
            try:
                row["fiducials"] = read_fiducials(stem, record.annotations)
            except UnreadableRecord as error:
                ingest.problems.add(name, f"{error}; kept without fiducials")
        yield row
    if normalised:
        ingest.notes.append(
            f"in {normalised:,} records every lead spans exactly 1 mV: the headers' gains look like a normalisation, "
            "not a calibration, and leads cannot be compared. If the digital values share one scale, ingest with "
            "--units-per-mv (LUDB: 1000)"
        )


def _looks_normalised(signal: np.ndarray) -> bool:
    """True if each of several leads in mV has a peak-to-peak amplitude of 1 within a thousandth."""
    if signal.dtype == np.int16 or signal.shape[0] < 2 or signal.shape[1] == 0:
        return False
    return bool(np.all(np.abs(np.ptp(signal, axis=1) - 1) < 1e-3))


def _signal(header: Header, name: str, ingest: Ingest) -> dict[str, Any]:
    unused = [c.lead or "unnamed" for i, c in enumerate(header.channels) if i not in header.voltages]
    if unused and header.voltages:
        ingest.problems.add(name, f"channels {', '.join(unused)} hold no voltage; left out")
    try:
        read = read_signal(header, ingest.signal)
    except UnreadableRecord as error:
        ingest.problems.add(name, f"{error}; kept with an empty signal")
        return {"signal": empty_signal(ingest.signal, len(header.leads)), "leads": list(header.leads)}
    return {"signal": read.signal, "leads": list(read.leads), "units_per_mv": read.units_per_mv}


def _described(header: Header, extra: Sequence[pa.Field]) -> dict[str, Any]:
    """Columns from the header: rate, time, age, sex, SNOMED codes, and comments asked for."""
    told = header.told()
    lower = {key.lower(): value for key, value in told.items()}
    row: dict[str, Any] = {
        "sampling_rate": header.sampling_rate,
        "acquired_at": header.acquired_at,
        "age": _age(lower.get("age", "")),
        "sex": _SEXES.get(lower.get("sex", "").lower()),
    }
    for column in extra:
        if column.name == "snomed":
            row["snomed"] = [code.strip() for code in lower["dx"].split(",") if code.strip()] if "dx" in lower else None
        elif column.name == ALL_COMMENTS:
            row[ALL_COMMENTS] = list(header.comments)
        else:
            row[column.name] = told.get(column.name)
    return row


def _age(text: str) -> float | None:
    """Years; None for "NaN", "Unknown", and numbers that stand for something else, such as -1 or 300."""
    try:
        age = float(text)
    except ValueError:
        return None
    return age if 0 <= age <= 120 else None


def _mimic_subject(stem: Path) -> str | None:
    """The subject of MIMIC-IV-ECG's layout `p1000/p10000032/s40689238/40689238`."""
    parts = stem.absolute().parts
    if len(parts) >= 3 and re.fullmatch(r"s\d+", parts[-2]) and re.fullmatch(r"p\d{8}", parts[-3]):
        return parts[-3][1:]
    return None
