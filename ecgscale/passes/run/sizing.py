"""What a job will take, from a few sizes and two rates: hours, bytes and memory, for any number of workers.

    fit      = records / forward rate + K-means: two exact passes and some hundred mini-batches over activations
    explain  = records / explain rate
    both     handed out in whole shards, so 100 workers do 270 shards in 3 rounds, not in 2.7

Rates are given, or measured in some seconds (`calibrate`): the network on full batches, soft assignment, a pass of
K-means over cached activations, reading. The constants below were measured on the sources they name. Estimates leave
out what is waited for: queues, starting nodes, a file system slower than its readers.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch

from ecgscale.archive.reader import Archive
from ecgscale.archive.schema import SignalType
from ecgscale.archive.writer import SHARD_BYTES
from ecgscale.clusters.cache import ActivationCache, DeviceCache
from ecgscale.clusters.model import ClusterModel
from ecgscale.clusters.soft import assign
from ecgscale.config import TrainConfig
from ecgscale.encoders.network import build_module
from ecgscale.encoders.preprocess import prepare_batch
from ecgscale.encoders.spec import EncoderSpec
from ecgscale.encoders.taps import Encoder, Precision
from ecgscale.encoders.train import TAPPED, default_blocks
from ecgscale.errors import ShardError
from ecgscale.explain.facts import encoder_layout
from ecgscale.leads import CANONICAL_LEADS

BYTES_PER_SAMPLE: dict[SignalType, float] = {"int16": 0.75, "float32": 2.25}
"""Of a shard, per sample and lead: PTB-XL at 500 Hz takes 44 KB a recording, CODE-15 % 110 KB."""

ROW_BYTES = 1700
"""Of an explained recording without its entropy at every timestep: PTB-XL takes 1.1 to 1.7 KB with K = 20."""

ENTROPY_BYTES = 4
"""Of one timestep's entropy: float32, which does not compress."""

MINIBATCH_STEPS, STEP_RECORDS = 200, 64
"""Mini-batch fits ended after 50 to 95 steps of 64 recordings on a hundred recordings and on a thousand alike."""

STEP_S = 0.01
"""Of the driver, for each step."""


@dataclass(frozen=True)
class Rates:
    """Records a second of one worker: through the network, explained, and through one pass of K-means."""

    forward: float
    explain: float
    kmeans: float
    source: str


@dataclass(frozen=True)
class Sizes:
    """What there is to do. `fit_records` and `pending_records` are 0 when it is done already.

    shards: that the archive has or will have; bytes_in of all of them, bytes_out of what will be written.
    """

    records: int
    shards: int
    bytes_in: int
    fit_records: int
    pending_records: int
    bytes_out: int
    activation_bytes: int
    """Of one record in the fit."""

    passes: int = 2
    """Of K-means over all activations: two, and the iterations of Lloyd."""

    steps: int = MINIBATCH_STEPS
    """Of mini-batch K-means; 0 for Lloyd."""


@dataclass(frozen=True)
class Estimate:
    """A job on `workers`: seconds of its two passes, bytes read and written, bytes of activations kept by a worker."""

    workers: int
    fit_s: float
    explain_s: float
    bytes_read: int
    bytes_written: int
    activations_a_worker: int

    @property
    def seconds(self) -> float:
        """Both passes."""
        return self.fit_s + self.explain_s

    @property
    def worker_hours(self) -> float:
        """What a cluster charges for."""
        return self.workers * self.seconds / 3600

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {**asdict(self), "seconds": self.seconds, "worker_hours": self.worker_hours}


def estimate(sizes: Sizes, rates: Rates, workers: int) -> Estimate:
    """The job on so many workers, each with these rates."""
    shards = max(sizes.shards, 1)
    per_shard = sizes.records / shards
    fit_s = 0.0
    if sizes.fit_records:
        # A shard holds its share of the records of the fit, and is one worker's.
        per_fit_shard = per_shard * sizes.fit_records / max(sizes.records, 1)
        fit_s = _rounds(shards, workers) * per_fit_shard * (1 / rates.forward + sizes.passes / rates.kmeans)
        in_steps = sizes.steps * min(STEP_RECORDS, sizes.fit_records)
        fit_s += in_steps / (rates.kmeans * min(workers, shards)) + (sizes.steps + sizes.passes) * STEP_S
    pending_shards = math.ceil(sizes.pending_records / per_shard) if sizes.pending_records else 0
    each = sizes.pending_records / max(pending_shards, 1)
    share = (sizes.fit_records + sizes.pending_records) / max(sizes.records, 1)
    return Estimate(
        workers,
        fit_s,
        _rounds(pending_shards, workers) * each / rates.explain,
        int(sizes.bytes_in * share),
        sizes.bytes_out,
        _rounds(shards, workers) * math.ceil(sizes.fit_records / shards) * sizes.activation_bytes,
    )


def _rounds(shards: int, workers: int) -> int:
    """Shards of the worker that gets most of them."""
    return math.ceil(shards / workers)


def shard_bytes(records: int, leads: int, samples: int, signal: SignalType) -> int:
    """About what an archive of such recordings takes."""
    return int(records * leads * samples * BYTES_PER_SAMPLE[signal])


def shard_count(records: int, n_bytes: int, shard_records: int | None) -> int:
    """Into how many shards a source is cut."""
    return math.ceil(records / shard_records) if shard_records else math.ceil(n_bytes / SHARD_BYTES)


