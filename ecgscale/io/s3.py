"""Whole objects in a store that speaks S3, with put-if-absent by `If-None-Match: *`.

Objects are put in one piece from memory; nothing is renamed, and no writer is ever left open that an exception could
turn into a published fragment. A store that lacks conditional puts is declared as such (`[storage] conditional_put =
false`); then the last writer of a key wins, which does no harm to commits, since all commits of one source name equal
facts, and publishing needs the lock.
"""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ecgscale.io.objects import LocalObjects, ObjectStat, ObjectStore
from ecgscale.io.places import REMOTE, is_remote
from ecgscale.io.settings import get_object, put_object, refusal_code, s3, storage_errors, storage_settings

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
                        # Two at once: neither is told who won until one of them is through.
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
        return _stat({**facts, "size": facts["ContentLength"]})

    def list_prefix(self, prefix: str) -> Iterator[str]:
        yield from self.list_stats(prefix)

    def list_stats(self, prefix: str) -> dict[str, ObjectStat]:
        with storage_errors(f"cannot list {self.location(prefix)}"):
            found = s3().find(self._path(prefix), detail=True)
        return {
            name.removeprefix(self._base + "/"): _stat(facts)
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


def _stat(facts: dict[str, Any]) -> ObjectStat:
    version = str(facts["ETag"]).strip('"')
    return ObjectStat(int(facts["size"]), f"etag={version}", facts["LastModified"].astimezone(UTC))


def open_objects(where: str | Path) -> ObjectStore:
    """The objects below a place: a folder, or s3://BUCKET/PREFIX."""
    return S3Objects(str(where)) if is_remote(where) else LocalObjects(where)
