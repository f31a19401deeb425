"""Spearman's rank correlation under weights, plain and with a third quantity held fixed, as scorers of `bootstrap`.

Under weights a value stands for as many equal values as its weight says, so that a resample's ranks are those of the
resample and not of the whole.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ecgscale.evaluate.bootstrap import Scorer, Weights

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
