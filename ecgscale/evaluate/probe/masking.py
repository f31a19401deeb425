"""Masking: does the network listen to a cluster? What it says without the cluster's segments.

The change of the target's output without a cluster stands beside the change without as much of the recording elsewhere
(the same mask moved round), because taking anything out changes something.

Scores beside what chance gives: their null distribution, and their interval over patients.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ecgscale.encoders.spec import OutputSpec
from ecgscale.evaluate.bootstrap import interval, spearman, weighted_mean
from ecgscale.evaluate.truth import probabilities

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


Row = dict[str, Any]


def target_values(predictions: NDArray[np.floating], target: int, output: OutputSpec) -> NDArray[np.float64]:
    """What the network says of the target: its probability, or the value of a regression; (..., n) → (...)."""
    return np.asarray(probabilities(np.asarray(predictions), output)[..., target], np.float64)


@dataclass(frozen=True)
class Masked:
    """The clusters of one record: change of the target without each (K,), and without as much elsewhere (K, S)."""

    cluster: NDArray[np.int64]
    change: NDArray[np.float64]
    elsewhere: NDArray[np.float64]
    share: NDArray[np.float64]
    gradcam: NDArray[np.float64]
    entropy: NDArray[np.float64]


def masked_clusters(row: Row, output: OutputSpec) -> Masked | None:
    """What masking found of one probed record; None where it was not masked."""
    if not row["masked"]:
        return None
    parts = row["masked"]
    said = float(target_values(np.array(row["prediction"]), row["target"], output))
    without = target_values(np.array([part["prediction"] for part in parts]), row["target"], output)
    elsewhere = target_values(np.array([part["moved"] for part in parts]), row["target"], output)
    return Masked(
        cluster=np.array([part["cluster"] for part in parts], np.int64),
        change=np.abs(without - said),
        elsewhere=np.abs(elsewhere - said),
        share=np.array([part["share"] for part in parts], np.float64),
        gradcam=np.array([part["gradcam"] for part in parts], np.float64),
        entropy=np.array([part["entropy"] for part in parts], np.float64),
    )


def faithfulness(
    rows: Sequence[Row], layers: Sequence[str], output: OutputSpec, weights: NDArray[np.float64]
) -> dict[str, Mean]:
    """Means over records of what `_facts` says of each; empty where nothing was masked.

    change, change_elsewhere, change_gain (their difference): over a record's clusters, weighted by their time;
    with_…: rank correlations over a record's clusters of the gain with share of time, entropy, and Grad-CAM a timestep
    by layer (its share of the map over its share of time).
    """
    masked = [masked_clusters(row, output) for row in rows]
    facts = [_facts(one, layers) if one else {} for one in masked]
    names = dict.fromkeys(name for each in facts for name in each)
    return {name: mean_over(np.array([each.get(name, np.nan) for each in facts]), weights) for name in names}


def _facts(one: Masked, layers: Sequence[str]) -> dict[str, float]:
    time = one.share / one.share.sum()
    change, elsewhere = float((one.change * time).sum()), float((one.elsewhere.mean(axis=1) * time).sum())
    with_gradcam = {
        f"with_gradcam:{layer}": _over_clusters(one, one.gradcam[:, i] / one.share) for i, layer in enumerate(layers)
    }
    return {
        "change": change,
        "change_elsewhere": elsewhere,
        "change_gain": change - elsewhere,
        "with_share_of_time": _over_clusters(one, one.share),
        "with_entropy": _over_clusters(one, one.entropy),
        **with_gradcam,
    }


def _over_clusters(one: Masked, values: NDArray[np.float64]) -> float:
    """Rank correlation over the clusters of a record of what masking changes beyond as much elsewhere, and `values`."""
    gain, known = one.change - one.elsewhere.mean(axis=1), np.isfinite(values)
    if known.sum() < FEWEST:
        return float("nan")
    return float(spearman(gain[known], values[known])(np.ones((1, int(known.sum()))))[0])


def change_by_cluster(rows: Sequence[Row], output: OutputSpec, weights: NDArray[np.float64]) -> pa.Table:
    """One row a cluster: the mean change of the target without it, and without as much elsewhere, over its records."""
    masked = [masked_clusters(row, output) for row in rows]
    found = []
    for cluster in sorted({int(k) for one in masked if one for k in one.cluster}):
        change, gain = np.full(len(rows), np.nan), np.full(len(rows), np.nan)
        for i, one in enumerate(masked):
            if one is not None and cluster in one.cluster:
                at = int(np.flatnonzero(one.cluster == cluster)[0])
                change[i], gain[i] = one.change[at], one.change[at] - one.elsewhere[at].mean()
        means = {"change": mean_over(change, weights), "gain": mean_over(gain, weights)}
        found.append(
            {
                "cluster": cluster,
                "records": int(np.isfinite(change).sum()),
                **{name: mean.value for name, mean in means.items()},
                **{f"{name}_low": mean.interval[0] if mean.interval else None for name, mean in means.items()},
                **{f"{name}_high": mean.interval[1] if mean.interval else None for name, mean in means.items()},
            }
        )
    numbers = [f"{name}{end}" for end in ("", "_low", "_high") for name in ("change", "gain")]
    schema = pa.schema([("cluster", pa.int16()), ("records", pa.int64()), *((name, pa.float64()) for name in numbers)])
    return pa.Table.from_pylist(found, schema)
