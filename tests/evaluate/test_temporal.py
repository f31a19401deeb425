"""Labels that lie in the order of clusters alone, and labels that lie in their shares alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ecgscale.errors import UsageError
from ecgscale.evaluate.order import Sequences
from ecgscale.evaluate.temporal import Labels, Temporal, labels_of, measure_order, temporal_published
from ecgscale.evaluate.written import read_evaluations
from tests.worlds.published.heart_root import publish_heart

N, LENGTH, K = 60, 36, 3


def cycles(turns: np.ndarray) -> Sequences:
    """0 1 2 0 1 2 …, or 0 2 1 … where a record turns: the same shares, another order."""
    step = np.where(turns, 2, 1)[:, None]
    clusters = (np.arange(LENGTH) * step + np.arange(N)[:, None]) % K
    return Sequences(clusters.ravel(), np.full(N * LENGTH, 0.2), np.arange(N + 1) * LENGTH, K)


def measure(sequences: Sequences, y: np.ndarray, names: tuple[str, ...] = ("left", "right")) -> Temporal:
    patients = [f"p{i // 2}" for i in range(N)]
    return measure_order(sequences, Labels(names, y, True), patients, trees=20, n_bootstrap=30)


def test_a_label_that_lies_in_the_order() -> None:
    turns = np.random.default_rng(0).random(N) < 0.5
    found = measure(cycles(turns), np.stack([~turns, turns], axis=1).astype(np.int64))
    scores = found.to_dict()
    assert scores["auroc_bag"] < 0.7
    assert scores["auroc_ngrams"] == pytest.approx(1.0)
    assert scores["auroc_markov"] == pytest.approx(1.0)
    assert scores["auroc_ngrams_shuffled"] < 0.75
    assert scores["gain_ngrams"] > 0.3
    assert scores["intervals"]["order_ngrams"][0] > 0.2
    assert scores["bits_markov"] < scores["bits_bag"] == pytest.approx(np.log2(3), abs=0.02)
    assert scores["saved_markov"] > scores["saved_markov_shuffled"]
    assert found.by_class["ngrams"]["right"] == pytest.approx(1.0)


def test_classes_that_are_too_small_are_told() -> None:
    turns = np.arange(N) % 2 == 0
    rare = np.arange(N) == 7
    y = np.stack([~turns & ~rare, turns, rare], axis=1).astype(np.int64)
    found = measure(cycles(turns), y, ("left", "right", "rare"))
    assert "rare (1)" in found.remarks[0]
    assert set(found.by_class["bag"]) == {"left", "right"}
    with pytest.raises(UsageError, match="two classes of 10 records"):
        measure(cycles(turns), np.stack([np.ones(N, int), rare], axis=1), ("all", "rare"))


@pytest.mark.parametrize(
    ("columns", "names"),
    [
        ({"x": ["a", "b", "a"]}, ("a", "b")),
        ({"x": [True, False, True]}, ("False", "True")),
        ({"x": [3, 1, 3]}, ("1", "3")),
        ({"x": [["a", "b"], [], ["b", None]]}, ("a", "b")),
        ({"AF": [True, False, True], "LBBB": [False, False, True]}, ("AF", "LBBB")),
    ],
)
def test_columns_that_hold_classes(columns: dict[str, list], names: tuple[str, ...]) -> None:
    labels = labels_of(pa.table(columns), list(columns), [])
    assert labels.names == names
    assert labels.y.shape == (3, len(names))
    assert labels.exclusive == (columns.keys() == {"x"} and not isinstance(columns["x"][0], list))


def test_columns_that_hold_none() -> None:
    with pytest.raises(UsageError, match=r"x \(double\) holds no classes; other label columns are: y, z"):
        labels_of(pa.table({"x": [1.5, 2.5]}), ["x"], ["y", "z"])
    with pytest.raises(UsageError, match="holds a throughout"):
        labels_of(pa.table({"x": ["a", "a"]}), ["x"], [])
    with pytest.raises(UsageError, match="40 different values"):
        labels_of(pa.table({"x": [str(i) for i in range(40)]}), ["x"], [])
    many = labels_of(pa.table({"x": [["common", str(i)] for i in range(40)]}), ["x"], [])
    assert len(many.names) == 30
    assert "common" in many.names


def test_published(tmp_path: Path) -> None:
    heart = publish_heart(tmp_path, records=60, quarantined=1, change={"sex": ["female", "male"] * 30})
    done = temporal_published(heart.root, "superclasses", n_bootstrap=20, records=50, trees=5)
    written = read_evaluations(heart.root, heart.dataset_id)["temporal-superclasses"]
    assert written.facts["records"] == 50
    assert written.facts["auroc_bag"] == done.result.scores["auroc_bag"]
    assert "1 quarantined records are left out" in written.facts["remarks"]
    assert {"bag", "ngrams", "markov"} <= set(written.table("by_class").column("features").to_pylist())
    with pytest.raises(UsageError, match="no label column 'rythm'"):
        temporal_published(heart.root, "rythm")
