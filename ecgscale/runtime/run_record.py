"""What a run leaves behind: metrics while it goes on, and ROOT/runs/<run_id>.json when it ends, however it ends.

The record counts records, names the shards that were set aside with the reason, and never a patient. Its run_id stands
in the commits and manifests that the run made.

Metrics are Prometheus', through Ray, recorded in the driver from what workers send back with each commit, so nothing is
counted twice when a worker dies or a shard is tried again. Ray adds `ray_` to the names and serves them on every node.
Samples that were not yet scraped when the driver ends are gone: the record is the truth.

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

import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from ecgscale.errors import ExitCode, UsageError
from ecgscale.io.objects import StoreError, open_objects
from ecgscale.passes.watch import STAGES, TOTAL, RunWatch, ShardDone, device_seconds
from ecgscale.progress import Progress, Stage
from ecgscale.runtime.ray_pool import submission_id
from ecgscale.store.failures import code_digest
from ecgscale.store.presence import at_work
from ecgscale.store.provenance import RUNS, run_facts, utc_now, versions

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

    description, tags = COUNTERS[name]
    return Counter(name, description, tags)


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


class RunRecord(RunWatch):
    """What one run did so far; a `RunWatch` of the passes."""

    def __init__(self, root: str | Path, command: str, runtime: Mapping[str, Any]) -> None:
        self._store = open_objects(root)
        self._command, self._runtime = command, dict(runtime)
        self._run = run_facts()
        self._facts: dict[str, Any] = {}
        self._exit_code = ExitCode.DONE
        self.shards = self.records = self.bytes = 0
        self.quarantined: Counter[str] = Counter()
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.set_aside: dict[str, str] = {}

    @property
    def run_id(self) -> str:
        """The name of the run in commits and manifests."""
        return self._run.run_id

    @property
    def key(self) -> str:
        """Where the record is put, below ROOT."""
        return f"{RUNS}/{self.run_id}.json"

    def shard_done(self, shard: ShardDone) -> None:
        """Add a shard to the totals and to the metrics."""
        self.shards += 1
        self.records += shard.records
        self.bytes += shard.bytes
        self.quarantined.update(shard.quarantined)
        for stage, seconds in shard.seconds.items():
            self.seconds[stage] += seconds
        count_shard(shard)

    def shard_set_aside(self, key: str, reason: str) -> None:
        """Keep the reason; a shard that is told twice counts once."""
        if key not in self.set_aside:
            count("ecgscale_set_aside", 1)
        self.set_aside[key] = reason

    def add(self, exit_code: ExitCode = ExitCode.DONE, **facts: Any) -> None:
        """Add what a pass returned: dictionaries that can be written as JSON; and what the run will end with."""
        self._facts.update(facts)
        self._exit_code = exit_code

    def to_dict(self, outcome: str, exit_code: ExitCode, error: str | None) -> dict[str, Any]:
        """The record as it is written."""
        busy, waited = device_seconds(self.seconds)
        return {
            "version": 1,
            "command": self._command,
            **self._run.model_dump(exclude={"device"}),
            "code_digest": code_digest(),
            "ended": utc_now(),
            "outcome": outcome,
            "exit_code": int(exit_code),
            "error": error,
            "submission_id": submission_id(),
            "runtime": self._runtime,
            "versions": versions() | {"python": sys.version.split()[0]},
            "totals": {
                "records": self.records,
                "shards": self.shards,
                "quarantined": dict(sorted(self.quarantined.items())),
                "set_aside": dict(sorted(self.set_aside.items())),
                "output_bytes": self.bytes,
            },
            "worker_seconds": {stage: round(self.seconds.get(stage, 0.0), 3) for stage in (*STAGES, TOTAL)},
            "device_waited": round(waited / (busy + waited), 4) if busy + waited else None,
            **self._facts,
        }

    def write(self, outcome: str, exit_code: ExitCode | None = None, error: str | None = None) -> None:
        """Put the record in place, in one piece."""
        facts = self.to_dict(outcome, self._exit_code if exit_code is None else exit_code, error)
        self._store.put(self.key, (json.dumps(facts, indent=1, default=str) + "\n").encode())


@contextmanager
def run_record(root: str | Path, command: str, runtime: Mapping[str, Any], progress: Progress) -> Iterator[RunRecord]:
    """A record that is written when the block is left, done, failed or stopped; until then the command is at work.

    A mistake found before anything was computed leaves none. A record that cannot be written is told and changes
    nothing: the results are what they are.
    """
    record = RunRecord(root, command, runtime)
    # Around the record too: it tells of records.
    with at_work(root, f"ecgscale {command}", record.run_id), _recorded(record, progress):
        yield record


@contextmanager
def _recorded(record: RunRecord, progress: Progress) -> Iterator[None]:
    try:
        yield
    except UsageError as error:
        if record.shards:
            _write(record, progress, "failed", error.exit_code, str(error))
        raise
    except KeyboardInterrupt:
        _write(record, progress, "stopped", ExitCode.STOPPED)
        raise
    except Exception as error:
        code = getattr(error, "exit_code", ExitCode.FAILED)
        _write(record, progress, "failed", code, f"{type(error).__name__}: {error}")
        raise
    else:
        _write(record, progress, "set aside" if record.set_aside else "done")


def _write(
    record: RunRecord, progress: Progress, outcome: str, exit_code: ExitCode | None = None, error: str | None = None
) -> None:
    try:
        record.write(outcome, exit_code, error)
    except StoreError as failure:
        progress.say(f"note: there will be no run record: {failure}")
