"""From which probability on a network says yes: fixed on the records that it was stopped on, never on those scored."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

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
