"""Records that a dataset cannot explain, one by one: from the files that the manifest says have any.

What is held back from a dataset, shard by shard, for whoever has to decide.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ecgscale.archive.validate import OK
from ecgscale.errors import UsageError, did_you_mean
from ecgscale.io.objects import ObjectStore
from ecgscale.io.places import arrow_place
from ecgscale.io.settings import storage_errors
from ecgscale.nightly.verify.rows import STATUSES
from ecgscale.store.dataset import ExplainedDataset
from ecgscale.store.holds import held_files
from ecgscale.store.manifest import Manifest, ShardEntry

COLUMNS = ["record_id", "status", "flags"]


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
    known = [status for status in STATUSES if status != OK]
    if reason is not None and reason not in known:
        raise UsageError(
            f"{reason!r} is no reason of quarantine.{did_you_mean(reason, known)} There are: {', '.join(known)}"
        )
    return list(islice(_records(store, manifest, reason), limit))


def _records(store: ObjectStore, manifest: Manifest, reason: str | None) -> Iterator[QuarantinedRecord]:
    for entry in manifest.content.shards:
        if entry.quarantined if reason is None else entry.quarantined.get(reason):
            yield from _of_file(store, entry, reason)


def _of_file(store: ObjectStore, entry: ShardEntry, reason: str | None) -> Iterator[QuarantinedRecord]:
    path, system = arrow_place(store.location(entry.file))
    with storage_errors(f"cannot read {store.location(entry.file)}"):
        table = pq.read_table(path, filesystem=system, columns=COLUMNS, partitioning=None)
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

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return dict(vars(self))


def held_lines(found: ExplainedDataset) -> list[HeldLine]:
    """What is held back or rejected, in the order of the shards. Two columns of each file are read."""
    lines = []
    for file in held_files(found):
        rows = file.rows(["record_id", "status"])
        usable = rows.filter(pc.equal(rows["status"], OK))["record_id"]
        last = file.hold.decisions[-1] if file.hold.decisions else None
        lines.append(
            HeldLine(
                shard=file.hold.source.key,
                state=file.hold.state,
                records=file.output.rows,
                quarantined=sum(file.output.quarantined.values()),
                held_at=file.hold.held_at,
                reason=file.hold.why,
                decided_by=last.decided_by if last else None,
                decided_at=last.decided_at if last else None,
                record_id=usable[0].as_py() if len(usable) else None,
                file=file.location,
            )
        )
    return lines
