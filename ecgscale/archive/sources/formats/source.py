"""A folder of exported recordings as an archive, whatever formats are in it.

Every file that begins like one of the formats is a record, whatever it is called; so is a file whose suffix says that
it was meant as one. The others are counted in a note. A first pass over the files decides the sample type, as for WFDB:
int16 where one resolution represents all leads of every record exactly, else float32 millivolts.

Of a person come along the id, sex, and age on the day: no name, no date of birth.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pyarrow as pa

from ecgscale.archive.schema import signal_of
from ecgscale.archive.sources.files import Known, SourceFolder, SourceSet, ingest_whole
from ecgscale.archive.sources.formats.recording import (
    SNIFFED,
    SUFFIXES,
    NotUnderstood,
    Recorded,
    format_of,
    read_recording,
)
from ecgscale.archive.sources.source import (
    DEFAULTS,
    Ingest,
    IngestOptions,
    IngestResult,
    Portion,
    Source,
    empty_signal,
)
from ecgscale.archive.sources.tombstones import full_shards
from ecgscale.archive.sources.wfdb_comments import HeaderFacts
from ecgscale.archive.sources.wfdb_files import name_by, name_records, natural_order
from ecgscale.errors import ArchiveError
from ecgscale.io.places import Place
from ecgscale.progress import SILENT, Progress
from ecgscale.words import named

if TYPE_CHECKING:
    from ecgscale.config import ArchiveConfig

FORMAT = pa.field("file_format", pa.string())
"""Which format a record had: dicom, muse, aecg, scp, edf, ishne; null for a file that was not understood."""


@dataclass
class FileFacts(HeaderFacts):
    """What all files say together."""

    def columns(self, options: IngestOptions) -> list[pa.Field]:
        """The one column that there is besides the core ones; `ArchiveError` for others that are asked for."""
        if options.carry and options.schema is None:
            raise ArchiveError(f"--carry {options.carry[0]}: such files have no further columns that could come along")
        return [FORMAT]


def ingest_formats(src: str | Path, archive_path: str | Path, options: IngestOptions = DEFAULTS) -> IngestResult:
    """Write an archive from all DICOM, MUSE, aECG, SCP-ECG, EDF and ISHNE recordings below `src`.

    record_id is the file's name, or its path below `src` for all records when two have the same name. A file that
    cannot be understood keeps a row with an empty signal. Raises `ArchiveError` if there is no recording, or without
    the libraries of the extra `formats`.
    """
    return ingest_whole(FormatsSource, src, archive_path, options, "recordings (DICOM, XML, SCP-ECG, EDF, ISHNE)")


class FormatsSource(Source):
    """Every recording is a file of its own."""

    kind = "formats"

    @classmethod
    def configured(cls, files: SourceFolder, config: ArchiveConfig) -> Self:
        return cls(files)

    @cached_property
    def _sorted(self) -> tuple[list[str], list[str]]:
        """Files that are recordings, in the order in which they are ingested, and files that are none."""
        names = sorted(filter(is_shown, self.files.names()), key=natural_order)
        heads = self.files.heads(names, SNIFFED)
        recordings = [name for name in names if is_recording(name, heads[name])]
        return recordings, [name for name in names if name not in set(recordings)]

    @property
    def _records(self) -> list[str]:
        found, _ = self._sorted
        if not found:
            raise ArchiveError(f"{self.files.src} holds no recording in DICOM, MUSE or aECG XML, SCP-ECG, EDF or ISHNE")
        return found

    def ingest(self, target: Place, options: IngestOptions = DEFAULTS, listed_at: str | None = None) -> IngestResult:
        portion = options.portion
        names = self._records if portion is None else list(portion.sets)
        seen = self.header_facts(names, options.progress) if options.schema is None else FileFacts()
        ids, called = name_by(names)
        facts = {"record_ids": called}
        ingest = self.writing(target, options, listed_at, facts, seen.signal, seen.columns(options))
        if portion is None and (others := self._sorted[1]):
            # Under pseudonyms not which: a file may be called after a patient.
            which = f": {_quoted(named(others))}" if options.pseudonyms is None else ""
            ingest.counted[f"files that are no recordings, left out: {{:,}}{which}"] = len(others)
        ids = ids if portion is None else list(portion.sets.values())
        return ingest.write(self._rows(dict(zip(names, ids, strict=True)), ingest), len(names))

    def _rows(self, records: Mapping[str, str], ingest: Ingest) -> Iterator[dict[str, Any]]:
        for name, record_id in records.items():
            row: dict[str, Any] = {"record_id": record_id}
            try:
                found = read_recording(self.files.path(name))
                if ingest.signal == "int16" and not found.fits_int16:
                    raise NotUnderstood("its leads need float32, and this archive holds int16")
            except NotUnderstood as error:
                ingest.problems.add(record_id, f"{error}; kept with an empty signal")
                yield row | {"signal": empty_signal(ingest.signal, 0), "leads": []}
                continue
            for told in found.told:
                ingest.problems.add(record_id, f"{told}; kept")
            signal, units_per_mv = found.signal(ingest.signal)
            yield row | _described(found) | {"signal": signal, "units_per_mv": units_per_mv}

    @property
    def total(self) -> int:
        return len(self._records)

    @property
    def facts(self) -> dict[str, Any]:
        return {"record_ids": name_by(self._records)[1]}

    def schema(self, options: IngestOptions) -> None:
        return None

    def header_facts(self, names: Iterable[str], progress: Progress = SILENT) -> HeaderFacts:
        """What these files say together; one that cannot be understood says nothing."""
        names, seen = list(names), FileFacts()
        self.files.fetch(names)
        with progress.stage("files", len(names), "files") as stage:
            for found in map(self._read, names):
                seen.fits_int16 &= found is None or found.fits_int16
                stage.advance()
        return seen

    def _read(self, name: str) -> Recorded | None:
        try:
            return read_recording(self.files.path(name))
        except NotUnderstood:
            return None  # named in the second pass, where the record gets its row

    def pieces(self, options: IngestOptions) -> list[Portion]:
        names, (ids, _) = self._records, name_by(self._records)
        pieces = []
        for first, stop, what in full_shards(ids, self._patients, options):
            sets = dict(zip(names[first:stop], ids[first:stop], strict=True))
            pieces.append(Portion(sets, what=what, records=stop - first, files=tuple(sets)))
        return pieces

    def _patients(self) -> list[str | None]:
        """Only the files know whose they are."""
        self.files.fetch(self._records)
        return [found.patient_id if found else None for found in map(self._read, self._records)]

    def sets(self, known: Known, until: datetime | None = None) -> list[SourceSet]:
        listed = self.files.listed
        names = sorted(filter(is_shown, listed), key=natural_order)
        known.record_ids = known.record_ids or name_by(names)[1]
        if until is not None:
            names.sort(key=lambda name: listed[name].modified > until)
        return name_records({name: (listed[name],) for name in names}, known)

    def looked_into(self, sets: Sequence[SourceSet], schema: pa.Schema | None) -> list[SourceSet]:
        int16_only = schema is not None and signal_of(schema) == "int16"
        self.files.fetch(one.name for one in sets)
        heads = self.files.heads([one.name for one in sets], SNIFFED)
        return [self._looked_into(one, heads[one.name], int16_only) for one in sets]

    def _looked_into(self, one: SourceSet, head: bytes, int16_only: bool) -> SourceSet:
        if not is_recording(one.name, head):
            return replace(one, refusal="it is no recording in a format that is read")
        found = self._read(one.name) if int16_only else None
        if found is not None and not found.fits_int16:
            why = "its leads need float32, and this archive holds int16; ingest the whole source into a new one"
            return replace(one, refusal=why)
        return one

    def schema_of(self, sets: Sequence[SourceSet], options: IngestOptions) -> pa.Schema:
        return self.header_facts((one.name for one in sets), options.progress).schema(options)


def is_shown(name: str) -> bool:
    """False for hidden files, unfinished ones, and the catalogues of DICOM media."""
    *folders, file = name.split("/")
    return not any(part.startswith((".", "_")) for part in (*folders, file)) and file.upper() != "DICOMDIR"


def is_recording(name: str, head: bytes) -> bool:
    """Whether a file that begins so is one, or was meant as one: an XML file that is no XML, say."""
    suffix = name.rpartition(".")[2].lower()
    meant = suffix in SUFFIXES or (suffix == "xml" and not head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"))
    return meant or format_of(head) is not None


def _described(found: Recorded) -> dict[str, Any]:
    return {
        "patient_id": found.patient_id,
        "leads": list(found.leads),
        "sampling_rate": found.sampling_rate,
        "acquired_at": found.acquired_at,
        "device": found.device,
        "age": found.age,
        "sex": found.sex,
        FORMAT.name: found.format,
    }


def _quoted(text: str) -> str:
    """For `count_notes`, in which braces mean the count."""
    return text.replace("{", "{{").replace("}", "}}")
