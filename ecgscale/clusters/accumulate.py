"""One K-means step over packed records on a CPU: assign every timestep, add up integer sums.

Records are independent of each other to the last bit, whatever thread has them: only integers are added across
records. Several sets of centroids share one projection and one reading of the activations.

What a pass over timesteps returns: integers, so that no order of addition can change a bit.

Each record's counts, feature sums, distortion and margin are rounded to int64 at a recorded scale before anything
is added across records (docs/method.md, "The same answer on any cluster"). 10¹⁰ timesteps fit.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numba
import numpy as np
import torch
from numba import prange
from numpy.typing import NDArray

from ecgscale.clusters.features import BlockLayout
from ecgscale.clusters.kernels import (
    SCRATCH,
    gather,
    multiply_back,
    nearest_two,
    neighbour_weights,
    project,
    tally,
    to_integer,
)
from ecgscale.clusters.packed import CHUNK, Packed, chunk_table, kernel, padded_channels

MAX_TIMESTEPS = 10**10


@dataclass(frozen=True)
class SumScale:
    """Powers of two by which feature sums, and squared distances, are multiplied before they are rounded."""

    features: float
    distances: float


def sum_scale(layout: BlockLayout) -> SumScale:
    """The largest powers of two at which MAX_TIMESTEPS terms of the largest possible size stay below 2⁶².

    Features are bounded by w_b, squared distances by 4 Σ w².
    """

    def power(bound: float) -> float:
        return 2.0 ** (62 - math.ceil(math.log2(MAX_TIMESTEPS * bound)))

    return SumScale(power(max(layout.scales)), power(4 * layout.square_norm))


@dataclass(frozen=True)
class PartialSums:
    """Sums over some records: `counts` (K,), `sums` (K, C), `distortion` (K,) and `margin`, all scaled int64.

    `margin` adds, over timesteps, squared distance to the runner-up − squared distance to the nearest centroid.
    """

    counts: NDArray[np.int64]
    sums: NDArray[np.int64]
    distortion: NDArray[np.int64]
    margin: int
    scale: SumScale

    @classmethod
    def zero(cls, n_clusters: int, layout: BlockLayout) -> PartialSums:
        """Nothing added yet."""
        return cls(
            np.zeros(n_clusters, np.int64),
            np.zeros((n_clusters, layout.n_channels), np.int64),
            np.zeros(n_clusters, np.int64),
            0,
            sum_scale(layout),
        )

    def __add__(self, other: PartialSums) -> PartialSums:
        return PartialSums(
            self.counts + other.counts,
            self.sums + other.sums,
            self.distortion + other.distortion,
            self.margin + other.margin,
            self.scale,
        )

    @property
    def n_timesteps(self) -> int:
        """How many timesteps were assigned."""
        return int(self.counts.sum())

    @property
    def inertia(self) -> float:
        """Σ_t of the squared distance to the nearest centroid."""
        return int(self.distortion.sum()) / self.scale.distances

    @property
    def mean_margin(self) -> float:
        """Mean over timesteps of the margin; 0 with a single cluster."""
        return self.margin / self.scale.distances / max(self.n_timesteps, 1)

    @property
    def feature_sums(self) -> NDArray[np.float64]:
        """Σ_{t: label = k} f(t), (K, C)."""
        return self.sums / self.scale.features


def kernel_threads() -> int:
    """Threads for the compiled kernels: as many as torch was given, never more than this process may use."""
    return max(1, min(torch.get_num_threads(), len(os.sched_getaffinity(0)), numba.config.NUMBA_NUM_THREADS))  # type: ignore[attr-defined]


def accumulate(
    packed: Packed,
    layout: BlockLayout,
    centroid_sets: Sequence[NDArray[np.float32]],
    records: NDArray[np.int64] | None = None,
) -> list[PartialSums]:
    """Assign the valid timesteps of `records` (all of `packed` by default) to each set of centroids, (K_i, C) each.

    Returns one PartialSums a set.
    """
    chosen = np.arange(len(packed)) if records is None else np.asarray(records, np.int64)
    stacked = StackedCentroids.of(centroid_sets, layout)
    table = chunk_table(layout)
    scale = sum_scale(layout)
    threads = kernel_threads()
    numba.set_num_threads(threads)
    n_clusters = int(stacked.edges[-1])
    counts = np.zeros((threads, n_clusters), np.int64)
    sums = np.zeros((threads, n_clusters, sum(padded_channels(layout))), np.int64)
    distortion = np.zeros((threads, n_clusters), np.int64)
    margin = np.zeros((threads, len(centroid_sets)), np.int64)
    _accumulate(
        packed.values,
        packed.gram,
        packed.valid_start,
        packed.valid_stop,
        chosen,
        (table.first, table.count, table.rows, table.fraction),
        (np.array(padded_channels(layout)), np.array(layout.lengths), np.array(layout.scales, np.float32)),
        (stacked.parts, stacked.half_norm, stacked.edges),
        (scale.features, scale.distances),
        (counts, sums, distortion, margin),
    )
    columns = real_columns(layout)
    return [
        PartialSums(
            counts[:, first:last].sum(0),
            sums[:, first:last].sum(0)[:, columns],
            distortion[:, first:last].sum(0),
            int(margin[:, i].sum()),
            scale,
        )
        for i, (first, last) in enumerate(zip(stacked.edges[:-1], stacked.edges[1:], strict=True))
    ]


@lru_cache(maxsize=16)
def real_columns(layout: BlockLayout) -> NDArray[np.int64]:
    """Where the C true channels lie among the Σ C'_b padded ones."""
    starts = np.concatenate([[0], np.cumsum(padded_channels(layout))[:-1]])
    return np.concatenate([start + np.arange(c) for start, c in zip(starts, layout.channels, strict=True)])


