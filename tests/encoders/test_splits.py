"""Splits by fold and by patient."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from ecgscale.encoders.splits import TEST, TRAIN, UNUSED, VALIDATION, Folds, split, split_by
from ecgscale.errors import UsageError

N = 60
TABLE = pa.table(
    {
        "record_id": [str(i) for i in range(N)],
        "patient_id": [None if i % 10 == 0 else f"p{i // 3}" for i in range(N)],
        "fold": [None if i == 59 else i // 12 + 1 for i in range(N)],
    }
)
ALL = np.ones(N, bool)


def counts(parts: np.ndarray) -> dict[str, int]:
    return {str(part): int((parts == part).sum()) for part in (TRAIN, VALIDATION, TEST, UNUSED)}


def test_by_fold() -> None:
    usable = ALL.copy()
    usable[:2] = False
    parts, remarks = split(TABLE, usable, Folds((1, 2), (3,), (5,)), 0.15, 0)
    assert counts(parts) == {TRAIN: 22, VALIDATION: 12, TEST: 11, UNUSED: 15}
    assert remarks == []


def test_folds_not_named_train() -> None:
    parts, _ = split(TABLE, ALL, Folds((), (3,), (5,)), 0.15, 0)
    assert counts(parts) == {TRAIN: 36, VALIDATION: 12, TEST: 11, UNUSED: 1}


@pytest.mark.parametrize("folds", [Folds(), Folds(train=(1, 2, 3)), Folds(test=(5,))])
def test_by_patient(folds: Folds) -> None:
    parts, remarks = split(TABLE, ALL, folds, 0.2, 0)
    patients = np.array([p or f"r{r}" for p, r in zip(TABLE["patient_id"].to_pylist(), range(N), strict=True)])
    assert not set(patients[parts == TRAIN]) & set(patients[parts == VALIDATION])
    share = (parts == VALIDATION).sum() / ((parts == VALIDATION) | (parts == TRAIN)).sum()
    assert 0.1 < share < 0.3
    assert (counts(parts)[TEST] > 0) == bool(folds.test)
    assert remarks == []
    again, _ = split(TABLE, ALL, folds, 0.2, 0)
    other, _ = split(TABLE, ALL, folds, 0.2, 1)
    assert (again == parts).all()
    assert (other != parts).any()


def test_patients_in_two_folds_are_told() -> None:
    table = pa.table({"record_id": ["1", "2", "3"], "patient_id": ["a", "a", "b"], "fold": [1, 2, 2]})
    _, remarks = split(table, np.ones(3, bool), Folds((1,), (2,)), 0.15, 0)
    assert remarks == ["1 patient(s) stand in the training and the validation folds: scores will flatter"]


@pytest.mark.parametrize(
    ("table", "folds", "share", "message"),
    [
        (TABLE, Folds((1, 7), (3,)), 0.15, "no record is in fold 7; the archive has folds 1, 2, 3, 4, 5"),
        (TABLE, Folds((1, 2), (2,)), 0.15, "fold 2 is named twice"),
        (TABLE.drop_columns("fold"), Folds((1,), (2,)), 0.15, "no fold column"),
        (TABLE, Folds(), 0.0, "validation share of 0.0"),
        (TABLE.slice(0, 1), Folds(), 0.15, "make no training and validation"),
    ],
)
def test_splits_that_cannot_be(table: pa.Table, folds: Folds, share: float, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        split(table, np.ones(table.num_rows, bool), folds, share, 0)


def test_a_part_without_labels() -> None:
    with pytest.raises(UsageError, match="no labelled record in folds 3 is left for validation"):
        split(TABLE, np.arange(N) < 24, Folds((1, 2), (3,)), 0.15, 0)


def test_what_records_are_kept_apart_by_is_said() -> None:
    assert split_by(["a", "a", "b"]) == "patient"
    assert split_by([None, "", None]) == split_by([]) == "record"
    assert split_by(["a", None, "b", "b"]) == "patient where known: 3 of 4"
