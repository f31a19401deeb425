"""Any folder of WFDB records as an archive: CinC challenges, LUDB, MIMIC-IV-ECG, one's own exports.

Every `.hea` below the folder is a record. A first pass over the headers alone decides the sample type for the whole
archive: int16 when in every record one resolution represents all leads exactly (that of each record stands in its
`units_per_mv`), else float32 millivolts. Age, sex and SNOMED codes come from header comments, waves from annotation
files named after leads. Other comments, which may be free text, come along only when asked for.

Gains are taken from the headers as released. Some are no calibration: LUDB's make every lead span exactly 1 mV, while
its digital values obey I + III = II to the last bit. Such a source gets a note; `units_per_mv` reads the digital
values with one scale for all leads instead.
"""

from __future__ import annotations

import math
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pyarrow as pa

from ecgscale.archive.sources.beside import UNKNOWN, WITHOUT_ROW, Beside, Patients, tables_with_ids
from ecgscale.archive.sources.files import Known, SourceFolder, SourceSet, ingest_whole
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
from ecgscale.archive.sources.tables import telling
from ecgscale.archive.sources.tombstones import full_shards
from ecgscale.archive.sources.wfdb_comments import ALL_COMMENTS, HeaderFacts, codes_of, person_of
from ecgscale.archive.sources.wfdb_files import (
    LEAD_SUFFIXES,
    fetch_records,
    name_by,
    name_records,
    natural_order,
    not_taken,
    records_among,
    with_signal_files,
)
from ecgscale.archive.sources.wfdb_header import HEADER, Header, UnreadableRecord, read_header
from ecgscale.archive.sources.wfdb_signal import LongSignal, read_fiducials, read_signal
from ecgscale.errors import ArchiveError
from ecgscale.io.places import Place
from ecgscale.progress import SILENT, Progress

if TYPE_CHECKING:
    from ecgscale.config import ArchiveConfig

_WITHOUT_CODES = "{:,} headers have SNOMED codes; left out, because the archive has no column"
_NORMALISED = (
    "in {:,} records every lead spans exactly 1 mV: the headers' gains look like a normalisation, not a calibration, "
    "and leads cannot be compared. If the digital values share one scale, ingest with --units-per-mv (LUDB: 1000)"
)


def ingest_wfdb(
    src: str | Path,
    archive_path: str | Path,
    units_per_mv: float | None = None,
    options: IngestOptions = DEFAULTS,
    patients: str | None = None,
    tables: Sequence[tuple[Path, str]] = (),
) -> IngestResult:
    """Write an archive from all WFDB records below `src`.

    record_id is the record's name, or its path below `src` for all records when two have the same name. A record that
    cannot be read keeps a row with an empty signal. `options.carry` takes "comments" (all of them) or the key of
    `key: value` comments. With `units_per_mv`, gains and baselines of the headers are ignored and 1 mV is that many
    digital units. Raises `ArchiveError` if there are no records or a key is in no header.
    """
    if units_per_mv is not None and not (math.isfinite(units_per_mv) and units_per_mv > 0):
        raise ArchiveError(f"--units-per-mv {units_per_mv}: expected a positive number, such as 1000")
    holds = "WFDB records (.hea)"
    return ingest_whole(
        lambda files: WfdbSource(files, units_per_mv, patients, tables), src, archive_path, options, holds
    )


