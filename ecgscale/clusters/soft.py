"""Labels, soft assignments and their entropy for packed records on a CPU, compiled.

    E_k(t) = ‖f(t) − c_k‖^γ / τ          p_k ∝ exp(−E_k)
    H(p)   = ln Z + Σ_k E_k e^(−E_k) / Z  with E measured from the nearest centroid, Z = Σ_k e^(−E_k)

(docs/method.md). A (K, CHUNK) scratch is the only thing with both axes; a record's result does not depend on its
neighbours in the batch or on the number of threads.
"""

from __future__ import annotations

import numba
import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from ecgscale.clusters.accumulate import StackedCentroids, kernel_threads
from ecgscale.clusters.features import BlockLayout
from ecgscale.clusters.kernels import (
    BEST,
    FAST,
    LABEL,
    NORM,
    SCRATCH,
    SECOND,
    VALUE,
    add_neighbours,
    nearest_two,
    neighbour_weights,
    project,
)
from ecgscale.clusters.packed import CHUNK, Packed, chunk_table, padded_channels

SoftArrays = tuple[
    NDArray[np.int16],
    NDArray[np.float32],
    NDArray[np.int32],
    NDArray[np.float64],
    NDArray[np.float64],
    NDArray[np.float64],
]


def soft_assign(
    packed: Packed, layout: BlockLayout, centroids_KC: NDArray[np.float32], gamma: int, tau: float
) -> SoftArrays:
    """Labels and entropy (B, D), counts (B, K) int32, mean p_k (B, K), mean entropy (B,), mean squared distance (B,).

    Labels are −1 and entropies 0 outside the valid span; a record without one has zeros throughout.
    """
    n_records, n_clusters = len(packed), len(centroids_KC)
    table = chunk_table(layout)
    stacked = StackedCentroids.of([centroids_KC], layout)
    labels = np.full((n_records, layout.n_steps), -1, np.int16)
    entropy = np.zeros((n_records, layout.n_steps), np.float32)
    counts = np.zeros((n_records, n_clusters), np.int32)
    soft = np.zeros((n_records, n_clusters), np.float64)
    means = np.zeros((2, n_records), np.float64)
    numba.set_num_threads(kernel_threads())
    _soft_assign(
        packed.values,
        packed.gram,
        (packed.valid_start, packed.valid_stop),
        (table.first, table.count, table.rows, table.fraction),
        (np.array(padded_channels(layout)), np.array(layout.lengths), np.array(layout.scales, np.float32)),
        (stacked.parts, stacked.half_norm),
        (gamma, np.float32(1.0 / tau)),
        (labels, entropy, counts, soft, means),
    )
    return labels, entropy, counts, soft, means[0], means[1]


@njit(cache=True, parallel=True, error_model="numpy", fastmath=FAST)
def _soft_assign(values, gram, span, table, shapes, centroids, softmax, out):  # type: ignore[no-untyped-def]
    start, stop = span
    first, count, rows, fraction = table
    channels, lengths, scales = shapes
    parts, half_norm = centroids
    labels, entropy, counts, soft, means = out
    n_records, n_clusters = counts.shape
    for n in prange(n_records):
        if stop[n] <= start[n]:
            continue
        g = np.empty((gram.shape[2], n_clusters + n_clusters % 2), np.float32)
        tile = np.zeros(SCRATCH + rows.shape[1] * CHUNK, np.float32)
        weights = np.empty((n_clusters, CHUNK), np.float32)
        powers = np.empty(CHUNK, np.int32)
        sums = np.empty((2, CHUNK), np.float32)
        entropy_sum, distance_sum = 0.0, 0.0
        project(values[n], channels, lengths, parts, g)
        for j in range(len(first)):
            begin, end = max(start[n] - first[j], 0), min(stop[n] - first[j], count[j])
            if begin >= end:
                continue
            neighbour_weights(gram[n], rows[j], fraction[j], scales, tile)
            nearest_two(g, rows[j], half_norm, 0, n_clusters, tile)
            soft_weights(g, rows[j], half_norm, softmax[0], softmax[1], tile, weights, powers, sums)
            for u in range(begin, end):
                t = first[j] + u
                k = int(tile[LABEL + u])
                labels[n, t] = k
                counts[n, k] += 1
                if n_clusters > 1:
                    h = (np.log(sums[0, u]) + sums[1, u] / sums[0, u]) / np.float32(np.log(n_clusters))
                    entropy[n, t] = min(max(h, np.float32(0)), np.float32(1))
                entropy_sum += np.float64(entropy[n, t])
                distance_sum += max(tile[NORM + u] - np.float32(2) * tile[BEST + u], np.float32(0))
            for u in range(CHUNK):
                sums[0, u] = np.float32(1) / sums[0, u] if begin <= u < end else np.float32(0)
            for k in range(n_clusters):
                total = np.float32(0)
                for u in range(CHUNK):
                    total += weights[k, u] * sums[0, u]
                soft[n, k] += total
        n_valid = stop[n] - start[n]
        means[0, n], means[1, n] = entropy_sum / n_valid, distance_sum / n_valid
        for k in range(n_clusters):
            soft[n, k] /= n_valid


