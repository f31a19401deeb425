"""Are the network's probabilities true? Brier score, expected calibration error, and the curve behind it.

    ECE = Σ_bin |Σ (p − y)| / Σ 1        over all labels of all records, bins of equal width in p

A finite sample has an ECE above zero even for perfect probabilities, the more so the smaller it is: compare strata of
about equal size, and look at the intervals.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ecgscale.evaluate.bootstrap import Scorer, Weights, weighted_mean

BINS = 10


def brier(says: NDArray[np.float64], y: NDArray[np.integer]) -> Scorer:
    """Scorer of the mean of (p − y)² over (N, n) probabilities and labels in 0/1."""
    return weighted_mean(((says - y) ** 2).mean(axis=1))


def calibration_error(says: NDArray[np.float64], y: NDArray[np.integer]) -> Scorer:
    """Scorer of the expected calibration error of (N, n) probabilities of labels in 0/1."""
    n_labels = says.shape[1]
    excess = np.zeros((len(says), BINS))
    for label in range(n_labels):
        np.add.at(excess, (np.arange(len(says)), bins_of(says[:, label])), says[:, label] - y[:, label])

    def score(weights: Weights) -> NDArray[np.float64]:
        total = weights.sum(axis=1) * n_labels
        error = np.abs(weights @ excess).sum(axis=1)
        return np.where(total > 0, error / np.where(total > 0, total, 1), np.nan)

    return score


def bins_of(says: NDArray[np.float64]) -> NDArray[np.int64]:
    """The bin of each probability, 0 … BINS − 1."""
    return np.clip((says * BINS).astype(np.int64), 0, BINS - 1)


def reliability(says: NDArray[np.float64], y: NDArray[np.integer], stratum: str) -> pa.Table:
    """One row a bin that has probabilities: how many, their mean, and how often the label was there."""
    place, p, truth = bins_of(says).ravel(), says.ravel(), y.ravel().astype(np.float64)
    n, said, seen = (np.bincount(place, weights, minlength=BINS) for weights in (None, p, truth))
    some = n > 0
    return pa.table(
        {
            "stratum": pa.array([stratum] * int(some.sum()), pa.string()),
            "bin": np.flatnonzero(some),
            "labels": n[some].astype(np.int64),
            "mean_probability": said[some] / n[some],
            "observed": seen[some] / n[some],
        }
    )
