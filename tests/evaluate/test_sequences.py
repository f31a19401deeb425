"""Sequences of clusters, and what is counted in them, against counting by hand."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from ecgscale.evaluate.order import Sequences, bag, dwell, ngrams, sequences_of, shuffled
from ecgscale.explain.segments import SEGMENT_TYPE


def sequences(*records: list[int], n_clusters: int = 3, seconds: float = 0.5) -> Sequences:
    offsets = np.concatenate([[0], np.cumsum([len(r) for r in records])]).astype(np.int64)
    flat = np.array([c for r in records for c in r], np.int64)
    return Sequences(flat, np.full(len(flat), seconds), offsets, n_clusters)


def test_from_segments() -> None:
    segments = [
        [
            {"start": 0, "stop": 50, "cluster": 2, "entropy": 0.0},
            {"start": 50, "stop": 75, "cluster": 0, "entropy": 0.0},
        ],
        [{"start": 10, "stop": 20, "cluster": 1, "entropy": 0.0}],
    ]
    table = pa.table({"segments": pa.array(segments, pa.list_(SEGMENT_TYPE)), "sampling_rate": [100.0, 200.0]})
    found = sequences_of(table, 3)
    assert [found.of(i).tolist() for i in range(2)] == [[2, 0], [1]]
    assert found.seconds.tolist() == [0.5, 0.25, 0.05]
    np.testing.assert_allclose(bag(found), [[1 / 3, 0, 2 / 3], [0, 1, 0]])


def test_dwell() -> None:
    np.testing.assert_allclose(dwell(sequences([0, 1, 0, 2])), [[0.5, 0.5, 0.5, 1.0, 0.5, 0.5]])


def test_pairs_stay_within_records() -> None:
    found = ngrams(sequences([0, 1, 2], [1, 0], [2]))
    pairs, triples = found[:, :9].reshape(3, 3, 3), found[:, 9:].reshape(3, 3, 3, 3)
    assert pairs[0, 0, 1] == pairs[0, 1, 2] == 0.5
    assert pairs[1, 1, 0] == 1.0
    assert pairs.sum() == 2.0
    assert triples[0, 0, 1, 2] == 1.0
    assert triples.sum() == 1.0


def test_only_the_commonest_triples_of_many_clusters() -> None:
    rng = np.random.default_rng(0)
    found = ngrams(sequences(*[rng.integers(0, 10, 30).tolist() for _ in range(8)], n_clusters=10))
    assert found.shape == (8, 100 + 200)
    np.testing.assert_allclose(found[:, :100].sum(axis=1), 1.0)


def test_shuffling_keeps_what_is_there() -> None:
    rng = np.random.default_rng(1)
    before = sequences(*[rng.integers(0, 3, 40).tolist() for _ in range(5)])
    before = Sequences(before.cluster, rng.random(200), before.offsets, 3)
    after = shuffled(before, 0)
    np.testing.assert_allclose(bag(after), bag(before))
    np.testing.assert_allclose(dwell(after), dwell(before))
    assert (after.cluster != before.cluster).any()
    np.testing.assert_array_equal(after.cluster, shuffled(before, 0).cluster)


@pytest.mark.parametrize("records", [[[]], [[0]], [[0], []]])
def test_records_without_pairs(records: list[list[int]]) -> None:
    assert not ngrams(sequences(*records)).any()
