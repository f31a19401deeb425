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
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ecgscale.archive.schema import SignalType, archive_schema
from ecgscale.archive.sources.source import (
    DEFAULTS,
    Ingest,
    IngestOptions,
    IngestResult,
    QuotesSource,
    empty_signal,
    folder_name,
    source_folder,
)
from ecgscale.archive.sources.wfdb_header import Header, UnreadableRecord, read_fiducials, read_header, read_signal
from ecgscale.errors import ArchiveError, did_you_mean
from ecgscale.io.places import place
from ecgscale.leads import CANONICAL_LEADS
from ecgscale.progress import SILENT, Progress
from ecgscale.store.provenance import utc_now

ALL_COMMENTS = "comments"

LEAD_SUFFIXES = tuple(lead.lower() for lead in CANONICAL_LEADS)
"""Of the annotation files that are read."""

BY_NAME, BY_PATH = "name", "path"
"""What a record's id is, as `record_ids` in `_archive.json` says."""

_SEXES = {"m": "male", "male": "male", "f": "female", "female": "female"}

_WITHOUT_CODES = "{:,} headers have SNOMED codes; left out, because the archive has no column"
_NORMALISED = (
    "in {:,} records every lead spans exactly 1 mV: the headers' gains look like a normalisation, not a calibration, "
    "and leads cannot be compared. If the digital values share one scale, ingest with --units-per-mv (LUDB: 1000)"
)


@dataclass(frozen=True)
class _Found:
    """One record of the folder: path without suffix, and lead-named annotation files beside it."""

    stem: Path
    annotations: tuple[str, ...]


@dataclass(frozen=True)
class HeaderReader:
    """Headers as they are, or with one scale for all of them."""

    units_per_mv: float | None

    def __call__(self, stem: Path) -> Header:
        header = read_header(stem)
        return header if self.units_per_mv is None else header.rescaled(self.units_per_mv)


@dataclass
class HeaderFacts:
    """What headers say together: whether int16 holds all of them, whether one has codes, and their comments' keys."""

    fits_int16: bool = True
    has_codes: bool = False
    comment_keys: Counter[str] = field(default_factory=Counter)

    def add(self, others: HeaderFacts) -> None:
        """Take in what other headers say."""
        self.fits_int16 &= others.fits_int16
        self.has_codes |= others.has_codes
        self.comment_keys.update(others.comment_keys)

    def schema(self, options: IngestOptions) -> pa.Schema:
        """The schema of an archive of these records; `ArchiveError` for a key to carry that is in none of them."""
        return archive_schema(self.signal, _columns(self, options))

    @property
    def signal(self) -> SignalType:
        """The sample type that holds all of them."""
        return "int16" if self.fits_int16 else "float32"


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
    target, listed_at = place(archive_path), utc_now()
    folder = source_folder(src, target, options, "WFDB records (.hea)")
    portion = options.portion
    found = _find_records(folder) if portion is None else _records_at([folder / name for name in portion.sets])
    require_records(folder, found)
    read = HeaderReader(units_per_mv)
    # What a schema that is kept to would not ask for need not be looked for.
    stems = [record.stem for record in found]
    seen = header_facts(stems, read, options.progress) if options.schema is None else HeaderFacts()
    ids, named = name_by([stem.relative_to(folder).as_posix() for stem in stems])
    if portion is not None:
        ids = list(portion.sets.values())
    ingest = Ingest(
        archive_path=target,
        source={
            "kind": "wfdb",
            "folder": folder_name(folder),
            "listed_at": listed_at,
            "units_per_mv": units_per_mv,
            "carry": list(options.carry),
            "record_ids": named,
        },
        signal=seen.signal,
        extra=_columns(seen, options),
        options=options,
    )
    return ingest.write(_rows(found, ids, read, ingest), len(found))


def wfdb_schema(stems: Iterable[Path], read: HeaderReader, options: IngestOptions) -> pa.Schema:
    """The schema of an archive of these records, from their headers alone.

    Raises `ArchiveError` for a key to carry that is in none of them.
    """
    return header_facts(list(stems), read, options.progress).schema(options)


def find_records(folder: Path) -> list[str]:
    """Paths of all records below a local folder, without suffix, in the order in which they are ingested."""
    return [found.stem.relative_to(folder).as_posix() for found in _find_records(folder)]


def require_records(folder: str | Path, found: Sequence[Any]) -> None:
    """`ArchiveError` for a folder in which no record was found."""
    if not found:
        raise ArchiveError(f"{folder} holds no .hea file; a WFDB record is a header and its signal files")


