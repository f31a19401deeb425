"""Scores under weights, for many weightings at once, and the intervals that resampled patients give them.

A bootstrap resample is a row of weights: how often each record's patient was drawn. All of a patient's records come
together, because they are no independent evidence. Weights are (B, N); a `Scorer` makes scores (B,) of them, NaN where
there is none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Weights = NDArray[np.float64]
Scorer = Callable[[Weights], NDArray[np.float64]]
PerLabel = Callable[[NDArray, NDArray], Scorer | None]

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


def value_of(scorer: Scorer | None, n_records: int) -> float | None:
    """The score with each of so many records counting once; None where there is none."""
    value = float(scorer(np.ones((1, n_records)))[0]) if scorer else float("nan")
    return value if np.isfinite(value) else None


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


def weighted_mean(values: NDArray) -> Scorer:
    """Scorer of the mean of (N,) values."""
    return lambda weights: _ratio(np.einsum("bn,n->b", weights, values.astype(np.float64)), weights.sum(axis=1))


def difference(first: Scorer | None, second: Scorer | None) -> Scorer | None:
    """Scorer of first − second on the same weights: differences are paired. None where one is missing."""
    return (lambda weights: first(weights) - second(weights)) if first and second else None


def among(chosen: NDArray[np.bool_], scorer: Scorer | None) -> Scorer | None:
    """The `scorer` of the chosen records alone, taking weights of all."""
    return (lambda weights: scorer(weights[:, chosen])) if scorer else None


def mean_of(scorers: Sequence[Scorer | None]) -> Scorer | None:
    """Scorer of the mean of those that have a value; None when there are none."""
    known = [scorer for scorer in scorers if scorer is not None]
    if not known:
        return None

    def score(weights: Weights) -> NDArray[np.float64]:
        each = np.stack([scorer(weights) for scorer in known])
        there = np.isfinite(each)
        return _ratio(np.where(there, each, 0).sum(axis=0), there.sum(axis=0))

    return score


def macro(per_label: PerLabel, a: NDArray, b: NDArray) -> Scorer | None:
    """Scorer of the mean of `per_label` over the columns of a and b (N, n)."""
    return mean_of([per_label(a[:, i], b[:, i]) for i in range(a.shape[1])])


def macro_auroc(truth: NDArray[np.integer], scores: NDArray[np.floating]) -> Scorer | None:
    """Scorer of the mean area under the ROC curve over the columns of (N, n) truth 0/1 and scores.

    Columns without both values are left out; None when that leaves none.
    """
    return macro(auroc, truth, scores)


def auroc(truth: NDArray[np.integer], scores: NDArray[np.floating]) -> Scorer | None:
    """Scorer of the area under the ROC curve of (N,) truth 0/1 and scores; None unless truth has both values.

    The share of (positive, negative) pairs that stand in the right order, ties counting half.
    """
    if not 0 < truth.sum() < len(truth):
        return None
    order = np.argsort(scores, kind="stable")
    ranked = scores[order]
    first = np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1]]))  # where each group of ties begins
    is_positive = truth[order] > 0

    def score(weights: Weights) -> NDArray[np.float64]:
        sorted_weights = weights[:, order]
        above = np.add.reduceat(np.where(is_positive, sorted_weights, 0), first, axis=1)
        below = np.add.reduceat(np.where(is_positive, 0, sorted_weights), first, axis=1)
        lower = np.cumsum(below, axis=1) - below
        pairs = above.sum(axis=1) * below.sum(axis=1)
        return _ratio((above * (lower + 0.5 * below)).sum(axis=1), pairs)

    return score


def cohens_kappa(a: NDArray[np.integer], b: NDArray[np.integer]) -> Scorer:
    """Scorer of Cohen's κ (1960) between two codings (N,) of the same records, in numbers from 0.

    NaN where chance alone would agree always (both give one and the same answer throughout).
    """
    n = int(max(a.max(initial=0), b.max(initial=0))) + 1
    same = (a == b).astype(np.float64)
    codes_a, codes_b = (np.eye(n)[codes] for codes in (a, b))

    def score(weights: Weights) -> NDArray[np.float64]:
        total = weights.sum(axis=1)
        safe = np.where(total > 0, total, 1)
        seen = (weights @ same) / safe
        chance = ((weights @ codes_a) * (weights @ codes_b)).sum(axis=1) / safe**2
        possible = (total > 0) & (chance < 1 - 1e-12)
        return np.where(possible, (seen - chance) / np.where(possible, 1 - chance, 1), np.nan)

    return score


def average_precision(truth: NDArray[np.integer], scores: NDArray[np.floating]) -> Scorer | None:
    """Scorer of Σ (recall gained) · precision over falling thresholds; None without a positive and a negative record.

    truth (N,) 0/1, scores (N,). Tied scores are one threshold, as in scikit-learn.
    """
    if not 0 < truth.sum() < len(truth):
        return None
    order = np.argsort(-scores, kind="stable")
    ranked, positive = scores[order], truth[order] > 0
    last = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))  # where each group of ties ends

    def score(weights: Weights) -> NDArray[np.float64]:
        sorted_weights = weights[:, order]
        called = np.cumsum(sorted_weights, axis=1)[:, last]
        right = np.cumsum(np.where(positive, sorted_weights, 0), axis=1)[:, last]
        total = right[:, -1]
        precision = np.divide(right, called, out=np.zeros_like(right), where=called > 0)
        gained = np.diff(right, axis=1, prepend=0)
        possible = (total > 0) & (total < called[:, -1])
        return np.where(possible, _ratio((gained * precision).sum(axis=1), total), np.nan)

    return score


def r_squared(truth: NDArray[np.floating], predicted: NDArray[np.floating]) -> Scorer | None:
    """Scorer of 1 − residual / total sum of squares of (N,) values, the mean taken under the weights; None where truth
    is constant."""
    y, residual = truth.astype(np.float64), (truth - predicted).astype(np.float64) ** 2
    if np.ptp(y) == 0:
        return None

    def score(weights: Weights) -> NDArray[np.float64]:
        mean = _ratio(weights @ y, weights.sum(axis=1))
        total = np.einsum("bn,bn->b", weights, (y - mean[:, None]) ** 2)
        return 1 - _ratio(weights @ residual, total)

    return score


def ranker(values: NDArray[np.floating]) -> Callable[[Weights], NDArray[np.float64]]:
    """From weights (B, N) to the ranks (B, N) of (N,) values among themselves; ties share their middle rank.

    A value stands for as many equal values as its weight says: ranks are those of the resample, not of the whole.
    """
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


def _ratio(numerator: NDArray[np.floating], denominator: NDArray) -> NDArray[np.float64]:
    """numerator / denominator, NaN where there is nothing to divide by."""
    safe = np.where(denominator > 0, denominator, 1)
    return np.where(denominator > 0, numerator / safe, np.nan)
