"""Whole objects under keys, and put-if-absent: the only two promises that committing and publishing stand on.

An object is written in one piece or not at all, and `put_if_absent` has exactly one winner however many processes
try. Nothing is renamed over, nothing is appended to, no writer is left open that an exception could turn into a
published fragment, and no listing is taken as the truth. `LocalObjects` keeps the promises on a disk (a temporary file
beside the target, fsync, a hard link), `S3Objects` in a store that speaks S3 (one request, `If-None-Match: *`).

A store that lacks conditional puts is declared as such (`[storage] conditional_put = false`); then the last writer of
a key wins, which does no harm to commits, as all commits of one source name equal facts; publishing needs the lock.
"""

from __future__ import annotations

import contextlib
import os
import random
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from ecgscale.io.places import REMOTE, TEMPORARY_PREFIX, Place, is_remote
from ecgscale.io.settings import StoreError, get_object, put_object, refusal_code, s3, storage_errors, storage_settings
from ecgscale.io.walking import walk

__all__ = [
    "LocalObjects",
    "ObjectStat",
    "ObjectStore",
    "S3Objects",
    "StoreError",
    "delete_private",
    "open_objects",
    "put_private",
    "put_whole",
]

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
        """What time it is (UTC) by the clock of `ObjectStat.modified`."""

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

    def _path(self, key: str) -> Path:
        """Where an object is. Keys are read from files that anybody may have made: none of them leads out of here."""
        if key.startswith("/") or ".." in key.split("/"):
            raise StoreError(f"{key!r} is no object below {self.root}; a file that names it is damaged or not ours")
        return self.root / key

    def put_if_absent(self, key: str, data: bytes) -> bool:
        target = self._path(key)
        with storage_errors(f"cannot write {target}"), _temporary(target, data) as temporary:
            try:
                os.link(temporary, target)
            except FileExistsError:
                # A network file system may lose the answer to a link that it made and see itself on the second try.
                return temporary.stat().st_nlink == 2
            _sync_folder(target.parent)
            return True

    def put(self, key: str, data: bytes) -> None:
        target = self._path(key)
        with storage_errors(f"cannot write {target}"), _temporary(target, data) as temporary:
            os.replace(temporary, target)
            _sync_folder(target.parent)

    def read(self, key: str) -> bytes | None:
        with storage_errors(f"cannot read {self._path(key)}"):
            try:
                return self._path(key).read_bytes()
            except FileNotFoundError:
                return None

    def stat(self, key: str) -> ObjectStat | None:
        with storage_errors(f"cannot read {self._path(key)}"):
            try:
                return _stat(self._path(key))
            except FileNotFoundError:
                return None

    def list_prefix(self, prefix: str) -> Iterator[str]:
        yield from sorted(key for key, _ in self._walk(prefix))

    def list_stats(self, prefix: str) -> dict[str, ObjectStat]:
        found = {}
        for key, entry in self._walk(prefix):
            # A file may go while the listing is walked.
            with contextlib.suppress(FileNotFoundError):
                found[key] = stat_of(entry.stat())
        return dict(sorted(found.items()))

    def _walk(self, prefix: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
        """Keys below a folder in no order, each with its entry; those of writers that were killed left out."""
        for name, entry, odd in walk(self.root / prefix):
            if not odd and not entry.name.startswith(TEMPORARY_PREFIX):
                yield f"{prefix}/{name}" if prefix else name, entry

    def list_leftovers(self) -> dict[str, ObjectStat]:
        found = {}
        for path in sorted(self.root.rglob("*")):
            key = path.relative_to(self.root)
            if _is_leftover(key) and path.is_file():
                with contextlib.suppress(FileNotFoundError):
                    found[key.as_posix()] = _stat(path)
        return found

    def copy(self, key: str, to: str) -> None:
        source = self._path(key)
        with storage_errors(f"cannot copy {source}"):
            self.put(to, source.read_bytes())

    def delete(self, key: str) -> None:
        path = self._path(key)
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
        return str(self._path(key))


def _is_leftover(key: Path) -> bool:
    """Whether a file, or a folder that it lies in, has the name of something unfinished."""
    return any(part.startswith(TEMPORARY_PREFIX) for part in key.parts)


def _stat(path: Path) -> ObjectStat:
    return stat_of(path.stat())


def stat_of(found: os.stat_result) -> ObjectStat:
    """What a disk says of a file."""
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


CONFLICTS = 8


class S3Objects:
    """Objects below s3://BUCKET/PREFIX."""

    def __init__(self, url: str) -> None:
        self._base = url.removeprefix(REMOTE).rstrip("/")

    @property
    def where(self) -> str:
        return REMOTE + self._base

    def put_if_absent(self, key: str, data: bytes) -> bool:
        if not storage_settings().conditional_put:
            if self.stat(key) is not None:
                return False
            self.put(key, data)
            return True
        with storage_errors(f"cannot write {self.location(key)}"):
            for attempt in range(CONFLICTS):
                try:
                    put_object(self._path(key), data, mode="create")
                    return True
                except (OSError, FileExistsError) as error:
                    code = refusal_code(error)
                    if code == "ConditionalRequestConflict" and attempt + 1 < CONFLICTS:
                        # Two at once: neither learns who won before one of them is through.
                        time.sleep(random.uniform(0, 0.1 * 2**attempt))
                        continue
                    if code == "PreconditionFailed" or isinstance(error, FileExistsError):
                        break
                    raise
        # A request whose answer was lost is sent again, and finds its own object there.
        return self.read(key) == data

    def put(self, key: str, data: bytes) -> None:
        with storage_errors(f"cannot write {self.location(key)}"):
            put_object(self._path(key), data)

    def read(self, key: str) -> bytes | None:
        with storage_errors(f"cannot read {self.location(key)}"):
            try:
                return get_object(self._path(key))
            except FileNotFoundError as error:
                _require_bucket(error)
                return None

    def stat(self, key: str) -> ObjectStat | None:
        with storage_errors(f"cannot read {self.location(key)}"):
            bucket, _, path = self._path(key).partition("/")
            try:
                facts = s3().call_s3("head_object", Bucket=bucket, Key=path)
            except FileNotFoundError as error:
                _require_bucket(error)
                return None
            except OSError:
                # The answer to HEAD has no body that could say why; that to GET has one.
                s3().call_s3("get_object", Bucket=bucket, Key=path, Range="bytes=0-0")
                raise
        return _stat_of_facts({**facts, "size": facts["ContentLength"]})

    def list_prefix(self, prefix: str) -> Iterator[str]:
        yield from self.list_stats(prefix)

    def list_stats(self, prefix: str) -> dict[str, ObjectStat]:
        with storage_errors(f"cannot list {self.location(prefix)}"):
            found = s3().find(self._path(prefix), detail=True)
        return {
            name.removeprefix(self._base + "/"): _stat_of_facts(facts)
            for name, facts in sorted(found.items())
            if facts["type"] == "file"
        }

    def list_leftovers(self) -> dict[str, ObjectStat]:
        return {}

    def copy(self, key: str, to: str) -> None:
        with storage_errors(f"cannot copy {self.location(key)} to {self.location(to)}"):
            s3().cp_file(self._path(key), self._path(to))

    def delete(self, key: str) -> None:
        with storage_errors(f"cannot remove {self.location(key)}"):
            try:
                s3().rm_file(self._path(key))
            except FileNotFoundError as error:
                _require_bucket(error)

    def clock(self) -> datetime:
        key = f"_clock/{uuid.uuid4().hex}"
        self.put(key, b"")
        found = self.stat(key)
        self.delete(key)
        assert found is not None
        return found.modified

    def location(self, key: str) -> str:
        return f"{REMOTE}{self._base}/{key}"

    def _path(self, key: str) -> str:
        return f"{self._base}/{key}"


def _require_bucket(error: FileNotFoundError) -> None:
    """An object that is absent is an answer; a bucket that is absent is a mistake."""
    if refusal_code(error) == "NoSuchBucket":
        raise error


def _stat_of_facts(facts: dict[str, Any]) -> ObjectStat:
    version = str(facts["ETag"]).strip('"')
    return ObjectStat(int(facts["size"]), f"etag={version}", facts["LastModified"].astimezone(UTC))


def open_objects(where: str | Path) -> ObjectStore:
    """The objects below a place: a folder, or s3://BUCKET/PREFIX."""
    return S3Objects(str(where)) if is_remote(where) else LocalObjects(where)


def put_private(store: ObjectStore, key: str, data: bytes) -> None:
    """Create or replace `key`, which lies in a folder: on a disk, neither is for anybody but this user.

    In an object store, whoever may read the bucket may read it.
    """
    if not isinstance(store, LocalObjects):
        return store.put(key, data)
    target = store.root / key
    with storage_errors(f"cannot write {target}"):
        target.parent.mkdir(parents=True, exist_ok=True)
        target.parent.chmod(0o700)  # before anything is in it
        store.put(key, data)
        target.chmod(0o600)


def delete_private(store: ObjectStore, key: str) -> None:
    """Remove what `put_private` made, and its folder with the last of it: nobody else could look into that."""
    store.delete(key)
    if isinstance(store, LocalObjects):
        with contextlib.suppress(OSError):  # there is more in it
            (store.root / key).parent.rmdir()


def put_whole(path: Place, data: bytes) -> None:
    """Create or replace a file: it is there in one piece or not at all, and survives a crash of the machine."""
    open_objects(path.parent).put(path.name, data)
