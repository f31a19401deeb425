"""Scores of labels and decisions under weights: Cohen's κ and average precision, one by one and as macro means.

Like those of `bootstrap`, every scorer takes weights (B, N) and gives (B,) values, NaN where there is none.

From which probability on a network says yes: fixed on the records that it was stopped on, never on those scored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, get_args

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


Criterion = Literal["accuracy", "f1", "half"]
CRITERIA: tuple[str, ...] = get_args(Criterion)

FEWEST_RECORDS, FEWEST_OF_A_KIND = 20, 3
SIGNIFICANT = 1.96
"""Standard errors by which a threshold has to be better than a half."""


def fixed_thresholds(
    says: NDArray[np.floating], y: NDArray[np.integer], names: tuple[str, ...], criterion: Criterion
) -> tuple[NDArray[np.float64], list[str]]:
    """One threshold a label (n,), and remarks, from validation probabilities (N, n) and labels y (N, n) in 0/1.

    "accuracy" makes most labels right there, but stays at a half unless that is better by more than chance (sign test
    on the records whose answer changes); "f1" makes the harmonic mean of precision and recall largest (the rule of the
    published CODE networks). Among equally good thresholds the one nearest to a half. A half where there are fewer
    than 20 records, or 3 of either kind, and with "half".
    """
    thresholds, kept = np.full(len(names), 0.5), []
    if criterion == "half":
        return thresholds, []
    for i, name in enumerate(names):
        n_yes = int(y[:, i].sum())
        if len(y) < FEWEST_RECORDS or min(n_yes, len(y) - n_yes) < FEWEST_OF_A_KIND:
            kept.append(name)
        else:
            thresholds[i] = _best(says[:, i].astype(np.float64), y[:, i] > 0, criterion)
    told = (
        f"threshold 0.5 for {', '.join(kept)}: too few of {len(y)} validation records with and without" if kept else ""
    )
    return thresholds, [told] if told else []


def _best(says: NDArray[np.float64], yes: NDArray[np.bool_], criterion: Criterion) -> float:
    """The best place to cut, midway between neighbouring probabilities or at a half."""
    values = np.unique(says)
    cuts = np.unique(np.concatenate([[0.0, 0.5], (values[1:] + values[:-1]) / 2, values[-1:]]))
    order = np.argsort(says)
    above = len(says) - np.searchsorted(says[order], cuts, side="right")
    hits_before = np.concatenate([[0], np.cumsum(yes[order])])
    hits = yes.sum() - hits_before[len(says) - above]
    if criterion == "f1":
        score = 2 * hits / np.maximum(above + yes.sum(), 1)
    else:
        score = (len(says) - (above - hits) - (yes.sum() - hits)) / len(says)
    best = cuts[score >= score.max() - 1e-12]
    cut = float(best[np.argmin(np.abs(best - 0.5))])
    if criterion == "accuracy":
        changed = (says > cut) != (says > 0.5)
        fixed = int((changed & ((says > cut) == yes)).sum())
        if 2 * fixed - changed.sum() <= SIGNIFICANT * np.sqrt(changed.sum()):
            return 0.5
    return cut