class WfdbSource(Source):
    """Every header is a record, with the files that it names and those that are called after it."""

    kind = "wfdb"

    def __init__(
        self,
        files: SourceFolder,
        units_per_mv: float | None = None,
        patients: str | None = None,
        tables: Sequence[tuple[Path, str]] = (),
    ) -> None:
        super().__init__(files)
        self._units_per_mv, self._tables = units_per_mv, tables
        self._rule = None if patients is None else Patients(patients, self.notes)

    @classmethod
    def configured(cls, files: SourceFolder, config: ArchiveConfig) -> Self:
        return cls(files, config.units_per_mv, config.patients, tables_with_ids(config.table, config.id))

    @cached_property
    def _beside(self) -> Beside:
        """The tables that were asked for, and those that lie in the folder."""
        top = (file.name for file in self.files.folder.iterdir()) if self.files.is_local else self.files.listed
        found = Beside.among(frozenset(top))
        self.files.fetch(found)
        return Beside(self._tables, self.files.folder, found, self.notes)

    @cached_property
    def _records(self) -> dict[str, list[str]]:
        """Path of each record, without suffix, to its files, in the order in which they are ingested."""
        names = list(self.files.names())
        self.files.notes += not_taken(names)
        found = records_among(names)
        if not found:
            raise ArchiveError(f"{self.files.src} holds no .hea file; a WFDB record is a header and its signal files")
        return {stem: found[stem] for stem in sorted(found, key=natural_order)}

    def _read(self, stem: Path) -> Header:
        return read_header(stem, self._units_per_mv)

    def ingest(self, target: Place, options: IngestOptions = DEFAULTS, listed_at: str | None = None) -> IngestResult:
        portion = options.portion
        if portion is None:
            records = self._records
        else:
            found = records_among(portion.files)
            records = {stem: found.get(stem, []) for stem in portion.sets}
        # What a schema that is kept to would not ask for need not be looked for.
        seen = self.header_facts(records, options.progress) if options.schema is None else HeaderFacts()
        ids, named = name_by(list(records))
        facts = {"units_per_mv": self._units_per_mv, "record_ids": named, **self._patient_facts()}
        ingest = self.writing(target, options, listed_at, facts, seen.signal, seen.columns(options))
        ids = ids if portion is None else list(portion.sets.values())
        if portion is None:
            self._beside.check(dict(zip(ids, records, strict=True)))
        return ingest.write(self._rows(records, ids, ingest), len(records))

    def _rows(self, records: Mapping[str, list[str]], ids: Sequence[str], ingest: Ingest) -> Iterator[dict[str, Any]]:
        beside = self._beside.lookup({column.name: column.type for column in ingest.extra})
        for (path, files), name in zip(records.items(), ids, strict=True):
            header = self._header(path)
            said, odd, matched = beside(name, path)
            telling(ingest.problems.add, name, odd)
            ingest.counted[MATCHED] += matched
            ingest.counted[WITHOUT_ROW] += bool(self._beside.tables) and not matched
            patient = self._patient(name, path, _comments(header)) or said.pop("patient_id", None)
            ingest.counted[UNKNOWN] += self._rule is not None and patient is None
            row: dict[str, Any] = {"record_id": name, "patient_id": patient}
            empty = {"signal": empty_signal(ingest.signal, 0), "leads": []}
            try:
                if isinstance(header, UnreadableRecord):
                    raise header
                read = _row(header, files, name, ingest)
                yield said | row | {key: value for key, value in read.items() if value is not None or key not in said}
            except UnreadableRecord as error:
                ingest.problems.add(name, f"{error}; kept with an empty signal")
                yield said | row | empty
            # One record never ends a run: what nobody thought of is told like what somebody did.
            except Exception as error:
                ingest.problems.add(name, f"{type(error).__name__}: {str(error)[:200]}; kept with an empty signal")
                yield said | row | empty

    def _header(self, path: str) -> Header | UnreadableRecord:
        try:
            return self._read(self.files.path(path))
        except UnreadableRecord as error:
            return error

    def _patient(self, name: str, path: str, comments: Mapping[str, str]) -> str | None:
        """The patient by the rule that was given, else by MIMIC-IV-ECG's folders."""
        if self._rule is None:
            return mimic_subject(self.files.path(path))
        return self._rule.of(name, path, comments)

    def _patients(self) -> list[str | None]:
        """Of all records, as their rows will say."""
        by_comment = self._rule is not None and self._rule.kind == "comment"
        self.files.fetch(path + HEADER for path in self._records if by_comment)
        beside, ids = self._beside.lookup({}), name_by(list(self._records))[0]
        return [
            self._patient(name, path, _comments(self._header(path)) if by_comment else {})
            or beside(name, path)[0].get("patient_id")
            for name, path in zip(ids, self._records, strict=True)
        ]

    def _patient_facts(self) -> dict[str, Any]:
        return {} if self._rule is None else {"patients": self._rule.kind}

    def last_words(self, counted: Mapping[str, int]) -> list[str]:
        rows = sum(len(one.rows) for one in self._beside.tables)
        without = rows - counted.get(MATCHED, 0)
        names = ", ".join(one.name for one in self._beside.tables)
        return [f"{without:,} rows of {names} are of no record"] if without > 0 else []

    @property
    def total(self) -> int:
        return len(self._records)

    @property
    def facts(self) -> dict[str, Any]:
        return {"record_ids": name_by(list(self._records))[1]}

    def schema(self, options: IngestOptions) -> None:
        return None

    def header_facts(self, stems: Iterable[str], progress: Progress = SILENT) -> HeaderFacts:
        """What the headers of these records say together; one that cannot be read says nothing."""
        stems, seen = list(stems), HeaderFacts(beside=self._beside.fields(()), beside_texts=self._beside.texts())
        self.files.fetch(stem + HEADER for stem in stems)
        with progress.stage("headers", len(stems), "records") as stage:
            for stem in stems:
                stage.advance()
                try:
                    header = self._read(self.files.path(stem))
                except UnreadableRecord:
                    # Named in the second pass, where the record gets its row.
                    continue
                if header.voltages:
                    seen.fits_int16 &= header.fits_int16()
                seen.comment_keys.update(header.keyed.keys())
                seen.has_codes |= any(key.lower() == "dx" for key in header.keyed)
        return seen

    def pieces(self, options: IngestOptions) -> list[Portion]:
        paths, (ids, _) = list(self._records), name_by(list(self._records))
        self._beside.check(dict(zip(ids, paths, strict=True)))
        pieces = []
        for first, stop, what in full_shards(ids, self._patients, options):
            sets = dict(zip(paths[first:stop], ids[first:stop], strict=True))
            files = tuple(file for path in sets for file in self._records[path])
            pieces.append(Portion(sets, what=what, records=stop - first, files=files))
        return pieces

    def fetch(self, portion: Portion) -> None:
        fetch_records(self.files, portion.files)

    def sets(self, known: Known, until: datetime | None = None) -> list[SourceSet]:
        listed = self.files.listed
        self.files.notes += not_taken(listed)
        found = records_among(listed)
        stems = list(found)
        known.record_ids = known.record_ids or name_by(stems)[1]
        if until is not None:
            stems.sort(key=lambda stem: listed[stem + HEADER].modified > until)
        return name_records({stem: tuple(listed[file] for file in found[stem]) for stem in stems}, known)

    def looked_into(self, sets: Sequence[SourceSet], schema: pa.Schema | None) -> list[SourceSet]:
        ordered = sorted(sets, key=lambda one: natural_order(one.name))
        return with_signal_files(self.files, ordered, self._read, schema)

    def schema_of(self, sets: Sequence[SourceSet], options: IngestOptions) -> pa.Schema:
        return self.header_facts((one.name for one in sets), options.progress).schema(options)


