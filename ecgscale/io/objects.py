"""Whole objects under keys, and put-if-absent: the only two promises that committing and publishing stand on.

An object is written in one piece or not at all, and `put_if_absent` has exactly one winner however many processes
try. Nothing is renamed over, nothing is appended to, and no listing is taken as the truth. `ObjectStore` is the seam
for other stores; `LocalObjects` keeps the promises on a disk: a temporary file beside the target, fsync, a hard link.

Directories that are there whole or not at all: filled beside their place, then renamed into it.

In an object store, where nothing is renamed, the file named last makes a directory of what was put before it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Protocol

from ecgscale.io.places import Place, is_remote, upload
from ecgscale.io.settings import StoreError, storage_errors

__all__ = ["LocalObjects", "ObjectStat", "ObjectStore", "StoreError"]

TEMPORARY_PREFIX = "_tmp-"
_MADE_AGAIN = 8


@dataclass(frozen=True)
class ObjectStat:
    """What a store knows of an object without reading it.

    version: changes when the object does (an ETag, a modification time); modified: when, by the store's own clock, UTC
    """

    size: int
    version: str
    modified: datetime


class ObjectStore(Protocol):
    """Keys are `/`-separated and relative; data are whole objects. Failures of the store raise `StoreError`."""

    @property
    def where(self) -> str:
        """The place that keys are relative to: an absolute path or a URL."""

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Create `key` with `data`; False, and nothing written, when there is such an object already."""

    def put(self, key: str, data: bytes) -> None:
        """Create or replace `key`; a reader sees the old object or the new one, never a part."""

    def read(self, key: str) -> bytes | None:
        """The object, or None when there is none."""

    def stat(self, key: str) -> ObjectStat | None:
        """Size and version of the object, or None when there is none."""

    def list_prefix(self, prefix: str) -> Iterator[str]:
        """Keys below the folder `prefix`, sorted: a hint, for previews and operators, never the truth."""

    def list_stats(self, prefix: str) -> dict[str, ObjectStat]:
        """The same keys, each with what `stat` says of it, from one listing."""

    def list_leftovers(self) -> dict[str, ObjectStat]:
        """Files of writers that were killed, which no other listing shows; an object store has none."""

    def copy(self, key: str, to: str) -> None:
        """Create or replace `to` with what `key` holds, in the store itself if it can; `StoreError` without `key`."""

    def delete(self, key: str) -> None:
        """Remove the object; nothing happens when there is none."""

    def clock(self) -> datetime:
        """What time it is (UTC) by the clock that `ObjectStat.modified` is told by."""

    def location(self, key: str) -> str:
        """Where the object is, as Parquet readers take it (a path or a URL)."""


