"""Labels, soft assignments and their entropy under a frozen model: compiled for a CPU, tensors for other devices.

    E_k(t) = ‖f(t) − c_k‖^γ / τ          p_k ∝ exp(−E_k)
    H(p)   = ln Z + Σ_k E_k e^(−E_k) / Z  with E measured from the nearest centroid, Z = Σ_k e^(−E_k)

(docs/method.md). A (K, CHUNK) scratch is the only thing with both axes; a record's result does not depend on its
neighbours in the batch or on the number of threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numba
import numpy as np
import torch
from numba import prange
from numpy.typing import NDArray

from ecgscale.clusters.accumulate import StackedCentroids, kernel_threads
from ecgscale.clusters.features import BlockLayout
from ecgscale.clusters.kernels import (
    BEST,
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
from ecgscale.clusters.model import ClusterModel
from ecgscale.clusters.packed import CHUNK, Packed, chunk_table, kernel, pack, padded_channels
from ecgscale.clusters.tensors import span_mask, tensor_square_distances


@dataclass(frozen=True)
class Assignment:
    """What a model says of B records.

    `labels` (B, D) int16, −1 outside the valid span; `entropy` (B, D) float32 in [0, 1], 0 outside; `counts` (B, K)
    timesteps a cluster; `soft` (B, K) mean p_k, `mean_entropy` (B,) and `distortion` (B,), the mean squared distance
    to the nearest centroid, all over valid timesteps.
    """

    labels: NDArray[np.int16]
    entropy: NDArray[np.float32]
    counts: NDArray[np.int32]
    soft: NDArray[np.float64]
    mean_entropy: NDArray[np.float64]
    distortion: NDArray[np.float64]

    def finite(self) -> NDArray[np.bool_]:
        """bool (B,): records of which every number is finite, as float32 too."""
        means = np.abs(np.stack([self.mean_entropy, self.distortion], axis=1))
        fits = (means <= np.finfo(np.float32).max).all(axis=1)
        return np.asarray(fits & np.isfinite(self.entropy).all(axis=1) & np.isfinite(self.soft).all(axis=1))

    def of(self, kept: NDArray[np.bool_]) -> Assignment:
        """The records that `kept` (B,) marks."""
        return self if kept.all() else Assignment(**{name: part[kept] for name, part in vars(self).items()})


def soft_assign(
    packed: Packed, layout: BlockLayout, centroids_KC: NDArray[np.float32], gamma: int, tau: float
) -> Assignment:
    """The assignment of packed records; one without a valid timestep has zeros throughout."""
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
    return Assignment(labels, entropy, counts, soft, means[0], means[1])


@kernel(parallel=True)
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
        sums = np.empty((2, CHUNK), np.float32)
        scratch = np.empty(CHUNK, np.float32)
        entropy_sum, distance_sum = 0.0, 0.0
        per_log = np.float32(1.0 / np.log(n_clusters)) if n_clusters > 1 else np.float32(0)
        project(values[n], channels, lengths, parts, g)
        for j in range(len(first)):
            begin, end = max(start[n] - first[j], 0), min(stop[n] - first[j], count[j])
            if begin >= end:
                continue
            neighbour_weights(gram[n], rows[j], fraction[j], scales, tile)
            nearest_two(g, rows[j], half_norm, 0, n_clusters, tile)
            soft_weights(g, rows[j], half_norm, softmax[0], softmax[1], tile, weights, sums)
            for u in range(begin, end):
                h = (np.log(sums[0, u]) + sums[1, u] / sums[0, u]) * per_log
                scratch[u] = min(max(h, np.float32(0)), np.float32(1))
            for u in range(begin, end):
                k = int(tile[LABEL + u])
                labels[n, first[j] + u] = k
                entropy[n, first[j] + u] = scratch[u]
                counts[n, k] += 1
                entropy_sum += np.float64(scratch[u])
                distance_sum += np.float64(max(tile[NORM + u] - np.float32(2) * tile[BEST + u], np.float32(0)))
            share = sums[0]
            for u in range(len(share)):
                share[u] = np.float32(1) / share[u] if begin <= u < end else np.float32(0)
            for k in range(n_clusters):
                weight, total = weights[k], np.float32(0)
                for u in range(len(share)):
                    total += weight[u] * share[u]
                soft[n, k] += total
        n_valid = stop[n] - start[n]
        means[0, n], means[1, n] = entropy_sum / n_valid, distance_sum / n_valid
        for k in range(n_clusters):
            soft[n, k] /= n_valid


@kernel()
def soft_weights(g, rows, half_norm, gamma, inverse_tau, tile, weights, sums):  # type: ignore[no-untyped-def]
    """weights (K, CHUNK) = exp(−E_k), E from the nearest centroid; sums (2, CHUNK) = Σ_k e^(−E_k), Σ_k E_k e^(−E_k)."""
    # As in neighbour_weights, loops over a length that the compiler does not know become vectors.
    best, nearest, norm, value = tile[BEST:SECOND], tile[SECOND:LABEL], tile[NORM:VALUE], tile[VALUE:SCRATCH]
    w0, w1, w2 = tile[SCRATCH:], tile[SCRATCH + CHUNK :], tile[SCRATCH + 2 * CHUNK :]
    w3, w4, w5 = tile[SCRATCH + 3 * CHUNK :], tile[SCRATCH + 4 * CHUNK :], tile[SCRATCH + 5 * CHUNK :]
    total, moment = sums[0], sums[1]
    for u in range(len(best)):
        total[u], moment[u] = np.float32(0), np.float32(0)
        nearest[u] = max(norm[u] - np.float32(2) * best[u], np.float32(0))
        nearest[u] = nearest[u] if gamma == 2 else np.sqrt(nearest[u])
    r0, r1, r2, r3, r4, r5 = rows[0], rows[1], rows[2], rows[3], rows[4], rows[5]
    for k in range(len(half_norm)):
        n0, n1, n2, n3, n4, n5 = g[r0, k], g[r1, k], g[r2, k], g[r3, k], g[r4, k], g[r5, k]
        base, weight = -half_norm[k], weights[k]
        for u in range(len(best)):
            value[u] = base + w0[u] * n0 + w1[u] * n1 + w2[u] * n2 + w3[u] * n3 + w4[u] * n4 + w5[u] * n5
        for group in range(6, len(rows), 6):
            add_neighbours(g, rows, group, k, tile)
        for u in range(len(best)):
            distance = max(norm[u] - np.float32(2) * value[u], np.float32(0))
            distance = distance if gamma == 2 else np.sqrt(distance)
            energy = max((distance - nearest[u]) * inverse_tau, np.float32(0))
            e = exp_negative(energy)
            weight[u] = e
            total[u] += e
            moment[u] += e * energy


@kernel()
def exp_negative(energy):  # type: ignore[no-untyped-def]
    """exp(−energy) for a float32 energy ≥ 0, within 1e-7 of it: 2ⁿ from its bits, the rest by Taylor's series to r⁷.

    |r| ≤ ln 2 / 2. Energies above 87 give e⁻⁸⁷ ≈ 1.6e-38, nothing beside the nearest centroid's 1. A call of the
    mathematics library would keep the loop around it from becoming vectors.
    """
    x = -min(energy, np.float32(87))
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
    series = series * r + np.float32(1)
    return series * np.int32((np.int32(n) + np.int32(127)) << np.int32(23)).view(np.float32)


def assign(
    blocks_BCL: Sequence[torch.Tensor],
    model: ClusterModel,
    valid_start: NDArray[np.int32],
    valid_stop: NDArray[np.int32],
) -> Assignment:
    """Assign every valid timestep of B records; compiled kernels for CPU activations, tensors for others."""
    if blocks_BCL[0].device.type == "cpu":
        packed = pack(blocks_BCL, model.layout, valid_start, valid_stop)
        return soft_assign(packed, model.layout, model.centroids, model.gamma, model.tau)
    return tensor_assign(blocks_BCL, model, valid_start, valid_stop)


def tensor_assign(
    blocks_BCL: Sequence[torch.Tensor],
    model: ClusterModel,
    valid_start: NDArray[np.int32],
    valid_stop: NDArray[np.int32],
) -> Assignment:
    """The same on any torch device; it forms (B, D, K) values."""
    d2_BTK = tensor_square_distances(blocks_BCL, model.layout, model.centroids)
    p_BTK = torch.softmax(-(d2_BTK if model.gamma == 2 else d2_BTK.sqrt()) / model.tau, 2)
    entropy = (torch.special.entr(p_BTK).sum(2) / max(np.log(model.n_clusters), 1e-12)).clamp(0, 1)
    label = d2_BTK.argmin(2)
    valid = span_mask(valid_start, valid_stop, model.layout.n_steps).to(label.device)
    n_valid = valid.sum(1).clamp_min(1)
    one_hot = torch.nn.functional.one_hot(label, model.n_clusters) * valid[..., None]
    inside = valid.double()
    return Assignment(
        torch.where(valid, label, -1).to(torch.int16).cpu().numpy(),
        (entropy * valid).float().cpu().numpy(),
        one_hot.sum(1).to(torch.int32).cpu().numpy(),
        ((p_BTK.double() * inside[..., None]).sum(1) / n_valid[:, None]).cpu().numpy(),
        ((entropy.double() * inside).sum(1) / n_valid).cpu().numpy(),
        ((d2_BTK.amin(2).double() * inside).sum(1) / n_valid).cpu().numpy(),
    )
