"""Circular shifts: how alike two courses of time are by chance, when each keeps its own rhythm.

Clusters come in long runs and waves come in beats, so the usual nulls (independent timesteps) would make anything
significant. Here a record's clusters are moved round within its own span, each record by its own random amount, and
everything is measured again: the runs, the beats and how often each cluster occurs stay as they are.

`checkerboard` asks so whether clusters change where the signal changes, or where the network's grid has its lines.
Boundaries of segments are taken modulo the hop of each tapped layer and counted in bins. A layer that is wrongly
upsampled puts them all at the same place of the hop. (Correct linear interpolation still bends at half-hops, so a
little unevenness is expected.)

    χ² of the bins against equal counts, against 200 circular shifts of each record's boundaries
    V = √(χ² / n (bins − 1)), from 0 (even) to 1 (all in one bin), which does not grow with the number of records
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numba import prange
from numpy.typing import NDArray

from ecgscale.clusters.packed import kernel
from ecgscale.evaluate.localise.timelines import PARTS, Ragged, Timelines
from ecgscale.evaluate.metrics import interval

N_SHIFTS = 200

MOST_BINS = 16
UNEVEN_V, UNEVEN_P = 0.1, 0.01
_SHIFTS_AT_ONCE = 20


@dataclass(frozen=True)
class AgainstShifts:
    """A score, its 95 % interval over patients, and what circular shifts give: their mean, their 99th percentile, and
    the share of them (this one included) that are as high; two-sided: as far from their mean. None where there is
    nothing to score."""

    value: float | None = None
    interval: tuple[float, float] | None = None
    shifted_mean: float | None = None
    shifted_p99: float | None = None
    p_value: float | None = None


NOTHING = AgainstShifts()


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
        return AgainstShifts(value, pair)
    middle = float(shifted.mean())
    distance, distances = (abs(value - middle), np.abs(shifted - middle)) if two_sided else (value, shifted)
    as_far = (1 + int((distances >= distance).sum())) / (1 + len(shifted))
    return AgainstShifts(value, pair, middle, float(np.quantile(distances, 0.99)), as_far)


def draw_shifts(spans: NDArray[np.int64], n_shifts: int, seed: int) -> NDArray[np.int64]:
    """(1 + n_shifts, N): 0 in the first row, then 1 … span − 1 timesteps for each record of a span above one."""
    rng = np.random.default_rng([seed, 5])
    shifts = np.zeros((1 + n_shifts, len(spans)), np.int64)
    room = np.maximum(spans - 1, 1)
    shifts[1:] = 1 + np.floor(rng.random((n_shifts, len(spans))) * room).astype(np.int64)
    return np.minimum(shifts, np.maximum(spans - 1, 0))


def shifted_counts(
    lines: Timelines, shifts: NDArray[np.int64], groups: NDArray[np.int64], n_clusters: int
) -> NDArray[np.int64]:
    """(S, G, K, W): timesteps of each cluster in each part of PARTS under every row of `shifts`, added up by group.

    `groups` (N,) numbers 0 … G − 1. Timesteps of an unknown part are not counted.
    """
    n_groups = int(groups.max()) + 1 if len(groups) else 1
    counts = np.zeros((len(shifts), n_groups, n_clusters, len(PARTS)), np.int64)
    _count(lines.labels, lines.parts, lines.start, lines.stop, shifts, groups, counts)
    return counts


def counts_by_record(lines: Timelines, n_clusters: int) -> NDArray[np.int64]:
    """(N, K, W): timesteps of each cluster in each part of PARTS, as they are."""
    unshifted = np.zeros((1, len(lines)), np.int64)
    return shifted_counts(lines, unshifted, np.arange(len(lines)), n_clusters)[0, : len(lines)]


def shifted_matches(
    boundaries: Ragged,
    edges: Ragged,
    spans_s: NDArray[np.float64],
    shifts_s: NDArray[np.float64],
    groups: NDArray[np.int64],
    tolerances_s: tuple[float, ...],
) -> NDArray[np.int64]:
    """(S, G, tolerances): pairs of a boundary and an edge no further apart than the tolerance, each used once.

    Added up by group. As many pairs as there can be: on a line, taking the first two that fit is as good as any other
    way.
    """
    n_groups = int(groups.max()) + 1 if len(groups) else 1
    matches = np.zeros((len(shifts_s), n_groups, len(tolerances_s)), np.int64)
    # A sample's worth of rounding must not decide whether 20 ms are 20 ms.
    tolerances = np.array(tolerances_s) + 1e-9
    at = (boundaries.values, boundaries.offsets, edges.values, edges.offsets)
    _match(*at, spans_s, shifts_s, groups, tolerances, matches)
    return matches


@kernel(parallel=True)
def _count(labels, parts, start, stop, shifts, groups, counts):  # type: ignore[no-untyped-def]
    for s in prange(len(shifts)):
        for n in range(len(labels)):
            span = stop[n] - start[n]
            shift, group = shifts[s, n], groups[n]
            for t in range(span):
                part = parts[n, start[n] + t]
                if part >= 0:
                    source = t - shift
                    if source < 0:
                        source += span
                    counts[s, group, labels[n, start[n] + source], part] += 1


@kernel(parallel=True)
def _match(boundaries, boundary_at, edges, edge_at, spans, shifts, groups, tolerances, matches):  # type: ignore[no-untyped-def]
    for s in prange(len(shifts)):
        for n in range(len(spans)):
            first, last = boundary_at[n], boundary_at[n + 1]
            size, shift = last - first, shifts[s, n]
            # Moved by `shift`, the boundaries that wrap round come first.
            wrapped = 0
            while wrapped < size and boundaries[last - 1 - wrapped] + shift >= spans[n]:
                wrapped += 1
            for tolerance in range(len(tolerances)):
                i, j = 0, edge_at[n]
                while i < size and j < edge_at[n + 1]:
                    if i < wrapped:
                        at = boundaries[last - wrapped + i] + shift - spans[n]
                    else:
                        at = boundaries[first + i - wrapped] + shift
                    if abs(at - edges[j]) <= tolerances[tolerance]:
                        matches[s, groups[n], tolerance] += 1
                        i += 1
                        j += 1
                    elif at < edges[j]:
                        i += 1
                    else:
                        j += 1


@dataclass(frozen=True)
class HopTest:
    """One tapped layer: its hop in timesteps, how many boundaries there are, and how evenly they lie in the hop.

    `uneven` is the verdict: V above 0.1 and at most one shift in a hundred as high. None where there are too few.
    """

    layer: str
    hop: float
    bins: int
    boundaries: int
    chi_square: float | None = None
    cramers_v: float | None = None
    shifted_p99: float | None = None
    p_value: float | None = None
    fullest_bin: float | None = None
    """Boundaries in the fullest bin over those in a bin on average."""
    uneven: bool | None = None


def checkerboard(
    labels: NDArray[np.int16], layers: tuple[str, ...], hops: tuple[float, ...], seed: int = 0
) -> tuple[tuple[HopTest, ...], pa.Table]:
    """Test the boundaries of (N, D) labels against layers of these hops (timesteps); and their histograms."""
    valid = labels >= 0
    span = valid.sum(axis=1).astype(np.int64)
    start = valid.argmax(axis=1)
    record, at = np.nonzero((labels[:, 1:] != labels[:, :-1]) & valid[:, 1:] & valid[:, :-1])
    at = at + 1 - start[record]
    shifts = draw_shifts(span, N_SHIFTS, seed)
    tests, histograms = [], []
    for layer, hop in zip(layers, hops, strict=True):
        bins = min(int(hop), MOST_BINS)
        if bins < 2:
            tests.append(HopTest(layer, hop, bins, len(at)))
            continue
        counts = _histograms(at, start[record], span[record], shifts[:, record], hop, bins)
        tests.append(_tested(layer, hop, counts))
        histograms.append(
            pa.table({"layer": [layer] * bins, "hop": [hop] * bins, "bin": np.arange(bins), "boundaries": counts[0]})
        )
    empty = pa.table({"layer": pa.array([], pa.string()), "hop": pa.array([], pa.float64())})
    return tuple(tests), pa.concat_tables(histograms) if histograms else empty


def _histograms(
    at: NDArray[np.int64],
    start: NDArray[np.int64],
    span: NDArray[np.int64],
    shifts: NDArray[np.int64],
    hop: float,
    bins: int,
) -> NDArray[np.int64]:
    """(S, bins): boundaries in each bin of the hop under every row of shifts (S, n), a few rows at a time.

    at, start, span (n,): of each boundary its timestep within its record's span, and that span's start and length.
    """
    counts = []
    for first in range(0, len(shifts), _SHIFTS_AT_ONCE):
        rows = shifts[first : first + _SHIFTS_AT_ONCE]
        steps = start + (at + rows) % np.maximum(span, 1)
        place = np.minimum((np.mod(steps, hop) / hop * bins).astype(np.int64), bins - 1)
        numbered = place + bins * np.arange(len(rows))[:, None]
        counts.append(np.bincount(numbered.ravel(), minlength=bins * len(rows)).reshape(len(rows), bins))
    return np.concatenate(counts)


def _tested(layer: str, hop: float, counts: NDArray[np.int64]) -> HopTest:
    bins, n = counts.shape[1], int(counts[0].sum())
    if n < 5 * bins:  # the usual rule for χ²: five expected in a bin
        return HopTest(layer, hop, bins, n)
    chi = ((counts - n / bins) ** 2).sum(axis=1) / (n / bins)
    v, p = float(np.sqrt(chi[0] / (n * (bins - 1)))), (1 + int((chi[1:] >= chi[0]).sum())) / len(chi)
    return HopTest(
        *(layer, hop, bins, n),
        chi_square=float(chi[0]),
        cramers_v=v,
        shifted_p99=float(np.quantile(chi[1:], 0.99)),
        p_value=p,
        fullest_bin=float(counts[0].max() / (n / bins)),
        uneven=bool(v > UNEVEN_V and p <= UNEVEN_P),
    )
