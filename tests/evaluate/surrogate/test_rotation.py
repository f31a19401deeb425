"""Parts that take turns: every record is scored once, and no patient stands on both sides."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from ecgscale.errors import UsageError
from ecgscale.evaluate.surrogate.rotation import Rotation, rotate

N = 120


def table(folds: list[int | None] | None = None, per_patient: int = 3) -> pa.Table:
    own = folds or [1 + i // per_patient % 4 for i in range(N)]
    patients = [f"p{i // per_patient}" for i in range(N)]
    return pa.table({"record_id": [f"r{i}" for i in range(N)], "patient_id": patients, "fold": own})


def assert_sound(rotation: Rotation, records: pa.Table) -> None:
    patients = np.array(records.column("patient_id").to_pylist())
    tested = np.sum([part.test for part in rotation.parts], axis=0)
    assert tested.max() == 1
    for i, part in enumerate(rotation.parts):
        assert not part.train[part.test].any()
        assert not set(patients[part.train]) & set(patients[part.test])
        np.testing.assert_array_equal(rotation.part_of == i, part.test)


def test_folds_of_the_archive_are_the_default() -> None:
    rotation = rotate(table())
    assert_sound(rotation, table())
    assert (rotation.names, rotation.scored.all()) == (("fold 1", "fold 2", "fold 3", "fold 4"), True)


def test_patients_are_drawn_the_same_way_again() -> None:
    rotation = rotate(table(), "patients:5", seed=3)
    assert_sound(rotation, table())
    assert len(rotation.parts) == 5
    assert rotation.scored.all()
    for again, part in zip(rotate(table(), "patients:5", seed=3).parts, rotation.parts, strict=True):
        np.testing.assert_array_equal(again.test, part.test)
    one_fold = table([1] * N)
    assert rotate(one_fold).split == "cross-validated in 10 parts by patient"
    assert len(rotate(one_fold.drop(["fold"])).parts) == 10
    unknown = one_fold.set_column(1, "patient_id", pa.nulls(N, pa.string()))
    assert rotate(unknown).split == "cross-validated in 10 parts by record"
    some = one_fold.set_column(1, "patient_id", pa.array([f"p{i}" if i < 90 else None for i in range(N)]))
    assert rotate(some).split == "cross-validated in 10 parts by patient where known: 90 of 120"


def test_folds_that_split_patients_keep_them_from_fitting() -> None:
    folds = [1 + i % 4 for i in range(N)]
    rotation = rotate(table(folds), "fold")
    assert_sound(rotation, table(folds))
    assert "did not fit, because its patient was scored in another fold" in rotation.remarks[0]


def test_a_fold_with_none_and_records_without_one_are_told() -> None:
    folds = [None if i < 12 else (1, 2, 4)[i // 3 % 3] for i in range(N)]
    rotation = rotate(table(folds), "fold")
    assert_sound(rotation, table(folds))
    assert rotation.scored.sum() == N - 12
    assert any("12 records are in no fold" in remark for remark in rotation.remarks)
    assert any("fold 3 has no explained record" in remark for remark in rotation.remarks)


def test_restricted_parts_lose_what_is_not_there() -> None:
    there = np.arange(N) % 2 == 0
    rotation = rotate(table()).restricted(there)
    assert_sound(rotation, table())
    np.testing.assert_array_equal(rotation.scored, there)
    assert not rotate(table()).restricted(np.arange(N) < 5).parts


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"folds": "folds"}, "give fold"),
        ({"folds": "patients:1"}, "N of 2 or more"),
        ({"folds": "patients:50"}, "are 40 only, by patient"),
        ({"folds": "fold", "test_folds": (1,)}, "--within"),
    ],
)
def test_what_cannot_be_rotated_is_told(arguments: dict, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        rotate(table(), **arguments)
    with pytest.raises(UsageError, match="all explained records are in fold 1"):
        rotate(table([1] * N), "fold")
