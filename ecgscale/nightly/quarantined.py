"""Records that a dataset cannot explain, one by one: from the files that the manifest says have any."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ecgscale.encoders.preprocess import OK
from ecgscale.errors import UsageError, did_you_mean
from ecgscale.nightly.verify_rows import STATUSES
from ecgscale.places import arrow_place
from ecgscale.storage import told
from ecgscale.store.manifest import Manifest, ShardEntry
from ecgscale.store.objects import ObjectStore

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
    with told(f"cannot read {store.location(entry.file)}"):
        table = pq.read_table(path, filesystem=system, columns=COLUMNS, partitioning=None)
    status = table["status"]
    wanted = pc.not_equal(status, OK) if reason is None else pc.equal(status, reason)
    rows = np.flatnonzero(pc.fill_null(wanted, False).to_numpy())
    for row, record in zip(rows.tolist(), table.take(rows).to_pylist(), strict=True):
        flags = tuple(record["flags"] or ())
        yield QuarantinedRecord(record["record_id"], entry.key, row, record["status"], flags)
