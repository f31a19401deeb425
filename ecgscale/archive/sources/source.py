"""What a source is, and what all of them share: options, the way from rows to shards, problems, columns of a CSV.

A source never drops a record in silence. One that cannot be read keeps a row with an empty signal, which becomes the
status `empty_signal` later, and its reason is counted, named in the summary, and kept in `_archive.json`.

A source is taken whole, or a `Portion` of it: a piece of it that one worker ingests, or files that arrived later and
come into an archive that is there.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import chain
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import pyarrow as pa

from ecgscale.archive.schema import CORE_COLUMNS, SignalType, signal_of
from ecgscale.archive.sources.files import Known, SourceFile, SourceFolder, SourceSet
from ecgscale.archive.sources.pseudonyms import PSEUDONYMISED, Pseudonyms
from ecgscale.archive.sources.tombstones import Tombstones, check_tombstones, forgotten_note, read_tombstones
from ecgscale.archive.sources.windows import WINDOW_COLUMNS, cut, read_in, with_patient
from ecgscale.archive.writer import ArchiveWriter
from ecgscale.errors import ArchiveError
from ecgscale.io.places import Place
from ecgscale.leads import canonical_lead, named_leads
from ecgscale.progress import SILENT, Progress
from ecgscale.store.provenance import utc_now

if TYPE_CHECKING:
    from ecgscale.archive.sources.wfdb_comments import HeaderFacts
    from ecgscale.config import ArchiveConfig

PROBLEMS_KEPT = 1000
MATCHED = ""
"""Among what an ingest counts: rows of the source's table that found their record. It is no note."""


@dataclass(frozen=True)
class Portion:
    """Some of a source, to become shards of an archive that may be there already.

    sets: what to take, and the record_id for it: paths of WFDB records below the folder; ecg_ids; names of HDF5 parts
    (whose exams have ids of their own)
    schema: that of the archive, which is kept to; None when there is none yet: then the portion decides, like a whole
    source
    rows: first and one past the last to take: of the rows of PTB-XL's table, in place of the sets, since ids may be
    there twice; of the records that the files of a table source have together
    what, records: of a piece for a worker: its name for messages, without an id, and how many records it has, about
    files: what has to be there, as far as the listing says
    whole_files: refuse a file of many records that is damaged somewhere: it may yet be sent again
    """

    sets: Mapping[str, str] = field(default_factory=dict)
    schema: pa.Schema | None = None
    rows: tuple[int, int] | None = None
    what: str = ""
    records: int = 0
    files: tuple[str, ...] = ()
    whole_files: bool = False


@dataclass(frozen=True)
class IngestOptions:
    """What every source takes: replace an archive, records per shard, further columns, who hears of progress.

    windows: cut recordings into records of so many seconds; memory: bytes that holding one record may take
    portion: take this part of the source alone
    lead_map: which lead a channel is, by its name (`ecgscale.leads.named_leads`)
    pseudonyms: what ids become (None: they stay); tombstones: who is left out (None: those of the archive itself)
    """

    overwrite: bool = False
    shard_records: int | None = None
    carry: tuple[str, ...] = ()
    progress: Progress = SILENT
    windows: float | None = None
    memory: int | None = None
    portion: Portion | None = None
    lead_map: Mapping[str, str] = field(default_factory=dict)
    pseudonyms: Pseudonyms | None = None
    tombstones: Tombstones | None = None

    @property
    def schema(self) -> pa.Schema | None:
        """The schema to keep to, where an archive has one already."""
        return self.portion.schema if self.portion else None


DEFAULTS = IngestOptions()


