"""A source divided into pieces, each of which is ingested by itself, by whoever is free, and becomes whole shards.

Records of PTB-XL and of WFDB folders are counted as the archive will have them, so that every piece but the last makes
one full shard, and the shards are those of an ingest in one go, byte for byte. Of CODE-15 % a piece is a part, and
shards end where parts end.

Listings and tables are read here, once. Whoever ingests a piece gets names and row numbers, and reads the rest itself.
"""

from __future__ import annotations

import fnmatch
import posixpath
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa

from ecgscale.archive.sources.code15 import (
    EXAMS,
    PARTS,
    code15_schema,
    find_parts,
    part_exams,
    part_number,
    require_parts,
)
from ecgscale.archive.sources.ptbxl import DATABASE, STATEMENTS, ptbxl_schema, read_database, recordings, sample_type
from ecgscale.archive.sources.signal_files import HEADER, NO_FILE
from ecgscale.archive.sources.source import IngestOptions, whole_number_texts
from ecgscale.archive.sources.view import AT_ONCE, SourceFolder
from ecgscale.archive.sources.wfdb_header import UnreadableRecord, read_header
from ecgscale.archive.sources.wfdb_records import (
    LEAD_SUFFIXES,
    find_records,
    mimic_subject,
    name_by,
    natural_order,
    require_records,
)
from ecgscale.errors import ArchiveError

if TYPE_CHECKING:
    from ecgscale.config import ArchiveConfig

_SUFFIXES = frozenset({"hea", "dat", "mat", *LEAD_SUFFIXES})
_EXAM_BYTES = 4096 * 12 * 4
"""Of an exam of CODE-15 % as HDF5 holds it at most."""


@dataclass(frozen=True)
class Piece:
    """One stretch of a source.

    sets, rows: as of a `Portion`; records: how many there are, about; what: for messages, without an id
    files: what has to be there of a source that is not local, as far as the listing tells
    """

    what: str
    records: int
    sets: Mapping[str, str] = field(default_factory=dict)
    rows: tuple[int, int] | None = None
    files: tuple[str, ...] = ()


class Division(Protocol):
    """A source that was listed.

    total: its records, where they are known beforehand
    versions: of its tables, on which all pieces depend, as they were before they were read
    facts: what `_archive.json` says of the whole, beside what the ingest of one piece says
    """

    total: int | None
    versions: dict[str, str | None]
    facts: dict[str, Any]

    def schema(self, options: IngestOptions) -> pa.Schema | None:
        """The schema of the archive; None where all headers decide it. Raises as the ingest of the source does."""

    def pieces(self, options: IngestOptions) -> list[Piece]:
        """All of the source, in its order."""


def divided(config: ArchiveConfig, source: SourceFolder) -> Division:
    """The source that the configuration names; `ArchiveError` if it is not of that kind, or holds nothing."""
    if config.source == "ptbxl":
        return PtbxlDivision(source, config.rate)
    return Code15Division(source) if config.source == "code15" else WfdbDivision(source)


class PtbxlDivision:
    """PTB-XL: rows of its table."""

    def __init__(self, source: SourceFolder, rate: int) -> None:
        self._source, self._rate = source, rate
        self.versions = _table_versions(source, DATABASE, STATEMENTS)
        source.fetch_named(self.versions)
        self._table = read_database(source.folder)
        self.total: int | None = self._table.num_rows
        self.facts: dict[str, Any] = {}

    def schema(self, options: IngestOptions) -> pa.Schema | None:
        folder, names = self._source.folder, recordings(self._table, self._rate)
        signal = sample_type(folder, _with_headers(self._source, names), self._rate)
        return ptbxl_schema(folder, self._table, signal, options)

    def pieces(self, options: IngestOptions) -> list[Piece]:
        ids, patients = (whole_number_texts(self._table, name) for name in ("ecg_id", "patient_id"))
        names = recordings(self._table, self._rate)
        pieces = []
        is_in = admitted(zip(map(str, ids), patients, strict=True), options)
        for first, stop in stretches(is_in, options.shard_records):
            files = () if self._source.is_local else tuple(f"{n}{end}" for n in names[first:stop] for end in _ENDS)
            pieces.append(Piece(_rows_told(first, stop), stop - first, rows=(first, stop), files=files))
        return pieces


class WfdbDivision:
    """Any folder of WFDB records."""

    def __init__(self, source: SourceFolder) -> None:
        self._source = source
        self._files: dict[str, tuple[str, ...]] = {}
        if source.is_local:
            self._paths = find_records(source.folder)
        else:
            self._files = _files_of_records(source.sizes())
            self._paths = sorted(self._files, key=natural_order)
        require_records(source.src, self._paths)
        self._ids, named = name_by(self._paths)
        self.total: int | None = len(self._paths)
        self.versions: dict[str, str | None] = {}
        self.facts: dict[str, Any] = {"record_ids": named}

    def schema(self, options: IngestOptions) -> pa.Schema | None:
        return None

    def pieces(self, options: IngestOptions) -> list[Piece]:
        patients = (mimic_subject(self._source.folder / path) for path in self._paths)
        pieces = []
        is_in = admitted(zip(self._ids, patients, strict=True), options)
        for first, stop in stretches(is_in, options.shard_records):
            paths = self._paths[first:stop]
            sets = dict(zip(paths, self._ids[first:stop], strict=True))
            files = tuple(file for path in paths for file in self._files.get(path, ()))
            pieces.append(Piece(_rows_told(first, stop), stop - first, sets, files=files))
        return pieces


