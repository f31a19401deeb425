"""What is odd about recordings that can be used, whatever a network makes of them: flags, never corrections.

    implausible_rate               a sampling rate at which no heartbeat can be seen, or that no amplifier has
    implausible_amplitude[:LEAD]   peak to peak beyond what an electrocardiograph has to show, or next to nothing
    saturated:LEAD                 a plateau at the lead's extreme value, entered or left in one step
    duplicate_leads:A=B            two leads that are equal sample by sample
    einthoven_violated[:LEAD]      I + III is not II; or an augmented lead is not what Goldberger makes of the others
    limb_reversal:RA-LA, RA-LL     electrodes exchanged: lead I, or II, is upside down
    chest_reversal:V1-V3, V6-V1    two chest electrodes exchanged, or all six in the opposite order
    inverted_lead:V1               a chest lead upside down

All of them look at (n, leads, samples) of one shape at once, over the valid span. docs/data-format.md says how often
they are set on recordings that are as they should be.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from ecgscale.leads import CANONICAL_LEADS, LIMB_FROM_TWO

HIGHEST_MV = 10.0
"""Peak to peak. IEC 60601-2-25 asks of an electrocardiograph to record ±5 mV."""
LOWEST_MV = 0.05
"""Peak to peak of the median lead; QRS complexes under 0.5 mV are called low already."""
LOWEST_LEAD_MV = 0.01
ABSURD_MV = (1e-6, 1e6)
"""Outside of a nanovolt and a kilovolt a number is no voltage of a body, and the unit is wrong."""

PLAUSIBLE_HZ = (25.0, 50_000.0)

_AMPLITUDE_SECONDS = 2.0  # long enough for a heartbeat, so that an artefact spoils few of the windows

_RUN, _LONG_RUN, _RUNS_TOGETHER = 3, 5, 9
_ABRUPT = 4.0  # resolutions: a wave that is smooth leaves a plateau of five samples in steps of two at most
_ABRUPT_SHARE = 0.05  # of the lead's peak to peak; QRS complexes are that steep
_PLATEAU_SECONDS = 0.1  # no wave is level for so long, to the last bit, whatever the step
_LOOKED_AT, _AROUND = 4, 5
_LONGER = 3.0  # than runs are elsewhere, where samples were held

_STRIDE = 61
_SPARSE_HZ = 100.0
_DISAGREES, _DISAGREES_MV = 0.25, 0.05  # of the larger lead's standard deviation, and at least so much

_COMPARED = CANONICAL_LEADS
_BEATING = ("I", "II", "III", "aVR", "aVL", "aVF", "V5", "V6")
_OPPOSED = -0.6
_P_MV = 0.03
_BEATS = 4

_DIPOLE_LEADS = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")
_DIPOLE = np.array(
    [
        [0.632, -0.235, 0.059],
        [0.235, 1.066, -0.132],
        [-0.515, 0.157, -0.917],
        [0.044, 0.164, -1.387],
        [0.882, 0.098, -1.277],
        [1.213, 0.127, -0.601],
        [1.125, 0.127, -0.086],
        [0.831, 0.076, 0.230],
    ]
)
"""Of those leads on x, y and z of the heart's dipole (Dower et al. 1980, J Electrocardiol 13:109)."""
_UNEXPLAINED, _BETTER = 0.1, 0.4
"""Share of the leads, each as strong as the others, that no dipole gives; and of that what an exchange has to leave."""


