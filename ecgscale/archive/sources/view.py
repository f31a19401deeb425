"""The files of a source, as one listing shows them or by their names, and local copies of those that are to be read.

The readers of WFDB and HDF5 want files. A source on a disk is read where it is; of one in an object store, what is
needed is fetched into a scratch folder, many files at a time, and discarded when it has been read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from ecgscale.archive.sources.source import QuotesSource
from ecgscale.errors import ArchiveError
from ecgscale.io.objects import StoreError
from ecgscale.io.places import REMOTE, Place, is_remote
from ecgscale.io.s3 import open_objects
from ecgscale.io.settings import s3, storage_errors
from ecgscale.progress import SILENT, Progress

AT_ONCE = 16
_KEPT_NAMES = 3


@dataclass(frozen=True)
class SourceFile:
    """One file: its path below the source, bytes, and what changes when it does; `modified` by the store's clock."""

    name: str
    size: int
    version: str
    modified: datetime


class SourceFolder:
    """A source, and local copies of the files that are asked for.

    folder: where what was fetched lies (the source itself if it is local). Raises `ArchiveError` for a folder that is
    not there, and `StoreError` when the store refuses.
    """

    def __init__(self, src: Place, scratch: Path, progress: Progress = SILENT) -> None:
        self.src = src
        self.is_local = not is_remote(src)
        self._progress = progress
        self._store = open_objects(src)
        if self.is_local and not src.is_dir():
            raise ArchiveError(f"{src}: no such folder; is the disk mounted, and archive.src right?")
        # The last names are kept: the layout of MIMIC-IV-ECG tells patients by them.
        names = [name for name in str(src).removeprefix(REMOTE).split("/") if name]
        self.folder = src if self.is_local else scratch.joinpath("source", *names[-_KEPT_NAMES:])

    def path(self, name: str) -> Path:
        """Where a file is, once it is fetched."""
        return self.folder / name

    def location(self, name: str) -> str:
        """The file in the source, as a path or a URL."""
        return self._store.location(name)

    def sizes(self) -> dict[str, int]:
        """Bytes of all files, by their paths."""
        return {name: stat.size for name, stat in self._store.list_stats("").items()}

    def version(self, name: str) -> str | None:
        """What changes when a file does; None when it is not there."""
        found = self._store.stat(name)
        return None if found is None else found.version

    def fetch_named(self, names: Iterable[str]) -> None:
        """Have the files of these names in `folder`, but for those that are not in the source."""
        wanted = [] if self.is_local else [name for name in names if not self.path(name).exists()]
        if not wanted:
            return
        for folder in {self.path(name).parent for name in wanted}:
            folder.mkdir(parents=True, exist_ok=True)
        with self._progress.stage("fetch", len(wanted), "files") as stage, ThreadPoolExecutor(AT_ONCE) as pool:
            for _ in pool.map(self._fetch, wanted):
                stage.advance()

    @contextmanager
    def errors_told(self) -> Iterator[None]:
        """Within the block, errors of reading name the source, and not the copies of it."""
        try:
            yield
        except ArchiveError as error:
            if self.is_local:
                raise
            text = str(error).replace(str(self.folder), self._store.where)
            if isinstance(error, QuotesSource):
                raise QuotesSource(text, error.bare.replace(str(self.folder), self._store.where)) from error
            raise type(error)(text) from error

    def _fetch(self, name: str) -> None:
        target = self.path(name)
        with storage_errors(f"cannot read {self.location(name)}"):
            try:
                s3().get_file(self.location(name), str(target))
            except FileNotFoundError:
                target.unlink(missing_ok=True)


class SourceView(SourceFolder):
    """A source as it was at `now`, by the clock of its store.

    files: by their paths; notes: what somebody should know of how it was looked at.
    """

    def __init__(self, src: Place, scratch: Path, progress: Progress = SILENT) -> None:
        super().__init__(src, scratch, progress)
        self.notes: list[str] = []
        # The time first: what is written while the listing is made is younger than it.
        self.now = self._clock()
        with progress.stage("list", None, "files") as stage:
            self.files = {
                name: SourceFile(name, stat.size, stat.version, stat.modified)
                for name, stat in self._store.list_stats("").items()
                if not name.startswith("_clock/") and ".." not in name.split("/")
            }
            stage.advance(len(self.files))

    def fetch(self, files: Iterable[SourceFile]) -> None:
        """Have these files in `folder`; one that went away since the listing is not there (`changed` tells it)."""
        self.fetch_named(file.name for file in files)

    def discard(self, files: Iterable[SourceFile]) -> None:
        """Remove the copies of these files; nothing happens to the source."""
        if not self.is_local:
            for file in files:
                self.path(file.name).unlink(missing_ok=True)

    def changed(self, files: Iterable[SourceFile]) -> frozenset[str]:
        """Names of those that are no longer as the listing showed them."""
        if self.is_local:
            return frozenset(name for name in map(self._changed, files) if name is not None)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            return frozenset(name for name in pool.map(self._changed, files) if name is not None)

    def _changed(self, file: SourceFile) -> str | None:
        found = self._store.stat(file.name)
        same = found is not None and (found.size, found.version) == (file.size, file.version)
        return None if same else file.name

    def _clock(self) -> datetime:
        try:
            return self._store.clock()
        except StoreError:
            self.notes.append(f"{self.src} cannot be written to, so what has settled is told by this machine's clock")
            return datetime.now(UTC)
