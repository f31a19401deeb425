"""What is going on below a ROOT: what is published, what waits, what failed, what is held back, and who ran last.

`root_status`: from listings, one manifest a dataset, and the few records of holds and failures: no data file and no
shard is read, so it takes seconds however much there is. Ages are by the clock of the store. `quarantined_records` and
`held_lines` list single records that could not be explained, and shards that somebody has to decide on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from ecgscale.archive.reader import Archive
from ecgscale.archive.validate import OK, RECORD_STATUS
from ecgscale.errors import ArchiveError, UsageError, did_you_mean
from ecgscale.io.numbered import read_json_object
from ecgscale.io.objects import ObjectStat, ObjectStore, StoreError, open_objects
from ecgscale.io.parquet import read_parquet
from ecgscale.io.places import Place
from ecgscale.nightly.history import RunLine, last_runs
from ecgscale.store.commit import COMMITS, commit_name
from ecgscale.store.dataset import DATASET_FILE, ExplainedDataset, dataset_store, find_dataset
from ecgscale.store.failures import Failure, failures
from ecgscale.store.holds import HeldFile, Hold, held_files, holds, standing_holds
from ecgscale.store.lease import lease_standing
from ecgscale.store.manifest import DatasetFacts, Manifest, ShardEntry, manifest_key, newest_number, read_manifest
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
        datasets, runs = [one.to_dict() for one in self.datasets], [run.to_dict() for run in self.runs]
        return {**vars(self), "time": self.time.isoformat(), "datasets": datasets, "runs": runs}


def root_status(root: str | Path, archive: str | Path | None = None) -> RootStatus:
    """What is going on below ROOT. `archive` says where the archive is now, if it moved.

    Raises `UsageError` when there is no such ROOT, `ArchiveError` when `archive` is none, `StoreError` when a record
    cannot be understood.
    """
    where = existing_root(root)
    store = open_objects(where)
    now, remark = _time(store)
    archives = _Archives(Archive.open(archive) if archive is not None else None)
    served = None
    with suppress(UsageError):
        served = find_dataset(where).dataset_id
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


@dataclass
class _Archives:
    """Archives as they are listed now, each listed once; an error says why one cannot be. given: where it moved to"""

    given: Archive | None
    known: dict[str, Archive | str] = field(default_factory=dict)

    def of(self, manifest: Manifest) -> Archive | str:
        """The archive of a dataset, or why there is none."""
        facts = manifest.content.archive
        if self.given is not None and self.given.archive_id == facts.archive_id:
            return self.given
        if facts.path not in self.known:
            try:
                self.known[facts.path] = Archive.open(facts.path)
            except (ArchiveError, StoreError) as error:
                self.known[facts.path] = str(error)
        found = self.known[facts.path]
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
        held={hold.source.key: hold.why for hold in standing if hold.state == "held"},
        rejected={hold.source.key: hold.why for hold in standing if hold.state == "rejected"},
        waiting=_waiting(manifest, stat, commits, standing, set(failed), archives),
    )


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
    # What was set aside has a line of its own, until it comes with other content.
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


@dataclass(frozen=True)
class QuarantinedRecord:
    """One record; `row` counts from 0 in the published file of its shard."""

    record_id: str | None
    shard: str
    row: int
    status: str
    flags: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {**vars(self), "flags": list(self.flags)}


def quarantined_records(
    store: ObjectStore, manifest: Manifest, reason: str | None = None, limit: int | None = None
) -> list[QuarantinedRecord]:
    """The first `limit` quarantined records of a manifest (None: all), in the order of the shards.

    `reason` picks those of one status; `UsageError` for one that there is not.
    """
    known = [status for status in RECORD_STATUS if status != OK]
    if reason is not None and reason not in known:
        raise UsageError(
            f"{reason!r} is no reason of quarantine.{did_you_mean(reason, known)} There are: {', '.join(known)}"
        )
    some = (e for e in manifest.content.shards if (e.quarantined if reason is None else e.quarantined.get(reason)))
    return list(islice(chain.from_iterable(_of_file(store, entry, reason) for entry in some), limit))


def _of_file(store: ObjectStore, entry: ShardEntry, reason: str | None) -> Iterator[QuarantinedRecord]:
    table = read_parquet(store.location(entry.file), ["record_id", "status", "flags"])
    status = table["status"]
    wanted = pc.not_equal(status, OK) if reason is None else pc.equal(status, reason)
    rows = np.flatnonzero(pc.fill_null(wanted, False).to_numpy())
    for row, record in zip(rows.tolist(), table.take(rows).to_pylist(), strict=True):
        flags = tuple(record["flags"] or ())
        yield QuarantinedRecord(record["record_id"], entry.key, row, record["status"], flags)


@dataclass(frozen=True)
class HeldLine:
    """One shard. state: "held" or "rejected"; held_at: since when; reason: why it is held, or was rejected.

    decided_by, decided_at: who rejected it, and when; record_id: the first of its recordings that can be plotted
    file: where what was explained of it lies, as Parquet
    """

    shard: str
    state: str
    records: int
    quarantined: int
    held_at: str
    reason: str
    decided_by: str | None
    decided_at: str | None
    record_id: str | None
    file: str


def held_lines(found: ExplainedDataset) -> list[HeldLine]:
    """What is held back or rejected, in the order of the shards. Two columns of each file are read."""
    return [_held_line(file) for file in held_files(found)]


def _held_line(file: HeldFile) -> HeldLine:
    hold, rows = file.hold, file.rows(["record_id", "status"])
    usable = rows.filter(pc.equal(rows["status"], OK))["record_id"]
    last = hold.decisions[-1] if hold.decisions else None
    return HeldLine(
        shard=hold.source.key,
        state=hold.state,
        records=file.output.rows,
        quarantined=sum(file.output.quarantined.values()),
        held_at=hold.held_at,
        reason=hold.why,
        decided_by=last.decided_by if last else None,
        decided_at=last.decided_at if last else None,
        record_id=usable[0].as_py() if len(usable) else None,
        file=file.location,
    )
