"""A simulated recording: waves of the heart vector, noise at nine electrodes, and twelve leads in integer units.

Ten Gaussian waves of a three-dimensional heart vector make a beat: two for the atria, four to five for the ventricles,
two for the ST segment, one for T (the model of McSharry et al. 2003, IEEE TBME 50:289, as carried over to a dipole by
Sameni et al. 2007, EURASIP J. Adv. Signal Process. 043407). The vector points along Frank's axes: x to the left, y to
the feet, z to the back, in millivolts. `FRANK_TO_LEADS` is Dower's transform (Dower, Machado & Osborne 1980, Clin.
Cardiol. 3:87); III, aVR, aVL and aVF follow by Einthoven and Goldberger. A diagnosis is an edit of the table of waves:
an infarction turns the first forces away from its territory, a bundle branch block delays and widens the last ones.

Noise belongs to electrodes, not leads: it enters through the same differences as the heart does, so Einthoven's and
Goldberger's equations hold for the whole signal up to rounding.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

from ecgscale.archive.synthetic.patients import Beats, Patient, fibrillation_waves
from ecgscale.leads import CANONICAL_LEADS, lead_matrix

P1, P2, Q, R, S1, S2, LATE, J1, J2, T = range(10)
CENTRE, QT_SHARE, RISE, FALL, X, Y, Z = range(7)
REFERENCE_QT_MS = 400.0

GROUP_P, GROUP_QRS, GROUP_T, GROUP_ST = range(4)
WAVE_GROUPS = np.array([GROUP_P] * 2 + [GROUP_QRS] * 5 + [GROUP_ST] * 2 + [GROUP_T])
"""Which wave of the fiducials each row belongs to; ST has none of its own."""

# Milliseconds after the R peak at a QT of 400 ms; the share in which the centre follows a change of QT; the standard
# deviations before and after the peak in milliseconds; the vector in millivolts.
_NORMAL = np.array(
    [
        [-164, 0.00, 17, 17, 0.03, 0.09, -0.055],
        [-131, 0.00, 17, 19, 0.05, 0.06, 0.050],
        [-24, 0.00, 8, 8, -0.13, -0.04, -0.24],
        [0, 0.00, 10, 9, 1.14, 0.70, 0.12],
        [17, 0.00, 10, 9, 0.24, 0.14, 0.86],
        [33, 0.00, 8, 9, -0.10, -0.08, 0.30],
        [60, 0.00, 15, 16, 0.00, 0.00, 0.00],
        [82, 0.25, 26, 40, 0.00, 0.00, 0.00],
        [145, 0.55, 40, 45, 0.00, 0.00, 0.00],
        [272, 1.00, 52, 33, 0.33, 0.20, -0.23],
    ]
)

# A beat that starts in a ventricle: no P, wide and tall, T against the QRS.
PREMATURE_BEAT = np.array(
    [
        [0, 0.00, 17, 17, 0.00, 0.00, 0.00],
        [0, 0.00, 17, 17, 0.00, 0.00, 0.00],
        [-38, 0.00, 15, 15, 0.25, 0.10, -0.20],
        [0, 0.00, 22, 20, 0.95, 1.10, 0.85],
        [38, 0.00, 20, 20, 0.35, 0.70, 0.75],
        [70, 0.00, 16, 18, -0.40, -0.20, 0.10],
        [60, 0.00, 15, 16, 0.00, 0.00, 0.00],
        [110, 0.20, 30, 40, -0.12, -0.14, -0.12],
        [170, 0.50, 40, 45, -0.14, -0.18, -0.16],
        [285, 1.00, 55, 42, -0.42, -0.45, -0.40],
    ]
)

_INDEPENDENT_LEADS = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")
FRANK_TO_LEADS = np.array(
    [
        [0.632, -0.235, 0.059],  # I
        [0.235, 1.066, -0.132],  # II
        [-0.515, 0.157, -0.917],  # V1
        [0.044, 0.164, -1.387],
        [0.882, 0.098, -1.277],
        [1.213, 0.127, -0.601],
        [1.125, 0.127, -0.086],
        [0.831, 0.076, 0.230],  # V6
    ]
)


def twelve_leads(independent: np.ndarray) -> np.ndarray:
    """(8, n) rows of I, II, V1..V6 to (12, n) rows in the canonical order, by Einthoven and Goldberger."""
    # einsum, not BLAS: the same bits whatever the machine's matrix library does.
    return np.einsum("ij,jn->in", lead_matrix(_INDEPENDENT_LEADS, CANONICAL_LEADS), independent)


def beat_of(patient: Patient, rng: np.random.Generator) -> np.ndarray:
    """The (10, 7) wave table of a patient on one day: diagnosis, constitution, and the day's small differences."""
    waves = _NORMAL.copy()
    waves[:, X:] *= rng.normal(1, 0.06, (len(waves), 1))
    # T grows smaller with age, P later; men have the taller T in front.
    waves[T, X:] *= 1 - 0.006 * (patient.age - 50)
    waves[[P1, P2], CENTRE] -= patient.pr_extra_ms
    if patient.sex == "male":
        waves[T, Z] -= 0.06
    severity = float(np.clip(patient.severity * rng.normal(1, 0.06), 0.25, 1.1))
    findings = patient.superclasses
    if "CD" in findings:
        _CONDUCTION[patient.conduction](waves, severity if "NORM" not in findings else 0.5 * severity)
    if "MI" in findings:
        _infarct(waves, patient.territory, severity, recent=bool(rng.random() < 0.35))
    if "HYP" in findings:
        _hypertrophy(waves, severity, patient.strain)
    if "STTC" in findings:
        _repolarisation(waves, severity, rng)
    waves[:, X:] = waves[:, X:] @ _rotation(patient.axis + rng.normal(0, 3), patient.turn + rng.normal(0, 3)).T
    waves[:, X:] *= patient.voltage * rng.normal(1, 0.04)
    return waves


