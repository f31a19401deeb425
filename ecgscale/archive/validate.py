"""Is a recording usable? A closed list of reasons why not, found a batch at a time.

Nothing is dropped: a record that fails keeps its row, with a status that says why and no facts.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ecgscale.archive.reader import RawBatch

OK = "ok"
"""The status of a record that can be used."""

STATUS_MEANING: dict[str, str] = {
    OK: "usable",
    "missing_record_id": "no record_id",
    "duplicate_record_id": "a record_id that an earlier row has",
    "empty_signal": "no samples",
    "malformed_signal": "no leads, a lead twice, or samples that are no multiple of the leads",
    "bad_sampling_rate": "sampling_rate not a positive number",
    "bad_units": "units_per_mv not a positive number",
    "non_finite_samples": "NaN or infinite samples",
    "bad_valid_span": "not 0 <= valid_start < valid_stop <= samples",
    "flat_signal": "every lead constant over the valid span",
    "missing_leads": "the encoder needs a lead that is neither there nor derivable",
    "too_short": "the valid span is shorter than one step of the encoder",
    "non_finite_output": "the network gave NaN or infinite numbers",
    "patient_conflict": "the record_id is another patient's in an older shard",
}
"""Every status a record can have. The first reason in this order wins. The last is found at publishing, when
another shard has the record; the three before it are the encoder's to find."""
RECORD_STATUS: tuple[str, ...] = tuple(STATUS_MEANING)

# Most leads that move at all move between samples this far apart, so few need to be looked at in full.
_FLAT_PROBE_STRIDE = 61


def check_batch(raw: RawBatch, seen: set[str]) -> tuple[list[str], list[list[str]]]:
    """Status and flags (such as "flat_lead:V1") of each record.

    `seen` holds the record ids met so far, normally those of the shard, and is added to: of two equal ids the first
    is kept. Flags are given to usable records only.
    """
    status = _check_ids(raw.record_ids, seen)
    n_leads = np.array([len(leads) for leads in raw.leads])
    sizes = np.diff(raw.offsets)
    doubled = np.array([len(set(leads)) != len(leads) for leads in raw.leads], dtype=bool)
    n_samples = raw.n_samples
    _mark(status, sizes == 0, "empty_signal")
    _mark(status, (n_leads == 0) | doubled | (sizes != n_samples * n_leads), "malformed_signal")
    _mark(status, ~(np.isfinite(raw.sampling_rate) & (raw.sampling_rate > 0)), "bad_sampling_rate")
    _mark(status, ~(np.isfinite(raw.units_per_mv) & (raw.units_per_mv > 0)), "bad_units")
    _mark(status, _non_finite(raw), "non_finite_samples")
    span_ok = (raw.valid_start >= 0) & (raw.valid_start < raw.valid_stop) & (raw.valid_stop <= n_samples)
    _mark(status, ~span_ok, "bad_valid_span")
    return status, _check_flat(raw, status)


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


def _non_finite(raw: RawBatch) -> NDArray[np.bool_]:
    """bool (N,): records with a sample that is NaN or infinite."""
    bad = np.zeros(len(raw), dtype=bool)
    if raw.values.dtype == np.int16:
        return bad
    places = np.flatnonzero(~np.isfinite(raw.values))
    bad[np.searchsorted(raw.offsets, places, side="right") - 1] = True
    return bad


def _check_flat(raw: RawBatch, status: list[str]) -> list[list[str]]:
    """Mark records whose leads are all constant over the valid span; flag single constant leads of the others."""
    flags: list[list[str]] = [[] for _ in status]
    alike: dict[tuple, list[int]] = defaultdict(list)
    for i, state in enumerate(status):
        if state == "ok":
            key = (raw.leads[i], int(raw.n_samples[i]), int(raw.valid_start[i]), int(raw.valid_stop[i]))
            alike[key].append(i)
    for (leads, _, start, stop), members in alike.items():
        flat = _flat_leads(_stack(raw, members)[:, :, start:stop])
        for i, row in zip(np.array(members)[flat.any(axis=1)], flat[flat.any(axis=1)], strict=True):
            if row.all():
                status[i] = "flat_signal"
            else:
                flags[i] = [f"flat_lead:{lead}" for lead, is_flat in zip(leads, row, strict=True) if is_flat]
    return flags


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
        "malformed_signal": f"{np.diff(raw.offsets)[i]} samples, leads {', '.join(raw.leads[i]) or 'none'}",
        "bad_sampling_rate": f"sampling_rate {raw.sampling_rate[i]:g}",
        "bad_units": f"units_per_mv {raw.units_per_mv[i]:g}",
        "bad_valid_span": f"[{raw.valid_start[i]}, {raw.valid_stop[i]}) of {raw.n_samples[i]} samples",
    }.get(status)
    what = f"{status}: {STATUS_MEANING[status]}" + (f" (found {found})" if found else "")
    return f"{raw.shard}, row {raw.first_row + i}, record {raw.record_ids[i]!r}: {what}"