def _comments(header: Header | UnreadableRecord) -> Mapping[str, str]:
    return header.keyed if isinstance(header, Header) else {}


def _row(header: Header, files: Sequence[str], name: str, ingest: Ingest) -> dict[str, Any]:
    """All columns of one record but its ids."""
    row = _described(header, name, ingest) | _signal(header, name, ingest)
    if not isinstance(row["signal"], LongSignal):
        ingest.counted[_NORMALISED] += _looks_normalised(row["signal"])
    annotated = [lead for lead in LEAD_SUFFIXES if f"{header.stem.name}.{lead}" in map(posixpath.basename, files)]
    if annotated:
        try:
            row["fiducials"] = read_fiducials(header, annotated, row["signal"].shape[1])
        except UnreadableRecord as error:
            ingest.problems.add(name, f"{error}; kept without fiducials")
    return row


def _looks_normalised(signal: np.ndarray) -> bool:
    """True if each of several leads in mV has a peak-to-peak amplitude of 1 within a thousandth."""
    if signal.dtype == np.int16 or signal.shape[0] < 2 or signal.shape[1] == 0:
        return False
    return bool(np.all(np.abs(np.ptp(signal, axis=1) - 1) < 1e-3))


def _signal(header: Header, name: str, ingest: Ingest) -> dict[str, Any]:
    if left_out := header.left_out():
        ingest.problems.add(name, f"{left_out}; left out")
    try:
        read = read_signal(header, ingest.signal)
    except UnreadableRecord as error:
        ingest.problems.add(name, f"{error}; kept with an empty signal")
        return {"signal": empty_signal(ingest.signal, len(header.leads)), "leads": list(header.leads)}
    if read.told:
        ingest.problems.add(name, f"{read.told}; kept as the header says")
    return {"signal": read.signal, "leads": list(read.leads), "units_per_mv": read.units_per_mv}


def _described(header: Header, name: str, ingest: Ingest) -> dict[str, Any]:
    """Columns from the header: rate, time, age, sex, SNOMED codes, and comments asked for."""
    comments = header.keyed
    person = person_of(comments, header.comments)
    if person.unread:
        ingest.problems.add(name, f"{' and '.join(person.unread)} not understood; left null")
    ingest.counted.update(dict.fromkeys([*header.notes, *person.notes], 1))
    codes = next((value for key, value in comments.items() if key.lower() == "dx"), None)
    row: dict[str, Any] = {
        "sampling_rate": header.sampling_rate,
        "acquired_at": header.acquired_at,
        "age": person.age,
        "sex": person.sex,
    }
    ingest.counted[_WITHOUT_CODES] += codes is not None and all(column.name != "snomed" for column in ingest.extra)
    for column in ingest.extra:
        if column.name == "snomed":
            row["snomed"] = codes_of(codes)
        elif column.name == ALL_COMMENTS:
            row[ALL_COMMENTS] = list(header.comments)
        elif pa.types.is_string(column.type):
            row[column.name] = comments.get(column.name)
    return row


def mimic_subject(stem: Path) -> str | None:
    """The patient of a record, from MIMIC-IV-ECG's layout `p1000/p10000032/s40689238/40689238`."""
    parts = stem.absolute().parts
    if len(parts) >= 3 and re.fullmatch(r"s\d+", parts[-2]) and re.fullmatch(r"p\d{8}", parts[-3]):
        return parts[-3][1:]
    return None
