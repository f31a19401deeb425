"""Is what looks alike also alike to the network? Pairs of waves: how far apart in the latent space, how far in shape.

One wave of each kind a recording, the middle one that lies within what was explained. Its latent vector is the mean
f(t) over its timesteps; its shape is the signal in all leads of the network, in millivolts, less its first sample.
Shapes are compared by dynamic time warping over all leads together (dtaidistance), divided by √(length of the longer),
so that it is a difference in millivolts.

For the null, the same windows are taken from each recording's course of f(t) moved round by a random amount.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecgscale.archive.waves import WAVES
from ecgscale.clusters.features import BlockLayout, dense_features

PARTNERS = 8
"""Recordings before it in its shard that each one is paired with."""

WINDOW_S = 0.04
"""How far time may be warped."""


@dataclass(frozen=True)
class WaveProbe:
    """One wave of one recording: shape (T, n_leads) float64, latent (1 + S, C) float32, the first row where it is."""

    kind: int
    shape: NDArray[np.float64]
    latent: NDArray[np.float32]


@dataclass(frozen=True)
class ProbedRecord:
    """The waves of a recording that was sampled."""

    record_id: str
    waves: tuple[WaveProbe, ...]


def has_dtaidistance() -> bool:
    """Whether shapes can be compared here."""
    return importlib.util.find_spec("dtaidistance") is not None


def probe_waves(
    x: NDArray[np.float32],
    blocks_CL: Sequence[NDArray[np.float32]],
    layout: BlockLayout,
    steps: tuple[NDArray[np.int64], NDArray[np.int64]],
    kinds: NDArray[np.integer],
    span: tuple[int, int],
    shifts: NDArray[np.int64],
    millivolt: float,
) -> tuple[WaveProbe, ...]:
    """Waves of one recording: x (n_leads, D) as the network sees it, blocks (C_b, L_b) of its activations.

    steps: half-open (first, past) of each annotated wave; span: the valid timesteps; shifts: (S,) timesteps.
    """
    first, past = steps
    start, stop = span
    whole = (first >= start) & (past <= stop) & (past - first >= 2)
    chosen = [(kind, np.flatnonzero(whole & (kinds == kind))) for kind in range(len(WAVES))]
    chosen = [(kind, rows) for kind, rows in chosen if len(rows)]
    if not chosen:
        return ()
    course = dense_features([block[None] for block in blocks_CL], layout)[0, start:stop].astype(np.float64)
    sums = np.concatenate([np.zeros((1, course.shape[1])), np.cumsum(course, axis=0)])
    probes = []
    for kind, rows in chosen:
        row = rows[len(rows) // 2]
        begin, length = int(first[row] - start), int(past[row] - first[row])
        latent = _window_means(sums, np.mod(begin - np.append(0, shifts), stop - start), length)
        shape = x[:, first[row] : past[row]].astype(np.float64).T / millivolt
        probes.append(WaveProbe(kind, np.ascontiguousarray(shape - shape[:1]), latent.astype(np.float32)))
    return tuple(probes)


def _window_means(sums: NDArray[np.float64], begin: NDArray[np.int64], length: int) -> NDArray[np.float64]:
    """(len(begin), C): means over windows of a course whose running sums are `sums` (T + 1, C), going round its end."""
    span = len(sums) - 1
    end = begin + length
    total = sums[np.minimum(end, span)] - sums[begin]
    return np.asarray((total + sums[np.maximum(end - span, 0)]) / length)


def pairs_of(own: ProbedRecord, others: Sequence[ProbedRecord], rate: float) -> list[dict[str, Any]]:
    """How far the waves of a recording are from those of others: rows of the output's `pairs`."""
    from dtaidistance import dtw_ndim

    found = []
    for wave in own.waves:
        for other in others:
            for partner in (partner for partner in other.waves if partner.kind == wave.kind):
                longer = max(len(wave.shape), len(partner.shape))
                # A window narrower than the difference in length would leave no path.
                window = max(round(WINDOW_S * rate), abs(len(wave.shape) - len(partner.shape))) + 1
                distance = dtw_ndim.distance_fast(wave.shape, partner.shape, window=window)
                apart = np.linalg.norm(wave.latent - partner.latent, axis=1)
                found.append(
                    {
                        "other": other.record_id,
                        "wave": WAVES[wave.kind],
                        "dtw_mv": float(distance) / np.sqrt(longer),
                        "latent": float(apart[0]),
                        "shifted": apart[1:].astype(np.float32),
                    }
                )
    return found
