"""Do clusters go with P, QRS, T and the rest between beats? Every answer stands beside what circular shifts give.

information      mutual information over the entropy of P, QRS, T and TP
adjusted         mutual information adjusted for chance, on the same four
purity           timesteps in the commonest of the four in their cluster
boundary_f1_…    changes of cluster against onsets and offsets of waves, one to one, within so many milliseconds
qrs_f1           a union of clusters, chosen on half of the patients to find QRS timesteps, scored on the other half

The PQ and ST segments are neither wave nor rest: they stand in the table of shares and count against the union of QRS
clusters, but the first three scores leave them out.

Scores come from counts (…, K, W), timesteps of cluster k in part w, for any leading axes (shifts, resamples), and have
those axes; NaN where there is nothing to score.

    I(k; w) = Σ p_kw ln(p_kw / p_k p_w)       mutual information
    I / H(w)                                   the share of the parts' entropy that the clusters explain
    (I − E[I]) / (½(H(k) + H(w)) − E[I])       adjusted for chance (Vinh et al. 2010)

E[I] for independent timesteps is taken to its leading order, (K′ − 1)(W′ − 1) / 2n with K′ and W′ the rows and columns
that are not empty: the exact sum costs seconds at the counts that occur here and gives the same digits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.special import entr

from ecgscale.archive.waves import QRS
from ecgscale.evaluate.localise.shifts import (
    N_SHIFTS,
    NOTHING,
    AgainstShifts,
    against_shifts,
    counts_by_record,
    draw_shifts,
    shifted_counts,
    shifted_matches,
)
from ecgscale.evaluate.localise.timelines import MAIN_PARTS, PARTS, Timelines
from ecgscale.evaluate.metrics import Weights, patient_weights

Counts = NDArray[np.floating] | NDArray[np.integer]
Scores = NDArray[np.float64]


def mutual_information(counts: Counts) -> Scores:
    """I(k; w) in nats."""
    p = _shares(counts)
    expected = p.sum(-1, keepdims=True) * p.sum(-2, keepdims=True)
    some = (p > 0) & (expected > 0)
    log_ratio = np.log(np.where(some, p, 1.0) / np.where(some, expected, 1.0))
    return np.einsum("...kw->...", p * log_ratio)


def explained_entropy(counts: Counts) -> Scores:
    """I(k; w) / H(w): 0 when clusters say nothing about the part, 1 when they say everything."""
    return _ratio(mutual_information(counts), entr(_shares(counts).sum(-2)).sum(-1))


def adjusted_information(counts: Counts) -> Scores:
    """Mutual information adjusted for chance: about 0 for independent timesteps, 1 for equal partitions."""
    p, total = _shares(counts), np.asarray(counts, np.float64).sum((-1, -2))
    of_clusters, of_parts = p.sum(-1), p.sum(-2)
    chance = _ratio(((of_clusters > 0).sum(-1) - 1.0) * ((of_parts > 0).sum(-1) - 1.0), 2 * total)
    mean_entropy = (entr(of_clusters).sum(-1) + entr(of_parts).sum(-1)) / 2
    return _ratio(mutual_information(counts) - chance, mean_entropy - chance)


def purity(counts: Counts) -> Scores:
    """The share of timesteps that are in the commonest part of their cluster."""
    return _ratio(counts.max(-1).sum(-1), counts.sum((-1, -2)))


def share_of_part(counts: Counts) -> Scores:
    """(…, K, W): of each part's timesteps, the share in each cluster."""
    return _ratio(counts, counts.sum(-2, keepdims=True))


def share_of_cluster(counts: Counts) -> Scores:
    """(…, K, W): of each cluster's timesteps, the share in each part."""
    return _ratio(counts, counts.sum(-1, keepdims=True))


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
    taken = counts[..., union, :].sum((-1, -2))
    found, there = counts[..., union, part].sum(-1), counts[..., part].sum(-1)
    return _ratio(2 * found, taken + there), _ratio(found, taken), _ratio(found, there)


def _shares(counts: Counts) -> Scores:
    return _ratio(counts, counts.sum((-1, -2), keepdims=True))


def _ratio(numerator: Counts, denominator: Counts, empty: float = np.nan) -> Scores:
    bottom = np.asarray(denominator, np.float64)
    some = bottom != 0
    return np.where(some, numerator / np.where(some, bottom, 1.0), empty)


TOLERANCES_MS = (20, 40)


@dataclass(frozen=True)
class QrsUnion:
    """A union of clusters that was chosen on some records, and how it finds QRS timesteps on others."""

    clusters: tuple[int, ...]
    chosen_on: int
    scored_on: int
    f1_where_chosen: float | None
    f1: float | None
    precision: float | None
    recall: float | None


@dataclass(frozen=True)
class Localisation:
    """Scores by name; counts (K, W) of timesteps; shares against shifts; the unions, either half choosing once."""

    scores: dict[str, AgainstShifts]
    unions: tuple[QrsUnion, ...]
    counts: NDArray[np.int64]
    shares: pa.Table
    records: int
    n_shifts: int
    remarks: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """For `--json` and the report; shares are a table of their own."""
        return {
            "scores": self.scores,
            "qrs_unions": self.unions,
            "records": self.records,
            "timesteps": int(self.counts.sum()),
            "timesteps_by_part": dict(zip(PARTS, self.counts.sum(0).tolist(), strict=True)),
            "purest": self._purest(),
            "n_shifts": self.n_shifts,
            "remarks": list(self.remarks),
        }

    def _purest(self) -> dict[str, dict[str, float | int] | None]:
        """For each part the cluster with the largest share of its timesteps there."""
        shares = np.nan_to_num(share_of_cluster(self.counts), nan=-1.0)
        best = shares.argmax(0)
        return {
            name: {"cluster": int(k), "share": float(shares[k, part])} if self.counts[:, part].any() else None
            for part, (name, k) in enumerate(zip(PARTS, best, strict=True))
        }


