"""The files of a source: a listing, local copies of what is to be read, and which of them belong together.

Most readers want files. A source on a disk is read where it is; of one in an object store, what is
needed is fetched into a scratch folder, many files at a time, and discarded when it has been read.

A set is what becomes one record (WFDB, PTB-XL) or the records of one file (CODE-15 %). Its stamp is a digest of what a
listing says of its files; a set whose stamp is known is not looked into. Names are kept as hashes alone, so that the
log of an archive gives nobody's away.
"""

from __future__ import annotations

import hashlib
import json
import os
import posixpath
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ecgscale.archive.sources.pseudonyms import Pseudonyms, QuotesSource
from ecgscale.archive.writer import check_target
from ecgscale.errors import ArchiveError
from ecgscale.io.objects import ObjectStat, StoreError, open_objects, stat_of
from ecgscale.io.places import REMOTE, Place, is_remote, local_copy, nearly, place
from ecgscale.io.settings import s3, storage_errors
from ecgscale.io.walking import walk
from ecgscale.progress import SILENT, Progress
from ecgscale.store.provenance import utc_now
from ecgscale.words import counted

if TYPE_CHECKING:
    from ecgscale.archive.sources.source import IngestOptions, IngestResult, Source

AT_ONCE = 16
_KEPT_NAMES = 3
_KEY_DIGITS = 24
_STAMP_DIGITS = 16
_LONG_AGO = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True)
class SourceFile:
    """One file: its path below the source, bytes, and what changes when it does; `modified` by the store's clock."""

    name: str
    size: int
    version: str
    modified: datetime


