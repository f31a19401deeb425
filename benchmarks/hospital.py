"""A hospital that sends recordings every night, and what can go wrong with them: the truth that a ledger is held to.

Shards are put into the archive, sent again, replaced, removed and torn; records are sent again as they were, with new
metadata, or under the id of another patient. Nothing here asks the software that is on trial what it made of them.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.inputs import Network
from ecgscale.archive.reader import Archive
from ecgscale.archive.shard import ShardInMemory
from ecgscale.archive.synthetic.simulation import simulate_records
from ecgscale.errors import ShardError
from ecgscale.io.objects import put_whole

SEED = 11
UNUSABLE_RATE = 0.0
"""A sampling rate that nobody can use: such records are quarantined."""


@dataclass
class Hospital:
    """An archive as its source fills it.

    tables: what every shard truly holds, torn ones included; contents: (key, digest) of everything readable that was
    there when a night ran
    """

    archive: Path
    network: Network
    rng: np.random.Generator
    tables: dict[str, pa.Table] = field(default_factory=dict)
    torn: set[str] = field(default_factory=set)
    contents: set[tuple[str, str]] = field(default_factory=set)
    records: int = 0
    shards: int = 0

    def adopt(self) -> None:
        """Take note of the shards that are there."""
        for path in sorted(self.archive.glob("part-*.parquet")):
            self.tables[path.name] = pq.read_table(path)
            self.shards += 1
            self.records += self.tables[path.name].num_rows
        self.look()

    def look(self) -> int:
        """Note what a night will find, as late as possible before it; how much of that is new."""
        archive = Archive.open(self.archive)
        found = set()
        for shard in archive.shards:
            try:
                found.add((shard.key, archive.footer(shard).content_digest))
            except ShardError:
                continue
        new = len(found - self.contents)
        self.contents |= found
        return new

    def fresh(self, records: int, now: datetime, unusable: int = 0) -> pa.Table:
        """Recordings that nobody has sent before, made in the day before `now`; the last few cannot be used."""
        seconds = self.network.seconds
        table = simulate_records(
            SEED, self.records, self.records + records, rate=self.network.sampling_rate, seconds=seconds
        )
        self.records += records
        moments = [now - timedelta(hours=float(hours)) for hours in self.rng.uniform(1, 23, records)]
        table = replaced(table, "acquired_at", moments)
        rates = [self.network.sampling_rate] * (records - unusable) + [UNUSABLE_RATE] * unusable
        return replaced(table, "sampling_rate", rates)

    def send(self, table: pa.Table, key: str | None = None) -> str:
        """A shard arrives, or one is replaced; its key."""
        if key is None:
            key = f"part-{self.shards:05d}.parquet"
            self.shards += 1
        shard = ShardInMemory(table.schema)
        shard.write(table)
        put_whole(self.archive / key, shard.close())
        self.tables[key] = table
        self.torn.discard(key)
        return key

    def send_again(self, key: str) -> None:
        """The same file is copied once more."""
        path = self.archive / key
        data = path.read_bytes()
        os.unlink(path)
        path.write_bytes(data)

    def tear(self, key: str) -> None:
        """A copy that ran out of disk."""
        path = self.archive / key
        data = path.read_bytes()
        path.write_bytes(data[: len(data) * 2 // 3])
        self.torn.add(key)

    def mend(self, key: str) -> None:
        """The whole file comes after all."""
        self.send(self.tables[key], key)

    def remove(self, key: str) -> None:
        """The source takes a shard away."""
        (self.archive / key).unlink()
        del self.tables[key]

    def some(self, key: str, records: int) -> pa.Table:
        """Some of a shard's records."""
        table = self.tables[key]
        rows = np.sort(self.rng.choice(table.num_rows, min(records, table.num_rows), replace=False))
        return table.take(pa.array(rows))

    def usable(self, key: str) -> bool:
        """Whether all records of a shard can be used."""
        return bool(pc.min(self.tables[key]["sampling_rate"]).as_py() > UNUSABLE_RATE)


def older_by(table: pa.Table, years: float) -> pa.Table:
    """The same recordings with another age: new metadata."""
    return replaced(table, "age", pc.add(table["age"], pa.scalar(years, pa.float32())).to_pylist())


def of_others(table: pa.Table) -> pa.Table:
    """The same record ids with other patients."""
    return replaced(table, "patient_id", [f"other-{patient}" for patient in table["patient_id"].to_pylist()])


def replaced(table: pa.Table, name: str, values: list) -> pa.Table:
    """The table with other values in a column."""
    at = table.schema.get_field_index(name)
    field_ = table.schema.field(at)
    return table.set_column(at, field_, pa.array(values, field_.type))