class LocalObjects:
    """Objects as files below `root`, on a file system with hard links.

    A process that dies in the middle leaves at most a file that starts with `_tmp-`: garbage that nothing reads.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).absolute()

    @property
    def where(self) -> str:
        return str(self.root)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        target = self.root / key
        with storage_errors(f"cannot write {target}"), _temporary(target, data) as temporary:
            try:
                os.link(temporary, target)
            except FileExistsError:
                # A network file system may lose the answer to a link that it made and see itself on the second try.
                return temporary.stat().st_nlink == 2
            _sync_folder(target.parent)
            return True

    def put(self, key: str, data: bytes) -> None:
        target = self.root / key
        with storage_errors(f"cannot write {target}"), _temporary(target, data) as temporary:
            os.replace(temporary, target)
            _sync_folder(target.parent)

    def read(self, key: str) -> bytes | None:
        with storage_errors(f"cannot read {self.root / key}"):
            try:
                return (self.root / key).read_bytes()
            except FileNotFoundError:
                return None

    def stat(self, key: str) -> ObjectStat | None:
        with storage_errors(f"cannot read {self.root / key}"):
            try:
                return _stat(self.root / key)
            except FileNotFoundError:
                return None

    def list_prefix(self, prefix: str) -> Iterator[str]:
        yield from sorted(key for key, _ in self._walk(prefix))

    def list_stats(self, prefix: str) -> dict[str, ObjectStat]:
        found = {}
        for key, entry in self._walk(prefix):
            # A file may go while the listing is walked.
            with contextlib.suppress(FileNotFoundError):
                found[key] = _stat_of(entry.stat())
        return dict(sorted(found.items()))

    def _walk(self, prefix: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
        """Keys below a folder in no order, each with its entry; those of writers that were killed left out."""
        folders = [prefix]
        while folders:
            folder = folders.pop()
            try:
                entries = list(os.scandir(self.root / folder))
            except (FileNotFoundError, NotADirectoryError):
                continue
            for entry in entries:
                key = f"{folder}/{entry.name}" if folder else entry.name
                if entry.is_dir():
                    folders.append(key)
                elif not entry.name.startswith(TEMPORARY_PREFIX) and entry.is_file():
                    yield key, entry

    def list_leftovers(self) -> dict[str, ObjectStat]:
        found = {}
        for path in sorted(self.root.rglob("*")):
            key = path.relative_to(self.root)
            if _is_leftover(key) and path.is_file():
                with contextlib.suppress(FileNotFoundError):
                    found[key.as_posix()] = _stat(path)
        return found

    def copy(self, key: str, to: str) -> None:
        source = self.root / key
        with storage_errors(f"cannot copy {source}"):
            self.put(to, source.read_bytes())

    def delete(self, key: str) -> None:
        path = self.root / key
        with storage_errors(f"cannot remove {path}"):
            path.unlink(missing_ok=True)
        # A folder that was being filled goes with the last of its files.
        for folder in path.parents:
            if not folder.is_relative_to(self.root) or not _is_leftover(folder.relative_to(self.root)):
                break
            try:
                folder.rmdir()
            except OSError:
                break

    def clock(self) -> datetime:
        # The server's clock, where the disk is one: that of a file made just now.
        with storage_errors(f"cannot write below {self.root}"), _temporary(self.root / "_clock", b"") as temporary:
            return _stat(temporary).modified

    def location(self, key: str) -> str:
        return str(self.root / key)


def _is_leftover(key: Path) -> bool:
    """Whether a file, or a folder that it lies in, has the name of something unfinished."""
    return any(part.startswith(TEMPORARY_PREFIX) for part in key.parts)


def _stat(path: Path) -> ObjectStat:
    return _stat_of(path.stat())


def _stat_of(found: os.stat_result) -> ObjectStat:
    return ObjectStat(found.st_size, f"mtime_ns={found.st_mtime_ns}", datetime.fromtimestamp(found.st_mtime, UTC))


@contextlib.contextmanager
def _temporary(target: Path, data: bytes) -> Iterator[Path]:
    """A synced file with `data` beside `target`, gone at the end unless it was moved away."""
    temporary = target.parent / f"{TEMPORARY_PREFIX}{os.getpid()}-{uuid.uuid4().hex}"
    try:
        with _new_file(temporary) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _new_file(path: Path) -> BinaryIO:
    """A file to write to, in a folder that is made if need be."""
    for _ in range(_MADE_AGAIN):
        # Somebody else may find the folder empty just now, and take it away: before the file is made in it, or while
        # mkdir looks whether what is there already is a folder.
        with contextlib.suppress(FileNotFoundError, FileExistsError):
            path.parent.mkdir(parents=True, exist_ok=True)
            return open(path, "xb")
    return open(path, "xb")


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def place_whole(final: Place, fill: Callable[[Path], object], last: str) -> Place:
    """Let `fill` write into a new directory and move it to `final`; one that is there already is left alone.

    `last` is the file without which the directory does not count. Whoever comes second, in this or another process,
    changes nothing.
    """
    if (final / last).exists():
        return final
    if is_remote(final):
        with tempfile.TemporaryDirectory() as scratch:
            fill(Path(scratch))
            upload(Path(scratch), final, last)
        return final
    final.parent.mkdir(parents=True, exist_ok=True)
    scratch_path = Path(tempfile.mkdtemp(prefix="_tmp-", dir=final.parent))
    try:
        fill(scratch_path)
        scratch_path.chmod(0o755)
        os.rename(scratch_path, final)
    except OSError:
        if not final.exists():
            raise
    finally:
        shutil.rmtree(scratch_path, ignore_errors=True)
    return final