class SourceFolder:
    """A source, and local copies of the files that are asked for.

    folder: where what was fetched lies (the source itself if it is local); notes: what somebody should know of how it
    was looked at. Raises `ArchiveError` for a folder that is not there, and `StoreError` when the store refuses.
    """

    def __init__(self, src: Place, scratch: Path, progress: Progress = SILENT) -> None:
        self.src = src
        self.is_local = not is_remote(src)
        self.notes: list[str] = []
        self._progress = progress
        self._store = open_objects(src)
        if self.is_local and not src.is_dir():
            raise ArchiveError(f"{src}: no such folder; is the disk mounted, and archive.src right?{nearly(src)}")
        # The last names are kept: the layout of MIMIC-IV-ECG tells patients by them.
        names = [name for name in str(src).removeprefix(REMOTE).split("/") if name]
        self.folder = src if self.is_local else scratch.joinpath("source", *names[-_KEPT_NAMES:])

    def path(self, name: str) -> Path:
        """Where a file is, once it is fetched."""
        return self.folder / name

    def location(self, name: str) -> str:
        """The file in the source, as a path or a URL."""
        return self._store.location(name)

    def look(self) -> datetime:
        """List the source; the moment before that, by the clock of its store.

        The time first: what is written while the listing is made is younger than it.
        """
        try:
            now = self._store.clock()
        except StoreError:
            now = datetime.now(UTC)
            self.notes.append(f"{self.src} cannot be written to, so what has settled is told by this machine's clock")
        _ = self.listed
        return now

    @cached_property
    def listed(self) -> dict[str, SourceFile]:
        """All files by their paths, from one listing."""
        with self._progress.stage("list", None, "files") as stage:
            files = {
                name: SourceFile(name, stat.size, stat.version, stat.modified)
                for name, stat in (self._stats() if self.is_local else self._store.list_stats("")).items()
                if not name.startswith("_clock/") and ".." not in name.split("/")
            }
            stage.advance(len(files))
        return files

    def names(self) -> Iterator[str]:
        """Paths of all files, in no order; a local folder is not asked for more than names."""
        yield from (name for name, _ in self._walk()) if self.is_local else self.listed

    def _stats(self) -> dict[str, ObjectStat]:
        stats = {}
        for name, entry in self._walk():
            # A file may go while the listing is walked.
            with suppress(FileNotFoundError):
                stats[name] = stat_of(entry.stat())
        return dict(sorted(stats.items()))

    def _walk(self) -> Iterator[tuple[str, os.DirEntry[str]]]:
        """The files of a local folder; what is none that could be read is counted in the notes."""
        odd: Counter[str] = Counter()
        for name, entry, what in walk(self.src):
            odd[what] += 1
            if not what:
                yield name, entry
        del odd[""]
        # How many, and not which: paths may hold names of patients.
        for what, count in sorted(odd.items()):
            note = f"{counted(count, 'entry', 'entries')} of the source left out: {what}"
            self.notes += [note] if note not in self.notes else []

    def heads(self, names: Sequence[str], size: int) -> dict[str, bytes]:
        """The first `size` bytes of files, fetched or not; none of one that cannot be read."""
        with ThreadPoolExecutor(1 if self.is_local else AT_ONCE) as pool:
            return dict(zip(names, pool.map(lambda name: self._head(name, size), names), strict=True))

    def _head(self, name: str, size: int) -> bytes:
        if self.is_local or self.path(name).exists():
            try:
                with open(self.path(name), "rb") as file:
                    return file.read(size)
            except OSError:
                return b""  # said when it is read as a whole
        if name in self.listed and not self.listed[name].size:
            return b""  # a store refuses a range of nothing
        with storage_errors(f"cannot read {self.location(name)}"):
            return bytes(s3().cat_file(self.location(name), start=0, end=size))

    def versions(self, names: Iterable[str]) -> dict[str, str | None]:
        """What changes when a file does, by name; None for one that is not there."""
        found = {name: self._store.stat(name) for name in names}
        return {name: None if stat is None else stat.version for name, stat in found.items()}

    def require_versions(self, versions: Mapping[str, str | None]) -> None:
        """`ArchiveError` when a table is not the one that the source was divided by."""
        now = self.versions(versions)
        for name, version in versions.items():
            if now[name] != version:
                raise ArchiveError(
                    f"{self.location(name)} was changed while it was ingested, so records would be of two minds; let it"
                    " be, and type the same command again"
                )

    def fetch(self, names: Iterable[str]) -> None:
        """Have the files of these names in `folder`, but for those that are not in the source (any more)."""
        wanted = [] if self.is_local else [name for name in names if not self.path(name).exists()]
        if not wanted:
            return
        for folder in {self.path(name).parent for name in wanted}:
            folder.mkdir(parents=True, exist_ok=True)
        with self._progress.stage("fetch", len(wanted), "files") as stage, ThreadPoolExecutor(AT_ONCE) as pool:
            for _ in pool.map(self._fetch, wanted):
                stage.advance()

    def _fetch(self, name: str) -> None:
        target = self.path(name)
        with storage_errors(f"cannot read {self.location(name)}"):
            try:
                s3().get_file(self.location(name), str(target))
            except FileNotFoundError:
                target.unlink(missing_ok=True)

    def discard(self, files: Iterable[SourceFile]) -> None:
        """Remove the copies of these files; nothing happens to the source."""
        if not self.is_local:
            for file in files:
                self.path(file.name).unlink(missing_ok=True)

    def changed(self, files: Iterable[SourceFile]) -> frozenset[str]:
        """Names of those that are no longer as the listing showed them."""
        with ThreadPoolExecutor(1 if self.is_local else AT_ONCE) as pool:
            return frozenset(name for name in pool.map(self._changed, files) if name is not None)

    def _changed(self, file: SourceFile) -> str | None:
        found = self._store.stat(file.name)
        same = found is not None and (found.size, found.version) == (file.size, file.version)
        return None if same else file.name

    @contextmanager
    def original_paths(self) -> Iterator[None]:
        """Within the block, errors of reading name the source, and not the copies of it."""
        try:
            yield
        except ArchiveError as error:
            if self.is_local:
                raise
            text = self.original(str(error))
            if isinstance(error, QuotesSource):
                raise QuotesSource(text, self.original(error.bare)) from error
            raise type(error)(text) from error

    def original(self, text: str) -> str:
        """A text that names the source in the place of the copies of it."""
        return text if self.is_local else text.replace(str(self.folder), self._store.where)


