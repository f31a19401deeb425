"""How well clusters and parts of the heartbeat go together, from tables of counts.

Counts are (…, K, W): timesteps of cluster k in part w, for any leading axes (shifts, resamples). Scores come back with
those axes. NaN where there is nothing to score.

    I(k; w) = Σ p_kw ln(p_kw / p_k p_w)       mutual information
    I / H(w)                                   the share of the parts' entropy that the clusters explain
    (I − E[I]) / (½(H(k) + H(w)) − E[I])       adjusted for chance (Vinh et al. 2010)

E[I] for independent timesteps is taken to its leading order, (K′ − 1)(W′ − 1) / 2n with K′ and W′ the rows and columns
that are not empty: the exact sum costs seconds at the counts that occur here and gives the same digits.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.floating] | NDArray[np.integer]
Scores = NDArray[np.float64]


def mutual_information(counts: Counts) -> Scores:
    """I(k; w) in nats."""
    p = _shares(counts)
    expected = p.sum(-1, keepdims=True) * p.sum(-2, keepdims=True)
    return np.einsum("...kw->...", p * _log_ratio(p, expected))


def explained_entropy(counts: Counts) -> Scores:
    """I(k; w) / H(w): 0 when clusters say nothing about the part, 1 when they say everything."""
    return _ratio(mutual_information(counts), _entropy(_shares(counts).sum(-2)))


def adjusted_information(counts: Counts) -> Scores:
    """Mutual information adjusted for chance: about 0 for independent timesteps, 1 for equal partitions."""
    p, total = _shares(counts), np.asarray(counts, np.float64).sum((-1, -2))
    rows, columns = (p.sum(-1) > 0).sum(-1), (p.sum(-2) > 0).sum(-1)
    chance = _ratio((rows - 1.0) * (columns - 1.0), 2 * total)
    mean_entropy = (_entropy(p.sum(-1)) + _entropy(p.sum(-2))) / 2
    return _ratio(mutual_information(counts) - chance, mean_entropy - chance)


def purity(counts: Counts) -> Scores:
    """The share of timesteps that are in the commonest part of their cluster."""
    numbers = np.asarray(counts, np.float64)
    return _ratio(numbers.max(-1).sum(-1), numbers.sum((-1, -2)))


def share_of_part(counts: Counts) -> Scores:
    """(…, K, W): of each part's timesteps, the share in each cluster."""
    numbers = np.asarray(counts, np.float64)
    return _ratio(numbers, numbers.sum(-2, keepdims=True))


def share_of_cluster(counts: Counts) -> Scores:
    """(…, K, W): of each cluster's timesteps, the share in each part."""
    numbers = np.asarray(counts, np.float64)
    return _ratio(numbers, numbers.sum(-1, keepdims=True))


def best_union(counts: NDArray[np.integer], part: int) -> NDArray[np.int64]:
    """The clusters whose union finds the timesteps of `part` with the highest F1, from (K, W) counts.

    A union with the best F1 takes clusters by the share of their timesteps that are in the part, so only K unions have
    to be tried. Empty when the part does not occur.
    """
    inside, size = counts[:, part].astype(np.float64), counts.sum(-1).astype(np.float64)
    order = np.argsort(-_ratio(inside, size, empty=-1.0), kind="stable")
    if not inside.sum():
        return np.zeros(0, np.int64)
    f1 = 2 * np.cumsum(inside[order]) / (np.cumsum(size[order]) + inside.sum())
    return np.sort(order[: int(f1.argmax()) + 1])


def union_scores(counts: Counts, union: NDArray[np.integer], part: int) -> tuple[Scores, Scores, Scores]:
    """(F1, precision, recall) of the timesteps of `part` when those of the clusters in `union` are taken for it."""
    numbers = np.asarray(counts, np.float64)
    taken = numbers[..., union, :].sum((-1, -2))
    found, there = numbers[..., union, part].sum(-1), numbers[..., part].sum(-1)
    return _ratio(2 * found, taken + there), _ratio(found, taken), _ratio(found, there)


def f1_of_pairs(pairs: Counts, found: Counts, there: Counts) -> Scores:
    """F1 of one-to-one pairs among `found` and `there` points."""
    return _ratio(2 * np.asarray(pairs, np.float64), np.asarray(found, np.float64) + there)


def _shares(counts: Counts) -> Scores:
    numbers = np.asarray(counts, np.float64)
    return _ratio(numbers, numbers.sum((-1, -2), keepdims=True))


def _entropy(p: Scores) -> Scores:
    return np.asarray(-(p * _log_ratio(p, np.ones_like(p))).sum(-1))


def _log_ratio(p: Scores, q: Scores) -> Scores:
    """ln(p / q), 0 where p is 0; NaN goes through."""
    some = (p > 0) & (q > 0)
    return np.where(np.isnan(p), np.nan, np.log(np.where(some, p, 1.0) / np.where(some, q, 1.0)))


def _ratio(numerator: Counts, denominator: Counts, empty: float = np.nan) -> Scores:
    bottom = np.asarray(denominator, np.float64)
    some = bottom != 0
    return np.where(some, numerator / np.where(some, bottom, 1.0), empty)
