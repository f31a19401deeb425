"""Whole objects under keys, and put-if-absent: the only two promises that committing and publishing stand on.

An object is written in one piece or not at all, and `put_if_absent` has exactly one winner however many processes
try. Nothing is renamed over, nothing is appended to, and no listing is taken as the truth. `ObjectStore` is the seam
for other stores; `LocalObjects` keeps the promises on a disk: a temporary file beside the target, fsync, a hard link.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ecgscale.errors import EcgscaleError

TEMPORARY_PREFIX = "_tmp-"


class StoreError(EcgscaleError):
    """The store refuses to write or read (full, read-only, gone); what was committed before stays."""


@dataclass(frozen=True)
class ObjectStat:
    """What a store knows of an object without reading it."""

    size: int


class ObjectStore(Protocol):
    """Keys are `/`-separated and relative; data are whole objects. Failures of the store raise `StoreError`."""

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Create `key` with `data`; False, and nothing written, when there is such an object already."""

    def put(self, key: str, data: bytes) -> None:
        """Create or replace `key`; a reader sees the old object or the new one, never a part."""

    def read(self, key: str) -> bytes | None:
        """The object, or None when there is none."""

    def stat(self, key: str) -> ObjectStat | None:
        """Size of the object, or None when there is none."""

    def list_prefix(self, prefix: str) -> Iterator[str]:
        """Keys below the folder `prefix`, sorted: a hint, for previews and operators, never the truth."""

    def location(self, key: str) -> str:
        """Where the object is, as Parquet readers take it (a path or a URL)."""


class LocalObjects:
    """Objects as files below `root`, on a file system with hard links.

    A process that dies in the middle leaves at most a file that starts with `_tmp-`: garbage that nothing reads.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).absolute()

    def put_if_absent(self, key: str, data: bytes) -> bool:
        target = self.root / key
        with _told(f"cannot write {target}"), _temporary(target, data) as temporary:
            try:
                os.link(temporary, target)
            except FileExistsError:
                # A network file system may lose the answer to a link that it made and see itself on the second try.
                return temporary.stat().st_nlink == 2
            _sync_folder(target.parent)
            return True

    def put(self, key: str, data: bytes) -> None:
        target = self.root / key
        with _told(f"cannot write {target}"), _temporary(target, data) as temporary:
            os.replace(temporary, target)
            _sync_folder(target.parent)

    def read(self, key: str) -> bytes | None:
        with _told(f"cannot read {self.root / key}"):
            try:
                return (self.root / key).read_bytes()
            except FileNotFoundError:
                return None

    def stat(self, key: str) -> ObjectStat | None:
        with _told(f"cannot read {self.root / key}"):
            try:
                return ObjectStat(size=(self.root / key).stat().st_size)
            except FileNotFoundError:
                return None

    def list_prefix(self, prefix: str) -> Iterator[str]:
        folder = self.root / prefix
        if not folder.is_dir():
            return
        for path in sorted(folder.rglob("*")):
            if path.is_file() and not path.name.startswith(TEMPORARY_PREFIX):
                yield path.relative_to(self.root).as_posix()

    def location(self, key: str) -> str:
        return str(self.root / key)


@contextlib.contextmanager
def _temporary(target: Path, data: bytes) -> Iterator[Path]:
    """A synced file with `data` beside `target`, gone at the end unless it was moved away."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.parent / f"{TEMPORARY_PREFIX}{os.getpid()}-{uuid.uuid4().hex}"
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise StoreError(
            f"{what}: {reason}. What was committed so far stays; when this is put right "
            "(free space, permissions, a file system with hard links), type the same command again."
        ) from error
