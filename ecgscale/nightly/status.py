"""What is going on below a ROOT: what is published, what waits, what failed, what is held back, and who ran last.

From listings, one manifest a dataset, and the few records of holds and failures: no data file and no shard is read, so
it takes seconds however much there is. Ages are by the clock of the store.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ecgscale.archive.reader import Archive
from ecgscale.errors import ArchiveError, UsageError
from ecgscale.io.numbered import read_json_object
from ecgscale.io.objects import ObjectStat, ObjectStore, StoreError, open_objects
from ecgscale.io.places import Place
from ecgscale.nightly.history import RunLine, last_runs
from ecgscale.store.commit import COMMITS, commit_name
from ecgscale.store.dataset import DATASET_FILE, dataset_store, find_dataset
from ecgscale.store.failures import Failure, failures
from ecgscale.store.holds import Hold, holds, standing_holds
from ecgscale.store.lease import lease_standing
from ecgscale.store.manifest import DatasetFacts, Manifest, manifest_key, newest_number, read_manifest
from ecgscale.store.root import dataset_ids, existing_root

RUNS_SHOWN = 5


@dataclass(frozen=True)
class Waiting:
    """Shards that are not published, by why.

    unpublished: keys or names of commits; pending: shards of the archive without a commit; gone: published, but not in
    the archive any more. The last two are None where the archive could not be listed, and `remark` says why.
    """

    unpublished: int
    pending: int | None
    gone: int | None
    remark: str = ""


@dataclass(frozen=True)
class DatasetStatus:
    """One dataset. manifest: number of the newest one (0: nothing published), `published_s` its age in seconds.

    bytes: of the published files; failed, held, rejected: shard key → why; set_aside: shards that could not be read
    """

    dataset_id: str
    served: bool
    model_id: str
    archive: str
    archive_id: str
    manifest: int
    published_s: float | None
    shards: int
    records: int
    superseded: int
    bytes: int
    quarantined: Mapping[str, int]
    set_aside: Mapping[str, str]
    failed: Mapping[str, str]
    held: Mapping[str, str]
    rejected: Mapping[str, str]
    waiting: Waiting

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {**vars(self), "waiting": vars(self.waiting)}


@dataclass(frozen=True)
class RootStatus:
    """Everything below a ROOT. time: by the store's clock; running: who holds the lock, "" for nobody."""

    root: str
    time: datetime
    running: str
    datasets: tuple[DatasetStatus, ...]
    runs: tuple[RunLine, ...]
    remark: str = ""

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "root": self.root,
            "time": self.time.isoformat(),
            "running": self.running,
            "datasets": [dataset.to_dict() for dataset in self.datasets],
            "runs": [run.to_dict() for run in self.runs],
            "remark": self.remark,
        }


def root_status(root: str | Path, archive: str | Path | None = None) -> RootStatus:
    """What is going on below ROOT. `archive` says where the archive is now, if it moved.

    Raises `UsageError` when there is no such ROOT, `ArchiveError` when `archive` is none, `StoreError` when a record
    cannot be understood.
    """
    where = existing_root(root)
    store = open_objects(where)
    now, remark = _time(store)
    archives = _Archives(Archive.open(archive) if archive is not None else None)
    served = _served(where)
    datasets = [_dataset(where, name, name == served, archives, now) for name in dataset_ids(where)]
    holder = lease_standing(store).holder
    running = f"{holder.purpose}, process {holder.pid} on {holder.host}, since {holder.acquired}" if holder else ""
    if holder is not None and holder.dead:
        running += "; that process is gone, so the next run takes over"
    return RootStatus(store.where, now, running, tuple(datasets), tuple(last_runs(store, RUNS_SHOWN)), remark)


def _time(store: ObjectStore) -> tuple[datetime, str]:
    """Now by the store's clock, or, where nothing may be written to ask it, by this machine's, and a remark."""
    try:
        return store.clock(), ""
    except StoreError as error:
        return datetime.now(UTC), f"ages are by the clock of this machine: {error}"


def _served(root: Place) -> str | None:
    try:
        return find_dataset(root).dataset_id
    except UsageError:
        return None


