"""Which records fit and which score, by folds that are named."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest

from ecgscale.errors import UsageError
from ecgscale.evaluate.seen import patients_of
from ecgscale.evaluate.surrogate.rotation import hold_out

N = 100


def table(patients: Sequence[str | None] | None = None, folds: bool = True) -> pa.Table:
    columns = {
        "record_id": [f"r{i}" for i in range(N)],
        "patient_id": patients or [f"p{i}" for i in range(N)],
    }
    return pa.table({**columns, "fold": [1 + i % 10 for i in range(N)]} if folds else columns)


def test_folds_as_named_and_the_others_filled_in() -> None:
    named = hold_out(table(), train_folds=(1, 2, 3), test_folds=(9,))
    assert (named.train.sum(), named.test.sum()) == (30, 10)
    assert "folds 1, 2, 3" in named.split
    assert hold_out(table(), test_folds=(9,)).train.sum() == 90
    assert hold_out(table(), train_folds=(1, 2, 3, 4)).test.sum() == 60


def test_patients_are_never_on_both_sides() -> None:
    patients = [f"p{i // 3}" for i in range(N)]
    by_fold, names = hold_out(table(patients), test_folds=(9,)), np.array(patients)
    assert not set(names[by_fold.train]) & set(names[by_fold.test])
    assert "their patients score it" in by_fold.remarks[0]


def test_records_without_a_patient_stand_alone() -> None:
    assert len(set(patients_of(table([None] * N)))) == N


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"test_folds": (11,)}, "fold 11: there are folds 1, 2"),
        ({"train_folds": (1, 9), "test_folds": (9,)}, "both fit and score"),
        ({"train_folds": (1,), "test_folds": (9,)}, "10 records to fit"),
    ],
)
def test_impossible_splits_are_told(arguments: dict, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        hold_out(table(), **arguments)
    if arguments == {"test_folds": (11,)}:
        with pytest.raises(UsageError, match="no fold column"):
            hold_out(table(folds=False), **arguments)
