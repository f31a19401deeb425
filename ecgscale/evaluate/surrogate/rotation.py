"""Which records fit and which score, in turn: every record is scored at most once, by forests that never saw its
patient.

Permutation importance of every cluster: what the surrogate loses when one proportion is shuffled across records.

Breiman 2001, on records that the forest never saw; the loss is in the agreement with the network (in R² for a
regression), so it says what the network's decisions rest on as far as proportions carry them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from sklearn.model_selection import GroupKFold

from ecgscale.errors import UsageError
from ecgscale.evaluate.forests import SurrogateForest, decided
from ecgscale.evaluate.seen import FEWEST_TEST, patients_of
from ecgscale.evaluate.surrogate.questions import Questions

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
        raise UsageError(f"--folds fold: {there}; --folds patients:{PATIENT_PARTS} rotates by patient")
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
        raise UsageError(f"--folds patients:{n}: the explained records are of {known} patients only")
    split = GroupKFold(n, shuffle=True, random_state=seed).split(patients, groups=patients)
    masks = []
    for _, test in split:
        mask = np.zeros(len(patients), dtype=bool)
        mask[test] = True
        masks.append(mask)
    parts = [_part(mask, patients)[0] for mask in masks]
    names = [f"part {i + 1}" for i in range(n)]
    return _checked(parts, names, f"cross-validated in {n} parts by patient", [])


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


REPEATS = 5
_ROWS_AT_ONCE = 200_000


@dataclass(frozen=True)
class Said:
    """How right one forest is about its records (their numbers are `rows`): a row of figures a copy of them.

    The first copy is as they are, then come REPEATS with each cluster shuffled. `right` (copies,): decisions equal to
    the network's (records, where classes exclude each other), or minus the squared error of a regression; `by_label`
    (copies, n_labels): the same by label, None for a regression.
    """

    rows: NDArray[np.int64]
    right: NDArray
    by_label: NDArray[np.int64] | None


@dataclass(frozen=True)
class Importance:
    """Shuffles cluster k of x (N, K) among the records of `group` that one forest is asked about."""

    questions: Questions
    x: NDArray[np.float32]
    group: NDArray[np.bool_]
    seed: int = 0

    def numbers(self, parts: Sequence[NDArray[np.bool_]]) -> list[int | None]:
        """For records (N,) of every part, its number for `ask`; None where too few of them are of the group."""
        enough = [int((part & self.group).sum()) >= 2 for part in parts]
        return [sum(enough[:i]) if there else None for i, there in enumerate(enough)]

    def ask(self, forest: SurrogateForest, part: NDArray[np.bool_], number: int) -> Said:
        """How right the forest is about the records of its part, a few copies of them in memory at a time."""
        rows = np.flatnonzero(part & self.group)
        copies = self._copies(self.x[rows], np.random.default_rng([self.seed, 6, number]))
        at_once = max(_ROWS_AT_ONCE // len(rows), 1)
        right: list[Any] = []
        by_label: list[NDArray[np.int64]] = []
        while some := list(islice(copies, at_once)):
            for says in np.split(forest.predict(np.concatenate(some)), len(some)):
                if self.questions.kind == "regression":
                    right.append(-((says - self.questions.network[rows]) ** 2).sum())
                    continue
                equal = decided(says, self.questions.kind) == self.questions.network[rows]
                right.append(equal.all(axis=1).sum() if self.questions.kind == "multiclass" else equal.sum())
                by_label.append(equal.sum(axis=0))
        return Said(rows, np.array(right), np.array(by_label) if by_label else None)

    def _copies(self, x: NDArray[np.float32], rng: np.random.Generator) -> Iterator[NDArray[np.float32]]:
        yield x
        for k in range(x.shape[1]):
            for _ in range(REPEATS):
                shuffled = x.copy()
                shuffled[:, k] = rng.permutation(x[:, k])
                yield shuffled

    def result(self, said: Sequence[Said]) -> list[dict[str, Any]]:
        """One entry a cluster: its number, mean and SD over repeats of what was lost, and by label; [] without records.

        Agreement lost (0.02: two of a hundred decisions), or R² lost.
        """
        if not said:
            return []
        network = self.questions.network[np.concatenate([one.rows for one in said])]
        right = np.sum([one.right for one in said], axis=0)
        if self.questions.kind == "regression":
            return self._entries(right / max(((network - network.mean()) ** 2).sum(), 1e-12))
        by_label = np.sum([one.by_label for one in said if one.by_label is not None], axis=0)
        decisions = len(network) if self.questions.kind == "multiclass" else network.size
        return self._entries(right / decisions, by_label / len(network))

    def _entries(self, score: NDArray[np.float64], by_label: NDArray[np.float64] | None = None) -> list[dict[str, Any]]:
        """`score` (1 + K · REPEATS,), the first as the records are."""
        lost = (score[0] - score[1:]).reshape(-1, REPEATS)
        entries: list[dict[str, Any]] = [
            {"cluster": k, "lost": float(row.mean()), "sd": float(row.std(ddof=1))} for k, row in enumerate(lost)
        ]
        if by_label is not None:
            each = (by_label[0] - by_label[1:]).reshape(len(lost), REPEATS, -1).mean(axis=1)
            for entry, row in zip(entries, each, strict=True):
                entry["by_label"] = dict(zip(self.questions.names, map(float, row), strict=True))
        return entries
