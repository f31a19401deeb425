"""When the simulated heart beats: R-R intervals of five rhythms, and the fibrillating atria between beats.

Sinus rhythms vary with breathing and with the slow (0.1 Hz) blood-pressure wave (McSharry et al. 2003, IEEE TBME
50:289); atrial fibrillation draws independent intervals; a ventricular premature beat comes early and leaves the sinus
node's own beats where they were, which makes the compensatory pause.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ecgscale.archive.synthetic_patients import Visit

_RATES_PER_MIN = {
    "sinus": (74.0, 8.5, 60.0, 98.0),
    "sinus_bradycardia": (52.0, 4.0, 42.0, 58.0),
    "sinus_tachycardia": (113.0, 9.0, 102.0, 145.0),
    "atrial_fibrillation": (92.0, 18.0, 55.0, 140.0),
    "ventricular_premature_beats": (74.0, 8.0, 60.0, 95.0),
}
_SHORTEST_INTERVAL_S = 0.32
_LOW_FREQUENCY_HZ = 0.1


@dataclass(frozen=True)
class Beats:
    """The beats of one recording, those just outside it included; arrays of (n_beats,)."""

    r_s: np.ndarray
    """Times of the R peaks in seconds from the first sample."""
    qt_ms: np.ndarray
    premature: np.ndarray
    """True where the beat starts in a ventricle."""
    breath: np.ndarray
    """Breathing at the beat, -1..1."""
    breathing_hz: float
    fibrillating: bool


def draw_beats(visit: Visit, seconds: float, rng: np.random.Generator) -> Beats:
    """Beats from 1.5 s before a recording of `seconds` to 1.5 s after it."""
    mean, spread, lowest, highest = _RATES_PER_MIN[visit.rhythm]
    interval = 60.0 / float(np.clip(rng.normal(mean, spread), lowest, highest))
    fibrillating = visit.rhythm == "atrial_fibrillation"
    count = int(1.3 * (seconds + 3.0) / min(interval, 0.6)) + 6
    breathing_hz = float(rng.uniform(0.2, 0.33))
    phases = rng.uniform(0, 2 * np.pi, 2)
    if fibrillating:
        spread = float(rng.uniform(0.16, 0.26))
        intervals = interval * rng.gamma(spread**-2, spread**2, count)
    else:
        at = np.arange(count) * interval
        # Young people's hearts follow the breath more; fast hearts less.
        rsa = 0.055 * np.exp(-(visit.age - 25) / 45) * min(interval, 1.0) * rng.uniform(0.5, 1.5)
        slow = 0.018 * min(interval, 1.0) * rng.uniform(0.5, 1.5)
        waves = rsa * np.sin(2 * np.pi * breathing_hz * at + phases[0])
        waves += slow * np.sin(2 * np.pi * _LOW_FREQUENCY_HZ * at + phases[1])
        intervals = interval * (1 + waves + rng.normal(0, 0.006, count))
    intervals = np.maximum(intervals, _SHORTEST_INTERVAL_S)
    r_s = -1.5 - interval * rng.random() + np.cumsum(intervals)
    premature = np.zeros(count, bool)
    if visit.rhythm == "ventricular_premature_beats":
        premature = _premature(r_s, seconds, rng)
        early = np.flatnonzero(premature)
        r_s[early] = r_s[early - 1] + np.maximum(
            (r_s[early] - r_s[early - 1]) * rng.uniform(0.55, 0.72, len(early)), _SHORTEST_INTERVAL_S
        )
    before = np.diff(r_s, prepend=r_s[0] - interval)
    # QT follows the mean rate and only part of a sudden change (Fridericia's cube root).
    qt_ms = visit.patient.qtc_ms * np.cbrt(0.7 * interval + 0.3 * before)
    breath = np.sin(2 * np.pi * breathing_hz * r_s + phases[0])
    kept = (r_s > -1.5) & (r_s < seconds + 1.5)
    return Beats(r_s[kept], qt_ms[kept], premature[kept], breath[kept], breathing_hz, fibrillating)


def fibrillation_waves(seconds: float, n_samples: int, rng: np.random.Generator) -> np.ndarray:
    """(3, n_samples) float64 heart vector of fibrillating atria in mV: 5–8 Hz, best seen in V1 and II."""
    t = np.linspace(0, seconds, n_samples, endpoint=False)
    hertz, drift, size = rng.uniform(5.0, 7.5), rng.uniform(0.1, 0.4), rng.lognormal(0.0, 0.4)
    phase = 2 * np.pi * hertz * t + 1.5 * np.sin(2 * np.pi * drift * t + rng.uniform(0, 6.28))
    wave = np.sin(phase) + 0.35 * np.sin(2 * phase + 0.7)
    wave *= 1 + 0.35 * np.sin(2 * np.pi * rng.uniform(0.2, 0.7) * t + rng.uniform(0, 6.28))
    direction = np.array([0.005, 0.032, -0.05]) * size
    return direction[:, None] * wave


def _premature(r_s: np.ndarray, seconds: float, rng: np.random.Generator) -> np.ndarray:
    """Which beats are premature: at least one inside the recording, never two in a row."""
    inside = (r_s > 0.8) & (r_s < seconds - 0.8)
    chosen = (rng.random(len(r_s)) < rng.uniform(0.08, 0.25)) & inside
    if not chosen.any() and inside.any():
        chosen[rng.choice(np.flatnonzero(inside))] = True
    chosen[0] = False
    follows = np.flatnonzero(chosen[1:] & chosen[:-1]) + 1
    chosen[follows] = False
    return chosen