def explained_bytes(records: int, timesteps: int, entropy: Literal["none", "timestep"]) -> int:
    """About what the explanations of so many recordings take."""
    return records * (ROW_BYTES + (timesteps * ENTROPY_BYTES if entropy == "timestep" else 0))


def sizing_table(sizes: Sizes, rates: Rates, workers: Sequence[int]) -> list[str]:
    """A Markdown table, one line for each number of workers."""
    lines = [
        "| workers | records | fit | explain | worker-hours | read | written | activations a worker |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for n in workers:
        one = estimate(sizes, rates, n)
        cells = (
            f"{n:,}",
            f"{sizes.records:,}",
            duration(one.fit_s),
            duration(one.explain_s),
            f"{one.worker_hours:,.1f}",
            volume(one.bytes_read),
            volume(one.bytes_written),
            volume(one.activations_a_worker),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def duration(seconds: float) -> str:
    """45 s, 12 min, 3.4 h, as a person says it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:,.1f} h"


def volume(n_bytes: float) -> str:
    """1.2 TB, 34 GB, 560 MB, in powers of ten, as storage is sold."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if n_bytes >= size:
            return f"{n_bytes / size:,.3g} {unit}"
    return f"{n_bytes / 1e3:,.0f} kB"


TIMES, AT_LEAST_S, AT_MOST = 3, 0.5, 50
"""Repetitions of a measurement: three, and as many as fit into half a second, but no more than fifty."""

KMEANS_FACTOR = 100
"""A pass of K-means over cached activations against the forward pass that made them, where neither is measured."""


def calibrate(encoder: Encoder, n_clusters: int, archive: Archive | None = None, threads: int | None = None) -> Rates:
    """Rates of one worker like this process, with so many threads (all, unless given)."""
    x = np.random.default_rng(0).normal(size=(encoder.batch, len(encoder.spec.input.leads), encoder.spec.input.length))
    signals, n = x.astype(np.float32), encoder.batch
    layout = encoder_layout(encoder)
    start, stop = np.zeros(n, np.int32), np.full(n, layout.n_steps, np.int32)
    with _threads(threads):
        forward = _seconds(lambda: encoder.forward(signals).prediction.cpu())
        blocks = encoder.forward(signals).blocks
        on_gpu = encoder.device.type == "cuda"
        cache = DeviceCache(layout, n, encoder.device) if on_gpu else ActivationCache(layout, n)
        with cache:
            cache.put(np.arange(n), blocks, start, stop)
            centroids = cache.sample(max(4 * n_clusters, 2 * n), 0)[:n_clusters]
            kmeans = _seconds(lambda: cache.assign_to([centroids]))
        model = ClusterModel(centroids, np.ones(len(centroids), np.int64), layout, 2, 0.1, {})
        cluster = _seconds(lambda: assign(blocks, model, start, stop))
        reading = _reading(archive, encoder) if archive is not None else 0.0
    # On a GPU the next batches are read meanwhile; a CPU has to do both.
    work = max(forward + cluster, reading) if on_gpu else forward + cluster + reading
    filling = max(forward, reading) if on_gpu else forward + reading
    where = torch.cuda.get_device_name() if on_gpu else f"{threads or torch.get_num_threads()} CPU thread(s)"
    return Rates(n / filling, n / work, n / kmeans, f"measured here on {where}")


def planned_encoder(train: TrainConfig, batch: int, device: str, precision: Precision) -> Encoder:
    """The network that `[train]` would make, as it is before training: as fast as after."""
    blocks = train.blocks or default_blocks(train.length)
    content: dict[str, Any] = {
        "name": "planned",
        "factory": "ecgscale.encoders.resnet1d:ResNet1d",
        "weights": "untrained.safetensors",
        "layers": [f"resblock1d_{i}" for i in range(len(blocks))][-TAPPED:],
        "depth_scales": [1.0] * min(TAPPED, len(blocks)),
        "arguments": {
            "input_dim": [len(CANONICAL_LEADS), train.length],
            "blocks_dim": [list(block) for block in blocks],
            "n_classes": 1,
        },
        "input": {"leads": list(CANONICAL_LEADS), "sampling_rate": train.rate, "length": train.length},
        "output": {"kind": "multilabel", "names": [train.target]},
    }
    spec = EncoderSpec.model_validate(content)
    return Encoder(build_module(spec), spec, device=device, batch=batch, precision=precision)


def _reading(archive: Archive, encoder: Encoder) -> float:
    """Seconds to read and prepare one batch of the archive's first readable shard; 0 when none can be read."""
    for shard in archive.shards:
        try:
            spent = []
            batches = archive.batches(shard, (), batch_records=encoder.batch)
            for _ in range(TIMES):
                began = time.perf_counter()
                raw = next(batches, None)
                if raw is None:
                    break
                prepare_batch(raw, encoder.spec.input, encoder.hop)
                spent.append((time.perf_counter() - began) * encoder.batch / len(raw))
        except ShardError:
            # Told by the plan, which names it among those set aside.
            continue
        if spent:
            return statistics.fmean(spent)
    return 0.0


def _seconds(once: Callable[[], Any]) -> float:
    """The median time of a call, after one that is not counted."""
    once()
    spent: list[float] = []
    while len(spent) < TIMES or (sum(spent) < AT_LEAST_S and len(spent) < AT_MOST):
        began = time.perf_counter()
        once()
        spent.append(time.perf_counter() - began)
    return statistics.median(spent)


@contextmanager
def _threads(threads: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
