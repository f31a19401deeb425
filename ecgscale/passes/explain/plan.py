"""What a run sets out to do, frozen before it starts: every shard of the archive, and what is known of it.

A shard that the newest manifest has, and whose file is there, is looked at no further; one whose commit record is there
by name is not opened. One with a new stamp has its footer read; if an earlier commit of the same shard has that
content, its output is still right and only the stamp is new: provided that the rows are what the footer says, which is
looked at before it is committed again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from ecgscale.archive.reader import Archive, Shard
from ecgscale.archive.schema import carried_columns
from ecgscale.archive.sources.tombstones import read_tombstones, returned
from ecgscale.errors import ArchiveError, ShardError
from ecgscale.io.objects import ObjectStore, open_objects
from ecgscale.store.columns import joined, schema_over
from ecgscale.store.commit import (
    COMMITS,
    DATA,
    Commit,
    Identity,
    Order,
    Source,
    find_commit,
    output_is_there,
    read_commit,
    stem_of_commit,
    stem_of_key,
)
from ecgscale.store.failures import remembered
from ecgscale.store.manifest import (
    Manifest,
    Sequences,
    SetAside,
    ShardEntry,
    Version,
    versions_known,
)


@dataclass(frozen=True)
class Pending:
    """A shard to be computed, as it was when the plan was frozen.

    sequence: of this version of it; earlier: names of commit records of its versions, below the dataset `beside` (None:
    its own), from which rows may have come unchanged
    """

    shard: Shard
    source: Source
    sequence: int = 0
    earlier: tuple[str, ...] = ()
    beside: str | None = None


@dataclass(frozen=True)
class Moved:
    """A shard with a new stamp and, by its footer, old content: to be committed again with the output of `earlier`."""

    shard: Shard
    source: Source
    earlier: Commit


@dataclass(frozen=True)
class Plan:
    """Every shard of the archive, once: published already, committed already, moved, pending, or not readable."""

    published: tuple[ShardEntry, ...]
    committed: tuple[Commit, ...]
    moved: tuple[Moved, ...]
    pending: tuple[Pending, ...]
    set_aside: tuple[SetAside, ...]

    @property
    def pending_records(self) -> int:
        """Records to compute."""
        return sum(pending.source.rows for pending in self.pending)

    @property
    def keys(self) -> set[str]:
        """Of all shards."""
        found = {one.key for one in (*self.published, *self.set_aside)}
        found |= {commit.source.key for commit in self.committed} | {moved.source.key for moved in self.moved}
        return found | {pending.source.key for pending in self.pending}


@dataclass(frozen=True)
class Beside:
    """The versions that another dataset of the same archive knows, and where it lies: a new one goes on from them."""

    where: str
    known: Mapping[Identity, Version]


def freeze_plan(
    archive: Archive, store: ObjectStore, newest: Manifest | None, code: str, beside: Beside | None = None
) -> Plan:
    """The plan for the shards of `archive` as listed, given the commits in `store` and the newest manifest.

    A shard that was given up with this `code` (its digest) is set aside at once, and so is one that brings back
    a patient who was forgotten, or whose columns cannot stand beside those that are published or planned already.
    Without any manifest, versions have the order that they have `beside`.
    Raises `ArchiveError` when no shard at all has columns that can be carried.
    """
    earlier, tombstones = _Earlier(store, newest), read_tombstones(archive.path)
    came = _Came(store, newest, earlier, beside if newest is None else None)
    there = store.list_stats(DATA) if newest else {}
    standing = {(entry.key, entry.size, entry.stamp): entry for entry in newest.content.shards} if newest else {}
    published: list[ShardEntry] = []
    committed: list[Commit] = []
    moved: list[Moved] = []
    found: list[tuple[Pending, pa.Schema]] = []
    set_aside: list[SetAside] = []
    for shard in archive.shards:
        stamp = shard.stamp
        entry = standing.get((shard.key, shard.size, stamp))
        if entry is not None and entry.file in there and there[entry.file].size == entry.file_size:
            published.append(entry)
            continue
        commit = find_commit(store, shard.key, shard.size, stamp)
        if commit is not None:
            committed.append(commit)
            continue
        try:
            footer, back = archive.footer(shard), returned(shard, tombstones)
        except ShardError as error:
            set_aside.append(SetAside(key=shard.key, size=shard.size, stamp=stamp, reason=str(error)))
            continue
        source = Source(
            key=shard.key, size=shard.size, stamp=stamp, rows=footer.rows, content_digest=footer.content_digest
        )
        if back:
            reason = (
                f"{shard.path} brings back {back:,} records that were forgotten; type `ecgscale forget` for them again"
            )
            set_aside.append(SetAside(**source.model_dump(), reason=reason))
            continue
        failure = remembered(store, source, code)
        if failure is not None:
            set_aside.append(SetAside(**source.model_dump(), reason=failure.reason))
            continue
        same = earlier.of(source)
        if same is not None:
            moved.append(Moved(shard, source, same))
        else:
            found.append((came.pending(shard, source), footer.schema))
    kept = {entry.key: entry.file for entry in published}
    kept |= {one.source.key: one.earlier.output.file for one in moved}
    pending, misfits = _PlannedColumns(store, newest, kept).sort(found, len(archive.shards))
    return Plan(tuple(published), tuple(committed), tuple(moved), tuple(pending), (*set_aside, *misfits))


class _PlannedColumns:
    """Sorts what is to be computed by its columns: of two shards that contradict, the one whose key comes first is
    planned. `kept` are the files that stay published: where others go, so do their columns."""

    def __init__(self, store: ObjectStore, newest: Manifest | None, kept: Mapping[str, str]) -> None:
        self._store, self._kept = store, kept
        known = newest.content.columns if newest else None
        self._published = known.arrow_schema if known else pa.schema([])
        self._all_kept = newest is None or all(entry.key in kept for entry in newest.content.shards)

    def sort(self, found: Sequence[tuple[Pending, pa.Schema]], shards: int) -> tuple[list[Pending], list[SetAside]]:
        """Those that fit, and those that do not. Raises `ArchiveError` when of so many shards not one can be carried:
        then it is the archive that is wrong."""
        carried, unusable = [], []
        for pending, schema in found:
            try:
                carried.append((pending, carried_columns(schema)))
            except ArchiveError as error:
                unusable.append(_aside(pending, f"{pending.shard.path}: {error}"))
        if unusable and len(unusable) == shards:
            raise ArchiveError(unusable[0].reason)
        fitting, misfits = self._joined(self._published, carried)
        if misfits and not self._all_kept:
            standing = {key: self._store.location(file) for key, file in self._kept.items()}
            fitting, misfits = self._joined(schema_over(standing), carried)
        return fitting, [*unusable, *misfits]

    def _joined(
        self, schema: pa.Schema, carried: Sequence[tuple[Pending, list[pa.Field]]]
    ) -> tuple[list[Pending], list[SetAside]]:
        fitting, misfits = [], []
        for pending, fields in carried:
            try:
                schema = joined(schema, fields, pending.shard.path)
                fitting.append(pending)
            except ShardError as error:
                misfits.append(_aside(pending, str(error)))
        return fitting, misfits


def _aside(pending: Pending, reason: str) -> SetAside:
    return SetAside(**pending.source.model_dump(), reason=reason)


class _Came:
    """In which order what is pending came, by what is known of versions of its shards."""

    def __init__(self, store: ObjectStore, newest: Manifest | None, earlier: _Earlier, beside: Beside | None) -> None:
        self._store, self._newest, self._earlier, self._beside = store, newest, earlier, beside
        self._sequences: Sequences | None = None
        self._commits: dict[str, list[str]] = defaultdict(list)

    def _look(self) -> Sequences:
        known = self._beside.known if self._beside is not None else versions_known(self._store, self._newest)
        for version in known.values():
            if version.commit is not None:
                self._commits[version.key].append(version.commit)
        return Sequences(known)

    def pending(self, shard: Shard, source: Source) -> Pending:
        # Not before something is new: of a manifest of before, all older ones are read for it.
        self._sequences = self._sequences or self._look()
        names = self._commits.get(source.key, [])
        if self._beside is None:
            # Also those that no manifest knows yet.
            names = [*names, *self._earlier.names(source.key)]
        sequence = self._sequences.of(source.identity)
        beside = self._beside.where if self._beside is not None else None
        return Pending(shard, source, sequence, tuple(dict.fromkeys(names)), beside)


def order_of(pending: Pending, store: ObjectStore, digests: Mapping[int, int]) -> Order:
    """The order that a commit of a pending shard gets; `digests`: of its rows by the hashes of their record ids."""
    store = store if pending.beside is None else open_objects(pending.beside)
    found = (read_commit(store, name) for name in pending.earlier)
    same = tuple(commit for commit in found if commit is not None and commit.source.key == pending.source.key)
    return Order(pending.sequence, digests, same)


class _Earlier:
    """Commits of the same shard and content under another stamp: those of the newest manifest, then any others.

    The others come from a listing, which is a hint: what it misses is computed again.
    """

    def __init__(self, store: ObjectStore, newest: Manifest | None) -> None:
        self._store = store
        self._published = {entry.key: entry for entry in newest.content.shards} if newest else {}
        self._names: dict[str, list[str]] | None = None

    def of(self, source: Source) -> Commit | None:
        entry = self._published.get(source.key)
        if entry is not None and entry.content_digest == source.content_digest:
            found = self._fitting([entry.commit], source)
            if found is not None:
                return found
        return self._fitting(self.names(source.key), source)

    def names(self, key: str) -> Sequence[str]:
        """Names of commit records that may be of this shard."""
        if self._names is None:
            self._names = defaultdict(list)
            for name in self._store.list_prefix(COMMITS):
                self._names[stem_of_commit(name)].append(name)
        return self._names.get(stem_of_key(key), [])

    def _fitting(self, names: Sequence[str], source: Source) -> Commit | None:
        for name in names:
            commit = read_commit(self._store, name)
            if (
                commit is not None
                and commit.source.identity == source.identity
                and commit.source.rows == source.rows
                and output_is_there(self._store, commit.output)
            ):
                return commit
        return None
