"""`gc`: removing from a ROOT what nobody refers to any more, in an order that can be interrupted anywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from ecgscale.progress import SILENT, Progress, Stage
from ecgscale.store.dataset import dataset_ids, dataset_store
from ecgscale.store.garbage import Doomed, doomed_objects, still_loose
from ecgscale.store.manifest import newest_number
from ecgscale.store.objects import ObjectStat, ObjectStore
from ecgscale.store.presence import stale_marks
from ecgscale.store.root import existing_root
from ecgscale.store.s3_objects import open_objects

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

    def and_these(self, stats: Iterable[ObjectStat]) -> Removed:
        """With these on top."""
        sizes = [stat.size for stat in stats]
        return Removed(self.count + len(sizes), self.bytes + sum(sizes))


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
    stay). `dry_run` only counts. Raises `StoreError` when a record of a dataset cannot be understood: nothing of that
    dataset is removed then.
    """
    store = open_objects(existing_root(root))
    now = store.clock()
    cleaning = _Cleaning(now, grace, keep_manifests, dry_run)
    with progress.stage("gc", None, "objects") as stage:
        for dataset_id in dataset_ids(root):
            stage.note(dataset_id)
            cleaning.dataset(dataset_store(root, dataset_id), stage)
        cleaning.old("temporary", store, {**store.list_leftovers(), **stale_marks(store)}, stage)
        cleaning.old("checkpoints", store, store.list_stats(CHECKPOINTS), stage)
        for folder in PREFLIGHT:
            cleaning.old("preflight", store, store.list_stats(folder), stage)
    return Cleaned(store.where, grace, dry_run, dict(cleaning.by_kind), cleaning.kept)


class _Cleaning:
    """One call of `collect_garbage`, as it goes on."""

    def __init__(self, now: datetime, grace: timedelta, keep_manifests: int | None, dry_run: bool) -> None:
        self.now, self.grace, self.keep_manifests, self.dry_run = now, grace, keep_manifests, dry_run
        self.by_kind = dict.fromkeys(KINDS, Removed())
        self.kept = 0

    def dataset(self, store: ObjectStore, stage: Stage) -> None:
        """Manifests, then commit records, then data files of one dataset."""
        doomed = self._doomed(store)
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
            _each(store.delete, found)
        self.by_kind[kind] = self.by_kind[kind].and_these(found.values())
        stage.advance(len(found))


def _each(delete: Callable[[str], None], keys: Iterable[str]) -> None:
    """Side by side; the first error is raised when the others are through."""
    with ThreadPoolExecutor(WRITERS) as writers:
        list(writers.map(delete, keys))
