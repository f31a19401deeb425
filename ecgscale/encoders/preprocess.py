"""Signals as an archive holds them → the encoder's input, exactly as its contract says, valid span carried along.

Short gaps filled, if that is asked for → leads by name → × millivolt / units_per_mv → filters at the recording's rate →
`scipy.signal.resample_poly` over the whole signal (only if the rates differ) → filters → the user's own preprocessing →
the first `length` samples → less mean, over std; or a normalisation → + offset → zero padding.

Where anything is filtered, normalised or added, that is done to the valid span alone, and what lies around it is zero.
Filters and the user's preprocessing see up to `MARGIN_S` of what will be cropped.

Everything is computed in float64, elementwise, along single traces or within one record, and rounded to float32 at the
end: a record's bits do not depend on the records it is batched with.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ecgscale.encoders.inputs import FilterSpec, InputSpec, TooShort
from ecgscale.errors import EcgscaleError
from ecgscale.leads import MissingLeads, lead_matrix, taken_leads

if TYPE_CHECKING:
    from ecgscale.archive.reader import RawBatch
from ecgscale.archive.validate import OK, check_batch

MARGIN_S = 10.0
"""Seconds beyond what the network sees that filters see too: a Holter recording costs no more than an ECG."""

CROPPED = "cropped"
NOT_WANTED = "not_wanted"
"""The status of a record that nobody asked for."""


@dataclass
class Prepared:
    """A batch on the encoder's time axis of D = `spec.length` samples; zeros wherever `status` is not "ok"."""

    x: NDArray[np.float32]  # (N, n_leads, D), the encoder's leads and units
    valid_start: NDArray[np.int32]  # (N,) half-open span of samples that are not padding
    valid_stop: NDArray[np.int32]
    start_s: NDArray[np.float64]  # (N,) recording time of sample 0, negative when padded
    cropped: NDArray[np.int32]  # (N,) source samples cut off at the end
    status: list[str]
    flags: list[list[str]]

    @property
    def usable(self) -> NDArray[np.bool_]:
        """(N,) records with status "ok"."""
        return np.array([state == OK for state in self.status], bool)

    def spans(self, rows: NDArray, include_padding: bool = False) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Valid start and stop (n,) of these rows; all D timesteps count as valid with `include_padding`."""
        start, stop = self.valid_start[rows], self.valid_stop[rows]
        return (np.zeros_like(start), np.full_like(stop, self.x.shape[-1])) if include_padding else (start, stop)


def prepare_batch(
    raw: RawBatch,
    spec: InputSpec,
    hop: int,
    seen: set[str] | None = None,
    rows: Iterable[int] | None = None,
    gaps_ms: float = 0.0,
) -> Prepared:
    """A raw batch, checked as far as the encoder's leads go and brought to its input.

    `seen`: record ids of the shard so far (`check_batch`). Of `rows`, those outside are not wanted: they are checked,
    for a doubled id counts wherever it stands, and not prepared. Gaps of up to `gaps_ms` are filled, and flagged.
    """
    wanted = None if rows is None else set(rows)
    raw, filled = fill_gaps(raw, spec.leads, gaps_ms, wanted)
    status, flags = check_batch(raw, set() if seen is None else seen, spec.leads, wanted)
    if wanted is not None:
        status = [state if i in wanted else NOT_WANTED for i, state in enumerate(status)]
    for i, marks in filled.items():
        flags[i] += marks if status[i] == OK else []
    return prepare(raw, status, flags, spec, hop)


def prepare(
    raw: RawBatch, status: Sequence[str], flags: Sequence[Sequence[str]], spec: InputSpec, hop: int
) -> Prepared:
    """Bring a raw batch to the encoder's input.

    `status` and `flags` come from `check_batch`; records that are not "ok" stay zero and keep their status. Those
    that lack a lead become "missing_leads", those whose valid span is shorter than `hop` (samples on the encoder's
    axis) or than a filter needs "too_short", those that overflow float32 "non_finite_samples", those that the user's
    own preprocessing cannot take "preprocess_failed"; cropped ones are flagged "cropped".
    """
    n = len(raw)
    out = Prepared(
        x=np.zeros((n, len(spec.leads), spec.length), np.float32),
        valid_start=np.zeros(n, np.int32),
        valid_stop=np.zeros(n, np.int32),
        start_s=np.zeros(n, np.float64),
        cropped=np.zeros(n, np.int32),
        status=list(status),
        flags=[list(flag) for flag in flags],
    )
    groups: dict[tuple[tuple[str, ...], float, int], list[int]] = defaultdict(list)
    for i, state in enumerate(status):
        if state == OK:
            leads = tuple(raw.leads[i])
            n_samples = int(raw.offsets[i + 1] - raw.offsets[i]) // len(leads)
            groups[leads, float(raw.sampling_rate[i]), n_samples].append(i)
    for (leads, rate, n_source), rows in groups.items():
        try:
            ratio = resampling_ratio(rate, spec.sampling_rate)
            needed = _needed(_looked_at(spec), *ratio)
            signals = pick_leads(np.stack([raw.signal(i)[:, :needed] for i in rows]), leads, spec.leads)
        except (MissingLeads, BadRate) as error:
            for i in rows:
                out.status[i] = "missing_leads" if isinstance(error, MissingLeads) else "bad_sampling_rate"
                if isinstance(error, MissingLeads):
                    out.flags[i] = [f"needs:{lead}" for lead in error.missing] + [f"has:{lead}" for lead in leads]
            continue
        index = np.asarray(rows)
        spans = raw.valid_start[index].astype(np.int64), raw.valid_stop[index].astype(np.int64)
        batch = _Group(index, signals, ratio, raw.units_per_mv[index].astype(np.float64), n_source, *spans)
        _place(out, batch, spec, hop)
    return out


def pick_leads(signals: NDArray, leads: tuple[str, ...], wanted: tuple[str, ...]) -> NDArray[np.float64]:
    """(N, n_leads, T) of any type → (N, len(wanted), T) float64, missing limb leads derived; raises MissingLeads."""
    matrix = lead_matrix(leads, wanted)
    out = np.empty((len(signals), len(wanted), signals.shape[-1]))
    for row, weights in enumerate(matrix):
        # Term by term: BLAS would give other bits for other batch sizes, and 0 * NaN of an unused lead spreads.
        first, *others = np.flatnonzero(weights)
        out[:, row] = signals[:, first]
        if weights[first] != 1:
            out[:, row] *= weights[first]
        for other in others:
            out[:, row] += weights[other] * signals[:, other].astype(np.float64)
    return out


class BadRate(EcgscaleError):
    """A sampling rate so far from the encoder's that it can only be a mistake."""


