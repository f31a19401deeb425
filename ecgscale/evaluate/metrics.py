"""Scores of labels and decisions under weights: Cohen's κ and average precision, one by one and as macro means.

Like those of `bootstrap`, every scorer takes weights (B, N) and gives (B,) values, NaN where there is none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from ecgscale.evaluate.bootstrap import Scorer, Weights

PerLabel = Callable[[NDArray, NDArray], Scorer | None]


def mean_of(scorers: Sequence[Scorer | None]) -> Scorer | None:
    """Scorer of the mean of those that have a value; None when there are none."""
    known = [scorer for scorer in scorers if scorer is not None]
    if not known:
        return None

    def score(weights: Weights) -> NDArray[np.float64]:
        each = np.stack([scorer(weights) for scorer in known])
        there = np.isfinite(each)
        count = there.sum(axis=0)
        return np.where(count > 0, np.where(there, each, 0).sum(axis=0) / np.maximum(count, 1), np.nan)

    return score


def macro(per_label: PerLabel, a: NDArray, b: NDArray) -> Scorer | None:
    """Scorer of the mean of `per_label` over the columns of a and b (N, n)."""
    return mean_of([per_label(a[:, i], b[:, i]) for i in range(a.shape[1])])


def difference(first: Scorer, second: Scorer) -> Scorer:
    """Scorer of first − second on the same weights: differences are paired."""
    return lambda weights: first(weights) - second(weights)


def among(chosen: NDArray[np.bool_], scorer: Scorer | None) -> Scorer | None:
    """The `scorer` of the chosen records alone, taking weights of all."""
    return None if scorer is None else lambda weights: scorer(weights[:, chosen])


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
        return np.where(possible, (gained * precision).sum(axis=1) / np.where(possible, total, 1), np.nan)

    return score