class StackedCentroids:
    """Sets of centroids as the kernels read them.

    `parts`: each block's (K', C'_b) rows, flattened one after the other, K' the total rounded up to even;
    `half_norm` (ΣK,) = ‖c‖²/2; `edges` (sets + 1,): where each set begins.
    """

    def __init__(self, parts: NDArray[np.float32], half_norm: NDArray[np.float32], edges: NDArray[np.int64]) -> None:
        self.parts, self.half_norm, self.edges = parts, half_norm, edges

    @property
    def projected(self) -> int:
        """K', the columns of the projection."""
        return int(self.edges[-1] + self.edges[-1] % 2)

    @classmethod
    def of(cls, centroid_sets: Sequence[NDArray[np.float32]], layout: BlockLayout) -> StackedCentroids:
        """Stack (K_i, C) arrays; channels are padded as the activations are."""
        stacked = np.concatenate([np.asarray(c, np.float32) for c in centroid_sets])
        edges = np.cumsum([0, *(len(c) for c in centroid_sets)])
        padded = np.zeros((len(stacked) + len(stacked) % 2, sum(padded_channels(layout))), np.float32)
        padded[: len(stacked), real_columns(layout)] = stacked
        splits = np.cumsum(padded_channels(layout))[:-1]
        parts = np.concatenate([part.ravel() for part in np.split(padded, splits, axis=1)])
        half_norm = ((stacked.astype(np.float64) ** 2).sum(1) / 2).astype(np.float32)
        return cls(parts, half_norm, edges)


@kernel(parallel=True)
def _accumulate(values, gram, start, stop, records, table, shapes, centroids, scale, out):  # type: ignore[no-untyped-def]
    channels, lengths, scales = shapes
    parts, half_norm, edges = centroids
    counts, sums, distortion, margin = out
    threads, n_clusters, width = sums.shape
    for thread in prange(threads):
        # Scratch of one thread: the projection, the gathered weights, one record's sums, one run's vectors.
        g = np.empty((gram.shape[2], n_clusters + n_clusters % 2), np.float32)
        back = np.zeros((gram.shape[2], n_clusters), np.float32)
        tile = np.zeros(SCRATCH + table[2].shape[1] * CHUNK, np.float32)
        record_sums = np.zeros((n_clusters, width), np.float32)
        record_counts = np.zeros(n_clusters, np.int64)
        record_distortion = np.zeros(n_clusters, np.float64)
        for at in range(len(records) * thread // threads, len(records) * (thread + 1) // threads):
            n = records[at]
            if stop[n] <= start[n]:
                continue
            project(values[n], channels, lengths, parts, g)
            for s in range(len(edges) - 1):
                span, known = (start[n], stop[n]), (g, gram[n], back, tile)
                record_margin = assign_record(
                    span, known, table, scales, half_norm, edges[s], edges[s + 1], record_counts, record_distortion
                )
                if edges[s + 1] - edges[s] > 1:
                    margin[thread, s] += to_integer(2.0 * record_margin, scale[1])
            multiply_back(values[n], channels, lengths, back, record_sums)
            for k in range(n_clusters):
                if record_counts[k] > 0:
                    counts[thread, k] += record_counts[k]
                    distortion[thread, k] += to_integer(record_distortion[k], scale[1])
                    for c in range(width):
                        sums[thread, k, c] += to_integer(np.float64(record_sums[k, c]), scale[0])
                        record_sums[k, c] = np.float32(0)
                    record_counts[k] = 0
                    record_distortion[k] = 0.0


@kernel()
def assign_record(span, known, table, scales, half_norm, first_cluster, last_cluster, counts, distortion):  # type: ignore[no-untyped-def]
    """Assign one record's timesteps to centroids first..last; counts, distortion and gathered weights are added to.

    Returns Σ_t (best − second), half the sum of margins.
    """
    first, count, rows, fraction = table
    g, gram, back, tile = known
    margin = 0.0
    for j in range(len(first)):
        begin, end = max(span[0] - first[j], 0), min(span[1] - first[j], count[j])
        if begin >= end:
            continue
        neighbour_weights(gram, rows[j], fraction[j], scales, tile)
        nearest_two(g, rows[j], half_norm, first_cluster, last_cluster, tile)
        run_margin, one_cluster = tally(tile, begin, end, first_cluster, counts, distortion)
        gather(rows[j], tile, begin, end, one_cluster, first_cluster, back)
        margin += run_margin
    return margin
