"""Label columns as targets: kinds by type, names from the training records, and remarks instead of crashes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ecgscale.archive import Archive
from ecgscale.encoders.targets import Labels, encode, read_labels
from ecgscale.errors import UsageError
from tests.worlds.formula.small_networks import noise, write_archive

FIELDS = [
    pa.field("superclasses", pa.list_(pa.string())),
    pa.field("rhythm", pa.string()),
    pa.field("grade", pa.int16()),
    pa.field("AF", pa.bool_()),
    pa.field("LBBB", pa.bool_()),
    pa.field("pr_interval", pa.float64()),
    pa.field("codes", pa.list_(pa.struct([("code", pa.string())]))),
]


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    rows: list[dict[str, Any]] = [
        {"superclasses": ["MI", "CD"], "rhythm": "SR", "grade": 2, "AF": False, "LBBB": True, "pr_interval": 160.0},
        {"superclasses": [], "rhythm": "", "grade": None, "AF": False, "LBBB": False, "pr_interval": float("nan")},
        {"superclasses": ["NORM"], "rhythm": "AF", "grade": 10, "AF": True, "LBBB": None, "age": 50.0, "fold": 1},
        {"patient_id": "p"},
    ]
    return write_archive(tmp_path / "archive", [{"signal": noise(50), **row} for row in rows], extra=FIELDS)


@pytest.mark.parametrize(
    ("target", "kind", "found", "values"),
    [
        ("superclasses", "auto", "multilabel", [{"MI", "CD"}, None, {"NORM"}, None]),
        ("rhythm", "auto", "multiclass", ["SR", None, "AF", None]),
        ("grade", "auto", "multiclass", ["2", None, "10", None]),
        ("grade", "regression", "regression", [2.0, None, 10.0, None]),
        ("AF", "auto", "multiclass", ["false", "false", "true", None]),
        ("AF", "multilabel", "multilabel", [set(), set(), {"AF"}, None]),
        ("AF, LBBB", "auto", "multilabel", [{"LBBB"}, set(), {"AF"}, None]),
        ("pr_interval", "auto", "regression", [160.0, None, None, None]),
        ("age", "auto", "regression", [None, None, 50.0, None]),
        ("fold", "auto", "multiclass", [None, None, "1", None]),
    ],
)
def test_kinds_and_values(archive: Archive, target: str, kind: str, found: str, values: list[Any]) -> None:
    labels, table = read_labels(archive, target, kind)
    assert labels.kind == found
    assert labels.values == values
    assert labels.labelled().tolist() == [value is not None for value in values]
    assert {"record_id", "patient_id", "fold", "shard", "row"} <= set(table.column_names)


@pytest.mark.parametrize(
    ("target", "kind", "message"),
    [
        ("superclass", "auto", "no column 'superclass'.*Did you mean 'superclasses'.*rhythm, grade.*age, sex"),
        ("signal", "auto", "no column 'signal'"),
        ("AF,RBBB", "auto", "no column 'RBBB'"),
        ("", "auto", "no column ''"),
        ("codes", "auto", "nothing can be trained on codes"),
        ("AF,rhythm", "auto", "several bool columns"),
        ("rhythm", "regression", "can be trained as multiclass, not as 'regression'"),
        ("superclasses", "multiclass", "can be trained as multilabel, not"),
    ],
)
def test_columns_that_are_no_target(archive: Archive, target: str, kind: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read_labels(archive, target, kind)


ROWS = np.arange(4)
TRAIN = np.array([True, True, True, False])


def test_encodes_labels_with_the_names_of_the_training_records() -> None:
    labels = Labels("multilabel", ("c",), [{"b", "z"}, {"a", "z"}, {"a", "z"}, {"new", "b"}])
    target, remarks = encode(labels, ROWS, TRAIN)
    assert target.names == ("a", "b", "z")
    assert target.y.tolist() == [[0, 1, 1], [1, 0, 1], [1, 0, 1], [0, 1, 0]]
    assert any("'new' occurs in 1 record" in remark for remark in remarks)
    assert any("'b' has a single training record" in remark for remark in remarks)
    assert any("'z' is there in every training record" in remark for remark in remarks)


def test_encodes_classes_in_natural_order() -> None:
    target, _ = encode(Labels("multiclass", ("c",), ["10", "2", "2", "11"]), ROWS, TRAIN)
    assert target.names == ("2", "10")
    assert target.y.tolist() == [1, 0, 0, -1]


def test_encodes_numbers_of_chosen_rows() -> None:
    target, remarks = encode(Labels("regression", ("age",), [1.0, None, 3.0]), np.array([0, 2]), np.array([True, True]))
    assert target.y.tolist() == [[1.0], [3.0]]
    assert (target.names, remarks) == (("age",), [])


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (Labels("regression", ("age",), [4.0, 4.0, 4.0, 5.0]), "same for every training record"),
        (Labels("multiclass", ("sex",), ["m", "m", "m", "f"]), "only 'm'"),
        (Labels("multilabel", ("c",), [{"a"}, {"a"}, {"a"}, {"b"}]), "only 'a'"),
        (Labels("multilabel", ("c",), [set(), set(), set(), {"b"}]), "holds nothing"),
    ],
)
def test_constants_teach_nothing(labels: Labels, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        encode(labels, ROWS, TRAIN)


def test_an_identifier_is_no_class() -> None:
    labels = Labels("multiclass", ("name",), [f"n{i}" for i in range(40)])
    with pytest.raises(UsageError, match="looks like an identifier"):
        encode(labels, np.arange(40), np.ones(40, bool))
