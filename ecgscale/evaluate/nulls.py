"""Scores beside what chance gives: their null distribution, and their interval over patients."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ecgscale.evaluate.bootstrap import interval, weighted_mean
from ecgscale.evaluate.rank_correlation import spearman

FEWEST = 5
"""Records, pairs or clusters below which nothing is scored."""


@dataclass(frozen=True)
class AgainstShifts:
    """A score, its 95 % interval over patients, and what circular shifts give: their mean, their 99th percentile, and
    the share of them (this one included) that are as high; two-sided: as far from their mean. None where there is
    nothing to score."""

    value: float | None
    interval: tuple[float, float] | None
    shifted_mean: float | None
    shifted_p99: float | None
    p_value: float | None


NOTHING = AgainstShifts(None, None, None, None, None)


@dataclass(frozen=True)
class Mean:
    """A mean over records (or a correlation) with its 95 % interval over patients; None where there is nothing."""

    value: float | None
    interval: tuple[float, float] | None
    n: int


def against_shifts(
    values: NDArray[np.floating], resampled: NDArray[np.float64] | None = None, *, two_sided: bool = False
) -> AgainstShifts:
    """The first of `values` (1 + S,) against the others; `resampled` (B,) is its bootstrap distribution.

    Two-sided, the 99th percentile is that of the distance from the shifts' mean.
    """
    value, shifted = float(values[0]), values[1:][np.isfinite(values[1:])]
    if not np.isfinite(value):
        return NOTHING
    pair = interval(lambda rows: rows[:, 0], resampled[:, None]) if resampled is not None and len(resampled) else None
    if not len(shifted):
        return AgainstShifts(value, pair, None, None, None)
    middle = float(shifted.mean())
    distance, distances = (abs(value - middle), np.abs(shifted - middle)) if two_sided else (value, shifted)
    as_far = (1 + int((distances >= distance).sum())) / (1 + len(shifted))
    return AgainstShifts(value, pair, middle, float(np.quantile(distances, 0.99)), as_far)


def rank_correlation(x: NDArray[np.float64], y: NDArray[np.float64], weights: NDArray[np.float64]) -> Mean:
    """Rank correlation of (N,) x and y over records where both are known, with resampled patients (B, N)."""
    known = np.isfinite(x) & np.isfinite(y)
    if known.sum() < FEWEST:
        return Mean(None, None, int(known.sum()))
    scorer = spearman(x[known], y[known])
    value = float(scorer(np.ones((1, int(known.sum()))))[0])
    return Mean(value if np.isfinite(value) else None, interval(scorer, weights[:, known]), int(known.sum()))


def mean_over(values: NDArray[np.float64], weights: NDArray[np.float64]) -> Mean:
    """Mean of (N,) values over records where they are known, with resampled patients (B, N)."""
    known = np.isfinite(values)
    if known.sum() < FEWEST:
        return Mean(None, None, int(known.sum()))
    scorer = weighted_mean(values[known])
    return Mean(float(values[known].mean()), interval(scorer, weights[:, known]), int(known.sum()))
