"""Who is recorded: the patients of a simulated archive, their diagnoses, and which record is whose.

Everything follows from (seed, number) through counter-based random streams, so any worker can make any record in any
order. Records come in blocks of 32 that belong to 25 patients: most have one recording, some two or three, which is
why splits have to be made by patient. Folds 1..10 go round over the patients and therefore never divide one.

Superclass sets come about as often as they do in PTB-XL (Wagner et al. 2020, table of superclass overlaps).
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
    usual_device = (patient.site + int(rng.random() < 0.25)) % len(DEVICES)
    fibrillation = 0.01 + 0.14 * float(np.clip((age - 45) / 45, 0, 1)) ** 1.5
    edges = np.cumsum([fibrillation, 0.07, 0.06, 0.06])
    rhythm = (RHYTHMS[3], RHYTHMS[1], RHYTHMS[2], RHYTHMS[4], RHYTHMS[0])[int(np.searchsorted(edges, rng.random()))]
    return Visit(
        patient=patient,
        age=age,
        acquired_at=patient.first_recorded + timedelta(seconds=int(years * 365.25 * 86400)),
        device=usual_device,
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
