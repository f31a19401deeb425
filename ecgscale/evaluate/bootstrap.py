"""Scores under weights, for many weightings at once, and the intervals that resampled patients give them.

A bootstrap resample is a row of weights: how often each record's patient was drawn. All of a patient's records come
together, because they are no independent evidence. Weights are (B, N), scores (B,).

Spearman's rank correlation under weights, plain and with a third quantity held fixed, as scorers of `bootstrap`.

Under weights a value stands for as many equal values as its weight says, so that a resample's ranks are those of the
resample and not of the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Weights = NDArray[np.float64]
Scorer = Callable[[Weights], NDArray[np.float64]]

_CHUNK_VALUES = 4_000_000

MOST_DRAWN = 200_000_000
"""Records × resamples that one set of intervals is worth."""


def patient_weights(patients: Sequence[object], n_resamples: int, seed: int) -> Weights:
    """(n_resamples, N): how often the patient of each record is drawn when patients are drawn with replacement."""
    return np.concatenate([np.empty((0, len(patients))), *_drawn(patients, n_resamples, seed)])


def intervals(
    scorers: Mapping[str, Scorer | None],
    patients: Sequence[object],
    n_resamples: int,
    seed: int,
    level: float = 0.95,
) -> dict[str, tuple[float, float] | None]:
    """The interval of every scorer over the same resamples of the patients, a few resamples in memory at a time.

    Above MOST_DRAWN records × resamples fewer resamples are drawn, 100 at least.
    """
    n_resamples = min(n_resamples, max(MOST_DRAWN // max(len(patients), 1), 100))
    values: dict[str, list[NDArray[np.float64]]] = {name: [] for name, scorer in scorers.items() if scorer}
    for weights in _drawn(patients, n_resamples, seed):
        for name, scores in values.items():
            scorer = scorers[name]
            assert scorer is not None
            scores.append(scorer(weights))
    return {name: _central(np.concatenate(values[name]), level) if name in values else None for name in scorers}


def interval(scorer: Scorer, weights: Weights, level: float = 0.95) -> tuple[float, float] | None:
    """The central `level` of a score's bootstrap distribution; None where too few resamples have a score.

    Resamples without a value (a class that was not drawn) are left out; more than half of them must have one.
    """
    rows = max(_CHUNK_VALUES // max(weights.shape[1], 1), 1)
    return _central(np.concatenate([scorer(weights[i : i + rows]) for i in range(0, len(weights), rows)]), level)


def _drawn(patients: Sequence[object], n_resamples: int, seed: int) -> Iterator[Weights]:
    _, owner = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
    n_patients = int(owner.max()) + 1
    share, rng = np.full(n_patients, 1 / n_patients), np.random.default_rng(seed)
    rows = max(_CHUNK_VALUES // max(len(owner), 1), 1)
    for first in range(0, n_resamples, rows):
        counts = rng.multinomial(n_patients, share, size=min(rows, n_resamples - first))
        yield counts[:, owner].astype(np.float64)


def _central(scores: NDArray[np.float64], level: float) -> tuple[float, float] | None:
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


def auroc(truth: NDArray[np.integer], scores: NDArray[np.floating]) -> Scorer | None:
    """Scorer of the area under the ROC curve of (N,) truth 0/1 and scores; None unless truth has both values."""
    return macro_auroc(truth[:, None], scores[:, None])


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


Ranker = Callable[[Weights], NDArray[np.float64]]


def ranker(values: NDArray[np.floating]) -> Ranker:
    """From weights (B, N) to the ranks (B, N) of (N,) values among themselves; ties share their middle rank."""
    order = np.argsort(values, kind="stable")
    ranked = values[order]
    is_first = np.append(True, ranked[1:] != ranked[:-1])[: len(ranked)]
    first = np.flatnonzero(is_first)
    group = np.empty(len(values), np.int64)
    group[order] = np.cumsum(is_first) - 1

    def ranks(weights: Weights) -> NDArray[np.float64]:
        if not len(first):
            return np.zeros_like(weights)
        size = np.add.reduceat(weights[:, order], first, axis=1)
        return np.asarray((np.cumsum(size, axis=1) - size / 2)[:, group])

    return ranks


def spearman(x: NDArray[np.floating], y: NDArray[np.floating]) -> Scorer:
    """Scorer of the rank correlation of (N,) x and y; NaN where one of them is constant."""
    rank_x, rank_y = ranker(x), ranker(y)
    return lambda weights: _correlation(rank_x(weights), rank_y(weights), weights)


def partial_spearman(x: NDArray[np.floating], y: NDArray[np.floating], given: NDArray[np.floating]) -> Scorer:
    """Scorer of the rank correlation of x and y that is left when the ranks of `given` are taken out of both."""
    rankers = ranker(x), ranker(y), ranker(given)

    def score(weights: Weights) -> NDArray[np.float64]:
        x_rank, y_rank, given_rank = (ranks(weights) for ranks in rankers)
        xy = _correlation(x_rank, y_rank, weights)
        xg, yg = _correlation(x_rank, given_rank, weights), _correlation(y_rank, given_rank, weights)
        left = (1 - xg**2) * (1 - yg**2)
        # What a third quantity explains wholly leaves rounding, and no correlation.
        some = left > 1e-12
        return np.where(some, (xy - xg * yg) / np.sqrt(np.where(some, left, 1.0)), np.nan)

    return score


def _correlation(a: NDArray[np.float64], b: NDArray[np.float64], weights: Weights) -> NDArray[np.float64]:
    total = np.maximum(weights.sum(axis=1, keepdims=True), 1e-300)
    a = a - (weights * a).sum(axis=1, keepdims=True) / total
    b = b - (weights * b).sum(axis=1, keepdims=True) / total
    spread = (weights * a * a).sum(axis=1) * (weights * b * b).sum(axis=1)
    # Constant ranks differ by rounding alone.
    some = spread > 1e-12 * total[:, 0] ** 2
    return np.where(some, (weights * a * b).sum(axis=1) / np.sqrt(np.where(some, spread, 1.0)), np.nan)
