"""From beats to samples: the heart vector over time, noise at nine electrodes, and twelve leads in integer units.

Noise belongs to electrodes, not leads: it enters through the same differences as the heart does, so Einthoven's and
Goldberger's equations hold for the whole signal up to rounding.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

from ecgscale.archive.synthetic.patients import Beats, fibrillation_waves
from ecgscale.archive.synthetic.waves import (
    CENTRE,
    FALL,
    FRANK_TO_LEADS,
    GROUP_ST,
    P1,
    P2,
    PREMATURE_BEAT,
    QT_SHARE,
    REFERENCE_QT_MS,
    RISE,
    WAVE_GROUPS,
    T,
    X,
    twelve_leads,
)

UNITS_PER_MV = 1000.0
FIDUCIAL_WAVES = ("P", "QRS", "T")
BOUNDARY_SHARE = 0.05
"""A wave begins and ends where the length of its own vector passes this share of its largest."""
SMALLEST_WAVE_MV = 0.02
"""Waves whose vector stays shorter than this get no fiducials: nobody could see them."""

_GAUSSIAN_REACH = 4.0
_ELECTRODES = 9
_MAINS_HZ = 50.0


def _electrodes_to_leads() -> np.ndarray:
    """(12, 9): potentials at RA, LA, LL, C1..C6 to the leads, the chest against Wilson's central terminal."""
    independent = np.zeros((8, _ELECTRODES))
    independent[0, :2] = (-1, 1)
    independent[1, (0, 2)] = (-1, 1)
    independent[2:, :3] = -1 / 3
    independent[2:, 3:] = np.eye(6)
    return twelve_leads(independent)


_HEART = twelve_leads(FRANK_TO_LEADS)
_ELECTRODE = _electrodes_to_leads()


@dataclass(frozen=True)
class NoiseLevels:
    """How disturbed a recording is, in millivolts at one electrode."""

    wander: float
    muscle: float
    mains: float


# By device, median levels: two resting carts and a handheld one that is held, not stuck on.
_DEVICE_NOISE = (NoiseLevels(0.045, 0.003, 0.0005), NoiseLevels(0.06, 0.005, 0.001), NoiseLevels(0.10, 0.010, 0.003))


