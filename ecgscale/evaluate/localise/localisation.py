"""Do clusters go with P, QRS, T and the rest between beats? Every answer stands beside what circular shifts give.

information      mutual information over the entropy of P, QRS, T and TP
adjusted         mutual information adjusted for chance, on the same four
purity           timesteps in the commonest of the four in their cluster
boundary_f1_…    changes of cluster against onsets and offsets of waves, one to one, within so many milliseconds
qrs_f1           a union of clusters, chosen on half of the patients to find QRS timesteps, scored on the other half

The PQ and ST segments are neither wave nor rest: they stand in the table of shares and count against the union of QRS
clusters, but the first three scores leave them out.

How well clusters and parts of the heartbeat go together, from tables of counts.

Counts are (…, K, W): timesteps of cluster k in part w, for any leading axes (shifts, resamples). Scores come back with
those axes. NaN where there is nothing to score.

    I(k; w) = Σ p_kw ln(p_kw / p_k p_w)       mutual information
    I / H(w)                                   the share of the parts' entropy that the clusters explain
    (I − E[I]) / (½(H(k) + H(w)) − E[I])       adjusted for chance (Vinh et al. 2010)

E[I] for independent timesteps is taken to its leading order, (K′ − 1)(W′ − 1) / 2n with K′ and W′ the rows and columns
that are not empty: the exact sum costs seconds at the counts that occur here and gives the same digits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ecgscale.archive.waves import QRS
from ecgscale.evaluate.bootstrap import Weights, patient_weights
from ecgscale.evaluate.localise.shifts import N_SHIFTS, counts_by_record, draw_shifts, shifted_counts, shifted_matches
from ecgscale.evaluate.localise.timelines import MAIN_PARTS, PARTS, Timelines
from ecgscale.evaluate.probe.masking import NOTHING, AgainstShifts, against_shifts

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
    timesteps: int
    n_shifts: int
    remarks: tuple[str, ...] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        """For `--json` and the report; shares are a table of their own."""
        return {
            "scores": self.scores,
            "qrs_unions": self.unions,
            "records": self.records,
            "timesteps": self.timesteps,
            "timesteps_by_part": dict(zip(PARTS, self.counts.sum(0).tolist(), strict=True)),
            "purest": _purest(self.counts),
            "n_shifts": self.n_shifts,
            "remarks": list(self.remarks),
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
    by_record = counts_by_record(lines, n_clusters)
    scores = {
        name: against_shifts(score(total[..., :MAIN_PARTS]), _resampled(score, by_record[..., :MAIN_PARTS], weights))
        for name, score in (
            ("information", explained_entropy),
            ("adjusted", adjusted_information),
            ("purity", purity),
        )
    }
    scores |= _boundary_scores(lines, shifts, weights)
    unions, scores["qrs_f1"] = _qrs(by_half, by_record, half, weights)
    remarks = []
    if len(used) and not (half == 1).any():
        remarks.append("one patient alone: no other half to score a union of QRS clusters on")
    return Localisation(
        scores=scores,
        unions=unions,
        counts=total[0],
        shares=_share_table(total),
        records=len(used),
        timesteps=int(total[0].sum()),
        n_shifts=n_shifts,
        remarks=tuple(remarks),
    )


def halves(patients: Sequence[str], seed: int) -> NDArray[np.int64]:
    """(N,) 0 or 1: half of the patients, drawn, and the others; of an odd number the first half has one more."""
    _, owner = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
    n_patients = int(owner.max()) + 1 if len(owner) else 0
    second = np.zeros(n_patients, np.int64)
    second[np.random.default_rng([seed, 6]).permutation(n_patients)[: n_patients // 2]] = 1
    return np.asarray(second[owner])


def _resampled(score: Any, by_record: NDArray[np.int64], weights: Weights) -> Scores:
    """(B,) a score of (N, K, W) counts under every row of weights."""
    return np.asarray(score(np.tensordot(weights, by_record.astype(np.float64), axes=1)))


def _boundary_scores(lines: Timelines, shifts: NDArray[np.int64], weights: Weights) -> dict[str, AgainstShifts]:
    spans_s, everyone = (lines.stop - lines.start) / lines.rate, np.arange(len(lines))
    found, there = (np.diff(points.offsets) for points in (lines.boundaries, lines.edges))
    tolerances = tuple(ms / 1000 for ms in TOLERANCES_MS)

    def matches(moved: NDArray[np.int64], groups: NDArray[np.int64]) -> NDArray[np.int64]:
        return shifted_matches(lines.boundaries, lines.edges, spans_s, moved / lines.rate, groups, tolerances)

    pairs = matches(shifts, np.zeros_like(everyone))[:, 0]
    by_record = matches(shifts[:1], everyone)[0]
    return {
        f"boundary_f1_{ms}ms": against_shifts(
            f1_of_pairs(pairs[:, i], found.sum(), there.sum()),
            f1_of_pairs(weights @ by_record[:, i], weights @ found, weights @ there) if len(everyone) else None,
        )
        for i, ms in enumerate(TOLERANCES_MS)
    }


def _qrs(
    by_half: NDArray[np.int64], by_record: NDArray[np.int64], half: NDArray[np.int64], weights: Weights
) -> tuple[tuple[QrsUnion, ...], AgainstShifts]:
    """The unions that either half chooses, and the F1 of the first half's on the second; each shift chooses anew."""
    if by_half.shape[1] < 2:
        return (), NOTHING
    unions = []
    for chooser in (0, 1):
        chosen, other = by_half[0, chooser], by_half[0, 1 - chooser]
        union = best_union(chosen, QRS)
        f1, precision, recall = (_known(score) for score in union_scores(other, union, QRS))
        here = _known(union_scores(chosen, union, QRS)[0])
        sizes = int((half == chooser).sum()), int((half != chooser).sum())
        unions.append(QrsUnion(tuple(union.tolist()), *sizes, here, f1, precision, recall))
    values = [float(union_scores(second, best_union(first, QRS), QRS)[0]) for first, second in by_half]
    scored = np.tensordot(weights * (half == 1), by_record.astype(np.float64), axes=1)
    resampled = union_scores(scored, np.array(unions[0].clusters, np.int64), QRS)[0]
    return tuple(unions), against_shifts(np.array(values), resampled)


