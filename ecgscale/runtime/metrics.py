"""Prometheus metrics of a run, through Ray: what a dashboard shows while it goes on.

They are recorded in the driver, from what workers send back with each commit, so nothing is counted twice when a worker
dies or a shard is tried again. Ray adds `ray_` to the names and serves them on every node. Samples that were not yet
scraped when the driver ends are gone: the run record is the truth (`ecgscale.runtime.run_record`).

    ecgscale_records, ecgscale_shards          computed and committed
    ecgscale_output_bytes                      written
    ecgscale_quarantined {status}              records among them that could not be explained
    ecgscale_set_aside                         shards left out
    ecgscale_stage_seconds {stage}             read, prepare, forward, cluster, write: worker seconds
    ecgscale_device_seconds {state}            busy, waited: worker seconds; the share is waited / (busy + waited)
    ecgscale_progress {stage, unit}            whatever any stage of work advances by: records, shards, steps

None of them has a tag that grows with the archive.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from ecgscale.passes.watch import STAGES, ShardDone, device_seconds
from ecgscale.progress import Progress, Stage

COUNTERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "ecgscale_records": ("Records computed and committed.", ()),
    "ecgscale_shards": ("Shards computed and committed.", ()),
    "ecgscale_output_bytes": ("Bytes of output files committed.", ()),
    "ecgscale_quarantined": ("Records that could not be explained, by status.", ("status",)),
    "ecgscale_set_aside": ("Shards left out.", ()),
    "ecgscale_stage_seconds": ("Worker seconds by stage of work; reading goes on beside the others.", ("stage",)),
    "ecgscale_device_seconds": ("Worker seconds in which the device was busy, or waited.", ("state",)),
    "ecgscale_progress": ("Units done, by stage of the run.", ("stage", "unit")),
}


def connected() -> bool:
    """Whether this process is connected to a Ray cluster; without one, nothing is recorded."""
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


@cache
def _counter(name: str) -> Any:
    from ray.util.metrics import Counter

    told, tags = COUNTERS[name]
    return Counter(name, told, tags)


def count(name: str, amount: float, **tags: str) -> None:
    """Add to one of `COUNTERS`; nothing where there is no cluster, or nothing to add."""
    if amount > 0 and connected():
        _counter(name).inc(amount, tags)


def count_shard(shard: ShardDone) -> None:
    """Add a committed shard to the counters."""
    count("ecgscale_records", shard.records)
    count("ecgscale_shards", 1)
    count("ecgscale_output_bytes", shard.bytes)
    for status, records in shard.quarantined.items():
        count("ecgscale_quarantined", records, status=status)
    for stage in STAGES:
        count("ecgscale_stage_seconds", shard.seconds.get(stage, 0.0), stage=stage)
    for state, seconds in zip(("busy", "waited"), device_seconds(shard.seconds), strict=True):
        count("ecgscale_device_seconds", seconds, state=state)


class _MeteredStage:
    def __init__(self, stage: Stage, name: str, unit: str) -> None:
        self._stage, self._name, self._unit = stage, name, unit

    def advance(self, amount: int = 1) -> None:
        self._stage.advance(amount)
        count("ecgscale_progress", amount, stage=self._name, unit=self._unit)

    def note(self, text: str) -> None:
        self._stage.note(text)


class MeteredProgress:
    """A Progress that also counts what advances, while this process is connected to a cluster."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    @contextmanager
    def stage(self, name: str, total: int | None, unit: str) -> Iterator[Stage]:
        with self._progress.stage(name, total, unit) as stage:
            yield _MeteredStage(stage, name, unit)

    def say(self, text: str) -> None:
        self._progress.say(text)