@njit(cache=True, error_model="numpy", fastmath=FAST)
def soft_weights(g, rows, half_norm, gamma, inverse_tau, tile, weights, powers, sums):  # type: ignore[no-untyped-def]
    """weights (K, CHUNK) = exp(−E_k), E from the nearest centroid; sums (2, CHUNK) = Σ_k e^(−E_k), Σ_k E_k e^(−E_k)."""
    length = len(powers)
    value, energy = tile[VALUE:SCRATCH], tile[SECOND:LABEL]
    best, norm = tile[BEST:SECOND], tile[NORM:VALUE]
    for u in range(length):
        sums[0, u], sums[1, u] = np.float32(0), np.float32(0)
    for k in range(len(half_norm)):
        for u in range(length):
            value[u] = -half_norm[k]
        for group in range(0, len(rows), 6):
            add_neighbours(g, rows, group, k, tile)
        if gamma == 2:
            for u in range(length):
                nearest = max(norm[u] - np.float32(2) * best[u], np.float32(0))
                energy[u] = (max(norm[u] - np.float32(2) * value[u], np.float32(0)) - nearest) * inverse_tau
        else:
            for u in range(length):
                nearest = np.sqrt(max(norm[u] - np.float32(2) * best[u], np.float32(0)))
                energy[u] = (np.sqrt(max(norm[u] - np.float32(2) * value[u], np.float32(0))) - nearest) * inverse_tau
        negative_exponential(energy, powers, weights[k])
        for u in range(length):
            sums[0, u] += weights[k, u]
            sums[1, u] += weights[k, u] * energy[u]


@njit(cache=True, error_model="numpy", fastmath=FAST)
def negative_exponential(energy, powers, out):  # type: ignore[no-untyped-def]
    """out = exp(−energy) as float32 vectors, within 2 units in the last place: 2ⁿ from its bits, the rest a polynomial.

    e^r for |r| ≤ ln 2 / 2 by its Taylor series to r⁷; energies above 87 give e⁻⁸⁷ ≈ 1.6e-38, nothing beside 1.
    """
    bits = powers.view(np.float32)
    for u in range(len(powers)):
        x = -min(max(energy[u], np.float32(0)), np.float32(87))
        n = np.floor(x * np.float32(1.4426950408889634) + np.float32(0.5))
        # ln 2 in two parts, so that x − n ln 2 keeps its low bits.
        r = (x - n * np.float32(0.693359375)) + n * np.float32(2.12194440e-4)
        series = np.float32(1 / 5040)
        series = series * r + np.float32(1 / 720)
        series = series * r + np.float32(1 / 120)
        series = series * r + np.float32(1 / 24)
        series = series * r + np.float32(1 / 6)
        series = series * r + np.float32(0.5)
        series = series * r + np.float32(1)
        out[u] = series * r + np.float32(1)
        powers[u] = (np.int32(n) + np.int32(127)) << np.int32(23)
    for u in range(len(powers)):
        out[u] *= bits[u]