@dataclass(frozen=True)
class SourceSet:
    """One set of files as a listing shows it.

    name: path of the header without suffix; ecg_id; file name of the part
    record_id: what it is called in the archive (of a part: its name, since its exams have ids of their own)
    namesake: key of the record that has its name, where it is called by its path for that reason
    files: those that are there; facts: what else its content depends on (its row in the source's table)
    look: what the listing says is not enough to know it again; lacks: what it is waiting for, if it is incomplete
    refusal: why it cannot come into this archive; hopeless: it cannot be taken as it is, however long it stays so
    pseudonyms: under which it is in the archive, and in the log
    """

    name: str
    record_id: str
    files: tuple[SourceFile, ...]
    facts: tuple[str, ...] = ()
    look: bool = False
    lacks: str = ""
    refusal: str = ""
    hopeless: bool = False
    namesake: str = ""
    pseudonyms: Pseudonyms | None = field(default=None, compare=False)

    @cached_property
    def archived_as(self) -> str:
        """Its record_id in the archive."""
        return archive_id_of(self.record_id, self.pseudonyms)

    @cached_property
    def key(self) -> str:
        """What the log knows it by."""
        return key_of(self.archived_as)

    @cached_property
    def at(self) -> str:
        """Where it is, as a hash."""
        return place_of(self.name, self.pseudonyms)

    @cached_property
    def stamp(self) -> str:
        """Changes when a file (or the row of the table) does, and not when all of them move to another folder."""
        files = sorted((posixpath.basename(file.name), file.size, file.version) for file in self.files)
        text = json.dumps([files, self.facts], separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:_STAMP_DIGITS]

    @property
    def newest(self) -> datetime:
        """When the youngest of its files was written."""
        return newest_of(self.files)

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return sum(file.size for file in self.files)

    def content(self, source: SourceFolder) -> str:
        """A digest of the bytes of its files, which have been fetched, and of its facts."""
        hasher = hashlib.sha256(json.dumps(self.facts).encode())
        for file in sorted(self.files, key=lambda file: posixpath.basename(file.name)):
            hasher.update(f"\0{posixpath.basename(file.name)}\0{file.size}\0".encode())
            path = source.path(file.name)
            if path.is_file():
                with open(path, "rb") as stream:
                    hasher.update(hashlib.file_digest(stream, "sha256").digest())
        return hasher.hexdigest()[:_STAMP_DIGITS]


class KnownSet(NamedTuple):
    """What the log says of one set: digests of its listing and its bytes ("" when never read), where it was, whether to
    look inside every night, and why it was refused ("" when it was ingested)."""

    stamp: str
    content: str
    at: str
    look: bool = False
    refusal: str = ""


@dataclass
class Known:
    """All sets that were dealt with, by key; `since` says when incomplete ones were first seen.

    pseudonyms: under which the archive has its records; None: as the source does
    columns: the archive's own columns; record_ids: whether it knows WFDB records by name or by path, "" before there
    is one
    """

    sets: dict[str, KnownSet] = field(default_factory=dict)
    since: dict[str, datetime] = field(default_factory=dict)
    pseudonyms: Pseudonyms | None = None
    columns: tuple[str, ...] = ()
    record_ids: str = ""

    def of(self, one: SourceSet) -> KnownSet | None:
        """What is known of a set; None for one that is new."""
        return self.sets.get(one.key)

    def has_content(self, one: SourceSet, content: str) -> bool:
        """Whether a set says what was ingested before, under its own id or by the namesake that it is a copy of."""
        past, namesake = self.of(one), self.sets.get(one.namesake)
        if past is not None and not past.refusal and past.content == content:
            return True
        if namesake is None or namesake.refusal:
            return False
        return (namesake.content or namesake.stamp) in (content, one.stamp)


def archive_id_of(record_id: str, pseudonyms: Pseudonyms | None) -> str:
    """What the archive calls a record of the source."""
    return record_id if pseudonyms is None else pseudonyms.record(record_id)


def key_of(record_id: str) -> str:
    """The hash under which a record is logged; `record_id` is that of the archive."""
    return hashlib.sha256(f"record\0{record_id}".encode()).hexdigest()[:_KEY_DIGITS]


def place_of(name: str, pseudonyms: Pseudonyms | None = None) -> str:
    """The hash of a set's path."""
    if pseudonyms is not None:
        return pseudonyms.place(name)
    return hashlib.sha256(f"place\0{name}".encode()).hexdigest()[:_STAMP_DIGITS]


def newest_of(files: Iterable[SourceFile]) -> datetime:
    """When the youngest of these files was written."""
    return max((file.modified for file in files), default=_LONG_AGO)


def ingest_whole(
    source_at: Callable[[SourceFolder], Source],
    src: str | Path,
    archive_path: str | Path,
    options: IngestOptions,
    holds: str,
) -> IngestResult:
    """Ingest a folder; `ArchiveError` before any work if there is none (of what `holds` says), or no free target.

    What lies in an object store is copied into the user's cache, because most readers want files.
    """
    target, listed_at = place(archive_path), utc_now()
    check_target(target, options.overwrite)
    try:
        folder = local_copy(src)
    except FileNotFoundError as error:
        raise ArchiveError(f"{src} holds nothing; expected {holds}") from error
    if not folder.is_dir():
        raise ArchiveError(f"{folder}: no such folder; expected one with {holds}")
    return source_at(SourceFolder(folder, folder)).ingest(target, options, listed_at)
