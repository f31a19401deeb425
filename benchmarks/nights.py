"""Simulated nights over a pool of explained recordings: so many a night, fewer at weekends, another mix each night."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.night_pool import Pool
from ecgscale.config import GateSettings
from ecgscale.nightly.gates.evidence import FreshShard, GateReport, Night
from ecgscale.nightly.gates.gatekeeper import judge
from ecgscale.nightly.gates.reference import Reference

FIRST = datetime(2026, 3, 2, 2, 0, tzinfo=UTC)
"""A Monday night."""
WEEKEND = 0.35
UNUSABLE = 0.005
RETURNING = 0.15
"""Share of records of a patient who has another one that night."""

Sizes = Callable[[int, np.random.Generator], int]
"""Records of night number i, counted from 0."""
Where = Callable[[pa.Table], np.ndarray]
"""Which rows a fault is in, bool (n,)."""


def steady(level: int) -> Sizes:
    """About `level` records on a working day, `WEEKEND` of that at weekends."""

    def size(number: int, rng: np.random.Generator) -> int:
        share = WEEKEND if (FIRST + timedelta(days=number)).weekday() >= 5 else 1.0
        return int(np.clip(rng.poisson(level * share * rng.lognormal(0, 0.15)), 1, None))

    return size


def anything(low: int = 30, high: int = 5000) -> Sizes:
    """Any number between the two, small ones as often as large ones."""
    return lambda _number, rng: round(float(np.exp(rng.uniform(np.log(low), np.log(high)))))


def growing(low: int = 30, high: int = 5000, nights: int = 60) -> Sizes:
    """From the one to the other over so many nights, with weekends."""

    def size(number: int, rng: np.random.Generator) -> int:
        return max(10, steady(round(low * (high / low) ** (number / (nights - 1))))(number, rng))

    return size


@dataclass
class Feed:
    """Nights one after another, judged as they come. What passes is published; what is held is not.

    variation: standard deviation of the logarithm of the odds to be ill, from night to night
    by_device: a shard holds records of one device; keys: of the shards of the last night
    """

    pool: Pool
    reference: Reference
    settings: GateSettings
    rng: np.random.Generator
    shard_records: int = 1000
    variation: float = 0.2
    by_device: bool = False
    number: int = 0
    published: list[FreshShard] = field(default_factory=list)
    past: list[Night] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)

    def copy(self, seed: int) -> Feed:
        """The same feed so far, to go on differently."""
        return replace(self, rng=np.random.default_rng(seed), published=list(self.published), past=list(self.past))

    @property
    def now(self) -> datetime:
        """When the coming night starts."""
        return FIRST + timedelta(days=self.number)

    def night(self, records: int, fault: str | None = None, where: Where | None = None) -> GateReport:
        """Let `records` come, with a fault in all of them or in those that `where` says, and judge them."""
        shards = self._shards(records, fault, where)
        now = self.now
        report = judge(shards, self.published, self.past, self.reference, self.settings, now, self.pool.output_names)
        self.past.append(Night.of(shards, now))
        self.published += [shard for shard in shards if shard.key not in report.held]
        oldest = (now - timedelta(days=self.settings.windows[-1])).date().isoformat()
        self.published = [shard for shard in self.published if shard.night > oldest]
        self.number += 1
        return report

    def skip_judging(self, records: int) -> None:
        """A sound night that is published without being judged: history, made fast."""
        shards = self._shards(records, None, None)
        self.past.append(Night.of(shards, self.now))
        self.published += shards
        self.number += 1

    def _shards(self, records: int, fault: str | None, where: Where | None) -> list[FreshShard]:
        rows, night = self._rows(records, fault, where), self.now.date().isoformat()
        parts = {"": rows}
        if self.by_device:
            devices = pc.unique(rows["device"]).to_pylist()
            parts = {f"-{device}": rows.filter(pc.equal(rows["device"], device)) for device in sorted(devices)}
        shards = []
        for part, of_part in parts.items():
            for i, first in enumerate(range(0, of_part.num_rows, self.shard_records)):
                key = f"part-{night}{part}-{i:02d}.parquet"
                shards.append(FreshShard(key, of_part.slice(first, self.shard_records), night))
        self.keys = [shard.key for shard in shards]
        return shards

    def _rows(self, records: int, fault: str | None, where: Where | None) -> pa.Table:
        """Rows drawn from the pool; how many are ill varies from night to night, and there are more at weekends."""
        ill = np.array([found != ["NORM"] for found in self.pool.sound["superclasses"].to_pylist()])
        odds = self.rng.lognormal(0, self.variation) * (1.3 if self.now.weekday() >= 5 else 1.0)
        weights = np.where(ill, odds, 1.0)
        drawn = pa.array(self.rng.choice(len(weights), records, p=weights / weights.sum()))
        rows = self.pool.sound.take(drawn)
        if fault is not None:
            bad = self.pool.faulty[fault].take(drawn)
            broken = where(rows) if where else np.ones(records, bool)
            order = np.where(broken, np.arange(records) + records, np.arange(records))
            rows = pa.concat_tables([rows, bad]).take(pa.array(order))
        unusable = self.rng.random(records) < UNUSABLE
        spoilt = self.pool.unusable.take(pa.array(self.rng.integers(0, self.pool.unusable.num_rows, records)))
        order = np.where(unusable, np.arange(records) + records, np.arange(records))
        return self._fresh(pa.concat_tables([rows, spoilt]).take(pa.array(order)))

    def _fresh(self, rows: pa.Table) -> pa.Table:
        """Records, patients and times of this night."""
        n, names = rows.num_rows, [f"{self.number:03d}-{i:05d}" for i in range(rows.num_rows)]
        patients = np.arange(n) - (self.rng.random(n) < RETURNING)
        ages = self.rng.uniform(0, 24, n)
        columns = {
            "record_id": pa.array([f"r{name}" for name in names]),
            "patient_id": pa.array([f"p{self.number:03d}-{patient:05d}" for patient in patients]),
            "acquired_at": pa.array([self.now - timedelta(hours=float(age)) for age in ages]),
        }
        for name, column in columns.items():
            at = rows.schema.get_field_index(name)
            rows = rows.set_column(at, rows.schema.field(at), column.cast(rows.schema.field(at).type))
        return rows


def sound_nights(feed: Feed, sizes: Sizes, nights: int) -> Iterator[tuple[int, GateReport]]:
    """(records, report) of so many sound nights from a cold start on."""
    for _ in range(nights):
        records = sizes(feed.number, feed.rng)
        yield records, feed.night(records)