def name_by(paths: Sequence[str]) -> tuple[list[str], str]:
    """The ids of the records at these paths, and what they are: the names if no two are the same, else the paths."""
    names = [path.rsplit("/", 1)[-1] for path in paths]
    return (names, BY_NAME) if len(set(names)) == len(names) else (list(paths), BY_PATH)


def _columns(seen: HeaderFacts, options: IngestOptions) -> list[pa.Field]:
    if options.schema is None:
        _check_carry(options.carry, seen)
    extra = [pa.field("snomed", pa.list_(pa.string()))] if seen.has_codes else []
    return extra + [
        pa.field(key, pa.list_(pa.string()) if key == ALL_COMMENTS else pa.string()) for key in options.carry
    ]


def _records_at(stems: Sequence[Path]) -> list[_Found]:
    # A listing a folder: asking for each annotation file by itself would be twelve times the requests.
    present = {folder: set(os.listdir(folder)) for folder in {stem.parent for stem in stems} if folder.is_dir()}
    return [
        _Found(stem, tuple(lead for lead in LEAD_SUFFIXES if f"{stem.name}.{lead}" in present.get(stem.parent, ())))
        for stem in stems
    ]


def _find_records(folder: Path) -> list[_Found]:
    found = []
    for parent, folders, names in os.walk(folder):
        folders.sort()
        present = set(names)
        for name in names:
            if name.endswith(".hea"):
                stem = name.removesuffix(".hea")
                annotations = tuple(lead for lead in LEAD_SUFFIXES if f"{stem}.{lead}" in present)
                found.append(_Found(Path(parent) / stem, annotations))
    return sorted(found, key=lambda record: natural_order(str(record.stem.relative_to(folder))))


def natural_order(path: str) -> list[tuple[int, int | str]]:
    """Sorts 2 before 10; numbers and words never meet at one place."""
    return [(0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", path)]


def header_facts(stems: Sequence[Path], read: HeaderReader, progress: Progress = SILENT) -> HeaderFacts:
    """What the headers of these records say together; one that cannot be read says nothing."""
    seen = HeaderFacts()
    with progress.stage("headers", len(stems), "records") as stage:
        for stem in stems:
            stage.advance()
            try:
                header = read(stem)
            except UnreadableRecord:
                # Told in the second pass, where the record gets its row.
                continue
            if header.voltages:
                seen.fits_int16 &= header.fits_int16()
            seen.comment_keys.update(header.told().keys())
            seen.has_codes |= _has_codes(header)
    return seen


def _has_codes(header: Header) -> bool:
    return any(key.lower() == "dx" for key in header.told())


def _check_carry(carry: Sequence[str], seen: HeaderFacts) -> None:
    for key in carry:
        if key != ALL_COMMENTS and key not in seen.comment_keys:
            known = [ALL_COMMENTS, *(name for name, _ in seen.comment_keys.most_common(30))]
            lacks = f"--carry {key}: no header has such a comment."
            raise QuotesSource(f"{lacks}{did_you_mean(key, known)} There are: {', '.join(known)}", lacks)


def _rows(found: Sequence[_Found], ids: Sequence[str], read: HeaderReader, ingest: Ingest) -> Iterator[dict[str, Any]]:
    takes_codes = any(column.name == "snomed" for column in ingest.extra)
    for record, name in zip(found, ids, strict=True):
        stem = record.stem
        row: dict[str, Any] = {"record_id": name, "patient_id": mimic_subject(stem)}
        try:
            header = read(stem)
        except UnreadableRecord as error:
            ingest.problems.add(name, f"{error}; kept with an empty signal")
            yield row | {"signal": empty_signal(ingest.signal, 0), "leads": []}
            continue
        row |= _described(header, ingest.extra)
        ingest.counted[_WITHOUT_CODES] += not takes_codes and _has_codes(header)
        row |= _signal(header, name, ingest)
        ingest.counted[_NORMALISED] += _looks_normalised(row["signal"])
        if record.annotations:
            try:
                row["fiducials"] = read_fiducials(stem, record.annotations)
            except UnreadableRecord as error:
                ingest.problems.add(name, f"{error}; kept without fiducials")
        yield row


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


def mimic_subject(stem: Path) -> str | None:
    """The patient of a record, from MIMIC-IV-ECG's layout `p1000/p10000032/s40689238/40689238`."""
    parts = stem.absolute().parts
    if len(parts) >= 3 and re.fullmatch(r"s\d+", parts[-2]) and re.fullmatch(r"p\d{8}", parts[-3]):
        return parts[-3][1:]
    return None
