"""Label columns, matched by name with what the network tells."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from ecgscale.encoders.spec import EncoderSpec, OutputSpec
from ecgscale.errors import UsageError
from ecgscale.evaluate.questions import decisions, label_columns, probabilities, read_truth, suitable_columns

LABELS = OutputSpec(kind="multilabel", scale="logit", names=("CD", "MI"))
CLASSES = OutputSpec(kind="multiclass", scale="logit", names=("female", "male"))
AGE = OutputSpec(kind="regression", scale="value", names=("age",))

TABLE = pa.table(
    {
        "record_id": ["a", "b", "c", "d"],
        "superclasses": [["MI", "CD"], [], None, ["NORM"]],
        "sex": ["male", None, "female", "other"],
        "age": pa.array([50.0, None, float("nan"), 70.0], pa.float32()),
        "MI": [True, False, None, None],
        "CD": [False, False, None, True],
        "proportions": [[1.0]] * 4,
        "fold": [1, 2, 3, 4],
    }
)


def test_sets_of_names() -> None:
    truth = read_truth(TABLE, "superclasses", LABELS)
    assert truth.known.tolist() == [True, False, False, True]
    assert truth.y[truth.known].tolist() == [[1, 1], [0, 0]]


def test_bool_columns_in_the_order_of_the_network() -> None:
    truth = read_truth(TABLE, "MI,CD", LABELS)
    assert truth.known.tolist() == [True, True, False, True]
    assert truth.y.tolist() == [[0, 1], [0, 0], [0, 0], [1, 0]]


def test_classes_and_numbers() -> None:
    sex = read_truth(TABLE, "sex", CLASSES)
    assert sex.known.tolist() == [True, False, True, True]
    assert sex.y[sex.known].tolist() == [1, 0, -1], "a class the network does not know"
    age = read_truth(TABLE, "age", AGE)
    assert age.known.tolist() == [True, False, False, True]


def test_label_columns_leave_facts_out() -> None:
    assert label_columns(TABLE.schema) == ["superclasses", "sex", "age", "MI", "CD"]


@pytest.mark.parametrize(
    ("target", "output", "said"),
    [
        ("superclass", LABELS, "Did you mean 'superclasses'"),
        ("proportions", LABELS, "There are: superclasses, sex, age"),
        ("sex", LABELS, "multilabel network of CD, MI"),
        ("MI", LABELS, "multilabel network of CD, MI"),
        ("superclasses", CLASSES, "multiclass network of female, male"),
        ("sex", AGE, "regression network of age"),
    ],
)
def test_unsuitable_columns_are_told(target: str, output: OutputSpec, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        read_truth(TABLE, target, output)


def test_the_column_that_was_meant_is_named() -> None:
    spec = EncoderSpec.model_construct(output=LABELS, training={"target": "superclasses"})
    assert suitable_columns(TABLE.schema, "MI,CD", spec) == ["MI", "CD"]
    with pytest.raises(UsageError, match=r"CD, MI\. It was trained on superclasses$"):
        suitable_columns(TABLE.schema, "age", spec)
    silent = EncoderSpec.model_construct(output=LABELS, training={})
    with pytest.raises(UsageError, match=r"trained on; label columns are: superclasses, sex, age, MI, CD$"):
        suitable_columns(TABLE.schema, "age", silent)
    with pytest.raises(UsageError, match=r"Give the column that it was trained on$"):
        read_truth(TABLE.select(["age"]), "age", LABELS)


def test_outputs_become_decisions_and_probabilities() -> None:
    raw = np.array([[2.0, -1.0], [-800.0, 800.0]], np.float32)
    assert decisions(raw, LABELS).tolist() == [[1, 0], [0, 1]]
    assert probabilities(raw, LABELS)[1].tolist() == [0.0, 1.0]
    assert decisions(raw, CLASSES).tolist() == [0, 1]
    np.testing.assert_allclose(probabilities(raw, CLASSES).sum(axis=1), 1)
    shares = OutputSpec(kind="multilabel", scale="probability", names=("CD", "MI"))
    assert decisions(np.array([[0.4, 0.6]]), shares).tolist() == [[0, 1]]
    assert decisions(raw, AGE).tolist() == [2.0, -800.0]