def _infarct(waves: np.ndarray, territory: str, severity: float, recent: bool) -> None:
    """Pathological Q, ST towards the territory (high when recent), T away from it."""
    first, lost, st, t_wave = _INFARCTS[territory]
    waves[Q, X:] = waves[Q, X:] * (1 - severity) + severity * np.array(first)
    waves[Q, RISE : FALL + 1] += 4 * severity
    waves[[R, S1], X:] += severity * np.array(lost)
    lift = severity * (1.0 if recent else 0.28)
    waves[[J1, J2], X:] += lift * np.array([st, st]) * [[0.8], [1.0]]
    waves[T, X:] = waves[T, X:] * (1 - severity) + severity * np.array(t_wave)


# territory: first QRS forces, change of the main ones, ST vector, T vector; all for severity 1, in mV
_INFARCTS: dict[str, tuple[tuple[float, float, float], ...]] = {
    "anterior": ((-0.02, 0.02, 0.42), (-0.15, 0.00, 0.22), (0.06, 0.00, -0.17), (-0.10, 0.12, 0.20)),
    "inferior": ((0.06, -0.42, -0.12), (0.00, -0.30, 0.00), (-0.07, 0.17, 0.02), (0.26, -0.20, -0.22)),
    "lateral": ((-0.46, 0.02, -0.10), (-0.32, 0.05, -0.05), (0.15, -0.03, 0.03), (-0.20, 0.17, -0.20)),
}


def _right_bundle(waves: np.ndarray, severity: float) -> None:
    """The right ventricle late: slow last forces to the right and the front (R' in V1, wide S in I and V6)."""
    width = 0.75 + 0.3 * severity
    waves[S1, Z] *= 0.8
    waves[S2, X:] = (-0.15, 0.00, 0.00)
    waves[LATE] = (62 * width, 0, 15 * width, 17 * width, -0.42, 0.03, -0.58)
    waves[LATE, X:] *= 0.45 + 0.55 * severity
    waves[[J1, J2, T], CENTRE] += 40 * width
    waves[T, X:] += severity * np.array((0.05, 0.00, 0.24))


def _left_bundle(waves: np.ndarray, severity: float) -> None:
    """The left ventricle late: no septal q, wide notched forces to the left and the back, ST-T against them."""
    width = 0.80 + 0.22 * severity
    waves[Q] = (-42 * width, 0, 10 * width, 11 * width, 0.20, 0.06, -0.02)
    waves[R] = (-6 * width, 0, 17 * width, 18 * width, 0.80, 0.34, 0.34)
    waves[S1] = (36 * width, 0, 19 * width, 17 * width, 0.78, 0.16, 0.60)
    waves[S2] = (66 * width, 0, 14 * width, 14 * width, 0.22, -0.05, 0.40)
    waves[[J1, J2, T], CENTRE] += 45 * width
    waves[[J1, J2], X:] += severity * np.array([(-0.07, -0.01, -0.12), (-0.08, -0.01, -0.14)])
    waves[T, X:] = severity * np.array((-0.32, -0.06, -0.38)) + (1 - severity) * waves[T, X:] * 0.3


def _left_anterior(waves: np.ndarray, severity: float) -> None:
    """Left anterior hemiblock: the axis turns far to the left, with small q in I and aVL, deep S in II, III, aVF."""
    waves[Q, X:] = (-0.12, 0.24, -0.20)
    waves[R, Y] -= 0.95 * severity
    waves[S1, Y] -= 0.45 * severity
    waves[S2, Y] -= 0.30 * severity
    waves[[S1, S2], CENTRE] += 6


_CONDUCTION = {"rbbb": _right_bundle, "lbbb": _left_bundle, "lafb": _left_anterior}


def _hypertrophy(waves: np.ndarray, severity: float, strain: bool) -> None:
    """A thick left ventricle: high voltage to the left and the back, with strain ST down and T inverted laterally."""
    waves[[R, S1], X:] *= 1 + 0.62 * severity
    waves[S1, Z] += 0.25 * severity
    waves[[R, S1], RISE : FALL + 1] *= 1 + 0.12 * severity
    waves[[J1, J2, T], CENTRE] += 6 * severity
    if strain:
        waves[[J1, J2], X:] += severity * np.array([(-0.07, -0.03, -0.06), (-0.12, -0.05, -0.09)])
        waves[T, X:] = waves[T, X:] * (1 - severity) + severity * np.array((-0.24, -0.08, -0.26))


def _repolarisation(waves: np.ndarray, severity: float, rng: np.random.Generator) -> None:
    """ST depression and a flat or inverted T, in varying parts."""
    down, flat = rng.uniform(0.2, 1.0, 2) * severity
    waves[[J1, J2], X:] += down * np.array([(-0.08, -0.07, 0.02), (-0.11, -0.09, 0.04)])
    waves[T, X:] *= 1 - 1.55 * flat


def _rotation(axis: float, turn: float) -> np.ndarray:
    """(3, 3): `axis` degrees in the frontal plane (x, y), then `turn` degrees in the horizontal plane (x, z)."""
    a, b = np.radians(axis), np.radians(turn)
    frontal = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    horizontal = np.array([[np.cos(b), 0, -np.sin(b)], [0, 1, 0], [np.sin(b), 0, np.cos(b)]])
    return horizontal @ frontal


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
