"""A simulated archive on a pool of workers: a shard a task, byte for byte what one process writes.

A record depends on the seed and its number alone, so a worker needs to be told no more than a range. The driver
finishes the archive when all shards are there; until then, no reader takes any of them for a shard.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ecgscale.archive.synthetic.simulation import simulate, simulated_facts, simulated_writer, write_simulated_shard
from ecgscale.archive.writer import ArchiveWriter
from ecgscale.errors import EcgscaleError, UsageError
from ecgscale.io.places import absolute, place
from ecgscale.passes.workers import Call, Failed, OpenPool, WorkerSpec, in_process, is_divided
from ecgscale.progress import SILENT, Progress


class SimulateWorker:
    """Writes shards of one simulated archive."""

    def __init__(self, seed: int, rate: float, seconds: float) -> None:
        self._seed, self._rate, self._seconds = seed, rate, seconds

    def write(self, path: str, start: int, stop: int) -> int:
        """Write records `start` to `stop` (exclusive) as one shard; how many they are."""
        return write_simulated_shard(place(path), self._seed, start, stop, rate=self._rate, seconds=self._seconds)


def simulate_archive(
    path: str | Path,
    records: int,
    seed: int = 0,
    shard_records: int | None = None,
    progress: Progress = SILENT,
    pool: OpenPool = in_process,
    *,
    rate: float = 500.0,
    seconds: float = 10.0,
    overwrite: bool = False,
) -> dict[str, Any]:
    """`ecgscale.archive.synthetic.simulation.simulate`, on the workers of `pool`.

    Several of them need a number of records a shard: where one of about 128 MB ends shows only when it is written.
    """
    options: dict[str, Any] = {"rate": rate, "seconds": seconds, "overwrite": overwrite}
    if shard_records is None:
        if not is_divided(pool):
            return simulate(path, records, seed, shard_records, progress, **options)
        raise UsageError("several workers simulate shards of a known size: give --shard-records, such as 2000")
    with simulated_writer(path, records, seed, shard_records, progress, **options) as writer:
        spec = WorkerSpec(
            "ecgscale.passes.ingest.simulate:SimulateWorker", {"seed": seed, "rate": rate, "seconds": seconds}
        )
        with pool(spec) as workers, progress.stage("simulate", records, "records") as stage:
            for outcome in workers.run(_calls(writer, records, shard_records), stage):
                if isinstance(outcome, Failed):
                    raise EcgscaleError(f"{outcome.reason}; an archive cannot do without it. Type the command again")
        for start in range(0, records, shard_records):
            writer.adopt(min(shard_records, records - start))
    return simulated_facts(writer, seed)


def _calls(writer: ArchiveWriter, records: int, shard_records: int) -> Iterator[Call]:
    for number, start in enumerate(range(0, records, shard_records)):
        stop = min(start + shard_records, records)
        where = absolute(writer.writing(number))
        yield Call(f"{number}", "write", (where, start, stop), stop - start, what=f"shard {number}")
