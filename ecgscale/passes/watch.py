"""What a run tells whoever keeps its totals: every shard as it is committed or set aside, and where its seconds went.

Passes do not know who listens; `ecgscale.runtime.run_record` writes totals down, `ecgscale.runtime.metrics` shows them.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

STAGES = ("read", "prepare", "forward", "cluster", "write")
"""Of a shard: from Parquet to samples (in a thread that reads ahead); checked, resampled and padded (in the same
thread); through the network; to clusters; rows built, encoded and committed."""

TOTAL = "total"
"""Of a shard, from its first byte to its commit. Less than the sum of the stages, since reading goes on beside them."""

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


class RunWatch(Protocol):
    """Who is told. `run_id` is the name under which commits and manifests know the run."""

    @property
    def run_id(self) -> str:
        """32 hexadecimal digits."""

    def shard_done(self, shard: ShardDone) -> None:
        """A shard was computed and committed."""

    def shard_set_aside(self, key: str, reason: str) -> None:
        """A shard was left out."""


class Unwatched:
    """Nobody is told."""

    def __init__(self) -> None:
        self.run_id = uuid.uuid4().hex

    def shard_done(self, shard: ShardDone) -> None:
        """Ignore it."""

    def shard_set_aside(self, key: str, reason: str) -> None:
        """Ignore it."""