@dataclass
class Problems:
    """Records with something wrong: all counted, the first ones named."""

    count: int = 0
    first: list[str] = field(default_factory=list)
    pseudonyms: Pseudonyms | None = None

    def add(self, record_id: str, reason: str) -> None:
        """Record one problem; `reason` says what was found and what became of the record."""
        self.count += 1
        if self.pseudonyms is not None:
            # Of the reason only what became of the record: the rest may be words of the source.
            record_id, reason = self.pseudonyms.record(record_id), reason.rsplit("; ", 1)[-1]
        if len(self.first) < PROBLEMS_KEPT:
            self.first.append(f"record {record_id}: {reason}")

    def withdraw(self, record_id: str) -> None:
        """Say nothing of a record, by its id in the archive: it is left out."""
        self.first = [line for line in self.first if not line.startswith(f"record {record_id}: ")]


@dataclass(frozen=True)
class IngestResult:
    """A finished ingest; `dropped` are rows of the source that are no recordings, `notes` hold for all of it.

    `set_aside`: files of many records that could not be read, and why; the rest was taken
    `refused`: ids, as the archive would have them, of records that were left out because they were forgotten.
    `counted`: those of the notes that are on so many records, as `count_notes` takes them.
    """

    archive: str
    archive_id: str
    records: int
    shards: int
    signal: SignalType
    dropped: int
    problems: Problems
    notes: tuple[str, ...]
    refused: tuple[str, ...] = ()
    counted: Mapping[str, int] = field(default_factory=dict)
    set_aside: Mapping[str, str] = field(default_factory=dict)


def _mapped(channel: str, lead: str) -> str:
    channel = channel.replace("{", "{{").replace("}", "}}")
    return f"lead map: channel {channel} is taken as {lead}: {{:,}} times"


def unmapped_notes(lead_map: Mapping[str, str], counted: Mapping[str, int]) -> list[str]:
    """Of the channels of a lead map that no recording has."""
    absent = [channel for channel, lead in lead_map.items() if not counted.get(_mapped(channel, lead))]
    return [f"lead map: no recording has a channel {channel}" for channel in absent]


def count_notes(counted: Mapping[str, int]) -> list[str]:
    """Notes on so many records, from their texts, which have {:,} where the number stands."""
    return [text.format(count) for text, count in counted.items() if text and count]


