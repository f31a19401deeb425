"""Where K-means starts: k-means++ on a seeded sample of timesteps, or an earlier fit; and the rule by which backends
draw that sample.

Neighbouring timesteps are near-duplicates, so the sample takes few from each record. Which ones depends on the seed and
on the record's number alone, never on how records are spread over workers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import kmeans_plusplus
from threadpoolctl import threadpool_limits

from ecgscale.clusters.features import BlockLayout
from ecgscale.clusters.packed import block_slices
from ecgscale.errors import UsageError


def sampled_records(n: int, n_records: int, seed: int) -> tuple[NDArray[np.int64], int]:
    """Which records a sample of `n` timesteps is drawn from (sorted), and how many from each."""
    if n >= n_records:
        return np.arange(n_records), -(-n // max(n_records, 1))
    return np.sort(np.random.default_rng([seed, 1]).permutation(n_records)[:n]), 1


def sampled_steps(record: int, per_record: int, start: int, stop: int, seed: int) -> NDArray[np.int64]:
    """Timesteps drawn from one record's valid span: at most `per_record`, sorted, none twice."""
    rng = np.random.default_rng([seed, 2, record])
    return np.sort(start + rng.permutation(max(stop - start, 0))[:per_record])


def features_at(values: NDArray[np.float32], layout: BlockLayout, steps: NDArray[np.int64]) -> NDArray[np.float32]:
    """f(t) at some timesteps of one packed record, (len(steps), C) float32."""
    features = []
    for b, ((where, _), channels, scale) in enumerate(
        zip(block_slices(layout), layout.channels, layout.scales, strict=True)
    ):
        left, right, fraction = layout.interpolation(b)
        block_LC = values[where].reshape(layout.lengths[b], -1)[:, :channels].astype(np.float64)
        weight = fraction[steps][:, None]
        z = (1 - weight) * block_LC[left[steps]] + weight * block_LC[right[steps]]
        norm = np.sqrt((z * z).sum(1, keepdims=True))
        features.append(np.divide(scale * z, norm, out=np.zeros_like(z), where=norm > 0))
    return np.concatenate(features, 1).astype(np.float32)


def draw_sample(
    row: Callable[[int], NDArray[np.float32]],
    layout: BlockLayout,
    valid_start: NDArray[np.int32],
    valid_stop: NDArray[np.int32],
    n: int,
    seed: int,
) -> NDArray[np.float32]:
    """About `n` feature vectors (n, C) of the records whose packed values `row` returns, a few from each."""
    usable = np.flatnonzero(valid_stop > valid_start)
    chosen, per_record = sampled_records(n, len(usable), seed)
    drawn = [np.empty((0, layout.n_channels), np.float32)]
    for r in usable[chosen].tolist():
        steps = sampled_steps(r, per_record, int(valid_start[r]), int(valid_stop[r]), seed)
        drawn.append(features_at(row(r), layout, steps))
    return np.concatenate(drawn)


def plus_plus(sample: NDArray[np.float32], n_clusters: int, n_init: int, seed: int) -> NDArray[np.float32]:
    """The best of `n_init` k-means++ draws (Arthur and Vassilvitskii 2007) on the sample, (K, C).

    On one thread, so that the same sample gives the same bits anywhere. Raises UsageError when the sample has fewer
    distinct timesteps than clusters.
    """
    distinct = len(np.unique(sample, axis=0)) if len(sample) < 50 * n_clusters else n_clusters
    if distinct < n_clusters:
        raise UsageError(
            f"{n_clusters} clusters were asked for, but the sample of {len(sample)} timesteps has only {distinct}"
            " distinct ones; give more records, or fewer --clusters"
        )
    best, best_inertia = sample[:n_clusters], np.inf
    square = (sample.astype(np.float64) ** 2).sum(1)
    with threadpool_limits(1):
        for attempt in range(n_init):
            state = np.random.RandomState(np.random.MT19937([seed, 3, n_clusters, attempt]))
            centres, _ = kmeans_plusplus(sample, n_clusters, random_state=state)
            half = (centres.astype(np.float64) ** 2).sum(1) / 2
            inertia = float((square - 2 * (sample @ centres.T - half).max(1)).sum())
            if inertia < best_inertia:
                best, best_inertia = centres, inertia
    return np.ascontiguousarray(best, np.float32)


@dataclass(frozen=True)
class Earlier:
    """Centroids (K, C) of an earlier fit, to start from, and the timesteps (K,) that they had."""

    centroids: NDArray[np.float32]
    counts: NDArray[np.int64]


def from_earlier(earlier: Earlier, sample: NDArray[np.float32], n_clusters: int, seed: int) -> NDArray[np.float32]:
    """The earlier centroids, in their order: the largest, if fewer are wanted; with k-means++ draws added, if more.

    (n_clusters, C). A draw is the best of 2 + ln K candidates, as in scikit-learn. Raises UsageError when the sample
    has too few timesteps that differ from the earlier centroids.
    """
    if n_clusters <= len(earlier.centroids):
        largest = np.sort(np.argsort(-earlier.counts, kind="stable")[:n_clusters])
        return np.ascontiguousarray(earlier.centroids[largest], np.float32)
    rng = np.random.default_rng([seed, 6, n_clusters])
    centres = list(earlier.centroids)
    nearest = np.min([_square_distances(sample, centre) for centre in centres], axis=0)
    while len(centres) < n_clusters:
        if nearest.sum() == 0:
            raise UsageError(
                f"{n_clusters} clusters were asked for, but the sample of {len(sample)} timesteps has not that many"
                " distinct ones; give more records, or fewer clusters"
            )
        drawn = rng.choice(len(sample), 2 + int(np.log(n_clusters)), p=nearest / nearest.sum())
        candidates = [np.minimum(nearest, _square_distances(sample, sample[i])) for i in drawn]
        best = int(np.argmin([candidate.sum() for candidate in candidates]))
        nearest = candidates[best]
        centres.append(sample[drawn[best]])
    return np.ascontiguousarray(centres, np.float32)


def _square_distances(sample: NDArray[np.float32], centre: NDArray[np.float32]) -> NDArray[np.float64]:
    """(n,) from each feature vector to one; no matrix product, so 0 for equal ones, and equal bits on any threads."""
    difference = sample - centre
    return np.asarray(np.einsum("nc,nc->n", difference, difference, dtype=np.float64))
