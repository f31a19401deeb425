"""How alike clusterings of the same timesteps are: adjusted Rand index, distance of matched centroids, and how many
clusters count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_rand_score


@dataclass(frozen=True)
class Stability:
    """Over all pairs of several clusterings: mean and smallest adjusted Rand index (1 the same, 0 chance), and the mean
    distance of matched centroids in units of the features' spread."""

    pairs: int
    ari: float
    ari_min: float
    centroid_distance: float


def stability(centroid_sets: Sequence[NDArray[np.floating]], sample: NDArray[np.floating]) -> Stability | None:
    """Compare sets of centroids (K, C) on a sample of features (n, C) that none was fitted on; None for fewer than two
    sets, or an empty sample."""
    if len(centroid_sets) < 2 or not len(sample):
        return None
    labels = [nearest(sample, centroids) for centroids in centroid_sets]
    spread = float(np.sqrt(((sample - sample.mean(axis=0)) ** 2).sum(axis=1).mean())) or 1.0
    pairs = list(combinations(range(len(centroid_sets)), 2))
    rand = [float(adjusted_rand_score(labels[a], labels[b])) for a, b in pairs]
    apart = [matched_distance(centroid_sets[a], centroid_sets[b]) / spread for a, b in pairs]
    return Stability(len(pairs), float(np.mean(rand)), min(rand), float(np.mean(apart)))


def nearest(features: NDArray[np.floating], centroids: NDArray[np.floating]) -> NDArray[np.int64]:
    """(n,) the nearest centroid of each feature vector, the lowest index on ties."""
    x, c = features.astype(np.float64), centroids.astype(np.float64)
    return np.asarray(((c**2).sum(axis=1) - 2 * x @ c.T).argmin(axis=1))


def matched_distance(one: NDArray[np.floating], other: NDArray[np.floating]) -> float:
    """Mean Euclidean distance between centroids (K, C) matched one to one at the least total (Kuhn 1955)."""
    apart = np.sqrt(
        np.maximum(((one[:, None].astype(np.float64) - other[None].astype(np.float64)) ** 2).sum(axis=2), 0)
    )
    rows, columns = linear_sum_assignment(apart)
    return float(apart[rows, columns].mean())


def effective_number(counts: NDArray[np.integer]) -> float:
    """exp(entropy) of the shares of clusters: K when all are equally large, 1 when one has everything."""
    share = counts[counts > 0] / max(counts.sum(), 1)
    return float(np.exp(-(share * np.log(share)).sum())) if len(share) else 0.0
