"""Which records fit a surrogate and which score it, by folds that are named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ecgscale.errors import UsageError

FEWEST_TRAIN, FEWEST_TEST = 20, 5


@dataclass(frozen=True)
class Holdout:
    """(N,) which records fit and which score; `told` says how they were chosen, `remarks` what was odd."""

    train: NDArray[np.bool_]
    test: NDArray[np.bool_]
    told: str
    remarks: tuple[str, ...] = ()


def patients_of(table: pa.Table) -> NDArray[np.str_]:
    """(N,) the patient of each record; a record without one is a patient of its own."""
    pairs = zip(table.column("patient_id").to_pylist(), table.column("record_id").to_pylist(), strict=True)
    return np.array([f"p:{patient}" if patient else f"r:{record}" for patient, record in pairs], dtype=str)


def choose(table: pa.Table, train_folds: Sequence[int] = (), test_folds: Sequence[int] = ()) -> Holdout:
    """Split records by the folds that are named; all others take the part that is not.

    A patient who scores does not fit. Raises `UsageError` for folds that do not exist or overlap, and for too few
    records.
    """
    patients, folds = patients_of(table), folds_of(table)
    fitting, scoring = _named(folds, train_folds, test_folds)
    train, test = np.isin(folds, fitting), np.isin(folds, scoring)
    told = f"fitted on folds {_told(fitting)}, scored on fold{'s' if len(scoring) > 1 else ''} {_told(scoring)}"
    shared = train & np.isin(patients, patients[test])
    train &= ~shared
    remarks = (f"{shared.sum()} records do not fit the surrogate: their patients score it",) if shared.any() else ()
    if train.sum() < FEWEST_TRAIN or test.sum() < FEWEST_TEST:
        raise UsageError(
            f"{train.sum()} records to fit and {test.sum()} to score the surrogate are too few; it needs at least "
            f"{FEWEST_TRAIN} and {FEWEST_TEST} ({told}; {table.num_rows} records are explained)"
        )
    return Holdout(train, test, told, remarks)


def _named(
    folds: NDArray[np.int64], train_folds: Sequence[int], test_folds: Sequence[int]
) -> tuple[list[int], list[int]]:
    """(folds that fit, folds that score), the ones not named filled in."""
    have = sorted({int(fold) for fold in folds} - {-1})
    if unknown := sorted({*train_folds, *test_folds} - set(have)):
        there = f"there are folds {_told(have)}" if have else "there is no fold column; leave the folds out"
        raise UsageError(f"no explained record is in fold {_told(unknown)}: {there}")
    if both := sorted(set(train_folds) & set(test_folds)):
        raise UsageError(f"fold {_told(both)} cannot both fit and score the surrogate")
    fitting = list(train_folds) or [fold for fold in have if fold not in test_folds]
    return fitting, list(test_folds) or [fold for fold in have if fold not in train_folds]


def folds_of(table: pa.Table) -> NDArray[np.int64]:
    """(N,) the fold of each record, −1 where it has none."""
    if "fold" not in table.column_names:
        return np.full(table.num_rows, -1)
    return np.array([-1 if fold is None else fold for fold in table.column("fold").to_pylist()], dtype=np.int64)


def _told(folds: Sequence[int]) -> str:
    return ", ".join(str(fold) for fold in folds)
