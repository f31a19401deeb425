"""Is a recording usable? A closed list of reasons why not, found a batch at a time.

Nothing is dropped: a record that fails keeps its row, with a status that says why and no facts.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ecgscale.archive.oddities import Recordings, absurd, oddities
from ecgscale.archive.reader import RawBatch
from ecgscale.leads import name_hint, taken_leads

OK = "ok"
"""The status of a record that can be used."""

STATUS_MEANING: dict[str, str] = {
    OK: "usable",
    "missing_record_id": "no record_id",
    "duplicate_record_id": "a record_id that an earlier row has",
    "empty_signal": "no samples",
    "malformed_signal": "no leads, a lead twice, or samples that are no multiple of the leads",
    "bad_sampling_rate": "sampling_rate not a positive number",
    "bad_units": "units_per_mv not a positive number, or one that makes of the samples what no voltage of a body is",
    "non_finite_samples": "NaN or infinite samples (in a lead that is needed)",
    "bad_valid_span": "not 0 <= valid_start < valid_stop <= samples",
    "flat_signal": "every lead constant over the valid span (of those that are needed)",
    "missing_leads": "the encoder needs a lead that is neither there nor derivable",
    "too_short": "the valid span is shorter than one step of the encoder, or than one of its filters needs",
    "preprocess_failed": "the encoder's own preprocessing failed, or gave other than finite samples of the same shape",
    "non_finite_output": "the network gave NaN or infinite numbers",
    "patient_conflict": "the record_id is another patient's in an older shard",
}
"""Every status a record can have. The first reason in this order wins. The last is found at publishing, when
another shard has the record; the four before it are the encoder's to find."""
RECORD_STATUS: tuple[str, ...] = tuple(STATUS_MEANING)

# Most leads that move at all move between samples this far apart, so few need to be looked at in full.
_FLAT_PROBE_STRIDE = 61


def check_batch(
    raw: RawBatch, seen: set[str], taken: tuple[str, ...] | None = None, rows: Iterable[int] | None = None
) -> tuple[list[str], list[list[str]]]:
    """Status and flags (such as "flat_lead:V1") of each record.

    `seen` holds the record ids met so far, normally those of the shard, and is added to: of two equal ids the first
    is kept. `taken`: leads that a network takes; those that it needs, some of them to derive others, are judged, and no
    other; without it, all. `rows`: look at signals of these alone.

    A flag is what is odd about a usable record (`ecgscale.archive.oddities`), or the detail of why another is not.
    """
    status = _check_ids(raw.record_ids, seen)
    n_leads = np.array([len(leads) for leads in raw.leads])
    sizes = np.diff(raw.offsets)
    doubled = np.array([_is_doubled(leads, taken) for leads in raw.leads], dtype=bool)
    n_samples = raw.n_samples
    _mark(status, sizes == 0, "empty_signal")
    _mark(status, (n_leads == 0) | doubled | (sizes != n_samples * n_leads), "malformed_signal")
    _mark(status, ~(np.isfinite(raw.sampling_rate) & (raw.sampling_rate > 0)), "bad_sampling_rate")
    _mark(status, ~(np.isfinite(raw.units_per_mv) & (raw.units_per_mv > 0)), "bad_units")
    flags: list[list[str]] = [[] for _ in status]
    broken = _non_finite(raw, status)
    for i, of_leads in broken.items():
        at_fault = np.flatnonzero(of_leads & taken_leads(raw.leads[i], taken))
        flags[i] = [f"non_finite_lead:{raw.leads[i][k]}" for k in at_fault]
        if flags[i]:
            status[i] = "non_finite_samples"
    span_ok = (raw.valid_start >= 0) & (raw.valid_start < raw.valid_stop) & (raw.valid_stop <= n_samples)
    _mark(status, ~span_ok, "bad_valid_span")
    alike: dict[tuple, list[int]] = defaultdict(list)
    for i in range(len(raw)) if rows is None else sorted(rows):
        if status[i] == OK:
            span = int(raw.n_samples[i]), int(raw.valid_start[i]), int(raw.valid_stop[i])
            alike[raw.leads[i], float(raw.sampling_rate[i]), *span].append(i)
    for (leads, rate, _, start, stop), members in alike.items():
        judged = np.flatnonzero(taken_leads(leads, taken))
        signals = _stack(raw, members)[:, :, start:stop]
        bad = np.array([broken.get(i, np.zeros(len(leads), bool)) for i in members])
        if len(judged) < len(leads):
            signals, bad, leads = signals[:, judged], bad[:, judged], tuple(leads[k] for k in judged)
        if leads:
            _judge(raw, members, signals, leads, rate, bad, status, flags)
    return status, flags


@lru_cache(maxsize=1024)
def _is_doubled(leads: tuple[str, ...], taken: tuple[str, ...] | None) -> bool:
    """Whether a lead that is judged is there twice."""
    judged = [lead for lead, is_judged in zip(leads, taken_leads(leads, taken), strict=True) if is_judged]
    return len(set(judged)) != len(judged)


