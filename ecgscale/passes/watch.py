"""What a run tells whoever keeps its totals: every shard as it is committed or set aside, and where its seconds went.

Passes do not know who listens; `ecgscale.runtime.run_record` writes totals down and counts them for a dashboard.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass

STAGES = ("read", "prepare", "forward", "cluster", "write")
"""Of a shard: from Parquet to samples (in a thread that reads ahead); checked, resampled and padded (in the same
thread); through the network; to clusters; rows built, encoded and committed."""

TOTAL = "total"
"""Of a shard, from its first byte to its commit. Less than the sum of the stages, since reading goes on meanwhile."""

BUSY = ("forward", "cluster")
"""Stages that keep the device at work; the rest of the total it waits."""


@dataclass(frozen=True)
class ShardDone:
    """A shard that this run computed: its records, those quarantined by status, bytes out, seconds by stage."""

    key: str
    records: int
    quarantined: Mapping[str, int]
    bytes: int
    seconds: Mapping[str, float]


def device_seconds(seconds: Mapping[str, float]) -> tuple[float, float]:
    """(busy, waited) seconds of the device, from seconds by stage."""
    busy = sum(seconds.get(stage, 0.0) for stage in BUSY)
    return busy, max(seconds.get(TOTAL, 0.0) - busy, 0.0)


class RunWatch:
    """Who hears of a run; nobody, unless a method says otherwise."""

    def __init__(self) -> None:
        self._run_id = uuid.uuid4().hex

    @property
    def run_id(self) -> str:
        """The name under which commits and manifests know the run: 32 hexadecimal digits."""
        return self._run_id

    def shard_done(self, shard: ShardDone) -> None:
        """A shard was computed and committed."""

    def shard_set_aside(self, key: str, reason: str) -> None:
        """A shard was left out."""
