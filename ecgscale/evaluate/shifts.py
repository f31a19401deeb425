"""Circular shifts: how alike two courses of time are by chance, when each keeps its own rhythm.

Clusters come in long runs and waves come in beats, so the usual nulls (independent timesteps) would make anything
significant. Here a record's clusters are moved round within its own span, each record by its own random amount, and
everything is measured again: the runs, the beats and how often each cluster occurs stay as they are.
"""

from __future__ import annotations

import numpy as np
from numba import prange
from numpy.typing import NDArray

from ecgscale.clusters.compiled import kernel
from ecgscale.evaluate.timelines import PARTS, Ragged, Timelines

N_SHIFTS = 200


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
    return shifted_counts(lines, unshifted, np.arange(len(lines)), n_clusters)[0]


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
