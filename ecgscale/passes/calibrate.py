"""How fast this machine runs an encoder and its clusters: a few batches, some seconds.

What is timed is what a worker does: the network on full batches, the soft assignment of explaining, one pass of K-means
over cached activations, and, where there is an archive, reading and preparing its first recordings.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from ecgscale.archive.reader import Archive
from ecgscale.archive.validate import check_batch
from ecgscale.clusters.assign import assign
from ecgscale.clusters.cache import ActivationCache
from ecgscale.clusters.device_cache import DeviceCache
from ecgscale.clusters.model import ClusterModel
from ecgscale.config import TrainConfig
from ecgscale.encoders.preprocess import prepare
from ecgscale.encoders.spec import EncoderSpec
from ecgscale.encoders.taps import Encoder, Precision
from ecgscale.encoders.train import TAPPED, default_blocks
from ecgscale.encoders.weights import build_module
from ecgscale.errors import ShardError
from ecgscale.leads import CANONICAL_LEADS
from ecgscale.passes.activations import encoder_layout
from ecgscale.passes.sizing import Rates

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
                prepare(raw, *check_batch(raw, set()), encoder.spec.input, encoder.hop)
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
