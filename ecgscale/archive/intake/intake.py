"""The log of an archive that grows: which sets of source files were taken in, and which shards are still to be put.

An entry `_ingest/<n>.json` is created with put-if-absent, so of two that build on the same state one wins and the other
starts over. The order is the protocol:

1. the new shards are put whole under `_ingest/staged/`, where no reader looks;
2. the entry is created: it names the sets that these shards hold, so from here on they count as ingested;
3. each shard is put under its final name, with put-if-absent;
4. `_archive.json` is rewritten with the number of the entry;
5. the staged copies are removed.

Whoever is stopped after 2 leaves an unfinished entry, and the next one finishes it from the staged copies, without the
source, which may have changed or gone by then. Whoever is stopped before leaves staged copies that nobody names; they
are removed after a day. An archive's first shards come in the same way, so an archive that is half made has a log.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict

from ecgscale.archive.listing import ARCHIVE_JSON, archive_info, archive_json
from ecgscale.archive.shard import is_shard_name
from ecgscale.archive.sources.files import Known, KnownSet
from ecgscale.archive.sources.pseudonyms import Pseudonyms
from ecgscale.archive.sources.source import PROBLEMS_KEPT
from ecgscale.errors import ArchiveError, EcgscaleError
from ecgscale.io.numbered import Numbered
from ecgscale.io.objects import ObjectStore, StoreError, open_objects
from ecgscale.io.places import Place
from ecgscale.store.provenance import utc_now

LOG = "_ingest"
STAGED = f"{LOG}/staged"
INGESTED = "ingested"
"""Key of `_archive.json`: number of the last entry whose shards are all there."""

_AT_ONCE = 16
_GRACE = timedelta(days=1)


class Overtaken(EcgscaleError):
    """Somebody else made the next entry: what was looked at before is out of date."""


class StagedShard(BaseModel):
    """One new shard: its final key, its bytes, and where they wait."""

    model_config = ConfigDict(frozen=True)

    key: str
    size: int
    sha256: str
    rows: int
    staged: str


class Intake(BaseModel):
    """One entry of the log.

    sets: key → stamp, digest of the bytes, hash of the place; look: keys of those that are looked into every time
    refused: key → why; incomplete: key → when first seen
    record_ids: whether records are known by their file's name or by its path, where `_archive.json` does not say so
    info: the `_archive.json` of an archive that begins with this entry
    dropped, problems, first_problems: as the ingest of these shards gave them
    """

    model_config = ConfigDict(frozen=True)

    version: Literal[1] = 1
    number: int
    created: str
    archive_id: str
    sets: dict[str, tuple[str, str, str]] = {}
    look: tuple[str, ...] = ()
    refused: dict[str, str] = {}
    incomplete: dict[str, str] = {}
    shards: tuple[StagedShard, ...] = ()
    dropped: int = 0
    problems: int = 0
    first_problems: tuple[str, ...] = ()
    record_ids: str | None = None
    info: dict[str, Any] | None = None

    @property
    def rows(self) -> int:
        """Records of all its shards."""
        return sum(shard.rows for shard in self.shards)


class IntakeLog:
    """The log as it was when it was read, and as this process goes on with it. `StoreError` when it has gaps."""

    def __init__(self, archive: Place) -> None:
        self._store = open_objects(archive)
        # Before the entries: whatever an entry says is there is then either there, or that entry's own.
        self.info = self._read_info()
        self._staged = dict(self._store.list_stats(STAGED))
        self.entries = _read_entries(self._store)

    @property
    def own(self) -> list[Intake]:
        """Entries of this archive; others are of one that was replaced."""
        if self.info is None:
            return self.entries[-1:]
        return [entry for entry in self.entries if entry.archive_id == self.info.get("archive_id")]

    def unfinished(self) -> list[Intake]:
        """Entries whose shards may not all be there, in their order.

        Raises `ArchiveError` when there is a log and no archive that it could belong to.
        """
        if self.info is None and self.entries and self.entries[-1].info is None:
            raise ArchiveError(
                f"{self._store.where} has a log of what was ingested and no {ARCHIVE_JSON}: put that back, or remove "
                "the whole folder to ingest anew"
            )
        done = (self.info or {}).get(INGESTED, 0)
        return [entry for entry in self.own if entry.shards and entry.number > done]

    def known(self, pseudonyms: Pseudonyms | None = None) -> Known:
        """What all entries say together; later ones count. `pseudonyms` are those of the archive's records."""
        known = Known(pseudonyms=pseudonyms)
        for entry in self.own:
            look = frozenset(entry.look)
            for key, (stamp, content, at) in entry.sets.items():
                known.sets[key] = KnownSet(stamp, content, at, key in look, entry.refused.get(key, ""))
                known.since.pop(key, None)
            known.since |= {key: datetime.fromisoformat(moment) for key, moment in entry.incomplete.items()}
        return known

    def enter(self, shards: Iterable[Path] = (), **facts: Any) -> Intake:
        """Make the next entry (see `Intake`), with these local shard files; they are put in place at once.

        Raises `Overtaken` when somebody else made it; then nothing has happened.
        """
        token, number = uuid.uuid4().hex[:12], len(self.entries) + 1
        files: dict[str, Path] = {}
        staged = []
        for file, key in zip(shards, self._new_keys(), strict=False):
            staged.append(self._stage(key, file, f"{STAGED}/{token}-{key.removesuffix('.parquet')}"))
            files[key] = file
        entry = Intake(number=number, created=utc_now(), shards=tuple(staged), **facts)
        if not _SERIES.create(self._store, number, entry):
            for shard in staged:
                self._store.delete(shard.staged)
            raise Overtaken(f"{self._store.location(entry_key(number))} was made by another ingest")
        self.entries.append(entry)
        if staged:
            self.finish(entry, files)
        return entry

    def finish(self, entry: Intake, files: Mapping[str, Path] | None = None) -> None:
        """Put what is not there yet of an entry's shards; harmless when somebody else does so too.

        `files` are local copies, by key; without them the staged ones are read.
        """
        for shard in entry.shards:
            self._put(entry, shard, (files or {}).get(shard.key))
        self._mark_done(entry)
        for shard in entry.shards:
            self._store.delete(shard.staged)
            self._staged.pop(shard.staged, None)

    def sweep(self) -> None:
        """Remove staged copies that no entry needs any more: of finished ones, and of those that were never made."""
        if not self._staged:
            return
        named, now = {shard.staged for entry in self.entries for shard in entry.shards}, self._store.clock()
        for name, stat in self._staged.items():
            if name in named or now - stat.modified > _GRACE:
                self._store.delete(name)

    def _stage(self, key: str, file: Path, staged: str) -> StagedShard:
        data = file.read_bytes()
        self._store.put(staged, data)
        rows = pq.read_metadata(file).num_rows
        return StagedShard(
            key=key, size=len(data), sha256=hashlib.sha256(data).hexdigest(), rows=int(rows), staged=staged
        )

    def _put(self, entry: Intake, shard: StagedShard, file: Path | None) -> None:
        found = self._store.stat(shard.key)
        if found is None:
            data = file.read_bytes() if file else self._store.read(shard.staged)
            if data is not None:
                if hashlib.sha256(data).hexdigest() != shard.sha256:
                    raise StoreError(f"{self._store.location(shard.staged)} is damaged; restore it")
                self._store.put_if_absent(shard.key, data)
            found = self._store.stat(shard.key)
        if found is None:
            # Gone with its staged copy: then another process finished the entry, and the shard went away since.
            if (self._read_info() or {}).get(INGESTED, 0) >= entry.number:
                return
            raise StoreError(
                f"{self._store.location(shard.key)} is gone, and so is its copy {shard.staged}; put one of them back"
            )
        if found.size != shard.size:
            raise StoreError(
                f"{self._store.location(shard.key)} has {found.size} bytes, and {entry_key(entry.number)} is about to "
                f"put {shard.size} there: something else wrote it. Give it a name with a higher number, then try again"
            )

    def _mark_done(self, entry: Intake) -> None:
        """Say in `_archive.json` that the entry's shards are all there."""
        info = self._read_info()
        if info is None:
            if entry.info is None:
                raise ArchiveError(f"{self._store.location(ARCHIVE_JSON)} went away; put it back")
            self._store.put_if_absent(ARCHIVE_JSON, archive_json({**entry.info, INGESTED: entry.number}))
        elif info.get("archive_id") == entry.archive_id and info.get(INGESTED, 0) < entry.number:
            self._store.put(ARCHIVE_JSON, archive_json(_grown(info, entry)))
        self.info = self._read_info()

    def _read_info(self) -> dict[str, Any] | None:
        data = self._store.read(ARCHIVE_JSON)
        return None if data is None else archive_info(data, self._store.location(ARCHIVE_JSON))

    def _new_keys(self) -> Iterable[str]:
        """Keys that sort after all shards that are, or were, in the archive: records come in order of arrival."""
        keys = [key for key in self._store.list_prefix("") if is_shard_name(key)]
        keys += [shard.key for entry in self.entries for shard in entry.shards]
        numbers = [int(match[1]) for key in keys if (match := re.match(r"part-(\d+)", key))]
        number, last = max(numbers, default=-1), max(keys, default="")
        while True:
            number += 1
            if (key := f"part-{number:05d}.parquet") <= last:
                raise ArchiveError(f"{self._store.where}: {key} would sort before {last}; rename that shard")
            yield key


_SERIES = Numbered(LOG, Intake, indent=None)
entry_key = _SERIES.key


def _read_entries(store: ObjectStore) -> list[Intake]:
    newest = _SERIES.newest(store)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        found = list(pool.map(lambda number: _SERIES.read(store, number), range(1, newest + 1)))
    entries = [entry for entry in found if entry is not None]
    if len(entries) < newest:
        gap = found.index(None) + 1
        raise StoreError(f"{store.location(entry_key(gap))} is missing, and later ones are there; put it back")
    return entries


def _grown(info: dict[str, Any], entry: Intake) -> dict[str, Any]:
    source = dict(info.get("source", {}))
    first = [*source.get("first_problems", []), *entry.first_problems][:PROBLEMS_KEPT]
    return {
        **info,
        "records": info.get("records", 0) + entry.rows,
        "shards": info.get("shards", 0) + len(entry.shards),
        "source": {
            **source,
            "dropped": source.get("dropped", 0) + entry.dropped,
            "problems": source.get("problems", 0) + entry.problems,
            "first_problems": first,
        },
        INGESTED: entry.number,
    }