def localise(
    lines: Timelines,
    n_clusters: int,
    patients: Sequence[str],
    *,
    n_shifts: int = N_SHIFTS,
    n_bootstrap: int = 1000,
    seed: int = 0,
) -> Localisation:
    """Compare clusters and waves of N records; records without waves have no part in it."""
    used = np.flatnonzero(lines.stop > lines.start)
    lines, patients = lines.take(used), [patients[i] for i in used.tolist()]
    half = halves(patients, seed)
    shifts = draw_shifts(lines.stop - lines.start, n_shifts, seed)
    by_half = shifted_counts(lines, shifts, half, n_clusters)
    total = by_half.sum(1)
    weights = patient_weights(patients, n_bootstrap, seed) if len(used) else np.zeros((0, 0))
    by_record = counts_by_record(lines, n_clusters).astype(np.float64)
    resampled = np.tensordot(weights, by_record[..., :MAIN_PARTS], axes=1)
    scores = {
        name: against_shifts(score(total[..., :MAIN_PARTS]), score(resampled))
        for name, score in (("information", explained_entropy), ("adjusted", adjusted_information), ("purity", purity))
    }
    scores |= _boundary_scores(lines, shifts, weights)
    unions, scores["qrs_f1"] = _qrs(by_half, by_record, half, weights)
    alone = len(used) > 0 and not half.any()
    remarks = ("one patient alone: no other half to score a union of QRS clusters on",) if alone else ()
    return Localisation(scores, unions, total[0], _share_table(total), len(used), n_shifts, remarks)


def halves(patients: Sequence[str], seed: int) -> NDArray[np.int64]:
    """(N,) 0 or 1: half of the patients, drawn, and the others; of an odd number the first half has one more."""
    names, owner = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
    drawn = np.random.default_rng([seed, 6]).permutation(len(names))[: len(names) // 2]
    return np.isin(owner, drawn).astype(np.int64)


def _boundary_scores(lines: Timelines, shifts: NDArray[np.int64], weights: Weights) -> dict[str, AgainstShifts]:
    spans_s, everyone = (lines.stop - lines.start) / lines.rate, np.arange(len(lines))
    points = np.diff(lines.boundaries.offsets) + np.diff(lines.edges.offsets)
    tolerances = tuple(ms / 1000 for ms in TOLERANCES_MS)

    def matches(moved: NDArray[np.int64], groups: NDArray[np.int64]) -> NDArray[np.int64]:
        return shifted_matches(lines.boundaries, lines.edges, spans_s, moved / lines.rate, groups, tolerances)

    pairs = matches(shifts, np.zeros_like(everyone))[:, 0]
    by_record = matches(shifts[:1], everyone)[0]
    return {
        f"boundary_f1_{ms}ms": against_shifts(
            _ratio(2 * pairs[:, i], points.sum()),
            _ratio(2 * (weights @ by_record[:, i]), weights @ points) if len(everyone) else None,
        )
        for i, ms in enumerate(TOLERANCES_MS)
    }


def _qrs(
    by_half: NDArray[np.int64], by_record: Scores, half: NDArray[np.int64], weights: Weights
) -> tuple[tuple[QrsUnion, ...], AgainstShifts]:
    """The unions that either half chooses, and the F1 of the first half's on the second; each shift chooses anew."""
    if by_half.shape[1] < 2:
        return (), NOTHING
    unions = []
    for chooser in (0, 1):
        chosen, other = by_half[0, chooser], by_half[0, 1 - chooser]
        union = best_union(chosen, QRS)
        scores = union_scores(chosen, union, QRS)[0], *union_scores(other, union, QRS)
        known = (float(score) if np.isfinite(score) else None for score in scores)
        unions.append(
            QrsUnion(tuple(union.tolist()), int((half == chooser).sum()), int((half != chooser).sum()), *known)
        )
    values = [float(union_scores(second, best_union(first, QRS), QRS)[0]) for first, second in by_half]
    scored = np.tensordot(weights * (half == 1), by_record, axes=1)
    resampled = union_scores(scored, np.array(unions[0].clusters, np.int64), QRS)[0]
    return tuple(unions), against_shifts(np.array(values), resampled)


def _share_table(counts: NDArray[np.int64]) -> pa.Table:
    """One row a cluster and part, from (1 + S, K, W) counts."""
    n_clusters, n_parts = counts.shape[1:]
    cluster, part = np.divmod(np.arange(n_clusters * n_parts), n_parts)
    shares = {"share_of_part": share_of_part(counts), "share_of_cluster": share_of_cluster(counts)}
    columns: dict[str, Any] = {
        "cluster": cluster.astype(np.int16),
        "part": [PARTS[i] for i in part],
        "timesteps": counts[0].ravel(),
        **{name: _nullable(each[0]) for name, each in shares.items()},
    }
    for name, each in shares.items():
        shifted = each[1:] if len(each) > 1 else np.full_like(each, np.nan)
        columns[f"{name}_shifted_mean"] = _nullable(shifted.mean(0))
        columns[f"{name}_shifted_p99"] = _nullable(np.quantile(shifted, 0.99, axis=0))
    return pa.table(columns)


def _nullable(values: Scores) -> pa.Array:
    return pa.array(values.ravel(), pa.float64(), from_pandas=True)
