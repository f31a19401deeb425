"""Who is recorded in a simulated archive: patients, their diagnoses and rhythms, and which record is whose.

Everything follows from (seed, number) through counter-based random streams, so any worker can make any record in any
order. Records come in blocks of 32 that belong to 25 patients: most have one recording, some two or three, which is
why splits have to be made by patient. Folds 1..10 go round over the patients and therefore never divide one.
Superclass sets come about as often as they do in PTB-XL (Wagner et al. 2020, table of superclass overlaps).

The hearts beat in five rhythms. Sinus rhythms vary with breathing and with the slow (0.1 Hz) blood-pressure wave
(McSharry et al. 2003, IEEE TBME 50:289); atrial fibrillation draws independent intervals; a ventricular premature beat
comes early and leaves the sinus node's own beats where they were, which makes the compensatory pause.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache

import numpy as np

SUPERCLASSES = ("CD", "HYP", "MI", "NORM", "STTC")
RHYTHMS = (
    "sinus",
    "sinus_bradycardia",
    "sinus_tachycardia",
    "atrial_fibrillation",
    "ventricular_premature_beats",
)
SITES = ("north", "river", "harbour")
DEVICES = ("cart-A", "cart-B", "handheld-C")

_RECORDINGS_PER_PATIENT = (1,) * 20 + (2,) * 3 + (3,) * 2
_BLOCK_RECORDS = sum(_RECORDINGS_PER_PATIENT)
_BLOCK_PATIENTS = len(_RECORDINGS_PER_PATIENT)
_FIRST_DAY = datetime(2015, 1, 1, tzinfo=UTC)

_COMBINATIONS: dict[tuple[str, ...], float] = {
    ("NORM",): 0.430,
    ("MI",): 0.120,
    ("STTC",): 0.115,
    ("CD",): 0.080,
    ("CD", "MI"): 0.060,
    ("HYP", "STTC"): 0.040,
    ("MI", "STTC"): 0.035,
    ("HYP",): 0.030,
    ("CD", "STTC"): 0.025,
    ("CD", "NORM"): 0.020,
    ("HYP", "MI", "STTC"): 0.015,
    ("CD", "HYP"): 0.010,
    ("CD", "HYP", "STTC"): 0.010,
    ("HYP", "MI"): 0.010,
}
_SETS = tuple(_COMBINATIONS)
_SET_EDGES = np.cumsum(list(_COMBINATIONS.values()))
_TERRITORIES = (("anterior", 0.45), ("inferior", 0.85), ("lateral", 1.0))
_CONDUCTIONS = (("rbbb", 0.42), ("lbbb", 0.75), ("lafb", 1.0))

# Separate streams of one seed: what a record draws never depends on what its patient or block drew.
_RECORD_STREAM, _PATIENT_STREAM, _BLOCK_STREAM = 0, 1, 2


@dataclass(frozen=True)
class Patient:
    """What stays with a patient from one recording to the next."""

    number: int
    fold: int
    sex: str
    age: float
    """Years at the first recording."""
    first_recorded: datetime
    site: int
    superclasses: tuple[str, ...]
    severity: float
    """How pronounced the findings are, 0.35 (subtle) to 1."""
    territory: str
    """Of an infarction: anterior, inferior or lateral."""
    conduction: str
    """Of a conduction disturbance: rbbb, lbbb or lafb."""
    strain: bool
    """Whether hypertrophy comes with ST-T strain."""
    voltage: float
    """Factor on all cardiac amplitudes."""
    axis: float
    """Rotation of the heart in the frontal plane in degrees, negative to the left."""
    turn: float
    """Rotation in the horizontal plane in degrees."""
    qtc_ms: float
    pr_extra_ms: float


@dataclass(frozen=True)
class Visit:
    """One recording of a patient: who, when, with what, in which rhythm."""

    patient: Patient
    age: float
    acquired_at: datetime
    device: int
    rhythm: str


def record_stream(seed: int, index: int) -> np.random.Generator:
    """The random stream of record `index` of the archive that `seed` names."""
    return _stream(seed, _RECORD_STREAM, index)


def patient_of(seed: int, index: int) -> tuple[int, int]:
    """(patient number, how many recordings this patient had before) of record `index`."""
    block, place = divmod(index, _BLOCK_RECORDS)
    owners, visits = _block(seed, block)
    return block * _BLOCK_PATIENTS + int(owners[place]), int(visits[place])


@lru_cache(maxsize=256)
def draw_patient(seed: int, number: int) -> Patient:
    """Patient `number`; ages, voltages and axes follow the diagnosis and the sex as they do in clinics."""
    rng = _stream(seed, _PATIENT_STREAM, number)
    superclasses = _SETS[min(int(np.searchsorted(_SET_EDGES, rng.random(), side="right")), len(_SETS) - 1)]
    ill = superclasses != ("NORM",)
    sex = "male" if rng.random() < (0.58 if ill else 0.45) else "female"
    age = float(np.clip(rng.normal(66 if ill else 50, 13 if ill else 17), 18, 95))
    years_over_50 = age - 50
    return Patient(
        number=number,
        fold=1 + number % 10,
        sex=sex,
        age=age,
        first_recorded=_FIRST_DAY + timedelta(seconds=int(rng.integers(0, 5 * 365 * 86400))),
        site=int(rng.choice(len(SITES), p=(0.5, 0.3, 0.2))),
        superclasses=superclasses,
        severity=0.35 + 0.65 * float(rng.beta(2.2, 1.3)),
        territory=_pick(_TERRITORIES, rng.random()),
        conduction=_pick(_CONDUCTIONS, rng.random()),
        strain=bool(rng.random() < 0.6),
        voltage=float(rng.lognormal(0.05 if sex == "male" else -0.08, 0.23)) * (1 - 0.004 * years_over_50),
        axis=float(rng.normal(-0.45 * years_over_50, 12)),
        turn=float(rng.normal(0, 12)),
        qtc_ms=float(rng.normal((402 if sex == "male" else 415) + 0.25 * years_over_50, 14)),
        pr_extra_ms=float(np.clip(rng.normal(0.35 * years_over_50, 14), -35, 90)),
    )


def draw_visit(patient: Patient, before: int, rng: np.random.Generator) -> Visit:
    """The circumstances of a recording; `rng` is the record's stream, `before` counts the patient's earlier ones."""
    years = before * 0.8 + float(rng.uniform(0, 0.7)) * (before > 0)
    age = patient.age + years
    own_device = (patient.site + int(rng.random() < 0.25)) % len(DEVICES)
    fibrillation = 0.01 + 0.14 * float(np.clip((age - 45) / 45, 0, 1)) ** 1.5
    edges = np.cumsum([fibrillation, 0.07, 0.06, 0.06])
    rhythm = (RHYTHMS[3], RHYTHMS[1], RHYTHMS[2], RHYTHMS[4], RHYTHMS[0])[int(np.searchsorted(edges, rng.random()))]
    return Visit(
        patient=patient,
        age=age,
        acquired_at=patient.first_recorded + timedelta(seconds=int(years * 365.25 * 86400)),
        device=own_device,
        rhythm=rhythm,
    )


@lru_cache(maxsize=64)
def _block(seed: int, block: int) -> tuple[np.ndarray, np.ndarray]:
    """(patient within the block, earlier recordings of that patient) for each of a block's records."""
    counts = _stream(seed, _BLOCK_STREAM, block).permutation(_RECORDINGS_PER_PATIENT)
    owners = np.repeat(np.arange(_BLOCK_PATIENTS), counts)
    visits = np.arange(_BLOCK_RECORDS) - np.repeat(np.cumsum(counts) - counts, counts)
    return owners, visits


def _stream(seed: int, kind: int, number: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(entropy=seed, spawn_key=(kind, number))))


def _pick(edges: tuple[tuple[str, float], ...], draw: float) -> str:
    return next(name for name, edge in edges if draw <= edge)


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
