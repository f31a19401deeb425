"""What a pass over timesteps returns: integers, so that no order of addition can change a bit.

Each record's counts, feature sums, distortion and margin are rounded to int64 at a recorded scale before anything
is added across records (docs/method.md, "The same answer on any cluster"). 10¹⁰ timesteps fit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ecgscale.clusters.features import BlockLayout

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