class Ingest:
    """One ingest on its way: what it writes, and what was found so far.

    `said`: notes that its source has and may still get; `last_words`: what it has to say at the end, from the counts
    `signal` and `extra` are what the source would have; where the options name a schema, they become that schema's.
    `of_files`: what its listing has to say.
    """

    def __init__(
        self,
        archive_path: Place,
        source: dict[str, Any],
        signal: SignalType,
        extra: Sequence[pa.Field],
        options: IngestOptions,
        of_files: Sequence[str] = (),
        said: Mapping[str, None] = MappingProxyType({}),
        set_aside: Mapping[str, str] = MappingProxyType({}),
        last_words: Callable[[Mapping[str, int]], list[str]] = lambda counted: [],
    ) -> None:
        self._said, self._set_aside, self._last_words = said, set_aside, last_words
        self._archive_path, self._source, self._options = archive_path, source, options
        self.signal, self.extra = signal, [*extra, *(WINDOW_COLUMNS if options.windows else ())]
        self.problems = Problems(pseudonyms=options.pseudonyms)
        self.dropped = 0
        self.counted: Counter[str] = Counter()
        if options.lead_map:
            source["lead_map"] = dict(options.lead_map)
        if options.windows:
            source["windows"] = options.windows
        self._notes: list[str] = []
        self._of_files = of_files  # the list itself, to which a listing may add later
        self._refused: list[str] = []
        self._tombstones = options.tombstones or read_tombstones(archive_path)
        check_tombstones(self._tombstones, options.pseudonyms, archive_path)
        if options.pseudonyms is not None:
            options.pseudonyms.check_carried(options.carry)
            # A folder may be called after a patient.
            source.pop("folder", None)
            source[PSEUDONYMISED] = options.pseudonyms.facts()
        if (schema := options.schema) is not None:
            left_out = [column.name for column in self.extra if column.name not in schema.names]
            if left_out:
                self._notes.append(f"left out, because the archive has no such column: {', '.join(left_out)}")
            self.extra = [column for column in schema if column.name not in CORE_COLUMNS]
            self.signal = signal_of(schema)

    def write(self, rows: Iterator[dict[str, Any]], total: int | None) -> IngestResult:
        """Write all rows (dicts of column to value, see `ArchiveWriter.append`) and finish the archive.

        A portion without a single row leaves nothing; a source without any raises `ArchiveError`.
        """
        options, rows = self._options, self._admitted(rows)
        if options.windows is not None:
            rows, total = cut(rows, options.windows, self.counted), None  # windows are not counted beforehand
        if options.portion is not None:
            first = next(rows, None)
            if first is None:
                return self._result()
            rows = chain([first], rows)
        writer = ArchiveWriter(
            self._archive_path,
            self._source,
            self.signal,
            self.extra,
            shard_records=options.shard_records,
            overwrite=options.overwrite,
            progress=options.progress,
        )
        with writer, options.progress.stage("ingest", total, "records") as stage:
            for row in rows:
                writer.append(read_in(row, self.signal, self.problems.add, options.memory))
                stage.advance()
            writer.source |= {
                "dropped": self.dropped,
                "notes": self._all_notes(),
                "problems": self.problems.count,
                "first_problems": self.problems.first,
            }
        return self._result(writer)

    def _admitted(self, rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """The rows as they may be written, under pseudonyms; nobody who was forgotten is among them."""
        for row in map(self._with_leads, rows):
            if self._options.windows is not None:
                row = with_patient(row, self.counted)
            written = self._options.pseudonyms.row(row) if self._options.pseudonyms else row
            if self._tombstones is not None and self._tombstones.refuses(written):
                self._refused.append(str(written["record_id"]))
                self.problems.withdraw(self._refused[-1])
            else:
                yield written

    def _with_leads(self, row: dict[str, Any]) -> dict[str, Any]:
        """The row with its leads, and those of its waves, called as in the archive."""
        lead_map, names = self._options.lead_map, list(row.get("leads") or ())
        leads, used = named_leads(names, lead_map)
        self.counted.update(_mapped(channel, lead_map[channel]) for channel in used)
        row = row | {"leads": list(leads)}
        if lead_map and row.get("fiducials"):
            called = dict(zip(map(canonical_lead, names), leads, strict=True))
            row["fiducials"] = [wave | {"lead": called.get(wave["lead"], wave["lead"])} for wave in row["fiducials"]]
        return row

    def _result(self, writer: ArchiveWriter | None = None) -> IngestResult:
        return IngestResult(
            archive=str(writer.path) if writer else "",
            archive_id=writer.archive_id if writer else "",
            records=writer.records if writer else 0,
            shards=writer.shards if writer else 0,
            signal=self.signal,
            dropped=self.dropped,
            problems=self.problems,
            notes=tuple(self._all_notes()),
            refused=tuple(self._refused),
            counted=self.counted,
            set_aside=dict(self._set_aside),
        )

    def note(self, text: str) -> None:
        """Say something that holds for all of it."""
        self._notes.append(text)

    def _all_notes(self) -> list[str]:
        # Of a piece, only the whole can say what no recording has, and which rows found none.
        if self._options.portion is None:
            last = [*unmapped_notes(self._options.lead_map, self.counted), *self._last_words(self.counted)]
        else:
            last = []
        notes = [*self._of_files, *self._said, *self._notes, *count_notes(self.counted), *last]
        return [*notes, *forgotten_note(len(self._refused))]


class Source(ABC):
    """One layout of files (see `ecgscale.archive.sources`).

    kind: its word in a configuration; tables: names of the files on which all its records depend
    one_by_one: whether a file holds so many records that it is a piece and a portion by itself
    notes: what was odd about its tables; set_aside: files of many records that cannot be read, and why
    """

    kind: ClassVar[str]
    tables: tuple[str, ...] = ()
    one_by_one: bool = False

    def __init__(self, files: SourceFolder) -> None:
        self.files = files
        self.notes: dict[str, None] = {}
        self.set_aside: dict[str, str] = {}

    @classmethod
    @abstractmethod
    def configured(cls, files: SourceFolder, config: ArchiveConfig) -> Self:
        """The source at `files`, with the options of the configuration."""

    @abstractmethod
    def ingest(self, target: Place, options: IngestOptions = DEFAULTS, listed_at: str | None = None) -> IngestResult:
        """Write it (of a portion: what has been fetched) to a new archive. `listed_at`: when, if not now."""

    def writing(
        self,
        target: Place,
        options: IngestOptions,
        listed_at: str | None,
        facts: dict[str, Any],
        signal: SignalType,
        extra: Sequence[pa.Field],
    ) -> Ingest:
        """An ingest that is about to begin; `facts` are what `_archive.json` says of this source alone."""
        source = {
            "kind": self.kind,
            # Links followed: what the records came from is called so.
            "folder": self.files.folder.resolve().name,
            "listed_at": listed_at or utc_now(),
            **facts,
            "carry": list(options.carry),
        }
        return Ingest(
            target, source, signal, extra, options, self.files.notes, self.notes, self.set_aside, self.last_words
        )

    def last_words(self, counted: Mapping[str, int]) -> list[str]:
        """What is to be said when all of it was taken, from what was counted: rows that found no record, say."""
        return []

    # For workers, each of which ingests a piece that becomes whole shards.

    @property
    @abstractmethod
    def total(self) -> int | None:
        """Its records, where they are known beforehand. Raises `ArchiveError` when there are none."""

    @property
    def facts(self) -> dict[str, Any]:
        """What `_archive.json` says of the whole, over what the ingest of one piece says."""
        return {}

    @abstractmethod
    def schema(self, options: IngestOptions) -> pa.Schema | None:
        """The schema of the archive; None where all headers decide it. Raises as the ingest of the source does."""

    @abstractmethod
    def pieces(self, options: IngestOptions) -> list[Portion]:
        """All of it, in its order. Records are counted as the archive will have them (`full_shards`), so that shards
        are those of an ingest in one go, byte for byte; of a source that comes in parts, shards end where parts end."""

    def header_facts(self, names: Iterable[str], progress: Progress = SILENT) -> HeaderFacts:
        """What these records say together, of a source whose `schema` is None until all are seen."""
        raise TypeError(f"a source of kind {self.kind} has a schema before its headers are seen")

    def fetch(self, portion: Portion) -> None:
        """Have the tables and all files of a piece."""
        self.files.fetch(self.tables)
        self.files.fetch(portion.files)

    # For nights, in which files arrive.

    @abstractmethod
    def sets(self, known: Known, until: datetime | None = None) -> list[SourceSet]:
        """All sets that the listing shows; files older than `until` come first where two claim one name."""

    @abstractmethod
    def looked_into(self, sets: Sequence[SourceSet], schema: pa.Schema | None) -> list[SourceSet]:
        """These sets with what they lack, and all their files; `schema` is that of the archive, if there is one."""

    def schema_of(self, sets: Sequence[SourceSet], options: IngestOptions) -> pa.Schema | None:
        """The schema of a new archive of these sets, where it has to be known before the first of them is ingested."""
        return None

    def table_files(self) -> tuple[SourceFile, ...]:
        """The tables as the listing shows them: nothing is taken while one of them is unsettled."""
        for name in self.tables:
            if name not in self.files.listed:
                raise ArchiveError(f"{self.files.location(name)} is missing; it belongs to the source's native layout")
        return tuple(self.files.listed[name] for name in self.tables)


def empty_signal(signal: SignalType, n_leads: int) -> np.ndarray:
    """The signal of a record that could not be read."""
    return np.zeros((n_leads, 0), dtype=signal)