def draw_signal(
    waves: np.ndarray, beats: Beats, device: int, rate: float, n_samples: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """One recording: (12, n_samples) int16 at `UNITS_PER_MV`, and its fiducials.

    `waves` is the (10, 7) table of the patient's beat. Fiducials come as (n_beats, 3, 3) int32 sample numbers: wave
    (P, QRS, T) by onset, peak and offset, -1 where a beat has no such wave wholly inside the recording.
    """
    heart, fiducials = _heart_vector(waves, beats, rate, n_samples, rng)
    if beats.fibrillating:
        heart += fibrillation_waves(n_samples / rate, n_samples, rng)
    slow, weights = _slow_noise(device, beats.breathing_hz, rate, n_samples, rng)
    level = _DEVICE_NOISE[device].muscle * float(rng.lognormal(0, 0.6))
    muscle = rng.standard_normal((_ELECTRODES, n_samples), dtype=np.float32)
    first, last = rng.uniform(0, 12, 2)
    envelope = level * (1 + 0.5 * np.sin(np.linspace(first, last, n_samples)))
    corner = np.exp(-2 * np.pi * min(70.0, 0.3 * rate) / rate)
    _filter_muscle(muscle, corner, np.exp(-2 * np.pi * 15.0 / rate), envelope)
    leads = np.empty((12, n_samples), np.int16)
    # einsum, not BLAS: the same bits whatever the machine's matrix library does.
    _mix(_HEART, heart, np.einsum("le,es->ls", _ELECTRODE, weights), slow, _ELECTRODE, muscle, UNITS_PER_MV, leads)
    return leads, fiducials


def _heart_vector(
    waves: np.ndarray, beats: Beats, rate: float, n_samples: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """((3, n_samples) float64 in mV, (n_beats, 3, 3) int32 fiducials) of all beats."""
    n_beats = len(beats.r_s)
    table = np.broadcast_to(waves, (n_beats, *waves.shape)).copy()
    table[beats.premature] = PREMATURE_BEAT
    if beats.fibrillating:
        table[:, [P1, P2], X:] = 0.0
    longer = (beats.qt_ms / REFERENCE_QT_MS - 1)[:, None]
    share = table[:, :, QT_SHARE]
    centre_ms = table[:, :, CENTRE] + share * (beats.qt_ms - REFERENCE_QT_MS)[:, None]
    centre_ms[:, [P1, P2]] += rng.normal(0, 2.5, n_beats)[:, None]
    widths = table[:, :, RISE : FALL + 1] * (1 + 0.7 * share * longer)[:, :, None]
    # Breathing moves the heart under the electrodes.
    size = 1 + 0.05 * beats.breath + rng.normal(0, 0.015, n_beats)
    vectors = table[:, :, X:] * size[:, None, None]
    vectors[:, T] *= 1 + rng.normal(0, 0.03, n_beats)[:, None]
    heart = np.zeros((3, n_samples))
    fiducials = np.full((n_beats, 3, 3), -1, np.int32)
    centres = (beats.r_s[:, None] + centre_ms / 1000) * rate
    _render(centres, widths * (rate / 1000), vectors, WAVE_GROUPS, heart, fiducials)
    return heart, fiducials


def _slow_noise(
    device: int, breathing_hz: float, rate: float, n_samples: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Baseline wander and mains: (sources (S, n_samples), what of each is at each electrode (9, S)) in mV."""
    hertz = np.array([rng.uniform(0.04, 0.12), breathing_hz, rng.uniform(0.12, 0.5), _MAINS_HZ])
    levels = _DEVICE_NOISE[device]
    wander = levels.wander * float(rng.lognormal(0, 0.5))
    sizes = np.array([wander, 0.6 * wander, 0.4 * wander, levels.mains * float(rng.lognormal(0, 0.6))])
    if rate <= 2.5 * _MAINS_HZ:
        hertz, sizes = hertz[:3], sizes[:3]  # a recorder this slow filters the mains out
    angle = 2 * np.pi * hertz[:, None] * (np.arange(n_samples) / rate)
    sources = np.concatenate([np.sin(angle), np.cos(angle)])
    return sources, rng.standard_normal((_ELECTRODES, len(sources))) * np.tile(sizes, 2)


@njit(cache=True)
def _render(
    centres: np.ndarray,
    widths: np.ndarray,
    vectors: np.ndarray,
    groups: np.ndarray,
    heart: np.ndarray,
    fiducials: np.ndarray,
) -> None:
    """Add every beat's waves to `heart` (3, n) and find where each group of waves begins, peaks and ends.

    centres (n_beats, W) and widths (n_beats, W, 2) in samples, vectors (n_beats, W, 3) in mV; `fiducials`
    (n_beats, 3, 3) is filled for groups 0..2.
    """
    n_beats, n_waves = centres.shape
    n_samples = heart.shape[1]
    for beat in range(n_beats):
        for group in range(GROUP_ST + 1):
            first, last = 1 << 30, -(1 << 30)
            for w in range(n_waves):
                if groups[w] == group and np.any(vectors[beat, w] != 0.0):
                    first = min(first, int(np.floor(centres[beat, w] - _GAUSSIAN_REACH * widths[beat, w, 0])))
                    last = max(last, int(np.ceil(centres[beat, w] + _GAUSSIAN_REACH * widths[beat, w, 1])))
            if last < first:
                continue
            own = np.zeros((3, last - first + 1))
            for w in range(n_waves):
                if groups[w] != group or not np.any(vectors[beat, w] != 0.0):
                    continue
                centre = centres[beat, w]
                rise, fall = widths[beat, w, 0], widths[beat, w, 1]
                start = max(first, int(np.floor(centre - _GAUSSIAN_REACH * rise)))
                stop = min(last, int(np.ceil(centre + _GAUSSIAN_REACH * fall)))
                for t in range(start, stop + 1):
                    u = (t - centre) / (rise if t < centre else fall)
                    g = np.exp(-0.5 * u * u)
                    for axis in range(3):
                        own[axis, t - first] += g * vectors[beat, w, axis]
            for t in range(max(first, 0), min(last + 1, n_samples)):
                for axis in range(3):
                    heart[axis, t] += own[axis, t - first]
            if group < GROUP_ST:
                length = np.sqrt((own * own).sum(axis=0))
                peak = int(np.argmax(length))
                if length[peak] < SMALLEST_WAVE_MV:
                    continue
                above = np.flatnonzero(length >= BOUNDARY_SHARE * length[peak])
                onset, offset = first + above[0], first + above[-1]
                if onset >= 0 and offset < n_samples:
                    fiducials[beat, group, 0] = onset
                    fiducials[beat, group, 1] = first + peak
                    fiducials[beat, group, 2] = offset


@njit(cache=True)
def _filter_muscle(noise: np.ndarray, low: float, high: float, envelope: np.ndarray) -> None:
    """White noise (E, n) to muscle noise, in place: one pole each way, scaled back to one, times the envelope (n,)."""
    gain, through = 1 - low, 0.5 * (1 + high)
    energy, smooth, passed, before = 0.0, gain, through * gain, gain
    for _ in range(2000):  # the squared impulse response: the variance that white noise comes out with
        energy += passed * passed
        smooth = low * smooth
        passed = high * passed + through * (smooth - before)
        before = smooth
    scale = 1 / np.sqrt(energy)
    for electrode in range(noise.shape[0]):
        smooth, passed, before = 0.0, 0.0, 0.0
        for t in range(noise.shape[1]):
            smooth = low * smooth + gain * noise[electrode, t]
            passed = high * passed + through * (smooth - before)
            before = smooth
            noise[electrode, t] = passed * scale * envelope[t]


@njit(cache=True)
def _mix(
    heart_weights: np.ndarray,
    heart: np.ndarray,
    slow_weights: np.ndarray,
    slow: np.ndarray,
    muscle_weights: np.ndarray,
    muscle: np.ndarray,
    units: float,
    leads: np.ndarray,
) -> None:
    """leads (12, n) int16 ← round(units · (heart_weights @ heart + slow_weights @ slow + muscle_weights @ muscle))."""
    n_samples = leads.shape[1]
    total = np.empty(n_samples)
    for lead in range(leads.shape[0]):
        total[:] = 0.0
        for s in range(heart.shape[0]):
            for t in range(n_samples):
                total[t] += heart_weights[lead, s] * heart[s, t]
        for s in range(slow.shape[0]):
            for t in range(n_samples):
                total[t] += slow_weights[lead, s] * slow[s, t]
        for s in range(muscle.shape[0]):
            if muscle_weights[lead, s] != 0.0:
                for t in range(n_samples):
                    total[t] += muscle_weights[lead, s] * muscle[s, t]
        for t in range(n_samples):
            leads[lead, t] = np.int16(min(max(np.rint(units * total[t]), -32768.0), 32767.0))
