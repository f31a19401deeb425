"""What nobody refers to any more, and how it is removed without leaving anything that dangles.

Manifests name data files and commit records; commit records name data files. So what is removed goes in that order:
manifests, then commit records, then data files. Whoever is stopped in between leaves unreferenced objects, and the next
call removes them. Nothing younger than the grace period is touched, by the clock of the store: a run may have put it
there and be about to refer to it. And nothing at all while anybody else is at work (`presence.cleaning`).

A commit record stays as long as somebody may want it: one that a kept manifest names, one whose output a kept manifest
shows, one of a shard that is or was held back, and one that is newer than what is published of its shard, or waits for
its first publication.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

from ecgscale.io.objects import ObjectStat, ObjectStore, StoreError, open_objects
from ecgscale.progress import SILENT, Progress, Stage
from ecgscale.store.commit import COMMITS, DATA, Commit, read_commit, stem_of_commit
from ecgscale.store.dataset import dataset_store
from ecgscale.store.holds import holds
from ecgscale.store.manifest import (
    MANIFESTS,
    Manifest,
    manifest_key,
    manifest_numbers,
    newest_number,
    prune,
    read_manifest,
)
from ecgscale.store.presence import cleaning, stale_marks
from ecgscale.store.root import dataset_ids, existing_root

READERS = 16
_OURS = re.compile(rf"{DATA}/(?P<stem>.+)-[0-9a-f]{{16}}\.parquet")
Stats = Mapping[str, ObjectStat]


@dataclass(frozen=True)
class Doomed:
    """What is to be removed from a dataset, by kind, each key with what a listing said of it.

    newest: number of the manifest that was the newest then, 0 for none; numbers: of the manifests that go; known: names
    of all commit records, also of those that stay; kept: how many objects stay
    """

    newest: int = 0
    numbers: tuple[int, ...] = ()
    manifests: dict[str, ObjectStat] = field(default_factory=dict)
    commits: dict[str, ObjectStat] = field(default_factory=dict)
    data: dict[str, ObjectStat] = field(default_factory=dict)
    known: frozenset[str] = frozenset()
    kept: int = 0


def unreferenced(store: ObjectStore, newest: Manifest | None) -> dict[str, ObjectStat]:
    """Data files of a dataset that no manifest and no commit record names, and files of writers that were killed.

    Reads no more commit records and older manifests than it takes. `StoreError` when one cannot be understood.
    """
    loose = _data_files(store.list_stats(DATA))
    _spare(loose, newest.files if newest else ())
    commits = list(store.list_prefix(COMMITS)) if loose else []
    _spare(loose, (commit.output.file for commit in read_commits(store, _of_stems(commits, loose))))
    for number in sorted(manifest_numbers(store) if loose else (), reverse=True):
        manifest = read_manifest(store, number) if loose else None
        _spare(loose, manifest.files if manifest else ())
    return {**loose, **store.list_leftovers()}


def doomed_objects(store: ObjectStore, now: datetime, grace: timedelta, keep_manifests: int | None = None) -> Doomed:
    """What may go from a dataset at `now`, the store's clock: nothing that is younger than `grace`, or referred to.

    keep_manifests: how many of the newest manifests stay whatever their age (None: all). Another manifest goes when it
    has not been the newest one for `grace`. Raises `StoreError` when a record cannot be understood: what it refers to
    is not known then.
    """
    before = now - grace
    commits, data = store.list_stats(COMMITS), store.list_stats(DATA)
    numbers, stats = manifest_numbers(store), store.list_stats(MANIFESTS)
    dropped = _dropped_manifests(numbers, stats, before, keep_manifests)
    newest = _newest(store, numbers)
    loose_data = {key: stat for key, stat in _data_files(data).items() if stat.modified < before}
    loose_commits = {key: stat for key, stat in commits.items() if stat.modified < before}
    shown: set[str] = set()
    for number in sorted(set(numbers) - set(dropped), reverse=True):
        if not loose_data and not loose_commits:
            break
        manifest = newest if newest is not None and number == newest.number else read_manifest(store, number)
        if manifest is not None:
            shown.update(manifest.files)
            _spare(loose_data, manifest.files)
            _spare(loose_commits, _commits_named(manifest))
    _spare(loose_commits, (hold.commit for hold in holds(store).values()) if loose_commits else ())
    gone = _replaced(store, loose_commits, newest, commits, dropped, shown)
    kept_commits = _of_stems((name for name in commits if name not in gone), loose_data)
    _spare(loose_data, (commit.output.file for commit in read_commits(store, kept_commits)))
    manifests = {manifest_key(number): stats[manifest_key(number)] for number in dropped}
    removed = len(manifests) + len(gone) + len(loose_data)
    return Doomed(
        newest=numbers[-1] if numbers else 0,
        numbers=tuple(dropped),
        manifests=manifests,
        commits={name: commits[name] for name in sorted(gone)},
        data=loose_data,
        known=frozenset(commits),
        kept=len(commits) + len(data) + len(numbers) - removed,
    )


def still_loose(store: ObjectStore, doomed: Doomed) -> dict[str, ObjectStat]:
    """Those of the data files that nothing which appeared meanwhile refers to: to be asked at the last moment."""
    loose = dict(doomed.data)
    fresh = set(store.list_prefix(COMMITS)) - doomed.known if loose else set()
    _spare(loose, (commit.output.file for commit in read_commits(store, fresh)))
    for number in range(doomed.newest + 1, newest_number(store) + 1 if loose else 0):
        manifest = read_manifest(store, number)
        _spare(loose, manifest.files if manifest else ())
    return loose


def read_commits(store: ObjectStore, names: Iterable[str]) -> Iterator[Commit]:
    """The commit records of these names, read side by side; one that has gone meanwhile is left out."""
    with ThreadPoolExecutor(READERS) as readers:
        for commit in readers.map(lambda name: read_commit(store, name), list(names)):
            if commit is not None:
                yield commit


def _newest(store: ObjectStore, numbers: list[int]) -> Manifest | None:
    manifest = read_manifest(store, numbers[-1]) if numbers else None
    if numbers and manifest is None:
        raise StoreError(f"{store.location(manifest_key(numbers[-1]))} went away while it was read; try again")
    return manifest


def _dropped_manifests(numbers: list[int], stats: Stats, before: datetime, keep: int | None) -> list[int]:
    """Those beyond the newest `keep` that were followed by another one before the grace period."""
    if keep is None:
        return []
    older = numbers[: max(len(numbers) - max(keep, 1), 0)]
    followed = dict(pairwise(numbers))
    known = [number for number in older if manifest_key(number) in stats and manifest_key(followed[number]) in stats]
    return [number for number in known if stats[manifest_key(followed[number])].modified < before]


def _replaced(
    store: ObjectStore, loose: Stats, newest: Manifest | None, listed: Stats, dropped: Iterable[int], shown: set[str]
) -> set[str]:
    """Names of those commit records among `loose` that something newer of their shard has replaced, or that were
    published once and whose shard has left the archive."""
    if newest is None or not loose:
        return set()
    published = {entry.key: entry.commit for entry in newest.content.shards}
    waiting = {held.key for held in newest.content.held} | {aside.key for aside in newest.content.set_aside}
    retired: set[str] = set()
    for number in dropped:
        manifest = read_manifest(store, number)
        retired.update(_commits_named(manifest) if manifest else ())
    gone = set()
    for commit in read_commits(store, loose):
        key, name = commit.source.key, commit.name
        if name not in loose:
            raise StoreError(
                f"a commit record in {store.location(COMMITS)} calls itself {name}; it was moved or edited"
            )
        if commit.output.file in shown:
            continue
        if key in published:
            current = listed.get(published[key])
            if current is not None and _is_older(store, commit, loose[name], published[key], current):
                gone.add(name)
        elif key not in waiting and name in retired:
            gone.add(name)
    return gone


def _is_older(store: ObjectStore, commit: Commit, stat: ObjectStat, current: str, current_stat: ObjectStat) -> bool:
    """Whether a commit record was put before the current one of its shard; stores may tell time by the second."""
    if stat.modified != current_stat.modified:
        return stat.modified < current_stat.modified
    published = read_commit(store, current)
    if published is None:
        return False
    return (commit.sequence, commit.committed_at) < (published.sequence, published.committed_at)


def _commits_named(manifest: Manifest) -> Iterator[str]:
    yield from (entry.commit for entry in manifest.content.shards)
    yield from (held.commit for held in manifest.content.held)


def _data_files(stats: Stats) -> dict[str, ObjectStat]:
    """Those that are named as ours are: what people put there themselves is theirs."""
    return {key: stat for key, stat in stats.items() if _OURS.fullmatch(key)}


def _of_stems(commits: Iterable[str], data: Iterable[str]) -> list[str]:
    """Commit records that may name one of these data files: both begin with the stem of the shard."""
    stems = {match["stem"] for key in data if (match := _OURS.fullmatch(key))}
    return [name for name in commits if stem_of_commit(name) in stems]


def _spare(loose: dict[str, ObjectStat], referred: Iterable[str]) -> None:
    for key in referred:
        loose.pop(key, None)


GRACE = timedelta(hours=72)
KINDS = ("manifests", "commits", "data", "temporary", "checkpoints", "preflight")
"""In the order of removal. temporary: what killed writers left, their marks (`presence`) too; checkpoints: of fits that
nobody goes on with; preflight: objects with which a store was tried, or asked for the time."""
CHECKPOINTS = "_fits"
PREFLIGHT = ("_probe", "_clock")
WRITERS = 16
_PLANS = 5


@dataclass(frozen=True)
class Removed:
    """How many objects, and how many bytes."""

    count: int = 0
    bytes: int = 0


@dataclass(frozen=True)
class Cleaned:
    """What was removed from a ROOT, by kind, or would be (`dry_run`); `kept`: objects of datasets that stay."""

    root: str
    grace: timedelta
    dry_run: bool
    by_kind: Mapping[str, Removed]
    kept: int

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "root": self.root,
            "removed": sum(removed.count for removed in self.by_kind.values()),
            "bytes": sum(removed.bytes for removed in self.by_kind.values()),
            "kept": self.kept,
            "dry_run": self.dry_run,
            "grace_hours": self.grace.total_seconds() / 3600,
            "by_kind": {
                kind: {"removed": removed.count, "bytes": removed.bytes} for kind, removed in self.by_kind.items()
            },
        }


def collect_garbage(
    root: str | Path,
    grace: timedelta = GRACE,
    keep_manifests: int | None = None,
    dry_run: bool = False,
    progress: Progress = SILENT,
) -> Cleaned:
    """Remove what no manifest refers to, and has been there for longer than `grace` by the clock of the store.

    keep_manifests: the newest so many stay whatever their age, older ones go with what they alone refer to (None: all
    stay). `dry_run` only counts. Raises `LockedError` when anybody else is at work below ROOT, who may be about to
    refer to what nobody refers to yet; `StoreError` when a record of a dataset cannot be understood: nothing of that
    dataset is removed then; `LeaseLost` when this process slept meanwhile.
    """
    store = open_objects(existing_root(root))
    now = store.clock()
    alone = nullcontext(lambda: None) if dry_run else cleaning(store, "ecgscale gc")
    with alone as require_alone, progress.stage("gc", None, "objects") as stage:
        removal = _Cleaning(now, grace, keep_manifests, dry_run, require_alone)
        for dataset_id in dataset_ids(root):
            stage.note(dataset_id)
            removal.dataset(dataset_store(root, dataset_id), stage)
        removal.old("temporary", store, {**store.list_leftovers(), **stale_marks(store)}, stage)
        removal.old("checkpoints", store, store.list_stats(CHECKPOINTS), stage)
        for folder in PREFLIGHT:
            removal.old("preflight", store, store.list_stats(folder), stage)
    return Cleaned(store.where, grace, dry_run, dict(removal.by_kind), removal.kept)


class _Cleaning:
    """One call of `collect_garbage`, as it goes on."""

    def __init__(
        self,
        now: datetime,
        grace: timedelta,
        keep_manifests: int | None,
        dry_run: bool,
        require_alone: Callable[[], None],
    ) -> None:
        self.require_alone = require_alone
        self.now, self.grace, self.keep_manifests, self.dry_run = now, grace, keep_manifests, dry_run
        self.by_kind = dict.fromkeys(KINDS, Removed())
        self.kept = 0

    def dataset(self, store: ObjectStore, stage: Stage) -> None:
        """Manifests, then commit records, then data files of one dataset."""
        doomed = self._doomed(store)
        if not self.dry_run:
            # A gap that says why it is there: `verify` walks the chain of manifests.
            prune(store, doomed.numbers, "ecgscale gc")
        self._remove("manifests", store, doomed.manifests, stage)
        self._remove("commits", store, doomed.commits, stage)
        data = doomed.data if self.dry_run else still_loose(store, doomed)
        self._remove("data", store, data, stage)
        self.kept += doomed.kept + len(doomed.data) - len(data)
        for folder in PREFLIGHT:
            self.old("preflight", store, store.list_stats(folder), stage)

    def old(self, kind: str, store: ObjectStore, found: Mapping[str, ObjectStat], stage: Stage) -> None:
        """Those of `found` that nobody has touched for the grace period."""
        before = self.now - self.grace
        self._remove(kind, store, {key: stat for key, stat in found.items() if stat.modified < before}, stage)

    def _doomed(self, store: ObjectStore) -> Doomed:
        """Thought over once more when something was published while it was thought about."""
        for _ in range(_PLANS):
            doomed = doomed_objects(store, self.now, self.grace, self.keep_manifests)
            if newest_number(store) == doomed.newest:
                return doomed
        # Whoever publishes this often is at work; next time.
        return Doomed()

    def _remove(self, kind: str, store: ObjectStore, found: Mapping[str, ObjectStat], stage: Stage) -> None:
        if not self.dry_run:
            self.require_alone()
            # In any order; the first error is raised when the others are through.
            with ThreadPoolExecutor(WRITERS) as writers:
                list(writers.map(store.delete, found))
        before, size = self.by_kind[kind], sum(stat.size for stat in found.values())
        self.by_kind[kind] = Removed(before.count + len(found), before.bytes + size)
        stage.advance(len(found))