class _Archives:
    """Archives as they are listed now, each listed once; an error says why one cannot be."""

    def __init__(self, given: Archive | None) -> None:
        self._given = given
        self._known: dict[str, Archive | str] = {}

    def of(self, manifest: Manifest) -> Archive | str:
        """The archive of a dataset, or why there is none."""
        facts = manifest.content.archive
        if self._given is not None and self._given.archive_id == facts.archive_id:
            return self._given
        if facts.path not in self._known:
            try:
                self._known[facts.path] = Archive.open(facts.path)
            except (ArchiveError, StoreError) as error:
                self._known[facts.path] = str(error)
        found = self._known[facts.path]
        if isinstance(found, Archive) and found.archive_id != facts.archive_id:
            return f"{facts.path} is another archive by now ({found.archive_id})"
        return found


def _dataset(root: Place, dataset_id: str, served: bool, archives: _Archives, now: datetime) -> DatasetStatus:
    store = dataset_store(root, dataset_id)
    number = newest_number(store)
    manifest = read_manifest(store, number) if number else None
    stat = store.stat(manifest_key(number)) if number else None
    commits = store.list_stats(COMMITS)
    standing = standing_holds(manifest, holds(store).values())
    failed = {failure.source.key: failure.reason for failure in failures(store) if _stands(failure, manifest)}
    facts = manifest.content.identity if manifest else read_json_object(store, DATASET_FILE, DatasetFacts)
    entries = manifest.content.shards if manifest else ()
    return DatasetStatus(
        dataset_id=dataset_id,
        served=served,
        model_id=facts.model_id if facts else "",
        archive=manifest.content.archive.path if manifest else "",
        archive_id=facts.archive_id if facts else "",
        manifest=number,
        published_s=(now - stat.modified).total_seconds() if stat else None,
        shards=len(entries),
        records=manifest.content.totals.records if manifest else 0,
        superseded=sum(entry.superseded for entry in entries),
        bytes=sum(entry.file_size for entry in entries),
        quarantined=manifest.content.totals.quarantined if manifest else {},
        set_aside={aside.key: aside.reason for aside in manifest.content.set_aside} if manifest else {},
        failed=failed,
        held=_reasons(standing, "held"),
        rejected=_reasons(standing, "rejected"),
        waiting=_waiting(manifest, stat, commits, standing, set(failed), archives),
    )


def _reasons(standing: list[Hold], state: str) -> dict[str, str]:
    return {hold.source.key: hold.why for hold in standing if hold.state == state}


def _stands(failure: Failure, manifest: Manifest | None) -> bool:
    """Whether a failure is of the shard as it is: not when the shard was published after it."""
    if manifest is None or failure.failed_at > manifest.created:
        return True
    return failure.source.key not in {entry.key for entry in manifest.content.shards}


def _waiting(
    manifest: Manifest | None,
    published: ObjectStat | None,
    commits: Mapping[str, ObjectStat],
    standing: list[Hold],
    failed: set[str],
    archives: _Archives,
) -> Waiting:
    back = [hold for hold in standing if hold.state != "released"]
    if manifest is None or published is None:
        return Waiting(len(set(commits) - {hold.commit for hold in back}), None, None, "nothing was published yet")
    archive = archives.of(manifest)
    if isinstance(archive, str):
        named = {entry.commit for entry in manifest.content.shards} | {hold.commit for hold in back}
        newer = [name for name, stat in commits.items() if name not in named and stat.modified > published.modified]
        return Waiting(len(newer), None, None, archive)
    # What was set aside is told by itself, until it comes with other content.
    there = {(aside.key, aside.size, aside.stamp) for aside in manifest.content.set_aside}
    there |= {(entry.key, entry.size, entry.stamp) for entry in manifest.content.shards}
    kept_back = {hold.source.key for hold in back}
    counts: Counter[str] = Counter()
    for shard in archive.shards:
        if (shard.key, shard.size, shard.stamp) in there:
            continue
        if commit_name(shard.key, shard.size, shard.stamp) in commits:
            counts["held" if shard.key in kept_back else "unpublished"] += 1
        else:
            counts["failed" if shard.key in failed else "pending"] += 1
    gone = {entry.key for entry in manifest.content.shards} - {shard.key for shard in archive.shards}
    return Waiting(counts["unpublished"], counts["pending"], len(gone))