def _check_ids(record_ids: Sequence[str | None], seen: set[str]) -> list[str]:
    status = []
    for record_id in record_ids:
        if record_id is None or not record_id.strip():
            status.append("missing_record_id")
        elif record_id in seen:
            status.append("duplicate_record_id")
        else:
            seen.add(record_id)
            status.append("ok")
    return status


def _mark(status: list[str], bad: NDArray[np.bool_], reason: str) -> None:
    for i in np.flatnonzero(bad):
        if status[i] == "ok":
            status[i] = reason


def _non_finite(raw: RawBatch, status: Sequence[str]) -> dict[int, NDArray[np.bool_]]:
    """Records that were all right so far and have samples that are NaN or infinite → bool (leads,), those with some."""
    found: dict[int, NDArray[np.bool_]] = {}
    if raw.values.dtype.kind in "iu":
        return found
    places = np.flatnonzero(~np.isfinite(raw.values))
    records = np.searchsorted(raw.offsets, places, side="right") - 1
    for i in np.unique(records).tolist():
        if status[i] == OK:
            mine = places[records == i] - raw.offsets[i]
            found[i] = np.bincount(mine // raw.n_samples[i], minlength=len(raw.leads[i])) > 0
    return found


def _judge(
    raw: RawBatch,
    members: Sequence[int],
    signals: NDArray,
    leads: tuple[str, ...],
    rate: float,
    bad: NDArray[np.bool_],
    status: list[str],
    flags: list[list[str]],
) -> None:
    """Mark and flag records of one shape by their signals (n, leads, samples); `bad` (n, leads) are not finite."""
    flat = _flat_leads(signals) & ~bad
    sound = ~(flat | bad)
    recordings = Recordings(signals, leads, rate, raw.units_per_mv[members].astype(np.float64), sound)
    wrong_unit, odd = absurd(recordings), oddities(recordings)
    for number, i in enumerate(members):
        if not sound[number].any():
            status[i] = "non_finite_samples" if bad[number].any() else "flat_signal"
        elif wrong_unit[number]:
            status[i] = "bad_units"
        else:
            flags[i] += [f"flat_lead:{leads[k]}" for k in np.flatnonzero(flat[number])] + odd[number]


def _stack(raw: RawBatch, members: list[int]) -> NDArray:
    """(n, leads, samples) of records of one shape; a view where they stand next to each other, as they mostly do."""
    first, last = members[0], members[-1]
    if last - first + 1 == len(members):
        values = raw.values[raw.offsets[first] : raw.offsets[last + 1]]
        return values.reshape(len(members), len(raw.leads[first]), -1)
    return np.stack([raw.signal(i) for i in members])


def _flat_leads(signals: NDArray) -> NDArray[np.bool_]:
    """bool (n, leads): constant over all samples of (n, leads, samples)."""
    first = signals[..., :1]
    flat: NDArray[np.bool_] = (signals[..., ::_FLAT_PROBE_STRIDE] == first).all(axis=-1)
    for record, lead in np.argwhere(flat):
        flat[record, lead] = (signals[record, lead] == first[record, lead]).all()
    return flat


def describe(raw: RawBatch, i: int, status: str) -> str:
    """One record's problem for a person: shard, row, record_id, what was found, what was expected."""
    found = {
        "malformed_signal": f"{np.diff(raw.offsets)[i]} samples, {_named(raw.leads[i])}",
        "bad_sampling_rate": f"sampling_rate {raw.sampling_rate[i]:g}",
        "bad_units": f"units_per_mv {raw.units_per_mv[i]:g}{_peak(raw, i)}",
        "bad_valid_span": f"[{raw.valid_start[i]}, {raw.valid_stop[i]}) of {raw.n_samples[i]} samples",
        "missing_leads": _named(raw.leads[i]),
    }.get(status)
    if status == "non_finite_samples":
        signal = raw.signal(i)
        counts = zip(raw.leads[i], (~np.isfinite(signal)).sum(axis=1).tolist(), strict=True)
        found = ", ".join(f"{count} of {signal.shape[1]} in {lead}" for lead, count in counts if count)
    what = f"{status}: {STATUS_MEANING[status]}" + (f" (found {found})" if found else "")
    return f"{raw.shard}, row {raw.first_row + i}, record {raw.record_ids[i]!r}: {what}"


def _named(leads: Sequence[str]) -> str:
    return f"leads {', '.join(lead or 'unnamed' for lead in leads) or 'none'}{name_hint(leads)}"


def _peak(raw: RawBatch, i: int) -> str:
    """What the largest sample then is, where it can be said."""
    values = np.abs(raw.values[raw.offsets[i] : raw.offsets[i + 1]].astype(np.float64))
    values = values[np.isfinite(values)]
    return f", peaks of {values.max() / raw.units_per_mv[i]:.3g} mV" if len(values) and raw.units_per_mv[i] > 0 else ""
