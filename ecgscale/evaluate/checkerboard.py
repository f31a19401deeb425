"""Checkerboard artefacts: do clusters change where the signal changes, or where the network's grid has its lines?

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
from numpy.typing import NDArray

from ecgscale.evaluate.shifts import N_SHIFTS, draw_shifts

MOST_BINS = 16
UNEVEN_V, UNEVEN_P = 0.1, 0.01
_SHIFTS_AT_ONCE = 20


@dataclass(frozen=True)
class HopTest:
    """One tapped layer: its hop in timesteps, how many boundaries there are, and how evenly they lie in the hop.

    `uneven` is the verdict: V above 0.1 and at most one shift in a hundred as high. None where there are too few.
    """

    layer: str
    hop: float
    bins: int
    boundaries: int
    chi_square: float | None
    cramers_v: float | None
    shifted_p99: float | None
    p_value: float | None
    fullest_bin: float | None
    """Boundaries in the fullest bin over those in a bin on average."""
    uneven: bool | None


def checkerboard(
    labels: NDArray[np.int16], layers: tuple[str, ...], lengths: tuple[int, ...], seed: int = 0
) -> tuple[tuple[HopTest, ...], pa.Table]:
    """Test the boundaries of (N, D) labels against layers of these lengths on the time axis; and their histograms."""
    n_steps = labels.shape[1]
    valid = labels >= 0
    span = valid.sum(axis=1).astype(np.int64)
    start = valid.argmax(axis=1)
    record, at = np.nonzero((labels[:, 1:] != labels[:, :-1]) & valid[:, 1:] & valid[:, :-1])
    at = at + 1 - start[record]
    shifts = draw_shifts(span, N_SHIFTS, seed)
    tests, histograms = [], []
    for layer, length in zip(layers, lengths, strict=True):
        hop = n_steps / length
        bins = min(int(hop), MOST_BINS)
        if bins < 2:
            tests.append(HopTest(layer, hop, bins, len(at), None, None, None, None, None, None))
            continue
        counts = _histograms(record, at, start, span, shifts, hop, bins)
        tests.append(_tested(layer, hop, counts))
        histograms.append(
            pa.table({"layer": [layer] * bins, "hop": [hop] * bins, "bin": np.arange(bins), "boundaries": counts[0]})
        )
    empty = pa.table({"layer": pa.array([], pa.string()), "hop": pa.array([], pa.float64())})
    return tuple(tests), pa.concat_tables(histograms) if histograms else empty


def _histograms(
    record: NDArray[np.int64],
    at: NDArray[np.int64],
    start: NDArray[np.int64],
    span: NDArray[np.int64],
    shifts: NDArray[np.int64],
    hop: float,
    bins: int,
) -> NDArray[np.int64]:
    """(S, bins): boundaries in each bin of the hop under every row of shifts, a few rows in memory at a time."""
    counts = []
    for first in range(0, len(shifts), _SHIFTS_AT_ONCE):
        rows = shifts[first : first + _SHIFTS_AT_ONCE, record]
        steps = start[record] + (at + rows) % np.maximum(span[record], 1)
        place = np.minimum((np.mod(steps, hop) / hop * bins).astype(np.int64), bins - 1)
        numbered = place + bins * np.arange(len(rows))[:, None]
        counts.append(np.bincount(numbered.ravel(), minlength=bins * len(rows)).reshape(len(rows), bins))
    return np.concatenate(counts)


def _tested(layer: str, hop: float, counts: NDArray[np.int64]) -> HopTest:
    bins, n = counts.shape[1], int(counts[0].sum())
    if n < 5 * bins:  # the usual rule for χ²: five expected in a bin
        return HopTest(layer, hop, bins, n, None, None, None, None, None, None)
    expected = n / bins
    chi = ((counts - expected) ** 2).sum(axis=1) / expected
    v = float(np.sqrt(chi[0] / (n * (bins - 1))))
    p = (1 + int((chi[1:] >= chi[0]).sum())) / len(chi)
    return HopTest(
        layer=layer,
        hop=hop,
        bins=bins,
        boundaries=n,
        chi_square=float(chi[0]),
        cramers_v=v,
        shifted_p99=float(np.quantile(chi[1:], 0.99)),
        p_value=p,
        fullest_bin=float(counts[0].max() / expected),
        uneven=bool(v > UNEVEN_V and p <= UNEVEN_P),
    )
