"""A record in a few numbers: shares of clusters, mean entropy, distortion.

Everything is divided in float64 and rounded to float32 once, so shares sum to 1 within 1e-7.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from ecgscale.clusters.assign import Assignment


@dataclass(frozen=True)
class Summary:
    """N records: `proportions` and `soft_proportions` (N, K), `mean_entropy` and `distortion` (N,), all float32."""

    proportions: NDArray[np.float32]
    soft_proportions: NDArray[np.float32]
    mean_entropy: NDArray[np.float32]
    distortion: NDArray[np.float32]


def summarise(assignment: Assignment) -> Summary:
    """The summary of assigned records; each has at least one valid timestep."""
    return Summary(
        proportions=shares(assignment.counts),
        soft_proportions=shares(assignment.soft),
        mean_entropy=np.clip(assignment.mean_entropy, 0.0, 1.0).astype(np.float32),
        distortion=assignment.distortion.astype(np.float32),
    )


def shares(amounts: NDArray[np.number]) -> NDArray[np.float32]:
    """Non-negative (N, K) amounts as shares of their row: (N, K) float32."""
    exact = amounts.astype(np.float64)
    return (exact / exact.sum(axis=1, keepdims=True)).astype(np.float32)