@lru_cache(maxsize=256)
def resampling_ratio(rate: float, wanted: float) -> tuple[int, int]:
    """(up, down) with wanted / rate = up / down; rates read to 1 mHz, the drift over a record far under a sample."""
    if not wanted / 1000 <= rate <= wanted * 1000:
        raise BadRate(f"a sampling rate of {rate:g} Hz cannot sensibly be brought to {wanted:g} Hz")
    ratio = Fraction(wanted).limit_denominator(1000) / Fraction(rate).limit_denominator(1000)
    return ratio.limit_denominator(10_000).as_integer_ratio()


def _needed(length: int, up: int, down: int) -> int:
    """Source samples that the first `length` resampled ones depend on: a Holter recording costs no more than an ECG.

    The default window of `resample_poly` reaches 10 · max(up, down) samples of the upsampled axis to either side.
    """
    return length if up == down else -(-length * down // up) + 10 * max(up, down) // up + 2


@dataclass(frozen=True)
class _Group:
    """Records of equal leads, rate and length: those of a batch that can be worked on at once."""

    rows: NDArray[np.intp]  # (n,) where they stand in the batch
    signals: NDArray[np.float64]  # (n, n_leads, T) in source units; T covers what the encoder will see
    ratio: tuple[int, int]
    units_per_mv: NDArray[np.float64]
    n_source: int  # samples in the source
    valid_start: NDArray[np.int64]
    valid_stop: NDArray[np.int64]


def _looked_at(spec: InputSpec) -> int:
    """Samples on the encoder's axis that what it sees depends on."""
    return spec.length + round(MARGIN_S * spec.sampling_rate) * spec.looks_around


def _place(out: Prepared, group: _Group, spec: InputSpec, hop: int) -> None:
    """Scale, resample, filter, normalise and pad the group's signals into its rows of `out`."""
    (up, down), length = group.ratio, spec.length
    signals = group.signals * (spec.millivolt / group.units_per_mv)[:, None, None]
    faults: dict[int, Unfit] = {}
    if early := [one for one in spec.filters if one.before_resampling]:
        own_rate = spec.sampling_rate * down / up
        within(signals, group.valid_start, group.valid_stop, lambda part: filtered(part, early, own_rate), faults)
    if up != down:
        from scipy.signal import resample_poly  # half a second that `ecgscale status` need not wait

        signals = resample_poly(signals, up, down, axis=-1)
    n = -(-group.n_source * up // down)
    left = (length - n) // 2 if spec.padding == "center" and n < length else 0
    kept = min(n, length)
    # Source sample i sits at i * up / down: a span's first and last sample round up to those at or after them.
    start, stop = -(-group.valid_start * up // down), -(-group.valid_stop * up // down)
    if spec.looks_around:
        signals = signals[..., : _looked_at(spec)]
        within(signals, start, stop, lambda part: _conditioned(part, spec), faults)
    start, stop = np.minimum(start, kept), np.minimum(stop, kept)
    if spec.shapes:
        within(signals[..., :kept], start, stop, lambda part: _normalised(part, spec), faults)
    cut = max(0, group.n_source - -(-length * down // up))
    fits = stop - start >= max(hop, 1)
    with np.errstate(over="ignore"):  # becomes a status
        x = signals[..., :kept].astype(np.float32)
    finite = np.isfinite(x).all(axis=(1, 2))
    good = fits & finite
    for row, long_enough in zip(group.rows[~good], fits[~good], strict=True):
        out.status[row] = "non_finite_samples" if long_enough else "too_short"
    for number, fault in faults.items():
        good[number] = False
        out.status[group.rows[number]] = fault.status
        out.flags[group.rows[number]].append(fault.flag)
    rows = group.rows[good]
    out.x[rows, :, left : left + kept] = x[good]
    out.valid_start[rows] = start[good] + left
    out.valid_stop[rows] = stop[good] + left
    out.start_s[rows] = -left / spec.sampling_rate
    out.cropped[rows] = cut
    if cut:
        for row in rows:
            out.flags[row].append(CROPPED)


class Unfit(EcgscaleError):
    """A record that a step of the contract cannot take: the status it gets, and the flag that says more."""

    def __init__(self, status: str, flag: str) -> None:
        super().__init__(f"{status} ({flag})")
        self.status, self.flag = status, flag


def within(
    signals: NDArray[np.float64],
    start: NDArray[np.int64],
    stop: NDArray[np.int64],
    step: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    faults: dict[int, Unfit],
) -> None:
    """Put what `step` makes of each valid span (leads, samples) in its place, zeros around it, in place.

    Records that it cannot take are left to `faults`, by their number, which are not tried again.
    """
    for number, (signal, first, last) in enumerate(zip(signals, start, stop, strict=True)):
        part = signal[:, first:last].copy()
        signal[...] = 0.0
        if not part.shape[-1] or number in faults:
            continue
        try:
            with np.errstate(all="ignore"):  # becomes a status
                signal[:, first:last] = step(part)
        except Unfit as fault:
            faults[number] = fault


def filtered(part: NDArray[np.float64], filters: Sequence[FilterSpec], rate: float) -> NDArray[np.float64]:
    """(leads, samples) through these filters, one after the other; raises Unfit."""
    for one in filters:
        if not one.fits_rate(rate):
            raise Unfit("bad_sampling_rate", f"filter:{one.kind}")
        try:
            part = one.apply(part, rate)
        except TooShort as error:
            raise Unfit("too_short", f"filter:{one.kind}") from error
    return part


def _conditioned(part: NDArray[np.float64], spec: InputSpec) -> NDArray[np.float64]:
    late = [one for one in spec.filters if not one.before_resampling]
    part = filtered(part, late, spec.sampling_rate)
    return part if spec.preprocess is None else preprocessed(part, spec)


_LONGEST_REASON = 200


def preprocessed(part: NDArray[np.float64], spec: InputSpec) -> NDArray[np.float64]:
    """What the user's function makes of (leads, samples): finite numbers of the same shape. Raises Unfit."""
    from ecgscale.encoders.network import find_function  # torch, which only a pass needs

    assert spec.preprocess is not None
    function = find_function(spec.preprocess, spec.home)
    try:
        found = np.asarray(function(part.copy(), spec.sampling_rate), np.float64)
    except Exception as error:  # anything may go wrong in somebody else's function; the record says what
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise Unfit("preprocess_failed", f"preprocess:{reason[:_LONGEST_REASON]}") from error
    if found.shape != part.shape:
        raise Unfit("preprocess_failed", f"preprocess:gives shape {found.shape}, expected {part.shape}")
    if not np.isfinite(found).all():
        raise Unfit("preprocess_failed", "preprocess:gives NaN or infinite samples")
    return found


def _normalised(valid: NDArray[np.float64], spec: InputSpec) -> NDArray[np.float64]:
    """(leads, samples) by `normalisation`, or `mean` and `std`, and `offset`; what is flat becomes 0, or the lower end
    of the range."""
    how, _, of = spec.normalisation.partition("-")
    axis = -1 if of == "lead" else None
    if how == "zscore":
        centred = valid - valid.mean(axis=axis, keepdims=True)
        spread = np.broadcast_to(centred.std(axis=axis, keepdims=True), centred.shape)
        valid = np.divide(centred, spread, out=np.zeros_like(centred), where=spread > 0)
    elif how == "minmax":
        low = valid.min(axis=axis, keepdims=True)
        spread = np.broadcast_to(valid.max(axis=axis, keepdims=True) - low, valid.shape)
        shares = np.divide(valid - low, spread, out=np.zeros_like(valid), where=spread > 0)
        valid = spec.range[0] + shares * (spec.range[1] - spec.range[0])
    else:
        mean, std = np.array(spec.mean or 0.0), np.array(spec.std or 1.0)
        if spec.mean or spec.std:
            valid = (valid - mean.reshape(-1, 1)) / std.reshape(-1, 1)
    return valid + spec.offset if spec.offset else valid


def fill_gaps(
    raw: RawBatch, taken: tuple[str, ...], milliseconds: float, rows: Iterable[int] | None = None
) -> tuple[RawBatch, dict[int, list[str]]]:
    """The batch with gaps of up to so many milliseconds filled, in leads that are needed for those `taken`; and the
    flags of records that had such gaps ("filled_gap:V1"). Only NaN is a gap: infinite samples are faults."""
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
