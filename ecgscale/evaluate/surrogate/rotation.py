"""Which records fit and which score, in turn: every record is scored at most once, by forests that never saw its
patient.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from sklearn.model_selection import GroupKFold

from ecgscale.errors import UsageError
from ecgscale.evaluate.seen import FEWEST_TEST, kept_apart_by, patients_of

FEWEST_TRAIN = 20
PATIENT_PARTS = 10
BY_FOLD = "fold"


@dataclass(frozen=True)
class Holdout:
    """(N,) which records fit and which score; `split` says how they were chosen, `remarks` what was odd."""

    train: NDArray[np.bool_]
    test: NDArray[np.bool_]
    split: str
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rotation:
    """Parts of N records, each with what fits it and what it scores; `names` say which part is which."""

    parts: tuple[Holdout, ...]
    names: tuple[str, ...]
    split: str
    remarks: tuple[str, ...] = ()

    @property
    def part_of(self) -> NDArray[np.int64]:
        """(N,) the part that scores a record, −1 for none."""
        part_of = np.full(len(self.parts[0].test), -1, dtype=np.int64)
        for i, part in enumerate(self.parts):
            part_of[part.test] = i
        return part_of

    @property
    def scored(self) -> NDArray[np.bool_]:
        """(N,) records that some part scores."""
        return self.part_of >= 0

    def restricted(self, there: NDArray[np.bool_]) -> Rotation:
        """The same among the records that are `there` (N,); parts that lose too much are left out."""
        parts = [replace(part, train=part.train & there, test=part.test & there) for part in self.parts]
        kept = [i for i, part in enumerate(parts) if part.train.sum() >= FEWEST_TRAIN and part.test.any()]
        return replace(self, parts=tuple(parts[i] for i in kept), names=tuple(self.names[i] for i in kept))


def rotate(
    table: pa.Table,
    folds: str | None = None,
    train_folds: Sequence[int] = (),
    test_folds: Sequence[int] = (),
    seed: int = 0,
) -> Rotation:
    """The parts that `folds` asks for: "fold" (the archive's), "patients:10", or None.

    None means one part where `train_folds` or `test_folds` are named (see `hold_out`), else "fold" where the
    records have two folds or more, else "patients:10". `table` has record_id, patient_id and, for folds, fold.
    Raises `UsageError` for folds that there are not, and where too few records would fit.
    """
    if folds is None and (train_folds or test_folds):
        holdout = hold_out(table, train_folds, test_folds)
        return Rotation((holdout,), ("held out",), holdout.split, holdout.remarks)
    if train_folds or test_folds:
        raise UsageError(
            "--folds rotates through all of them; to rotate among the records of some folds alone, give --within"
        )
    own, patients = folds_of(table), patients_of(table)
    if folds is None:
        folds = BY_FOLD if len(set(own.tolist()) - {-1}) > 1 else f"patients:{PATIENT_PARTS}"
    if folds == BY_FOLD:
        return _by_fold(own, patients)
    match = re.fullmatch(r"patients(?::(\d+))?", folds)
    if not match or int(match[1] or PATIENT_PARTS) < 2:
        raise UsageError(f"--folds {folds}: give fold (those of the archive) or patients:N with N of 2 or more")
    return _by_patient(patients, int(match[1] or PATIENT_PARTS), seed)


def hold_out(table: pa.Table, train_folds: Sequence[int] = (), test_folds: Sequence[int] = ()) -> Holdout:
    """Split records by the folds that are named; all others take the part that is not.

    A patient who scores does not fit. Raises `UsageError` for folds that do not exist or overlap, and for too few
    records.
    """
    patients, folds = patients_of(table), folds_of(table)
    fitting, scoring = _named(folds, train_folds, test_folds)
    train, test = np.isin(folds, fitting), np.isin(folds, scoring)
    split = f"fitted on folds {_listed(fitting)}, scored on fold{'s' if len(scoring) > 1 else ''} {_listed(scoring)}"
    shared = train & np.isin(patients, patients[test])
    train &= ~shared
    remarks = (f"{shared.sum()} records do not fit the surrogate: their patients score it",) if shared.any() else ()
    if train.sum() < FEWEST_TRAIN or test.sum() < FEWEST_TEST:
        raise UsageError(
            f"{train.sum()} records to fit and {test.sum()} to score the surrogate are too few; it needs at least "
            f"{FEWEST_TRAIN} and {FEWEST_TEST} ({split}; {table.num_rows} records are explained)"
        )
    return Holdout(train, test, split, remarks)


def _named(
    folds: NDArray[np.int64], train_folds: Sequence[int], test_folds: Sequence[int]
) -> tuple[list[int], list[int]]:
    """(folds that fit, folds that score), the ones not named filled in."""
    have = sorted({int(fold) for fold in folds} - {-1})
    if unknown := sorted({*train_folds, *test_folds} - set(have)):
        there = f"there are folds {_listed(have)}" if have else "there is no fold column; leave the folds out"
        raise UsageError(f"no explained record is in fold {_listed(unknown)}: {there}")
    if both := sorted(set(train_folds) & set(test_folds)):
        raise UsageError(f"fold {_listed(both)} cannot both fit and score the surrogate")
    fitting = list(train_folds) or [fold for fold in have if fold not in test_folds]
    return fitting, list(test_folds) or [fold for fold in have if fold not in train_folds]


def folds_of(table: pa.Table) -> NDArray[np.int64]:
    """(N,) the fold of each record, −1 where it has none."""
    if "fold" not in table.column_names:
        return np.full(table.num_rows, -1)
    return np.array([-1 if fold is None else fold for fold in table.column("fold").to_pylist()], dtype=np.int64)


def _by_fold(own: NDArray[np.int64], patients: NDArray[np.str_]) -> Rotation:
    have = sorted(set(own.tolist()) - {-1})
    if len(have) < 2:
        there = f"all explained records are in fold {have[0]}" if have else "the explanations have no fold column"
        raise UsageError(f"--folds fold: {there}; --folds patients:{PATIENT_PARTS} rotates without folds")
    parts = [_part(own == fold, patients) for fold in have]
    remarks = []
    if shared := sum(part[1] for part in parts):
        remarks.append(f"{shared} times a record did not fit, because its patient was scored in another fold")
    if without := int((own < 0).sum()):
        remarks.append(f"{without} records are in no fold: they fit, and are never scored")
    whole = set(range(have[0], have[-1] + 1))
    if absent := sorted(whole - set(have)):
        remarks.append(f"fold {_listed(absent)} has no explained record: nothing is scored there")
    split = f"cross-validated by the archive's folds {_listed(have)}"
    return _checked([part[0] for part in parts], [f"fold {fold}" for fold in have], split, remarks)


def _by_patient(patients: NDArray[np.str_], n: int, seed: int) -> Rotation:
    known = len(np.unique(patients))
    if known < n:
        raise UsageError(f"--folds patients:{n}: the explained records are {known} only, by {kept_apart_by(patients)}")
    split = GroupKFold(n, shuffle=True, random_state=seed).split(patients, groups=patients)
    masks = []
    for _, test in split:
        mask = np.zeros(len(patients), dtype=bool)
        mask[test] = True
        masks.append(mask)
    parts = [_part(mask, patients)[0] for mask in masks]
    names = [f"part {i + 1}" for i in range(n)]
    return _checked(parts, names, f"cross-validated in {n} parts by {kept_apart_by(patients)}", [])


def _part(test: NDArray[np.bool_], patients: NDArray[np.str_]) -> tuple[Holdout, int]:
    """The part that scores `test` and fits on the rest, and how many records that keeps from fitting."""
    shared = ~test & np.isin(patients, patients[test])
    return Holdout(~test & ~shared, test, ""), int(shared.sum())


def _checked(parts: list[Holdout], names: list[str], split: str, remarks: list[str]) -> Rotation:
    fewest = min(int(part.train.sum()) for part in parts)
    if fewest < FEWEST_TRAIN:
        raise UsageError(
            f"{fewest} records to fit the surrogate are too few; it needs at least {FEWEST_TRAIN} ({split})"
        )
    return Rotation(tuple(parts), tuple(names), split, tuple(remarks))


def _listed(folds: Sequence[int]) -> str:
    return ", ".join(str(fold) for fold in folds)
