"""What a pool of workers costs and gives: records a second, shards handed out a second, and a fit's reduction.

The driver is measured against real Ray actors that do no work. Eight of them stand for a thousand workers: each answers
a step of the fit with the sum of 125 partial sums, as workers add up what they hold, or sends all 125.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.activations import CODE_LAYOUT
from benchmarks.inputs import CODE, Network, fit_model, write_archive, write_encoder
from benchmarks.report import Result, main
from benchmarks.timing import rounded
from ecgscale.archive.reader import Archive, Shard
from ecgscale.clusters.features import BlockLayout
from ecgscale.clusters.model import ClusterModel
from ecgscale.explain.schema import ExplainSettings
from ecgscale.passes.explain.explain import identify
from ecgscale.passes.explain.plan import Pending, freeze_plan
from ecgscale.passes.fit.pool_source import PoolSource
from ecgscale.passes.fit.request import Selection
from ecgscale.passes.workers import Call, Done, WorkerSpec
from ecgscale.progress import SILENT
from ecgscale.runtime.processes import ProcessBackend
from ecgscale.runtime.ray_pool import RayBackend, connect, shut_down
from ecgscale.runtime.scheduler import Backend, PoolLimits, Scheduler
from ecgscale.store.commit import Source
from ecgscale.store.dataset import dataset_store

MB = 1e6

ALL = PoolLimits(replace_s=300.0)
"""Wait until every worker is ready."""


@dataclass(frozen=True)
class Size:
    """Shards of `shard_records`, `shards` a timing; `repetitions` of each; no-op shards; steps of a fit.

    The driver is measured against so many `actors`, which stand for `standing_for`.
    """

    network: Network
    shards: int
    shard_records: int
    repetitions: int
    idle_shards: int
    steps: int
    layout: BlockLayout = CODE_LAYOUT
    n_clusters: int = 20
    threads: int = 1
    actors: int = 8
    standing_for: int = 1000


FULL = Size(CODE, 8, 32, 7, 10_000, 50)
QUICK = Size(CODE, 4, 32, 5, 10_000, 20)


def run(size: Size, say: Callable[[str], None]) -> Result:
    """Measure all of it; every ratio is told in benchmarks/bars.py."""
    private = connect(max(size.actors, 3))
    try:
        dispatched = _dispatch(size)
        say(f"{dispatched['shards_per_s']:g} no-op shards a second")
        reduced = _reductions(size)
        say(f"a step of {size.standing_for} partial sums: {reduced['sums_ms']:g} ms")
        rates, ratios = _rates(size, say)
    finally:
        shut_down(private)
    ratios["dispatch_shards_per_s"] = dispatched["shards_per_s"]
    # A ratio is positive.
    ratios["dispatch_driver_mb"] = max(dispatched["driver_mb_grown"], 0.01)
    ratios["reduction_ms"] = reduced["sums_ms"]
    details = {
        "records_per_s": rates,
        "records": size.shards * size.shard_records,
        "actors": size.actors,
        "standing_for": size.standing_for,
        "dispatch": dispatched,
        "reduction": reduced,
    }
    return Result("scaling", ratios, details)


def _rates(size: Size, say: Callable[[str], None]) -> tuple[dict[str, float], dict[str, float]]:
    """Records a second of pools that are ready and warm, in turn; workers have a thread each."""
    with tempfile.TemporaryDirectory(prefix="ecgscale-benchmark-") as scratch, ExitStack() as stack:
        folder = Path(scratch)
        archive = write_archive(
            folder / "archive", (size.shards + 2) * size.shard_records, size.network, size.shard_records
        )
        encoder = write_encoder(folder / "encoder", size.network, archive)
        model = fit_model(archive, encoder, folder / "root", size.n_clusters, 2 * size.shard_records)
        backends: dict[str, Callable[[], Backend]] = {
            "local_1": lambda: ProcessBackend(1, size.threads),
            "local_2": lambda: ProcessBackend(2, size.threads),
            "ray_1": lambda: RayBackend(1, threads=size.threads),
            "ray_2": lambda: RayBackend(2, threads=size.threads),
        }
        jobs = {
            name: stack.enter_context(_explaining(backend, Archive.open(archive), model, folder / name, int(name[-1])))
            for name, backend in backends.items()
        }
        seconds: dict[str, list[float]] = {name: [] for name in jobs}
        for _ in range(size.repetitions):
            for name, job in jobs.items():
                seconds[name].append(job.seconds(size.shards))
        for name, found in seconds.items():
            say(f"{name}: {size.shards * size.shard_records / statistics.median(found):.1f} records a second")

    def ratio(ours: str, theirs: str) -> float:
        pairs = zip(seconds[ours], seconds[theirs], strict=True)
        return rounded(statistics.median(other / mine for mine, other in pairs))

    records = size.shards * size.shard_records
    rates = {name: rounded(records / statistics.median(found)) for name, found in seconds.items()}
    return rates, {
        "two_workers_vs_one": ratio("local_2", "local_1"),
        "ray_vs_local_1": ratio("ray_1", "local_1"),
        "ray_vs_local_2": ratio("ray_2", "local_2"),
    }


class _Job:
    """A warm pool that explains the same shards over and over, each time as if they were new."""

    def __init__(self, pool: Scheduler, pending: list[Pending]) -> None:
        self._pool, self._pending, self._round = pool, pending, 0

    def seconds(self, shards: int) -> float:
        """Seconds to explain and commit so many shards."""
        self._round += 1
        stamp = {"stamp": f"round {self._round}"}
        todo = [Pending(p.shard, p.source.model_copy(update=stamp)) for p in self._pending[:shards]]
        started = time.perf_counter()
        for outcome in self._pool.run(Call(p.source.key, "commit", (p,), p.source.rows) for p in todo):
            assert isinstance(outcome, Done)
            assert outcome.value.computed
        return time.perf_counter() - started


@contextmanager
def _explaining(
    backend: Callable[[], Backend], archive: Archive, model_dir: Path, root: Path, workers: int
) -> Iterator[_Job]:
    """A pool of explain workers, ready; each has explained a shard, so nothing is left to load or to compile."""
    model, settings = ClusterModel.load(model_dir), ExplainSettings()
    store = dataset_store(root, identify(archive, model, settings).dataset_id)
    arguments = {
        "archive": str(archive.path),
        "store": store.where,
        "model": str(model_dir),
        "settings": settings,
        "device": "cpu",
        "run_id": "0" * 32,
    }
    pending = list(freeze_plan(archive, store, None, "").pending)
    with Scheduler(backend(), WorkerSpec("ecgscale.passes.explain.shard:explain_worker", arguments), ALL) as pool:
        for number, each in zip(pool.ready(), pending[-workers:], strict=True):
            [outcome] = pool.run([Call("warm", "commit", (each,), worker=number)])
            assert isinstance(outcome, Done)
        yield _Job(pool, pending)


def _dispatch(size: Size) -> dict[str, Any]:
    """Shards that do nothing, handed out one a worker at a time; how the driver's memory grows meanwhile."""
    shard = Shard("part-00000.parquet", "archive/part-00000.parquet", 128 << 20, 0)
    source = Source(key=shard.key, size=shard.size, stamp="mtime_ns=0", rows=2900, content_digest="0" * 64)
    pending = Pending(shard, source)

    def calls(n: int) -> Iterator[Call]:
        return (Call(f"part-{i:05}.parquet", "commit", (pending,), 2900) for i in range(n))

    rates, resident = [], []
    with Scheduler(RayBackend(size.actors), WorkerSpec("benchmarks.idle_workers:IdleWorker"), ALL) as pool:
        pool.ready()
        done = 0
        started = time.perf_counter()
        for outcome in pool.run(calls(size.idle_shards)):
            assert isinstance(outcome, Done)
            done += 1
            if done % (size.idle_shards // 10) == 0:
                now = time.perf_counter()
                rates.append(size.idle_shards // 10 / (now - started))
                resident.append(_resident() / MB)
                started = now
    return {
        "shards": done,
        "shards_per_s": rounded(statistics.median(rates)),
        "shards_per_s_first_tenth": rounded(rates[0]),
        "shards_per_s_last_tenth": rounded(rates[-1]),
        # The first half fills what Ray and Python keep anyway.
        "driver_mb_by_tenths": [rounded(mb) for mb in resident],
        "driver_mb_grown": rounded(max(resident[5:]) - resident[4]),
    }


def _reductions(size: Size) -> dict[str, float]:
    """Milliseconds of a step, centroids out and sums back: with sums of the workers, and with all partial sums."""
    each = size.standing_for // size.actors
    arguments = {"layout": size.layout, "n_clusters": size.n_clusters, "partials": each}
    centroids = [np.zeros((size.n_clusters, size.layout.n_channels), np.float32)]
    sums, partials = [], []
    with Scheduler(
        RayBackend(size.actors), WorkerSpec("benchmarks.idle_workers:PartialsWorker", arguments), ALL
    ) as pool:
        numbers = pool.ready()
        source = PoolSource(pool, size.layout, _shards(size.standing_for), SILENT)
        source.fill()
        for _ in range(size.steps + 1):
            started = time.perf_counter()
            [tree] = source.assign_to(centroids)
            sums.append(time.perf_counter() - started)
        for _ in range(size.steps // 5 + 2):
            started = time.perf_counter()
            total = None
            for outcome in pool.run([Call(str(n), "partials", (centroids,), worker=n) for n in numbers]):
                assert isinstance(outcome, Done)
                for partial in outcome.value:
                    total = partial if total is None else total + partial
            partials.append(time.perf_counter() - started)
        assert total is not None
        assert np.array_equal(total.sums, tree.sums)
    return {
        "sums_ms": rounded(1e3 * statistics.median(sums[1:])),
        "sums_ms_most": rounded(1e3 * max(sums[1:])),
        "partials_ms": rounded(1e3 * statistics.median(partials[1:])),
    }


def _shards(n: int) -> Selection:
    """A record in each of `n` shards."""
    rows = {f"part-{i:05}.parquet": np.zeros(1, np.int64) for i in range(n)}
    return Selection(rows, [None] * n, [None] * n, {})


def _resident() -> int:
    """Bytes of this process's own memory."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines["RssAnon"].split()[0]) * 1024


if __name__ == "__main__":
    main(lambda quick, say: run(QUICK if quick else FULL, say), __doc__)
