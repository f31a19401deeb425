"""Made-up explanations as the gates read them: three outputs, four clusters, two sites with a device each."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa

from ecgscale.nightly.gates.evidence import FreshShard, Night
from ecgscale.nightly.gates.reference import Reference

K = 4
OUTPUTS = ("A", "B", "C")
NOW = datetime(2026, 5, 6, 2, 0, tzinfo=UTC)
"""A Wednesday."""


def explained(n: int, seed: int = 0, *, site: str | None = None, shift: float = 0.0, **columns: Any) -> pa.Table:
    """`n` sound rows; `shift` moves the first cluster's share (as a log ratio) and the first output.

    Records of site "south" (a third) have more of cluster 1 than those of "north". Columns given replace their own.
    """
    rng = np.random.default_rng(seed)
    sites = np.array([site] * n if site else rng.choice(["north", "south"], n, p=[2 / 3, 1 / 3]))
    logits = rng.normal(size=(n, K))
    logits[:, 1] += 1.5 * (sites == "south")
    logits[:, 0] += shift
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    outputs = rng.normal(size=(n, len(OUTPUTS)))
    outputs[:, 0] += shift
    found: dict[str, Any] = {
        "record_id": [f"r{seed}-{i}" for i in range(n)],
        "patient_id": [f"p{seed}-{i}" for i in range(n)],
        "status": ["ok"] * n,
        "flags": pa.array([[]] * n, pa.list_(pa.string())),
        "prediction": pa.array(outputs.astype(np.float32).tolist(), pa.list_(pa.float32())),
        "proportions": pa.array(shares.astype(np.float32).tolist(), pa.list_(pa.float32(), K)),
        "mean_entropy": pa.array(rng.beta(4, 4, n), pa.float32()),
        "distortion": pa.array(rng.gamma(9, 0.1, n), pa.float32()),
        "sampling_rate": pa.array(np.full(n, 400.0), pa.float32()),
        "valid_start": pa.array(np.zeros(n), pa.int32()),
        "valid_stop": pa.array(np.full(n, 4000), pa.int32()),
        "site": sites.tolist(),
        "device": [f"cart-{name}" for name in sites],
        "acquired_at": pa.array([NOW - timedelta(hours=5)] * n, pa.timestamp("us", "UTC")),
    }
    return pa.table({**found, **columns})


def quarantined(n: int, seed: int = 0, status: str = "flat_signal", **columns: Any) -> pa.Table:
    """`n` rows without facts."""
    table = explained(n, seed, status=[status] * n, **columns)
    for name in ("prediction", "proportions", "mean_entropy", "distortion", "valid_start", "valid_stop"):
        at = table.schema.get_field_index(name)
        table = table.set_column(at, table.schema.field(at), pa.nulls(n, table.schema.field(at).type))
    return table


def shard(key: str, *tables: pa.Table, night: str = "2026-05-06") -> FreshShard:
    return FreshShard(key, pa.concat_tables(tables), night)


def before(tables: Sequence[pa.Table]) -> list[FreshShard]:
    """A shard a night, the last of them the night before `NOW`."""
    dates = [(NOW - timedelta(days=days)).date().isoformat() for days in range(len(tables), 0, -1)]
    return [FreshShard(f"part-{day}.parquet", table, day) for day, table in zip(dates, tables, strict=True)]


def reference(n: int = 2000, **changes: Any) -> Reference:
    return Reference.of([explained(n, 99)], "k4-0", OUTPUTS, seed=0, **changes)


def week_of(counts: Sequence[int], weeks: int = 8, sites: dict[str, float] | None = None) -> list[Night]:
    """Past nights up to the one before `NOW`: `counts` from Monday to Sunday, each a little different every week."""
    nights = []
    for days in range(7 * weeks, 0, -1):
        day: date = (NOW - timedelta(days=days)).date()
        records = round(counts[day.weekday()] * (1 + 0.05 * ((days // 7) % 3 - 1)))
        by_site = {name: round(records * share) for name, share in (sites or {}).items()}
        nights.append(Night(day.isoformat(), records, 0, by_site, 6.0))
    return nights
