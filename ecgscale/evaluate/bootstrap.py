"""Scores under weights, for many weightings at once, and the intervals that resampled patients give them.

A bootstrap resample is a row of weights: how often each record's patient was drawn. All of a patient's records come
together, because they are no independent evidence. Weights are (B, N), scores (B,).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Weights = NDArray[np.float64]
Scorer = Callable[[Weights], NDArray[np.float64]]

_CHUNK_VALUES = 4_000_000


def patient_weights(patients: Sequence[object], n_resamples: int, seed: int) -> Weights:
    """(n_resamples, N): how often the patient of each record is drawn when patients are drawn with replacement."""
    _, owner = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
    n_patients = int(owner.max()) + 1
    counts = np.random.default_rng(seed).multinomial(n_patients, np.full(n_patients, 1 / n_patients), size=n_resamples)
    return counts[:, owner].astype(np.float64)


def interval(scorer: Scorer, weights: Weights, level: float = 0.95) -> tuple[float, float] | None:
    """The central `level` of a score's bootstrap distribution; None where too few resamples have a score.

    Resamples without a value (a class that was not drawn) are left out; more than half of them must have one.
    """
    rows = max(_CHUNK_VALUES // max(weights.shape[1], 1), 1)
    scores = np.concatenate([scorer(weights[i : i + rows]) for i in range(0, len(weights), rows)])
    known = scores[np.isfinite(scores)]
    if 2 * len(known) <= len(scores):
        return None
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def weighted_mean(values: NDArray[np.floating]) -> Scorer:
    """Scorer of the mean of (N,) values."""

    def score(weights: Weights) -> NDArray[np.float64]:
        return _ratio(np.einsum("bn,n->b", weights, values.astype(np.float64)), weights.sum(axis=1))

    return score


def macro_auroc(truth: NDArray[np.integer], scores: NDArray[np.floating]) -> Scorer | None:
    """Scorer of the mean area under the ROC curve over the columns of (N, n) truth 0/1 and scores.

    Columns without both values are left out; None when that leaves none.
    """
    parts = [_auroc(truth[:, i] > 0, scores[:, i]) for i in range(truth.shape[1]) if 0 < truth[:, i].sum() < len(truth)]
    if not parts:
        return None

    def score(weights: Weights) -> NDArray[np.float64]:
        each = np.stack([part(weights) for part in parts])
        known = np.isfinite(each)
        return _ratio(np.where(known, each, 0).sum(axis=0), known.sum(axis=0))

    return score


def r_squared(truth: NDArray[np.floating], predicted: NDArray[np.floating]) -> Scorer:
    """Scorer of 1 − residual / total sum of squares of (N,) values, the mean taken under the weights."""
    y, residual = truth.astype(np.float64), (truth - predicted).astype(np.float64) ** 2

    def score(weights: Weights) -> NDArray[np.float64]:
        mean = _ratio(weights @ y, weights.sum(axis=1))
        total = np.einsum("bn,bn->b", weights, (y - mean[:, None]) ** 2)
        return 1 - _ratio(weights @ residual, total)

    return score


def _auroc(positive: NDArray[np.bool_], scores: NDArray[np.floating]) -> Scorer:
    """The share of (positive, negative) pairs that stand in the right order, ties counting half."""
    order = np.argsort(scores, kind="stable")
    ranked = scores[order]
    first = np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1]]))  # where each group of ties begins
    is_positive = positive[order]

    def score(weights: Weights) -> NDArray[np.float64]:
        sorted_weights = weights[:, order]
        above = np.add.reduceat(np.where(is_positive, sorted_weights, 0), first, axis=1)
        below = np.add.reduceat(np.where(is_positive, 0, sorted_weights), first, axis=1)
        lower = np.cumsum(below, axis=1) - below
        pairs = above.sum(axis=1) * below.sum(axis=1)
        return _ratio((above * (lower + 0.5 * below)).sum(axis=1), pairs)

    return score


def _ratio(numerator: NDArray[np.floating], denominator: NDArray) -> NDArray[np.float64]:
    """numerator / denominator, NaN where there is nothing to divide by."""
    safe = np.where(denominator > 0, denominator, 1)
    return np.where(denominator > 0, numerator / safe, np.nan)