class Code15Division:
    """CODE-15 %: its parts. Those that are local are opened, so that a broken one is found before any work."""

    def __init__(self, source: SourceFolder) -> None:
        self._source = source
        self.versions = _table_versions(source, EXAMS)
        if source.is_local:
            self._records = {part.name: len(part_exams(part)) for part in find_parts(source.folder)}
        else:
            sizes = {name: size for name, size in source.sizes().items() if "/" not in name}
            names = sorted(fnmatch.filter(sizes, PARTS), key=part_number)
            require_parts(source.src, names)
            self._records = {name: sizes[name] // _EXAM_BYTES for name in names}
        self.total: int | None = sum(self._records.values()) if source.is_local else None
        self.facts: dict[str, Any] = {"parts": list(self._records)}

    def schema(self, options: IngestOptions) -> pa.Schema | None:
        self._source.fetch_named(self.versions)
        return code15_schema(self._source.folder, options)

    def pieces(self, options: IngestOptions) -> list[Piece]:
        return [Piece(name, records, {name: name}, files=(name,)) for name, records in self._records.items()]


def stretches(is_in: Sequence[bool], shard_records: int | None) -> list[tuple[int, int]]:
    """First and one past the last record of pieces that make a full shard each, and of the rest.

    `is_in` tells which records will be in the archive: the others take no place in a shard.
    """
    ends = [i + 1 for i, one in enumerate(is_in) if one]
    size = shard_records or len(is_in)
    stops = ends[size - 1 :: size]
    if ends and (not stops or stops[-1] != ends[-1]):
        stops.append(ends[-1])
    # Those behind the last one that will be in it make no shard of their own.
    return list(pairwise([0, *stops[:-1], len(is_in)]))


def admitted(ids: Iterable[tuple[str, str | None]], options: IngestOptions) -> list[bool]:
    """Which of these records and patients will be in the archive: nobody who was forgotten."""
    pseudonyms, tombstones = options.pseudonyms, options.tombstones
    found = []
    for record_id, patient_id in ids:
        row: dict[str, Any] = {"record_id": record_id, "patient_id": patient_id}
        if tombstones is not None and pseudonyms is not None:
            row = pseudonyms.row(row)
        found.append(tombstones is None or not tombstones.refuses(row))
    return found


def fetch_piece(source: SourceFolder, piece: Piece) -> None:
    """Have all files of a piece, those that its headers name among them."""
    if source.is_local:
        return
    source.fetch_named(piece.files)
    source.fetch_named(_named_by_headers(source, piece.files))


def fetch_headers(source: SourceFolder, piece: Piece) -> list[Path]:
    """Have the headers of a piece's records, and nothing else; their paths without suffix."""
    source.fetch_named(name + HEADER for name in piece.sets)
    return [source.path(name) for name in piece.sets]


def require_same_tables(source: SourceFolder, versions: Mapping[str, str | None]) -> None:
    """`ArchiveError` when a table is not the one that the source was divided by."""
    for name, version in versions.items():
        if source.version(name) != version:
            raise ArchiveError(
                f"{source.location(name)} was changed while it was ingested, so records would be of two minds; let it"
                " be, and type the same command again"
            )


_ENDS = (HEADER, ".dat")


def _table_versions(source: SourceFolder, *names: str) -> dict[str, str | None]:
    return {name: source.version(name) for name in names}


def _rows_told(first: int, stop: int) -> str:
    return f"records {first + 1:,} to {stop:,}"


def _with_headers(source: SourceFolder, names: Sequence[str]) -> Iterator[Path]:
    """Paths without suffix, their headers fetched some at a time: the first one is enough as a rule."""
    for start in range(0, len(names), AT_ONCE):
        some = names[start : start + AT_ONCE]
        source.fetch_named(name + HEADER for name in some)
        yield from map(source.path, some)


def _files_of_records(names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Path of each record to its files that are called after it."""
    files: dict[str, list[str]] = {}
    for name in names:
        stem, _, suffix = name.rpartition(".")
        if suffix in _SUFFIXES and ".." not in stem.split("/"):
            files.setdefault(stem, []).append(name)
    return {stem: tuple(own) for stem, own in files.items() if stem + HEADER in own}


def _named_by_headers(source: SourceFolder, names: Iterable[str]) -> Iterator[str]:
    for name in names:
        if not name.endswith(HEADER):
            continue
        try:
            header = read_header(source.path(name.removesuffix(HEADER)))
        except UnreadableRecord:
            # Told when its row is written.
            continue
        for file in {channel.file for channel in header.channels}.difference(NO_FILE):
            path = posixpath.normpath(posixpath.join(posixpath.dirname(name), file))
            if not path.startswith(("../", "/")):
                yield path
