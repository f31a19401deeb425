"""Recordings with the segments of one cluster taken out: what does the network say without them?

What is taken out is bridged by a straight line in every lead, from the last sample before to the first behind: no step
that the network never saw, and no waves either. Only samples within the valid span are touched.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def bridged(x: NDArray[np.float32], out: NDArray[np.bool_], start: int, stop: int) -> NDArray[np.float32]:
    """(n_leads, D) with the samples that `out` (D,) marks within start … stop replaced by lines; flat at the ends.

    A span that is taken out as a whole is zero.
    """
    masked = x.copy()
    inside = out[start:stop]
    if inside.all():
        masked[:, start:stop] = 0.0
        return masked
    kept, gone = np.flatnonzero(~inside), np.flatnonzero(inside)
    right = np.searchsorted(kept, gone)
    before, behind = kept[np.maximum(right - 1, 0)], kept[np.minimum(right, len(kept) - 1)]
    # Before the first and behind the last kept sample both are the same one.
    before = np.where(right == 0, behind, before)
    behind = np.where(right == len(kept), before, behind)
    part = ((gone - before) / np.maximum(behind - before, 1)).astype(np.float32)
    signal = x[:, start:stop]
    masked[:, start + gone] = signal[:, before] * (1 - part) + signal[:, behind] * part
    return masked


def moved(out: NDArray[np.bool_], start: int, stop: int, shift: int) -> NDArray[np.bool_]:
    """The mask (D,) with its part within start … stop moved round by `shift` samples: as much, as often, elsewhere."""
    rolled = out.copy()
    rolled[start:stop] = np.roll(out[start:stop], shift)
    return rolled