@dataclass(frozen=True)
class Recordings:
    """Recordings of one shape, rate and list of leads, each of which is there once or not asked for.

    signals: (n, leads, samples) of the valid span, as stored; units_per_mv: (n,)
    sound: bool (n, leads), leads that are asked about, finite and not constant
    """

    signals: NDArray
    leads: tuple[str, ...]
    rate: float
    units_per_mv: NDArray[np.float64]
    sound: NDArray[np.bool_]

    @cached_property
    def amplitude_mv(self) -> NDArray[np.float64]:
        """(n, leads): median over windows of peak to peak; NaN where a lead is not sound."""
        high, low = self._window_extremes
        spans = np.where(self.sound, np.median(high.astype(np.float64) - low, axis=-1), np.nan)
        return np.asarray(spans / self.units_per_mv[:, None])

    @cached_property
    def _window_extremes(self) -> tuple[NDArray, NDArray]:
        """(n, leads, windows): highest and lowest sample of whole windows."""
        n, n_leads, n_samples = self.signals.shape
        size = round(_AMPLITUDE_SECONDS * self.rate)
        size = size if 0 < size <= n_samples else n_samples
        windows = self.signals[..., : n_samples // size * size].reshape(n, n_leads, -1, size)
        return windows.max(axis=-1), windows.min(axis=-1)

    @cached_property
    def extremes(self) -> tuple[NDArray, NDArray]:
        """(n, leads): highest and lowest sample of all."""
        high, low = (part.max(axis=-1) if i == 0 else part.min(axis=-1) for i, part in enumerate(self._window_extremes))
        size = round(_AMPLITUDE_SECONDS * self.rate)
        n_samples = self.signals.shape[-1]
        rest = self.signals[..., n_samples // size * size :] if 0 < size <= n_samples else self.signals[..., :0]
        if rest.shape[-1]:
            high, low = np.maximum(high, rest.max(axis=-1)), np.minimum(low, rest.min(axis=-1))
        return high, low

    @cached_property
    def typical_mv(self) -> NDArray[np.float64]:
        """(n,): that of the median lead; NaN where none is sound."""
        ordered = np.sort(self.amplitude_mv, axis=1)  # NaN last
        known = np.isfinite(ordered).sum(axis=1)
        at = np.stack([(known - 1) // 2, known // 2], axis=1).clip(0)
        middle = np.take_along_axis(ordered, at, axis=1).mean(axis=1) if ordered.size else np.full(len(known), np.nan)
        return np.where(known > 0, middle, np.nan)

    @cached_property
    def at(self) -> dict[str, int]:
        """Where a lead is."""
        return {lead: i for i, lead in reversed(list(enumerate(self.leads)))}

    @cached_property
    def sparse_mv(self) -> NDArray[np.float64]:
        """(n, those of `_COMPARED` that are there, m): every so many samples, at 100 Hz or somewhat more, less the
        mean."""
        used = [i for i, lead in enumerate(self.leads) if lead in _COMPARED]
        some = self.signals[:, used, :: max(1, int(self.rate // _SPARSE_HZ))].astype(np.float64)
        some -= some.mean(axis=-1, keepdims=True)
        some /= self.units_per_mv[:, None, None]
        return some

    @cached_property
    def compared(self) -> dict[str, int]:
        """Where a lead is in `sparse_mv`."""
        used = [lead for lead in self.leads if lead in _COMPARED]
        return {lead: i for i, lead in reversed(list(enumerate(used)))}

    @cached_property
    def spread_mv(self) -> NDArray[np.float64]:
        """(n, leads of `sparse_mv`): standard deviation."""
        x = self.sparse_mv
        return np.sqrt(np.einsum("nlt,nlt->nl", x, x) / max(x.shape[-1], 1))

    def are_sound(self, leads: Sequence[str]) -> NDArray[np.intp]:
        """(n,): how many of these leads are sound."""
        return np.asarray(self.sound[:, [self.at[lead] for lead in leads]].sum(axis=1))


def absurd(recordings: Recordings) -> NDArray[np.bool_]:
    """bool (n,): recordings whose amplitude, as `units_per_mv` has it, no body can have."""
    with np.errstate(invalid="ignore", over="ignore"):
        typical = recordings.typical_mv
    return np.asarray((typical < ABSURD_MV[0]) | (typical > ABSURD_MV[1]))


def oddities(recordings: Recordings) -> list[list[str]]:
    """The flags of each recording."""
    flags: list[list[str]] = [[] for _ in recordings.signals]
    with np.errstate(invalid="ignore", over="ignore"):
        for find in (_rates, _amplitudes, _saturated, _duplicates, _disagreeing, _reversed, _misplaced):
            for record, flag in find(recordings):
                flags[record].append(flag)
    return flags


Found = Iterator[tuple[int, str]]
"""Numbers of recordings, and flags."""


def _rates(recordings: Recordings) -> Found:
    if not PLAUSIBLE_HZ[0] <= recordings.rate <= PLAUSIBLE_HZ[1]:
        yield from ((record, "implausible_rate") for record in range(len(recordings.signals)))


def _amplitudes(recordings: Recordings) -> Found:
    of_leads, typical = recordings.amplitude_mv, recordings.typical_mv
    whole = (typical > HIGHEST_MV) | (typical < LOWEST_MV)
    yield from ((int(record), "implausible_amplitude") for record in np.flatnonzero(whole))
    single = ((of_leads > HIGHEST_MV) | (of_leads < LOWEST_LEAD_MV)) & ~whole[:, None]
    for record, lead in np.argwhere(single):
        yield int(record), f"implausible_amplitude:{recordings.leads[lead]}"


def _saturated(recordings: Recordings) -> Found:
    signals = recordings.signals
    n, n_leads, n_samples = signals.shape
    flat = signals.reshape(n * n_leads, n_samples)
    sound = (recordings.sound & (recordings.amplitude_mv >= LOWEST_LEAD_MV)).reshape(-1)
    found = np.zeros(n * n_leads, bool)
    high, low = (extreme.reshape(-1) for extreme in recordings.extremes)
    share = _ABRUPT_SHARE * (high.astype(np.float64) - low)
    for extreme in (high, low):
        for row in _levelled(flat, extreme, share, sound):
            if not found[row]:
                found[row] = _is_clipped(flat[row], extreme[row], recordings.rate)
    for number in np.flatnonzero(found):
        yield int(number // n_leads), f"saturated:{recordings.leads[number % n_leads]}"


def _levelled(flat: NDArray, extreme: NDArray, share: NDArray[np.float64], sound: NDArray[np.bool_]) -> NDArray:
    """Sound rows with a run of `_RUN` samples or more at their extreme that is long, or entered or left abruptly."""
    # Of so many samples in a row one is looked at; few others are at the extreme.
    some = flat[:, ::_LOOKED_AT] == extreme[:, None]
    row, place = np.divmod(np.flatnonzero(some), some.shape[1])
    keep = sound[row]
    row, place = row[keep], place[keep] * _LOOKED_AT
    around = np.clip(place[:, None] + np.arange(-_AROUND, _AROUND + 1), 0, flat.shape[1] - 1)
    away = np.abs(flat[row[:, None], around].astype(np.float64) - extreme[row].astype(np.float64)[:, None])
    before, after = away[:, _AROUND - 1 :: -1], away[:, _AROUND + 1 :]
    first, last = (np.argmax(side > 0, axis=1) for side in (before, after))
    steps = [np.take_along_axis(side, at[:, None], axis=1)[:, 0] for side, at in ((before, first), (after, last))]
    # No step on a side: the run goes on beyond what was looked at.
    long = (steps[0] == 0) | (steps[1] == 0)
    abrupt = (first + last + 1 >= _RUN) & (np.maximum(*steps) > share[row])
    return np.unique(row[long | abrupt])


def _is_clipped(lead: NDArray, extreme: float, rate: float) -> bool:
    """Whether runs at the extreme are the work of a limit, and not the top of a wave or of held samples."""
    lead = lead.astype(np.float64)
    edges = np.diff((lead == extreme).astype(np.int8), prepend=0, append=0)
    start, stop = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
    length = stop - start
    before = np.abs(lead[np.maximum(start - 1, 0)] - extreme)
    after = np.abs(lead[np.minimum(stop, len(lead) - 1)] - extreme)
    step = np.maximum(before, after)
    low, high = lead.min(), lead.max()
    share = _ABRUPT_SHARE * (high - low)
    if not ((length >= _RUN) & ((step > share) | (length >= _PLATEAU_SECONDS * rate))).any():
        return False
    others = lead[(lead != low) & (lead != high)]
    steps = np.abs(np.diff(others))
    steps = steps[steps > 0]
    resolution = steps.min() if len(steps) else 0.0
    held = len(others) / (1 + len(steps))
    real = (length >= _RUN) & (length >= _LONGER * held) & (step > _ABRUPT * resolution)
    # At either end of a recording, the first or last value is often held for some samples.
    inside = (start > 0) & (stop < len(lead))
    abrupt = length[real & inside & (step > share)]
    plateau = (real & (length >= max(_LONG_RUN, _PLATEAU_SECONDS * rate))).any()
    return bool(plateau or (abrupt >= _LONG_RUN).any() or abrupt.sum() >= _RUNS_TOGETHER)


def _duplicates(recordings: Recordings) -> Found:
    some = np.ascontiguousarray(recordings.signals[..., ::_STRIDE])
    bits = some.view(f"i{some.dtype.itemsize}").astype(np.int64)
    weights = np.random.default_rng(0).integers(1, 2**62, bits.shape[-1])
    prints = (bits * weights).sum(axis=-1)  # wraps around, which is as good
    one, other = np.triu_indices(len(recordings.leads), 1)
    alike = (prints[:, one] == prints[:, other]) & recordings.sound[:, one] & recordings.sound[:, other]
    for record, pair in np.argwhere(alike):
        a, b = int(one[pair]), int(other[pair])
        if np.array_equal(recordings.signals[record, a], recordings.signals[record, b]):
            yield int(record), f"duplicate_leads:{recordings.leads[a]}={recordings.leads[b]}"


def _disagreeing(recordings: Recordings) -> Found:
    there = recordings.compared.keys()
    violated = np.zeros(len(recordings.signals), bool)
    if {"I", "II", "III"} <= there:
        violated = _is_not(recordings, "II", ("I", "III"), (1.0, 1.0))
        yield from ((int(record), "einthoven_violated") for record in np.flatnonzero(violated))
    pair = next((pair for pair in LIMB_FROM_TWO if there >= set(pair)), None)
    for lead, weights in LIMB_FROM_TWO[pair].items() if pair else ():
        if lead in there and lead.startswith("aV"):
            wrong = _is_not(recordings, lead, pair or (), weights) & ~violated
            yield from ((int(record), f"einthoven_violated:{lead}") for record in np.flatnonzero(wrong))


def _is_not(recordings: Recordings, lead: str, others: Sequence[str], weights: Sequence[float]) -> NDArray[np.bool_]:
    """bool (n,): where `lead` is not the weighted sum of `others`."""
    x, at = recordings.sparse_mv, recordings.compared
    gap = x[:, at[lead]].copy()
    for name, weight in zip(others, weights, strict=True):
        gap -= weight * x[:, at[name]]
    size = recordings.spread_mv[:, [at[name] for name in (lead, *others)]].max(axis=1)
    apart = np.sqrt(np.einsum("nt,nt->n", gap, gap) / max(gap.shape[-1], 1))
    # A flat lead beside two that move is a flat lead, and told as such.
    known = recordings.are_sound((lead, *others)) == len(others) + 1
    return np.asarray(known & (apart > np.maximum(_DISAGREES * size, _DISAGREES_MV)))


def _reversed(recordings: Recordings) -> Found:
    """Lead I (II) runs against V6, and its P wave, too, is negative (Batchvarov et al. 2007, Europace 9:1081)."""
    at = recordings.compared
    chest = next((lead for lead in ("V6", "V5") if lead in at), None)
    told: set[int] = set()
    # With RA and LL exchanged lead I is upside down as well.
    for lead, electrodes in (("II", "RA-LL"), ("I", "RA-LA")):
        if chest is None or lead not in at:
            continue
        one, other = (np.diff(recordings.sparse_mv[:, at[name]], axis=-1) for name in (lead, chest))
        together, size, size_of_other = (
            np.einsum("nt,nt->n", a, b) for a, b in ((one, other), (one, one), (other, other))
        )
        opposed = together < _OPPOSED * np.sqrt(size * size_of_other)
        for record in np.flatnonzero(opposed & (recordings.are_sound((lead, chest)) == 2)).tolist():
            if record not in told and _p_wave(recordings, record, at[lead]) < -_P_MV:
                told.add(record)
                yield record, f"limb_reversal:{electrodes}"


def _exchanges() -> tuple[list[str], NDArray[np.float64]]:
    """What may have been done to the leads, and (k, 8, 8): what undoes it. Flags of chest electrodes alone: others
    are here so that none of them is taken for one of those."""
    names, undo = ["", "", "", ""], [np.eye(8) for _ in range(4)]
    undo[1][:2, :2] = [[-1, 0], [-1, 1]]  # RA and LA: I is upside down, II is III
    undo[2][:2, :2] = [[1, -1], [0, -1]]  # RA and LL
    undo[3][:2, :2] = [[0, 1], [1, 0]]  # LA and LL
    chest = range(2, 8)
    for one, other in combinations(chest, 2):
        order = np.arange(8)
        order[[one, other]] = other, one
        names.append(f"chest_reversal:{_DIPOLE_LEADS[one]}-{_DIPOLE_LEADS[other]}")
        undo.append(np.eye(8)[order])
    names.append("chest_reversal:V6-V1")
    undo.append(np.eye(8)[[0, 1, *reversed(chest)]])
    for lead in chest:
        names.append(f"inverted_lead:{_DIPOLE_LEADS[lead]}")
        undo.append(np.diag(np.where(np.arange(8) == lead, -1.0, 1.0)))
    return names, np.stack(undo)


_EXCHANGES, _UNDO = _exchanges()
_OF_DIPOLES = np.linalg.qr(_DIPOLE / np.linalg.norm(_DIPOLE, axis=1, keepdims=True))[0]


def _misplaced(recordings: Recordings) -> Found:
    """The heart is nearly one dipole, of which eight leads are eight views: where they fit badly, and far better once
    two of them are exchanged, they were (after Kors and van Herpen 2001, J Electrocardiol 34 Suppl:215)."""
    if not set(_DIPOLE_LEADS) <= recordings.compared.keys() or recordings.sparse_mv.shape[-1] < 2:
        return
    leads = np.diff(recordings.sparse_mv[:, [recordings.compared[lead] for lead in _DIPOLE_LEADS]], axis=-1)
    together = leads @ leads.transpose(0, 2, 1)
    size = np.sqrt(np.einsum("nii->ni", together))
    together /= np.maximum(size[:, :, None] * size[:, None, :], np.finfo(np.float64).tiny)
    undone = np.einsum("kij,njl,kml->nkim", _UNDO, together, _UNDO, optimize=True)
    explained = np.einsum("ip,nkij,jp->nk", _OF_DIPOLES, undone, _OF_DIPOLES, optimize=True)
    left = 1 - explained / np.einsum("nkii->nk", undone)
    best = left.argmin(axis=1)
    known = recordings.are_sound(_DIPOLE_LEADS) == len(_DIPOLE_LEADS)
    badly = (left[:, 0] > _UNEXPLAINED) & (left.min(axis=1) < _BETTER * left[:, 0])
    yield from ((int(n), _EXCHANGES[best[n]]) for n in np.flatnonzero(known & badly) if _EXCHANGES[best[n]])


def _p_wave(recordings: Recordings, record: int, lead: int) -> float:
    """mV: the largest deflection before QRS in the mean heartbeat of a lead; 0 where there are too few beats."""
    x = recordings.sparse_mv[record]
    hertz = recordings.rate / max(1, int(recordings.rate // _SPARSE_HZ))
    moving = [name in _BEATING and bool(recordings.sound[record, recordings.at[name]]) for name in recordings.compared]
    beats = _beats(np.abs(np.diff(x[moving], axis=-1)).sum(axis=0), hertz)
    early, late, edge = (max(1, round(seconds * hertz)) for seconds in (0.24, 0.07, 0.03))
    beats = [beat for beat in beats if beat >= early]
    if len(beats) < _BEATS or early - late <= 2 * edge:
        return 0.0
    mean = np.mean([x[lead, beat - early : beat - late] for beat in beats], axis=0)
    line = np.linspace(mean[:edge].mean(), mean[-edge:].mean(), len(mean))
    away = mean - line
    return float(away[np.abs(away).argmax()])


def _beats(slope: NDArray[np.float64], hertz: float) -> list[int]:
    """Where all leads together are steepest, at least 0.3 s apart."""
    width, apart = max(1, round(0.08 * hertz)), max(1, round(0.3 * hertz))
    energy = np.convolve(slope, np.ones(width) / width, mode="same")
    limit = 0.4 * float(np.quantile(energy, 0.98)) if len(energy) else 0.0
    found: list[int] = []
    for place in np.flatnonzero(energy > limit):
        if found and place - found[-1] < apart:
            if energy[place] > energy[found[-1]]:
                found[-1] = int(place)
        else:
            found.append(int(place))
    return found