def _share_table(counts: NDArray[np.int64]) -> pa.Table:
    """One row a cluster and part, from (1 + S, K, W) counts."""
    of_part, of_cluster = share_of_part(counts), share_of_cluster(counts)
    n_clusters, n_parts = counts.shape[1:]
    cluster, part = np.divmod(np.arange(n_clusters * n_parts), n_parts)
    columns: dict[str, Any] = {
        "cluster": cluster.astype(np.int16),
        "part": [PARTS[i] for i in part],
        "timesteps": counts[0].ravel(),
        "share_of_part": _nullable(of_part[0]),
        "share_of_cluster": _nullable(of_cluster[0]),
    }
    for name, shares in (("share_of_part", of_part[1:]), ("share_of_cluster", of_cluster[1:])):
        known = np.isfinite(shares).all(0) if len(shares) else np.zeros(counts.shape[1:], bool)
        safe = np.where(np.isfinite(shares), shares, 0.0) if len(shares) else np.zeros((1, *counts.shape[1:]))
        columns[f"{name}_shifted_mean"] = _nullable(np.where(known, safe.mean(0), np.nan))
        columns[f"{name}_shifted_p99"] = _nullable(np.where(known, np.quantile(safe, 0.99, axis=0), np.nan))
    return pa.table(columns)


def _purest(counts: NDArray[np.int64]) -> dict[str, dict[str, float | int] | None]:
    """For each part the cluster with the largest share of its timesteps there."""
    shares = share_of_cluster(counts)
    found: dict[str, dict[str, float | int] | None] = {}
    for part, name in enumerate(PARTS):
        known = np.where(np.isfinite(shares[:, part]), shares[:, part], -1.0)
        cluster = int(known.argmax()) if len(known) else -1
        there = cluster >= 0 and counts[:, part].any()
        found[name] = {"cluster": cluster, "share": float(known[cluster])} if there else None
    return found


def _nullable(values: Scores) -> pa.Array:
    return pa.array(values.ravel(), pa.float64(), from_pandas=True)


def _known(score: Scores) -> float | None:
    return float(score) if np.isfinite(score) else None
