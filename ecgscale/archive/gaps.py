"""Short gaps in recordings, filled where a user asked for it: a straight line between the samples on either side.

Only NaN is a gap; infinite samples are faults. A gap that is longer than allowed, or that reaches either end of the
valid span, stays, and the record with it is not usable.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ecgscale.archive.reader import RawBatch
from ecgscale.leads import taken_leads


def fill_gaps(
    raw: RawBatch, taken: tuple[str, ...], milliseconds: float, rows: Iterable[int] | None = None
) -> tuple[RawBatch, dict[int, list[str]]]:
    """The batch with gaps of up to so many milliseconds filled, in leads that are needed for those `taken`; and the
    flags of records that had such gaps ("filled_gap:V1")."""
    flags: dict[int, list[str]] = {}
    if raw.values.dtype.kind in "iu" or not milliseconds > 0:
        return raw, flags
    places = np.flatnonzero(np.isnan(raw.values))
    asked = None if rows is None else set(rows)
    records = np.unique(np.searchsorted(raw.offsets, places, side="right") - 1).tolist()
    values = raw.values.copy() if records else raw.values
    for i in records:
        rate, leads = float(raw.sampling_rate[i]), raw.leads[i]
        own = values[raw.offsets[i] : raw.offsets[i + 1]]
        if (asked is not None and i not in asked) or not leads or len(own) % len(leads) or not 0 < rate < np.inf:
            continue
        limit, span = round(milliseconds * rate / 1000, 6), (int(raw.valid_start[i]), int(raw.valid_stop[i]))
        signal = own.reshape(len(leads), -1)
        filled = [k for k in np.flatnonzero(taken_leads(leads, taken)) if _fill(signal[k], limit, span)]
        if filled:
            flags[i] = [f"filled_gap:{leads[k]}" for k in filled]
    return replace(raw, values=values), flags


def _fill(lead: NDArray, limit: float, span: tuple[int, int]) -> bool:
    """Fill gaps of up to `limit` samples in place; whether there were some."""
    edges = np.diff(np.isnan(lead).astype(np.int8), prepend=0, append=0)
    some = False
    for start, stop in zip(np.flatnonzero(edges == 1).tolist(), np.flatnonzero(edges == -1).tolist(), strict=True):
        if stop - start <= limit and span[0] < start and stop < min(span[1], len(lead)):
            ends = lead[[start - 1, stop]].astype(np.float64)
            if np.isfinite(ends).all():
                lead[start:stop] = np.interp(np.arange(start, stop), [start - 1, stop], ends)
                some = True
    return some
