"""Shards that are held back, as files: what was explained of them is committed, and no manifest opens it.

People have to look before they decide; this says where.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ecgscale.places import arrow_place
from ecgscale.storage import told
from ecgscale.store.commit import Output, output_is_there, read_commit
from ecgscale.store.dataset import ExplainedDataset
from ecgscale.store.holds import Hold, holds, standing_holds


@dataclass(frozen=True)
class HeldShardFile:
    """A shard that is held back or rejected: why, since when, and the file with all of its rows."""

    hold: Hold
    output: Output
    location: str

    def rows(self, columns: list[str] | None = None, record_id: str | None = None) -> pa.Table:
        """Rows of the file, `columns` of them or all, and those of one record if its id is given."""
        path, system = arrow_place(self.location)
        wanted = None if record_id is None else pc.field("record_id") == record_id
        with told(f"cannot read {self.location}"):
            return pq.read_table(path, filesystem=system, columns=columns, filters=wanted, partitioning=None)


def held_files(found: ExplainedDataset) -> Iterator[HeldShardFile]:
    """What is held back or rejected of what the shards hold now, in the order of the shards.

    A hold whose file is gone (somebody removed it by hand) is left out; the next run explains the shard again.
    """
    store = found.store
    for hold in standing_holds(found.manifest, holds(store).values()):
        commit = read_commit(store, hold.commit) if hold.state != "released" else None
        if commit is not None and output_is_there(store, commit.output):
            yield HeldShardFile(hold, commit.output, store.location(commit.output.file))
