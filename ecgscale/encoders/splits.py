"""Which records train the network, which stop it, and which only score it; no patient that is known is on two sides."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ecgscale.errors import UsageError

TRAIN, VALIDATION, TEST, UNUSED = "train", "validation", "test", ""


@dataclass(frozen=True)
class Folds:
    """Folds by number; all empty means a split by patient, or by record. Folds named nowhere are left alone."""

    train: tuple[int, ...] = ()
    validation: tuple[int, ...] = ()
    test: tuple[int, ...] = ()


def split(
    table: pa.Table, usable: NDArray[np.bool_], folds: Folds, validation_share: float, seed: int
) -> tuple[NDArray[np.str_], list[str]]:
    """(N,) the part of every record ("" is unused), and remarks for the user.

    `table` has record_id and, where the archive does, patient_id and fold; `usable` says which records carry a label.
    Without validation folds, a seeded `validation_share` of the patients in the training folds (or of all that are
    not test) validates. Raises UsageError for folds that overlap or do not exist, and for empty parts.
    """
    remarks: list[str] = []
    patients = patients_of(table)
    parts = np.full(table.num_rows, UNUSED, dtype="<U10")
    if folds.train or folds.validation or folds.test:
        _by_fold(table, folds, parts)
    else:
        parts[:] = TRAIN
    parts[~usable] = UNUSED
    if not folds.validation:
        _validate_on_patients(parts, patients, validation_share, seed)
    for part, asked in ((TRAIN, folds.train), (VALIDATION, folds.validation), (TEST, folds.test)):
        if not (parts == part).any() and (part != TEST or asked):
            where = f" in folds {', '.join(map(str, asked))}" if asked else ""
            raise UsageError(f"no labelled record{where} is left for {part}; name other folds or another target")
    for part in (VALIDATION, TEST):
        both = set(patients[parts == part]) & set(patients[parts == TRAIN])
        if both:
            remarks.append(f"{len(both)} patient(s) stand in the training and the {part} folds: scores will flatter")
    return parts, remarks


def split_by(patients: Iterable[str | None]) -> str:
    """By what records can be kept apart: "patient", "record" where no patient is known, or how many are known."""
    known = [bool(patient) for patient in patients]
    if not any(known):
        return "record"
    return "patient" if all(known) else f"patient where known: {sum(known):,} of {len(known):,}"


def patients_of(table: pa.Table) -> NDArray[np.object_]:
    """(N,) the patient of each record; a record without one is a patient of its own."""
    records = [f"record:{record}" for record in table.column("record_id").to_pylist()]
    if "patient_id" not in table.column_names:
        return np.array(records, dtype=object)
    known = table.column("patient_id").to_pylist()
    return np.array([patient or record for patient, record in zip(known, records, strict=True)], dtype=object)


def _by_fold(table: pa.Table, folds: Folds, parts: NDArray[np.str_]) -> None:
    if "fold" not in table.column_names:
        raise UsageError("the archive has no fold column; leave the folds out")
    column = np.array([-1 if fold is None else fold for fold in table.column("fold").to_pylist()])
    have = sorted({int(fold) for fold in column} - {-1})
    named: list[int] = [*folds.train, *folds.validation, *folds.test]
    if unknown := sorted(set(named) - set(have)):
        raise UsageError(f"no record is in fold {_listed(unknown)}; the archive has folds {_listed(have) or '(none)'}")
    if twice := sorted({fold for fold in named if named.count(fold) > 1}):
        raise UsageError(f"fold {_listed(twice)} is named twice; a fold either trains, validates or tests")
    train = folds.train or [fold for fold in have if fold not in named]
    for part, chosen in ((TRAIN, train), (VALIDATION, folds.validation), (TEST, folds.test)):
        parts[np.isin(column, chosen)] = part


def _validate_on_patients(
    parts: NDArray[np.str_], patients: NDArray[np.object_], validation_share: float, seed: int
) -> None:
    if not 0 < validation_share < 1:
        raise UsageError(f"a validation share of {validation_share} makes no split; give one between 0 and 1, as 0.15")
    candidates = sorted(set(patients[parts == TRAIN]))
    if len(candidates) < 2:
        raise UsageError(f"labelled records of {len(candidates)} patient(s) make no training and validation")
    n_chosen = min(max(1, round(validation_share * len(candidates))), len(candidates) - 1)
    order = np.random.default_rng(seed).permutation(len(candidates))
    chosen = {candidates[i] for i in order[:n_chosen]}
    validating = np.array([patient in chosen for patient in patients]) & (parts == TRAIN)
    parts[validating] = VALIDATION


def _listed(folds: Sequence[int]) -> str:
    return ", ".join(str(fold) for fold in folds)
