"""Segments: half-open, contiguous, covering the valid span, against a loop over timesteps."""

from __future__ import annotations

from itertools import groupby, pairwise

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ecgscale.explain.segments import SEGMENT_TYPE, find_segments, list_array, segment_array


def slow_segments(labels: np.ndarray, entropy: np.ndarray) -> list[tuple[int, int, int, float]]:
    found = []
    for cluster, group in groupby(range(len(labels)), key=lambda t: int(labels[t])):
        steps = list(group)
        if cluster >= 0:
            found.append((steps[0], steps[-1] + 1, cluster, float(entropy[steps].astype(np.float64).mean())))
    return found


@st.composite
def batches(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    n, steps = draw(st.integers(0, 4)), draw(st.integers(1, 30))
    labels = draw(arrays(np.int16, (n, steps), elements=st.integers(0, 2)))
    for row in range(n):
        start = draw(st.integers(0, steps))
        labels[row, :start] = -1
        labels[row, draw(st.integers(start, steps)) :] = -1
    entropy = draw(arrays(np.float32, (n, steps), elements=st.floats(0, 1, width=32)))
    return labels, entropy


@given(batches())
def test_segments_equal_a_loop_over_timesteps(batch: tuple[np.ndarray, np.ndarray]) -> None:
    labels, entropy = batch
    found = find_segments(labels, entropy)
    assert len(found.offsets) == len(labels) + 1
    for row in range(len(labels)):
        part = slice(found.offsets[row], found.offsets[row + 1])
        fields = (found.start, found.stop, found.cluster, found.entropy)
        mine = list(zip(*(values[part].tolist() for values in fields), strict=True))
        expected = slow_segments(labels[row], entropy[row])
        assert [segment[:3] for segment in mine] == [segment[:3] for segment in expected]
        np.testing.assert_allclose([s[3] for s in mine], [s[3] for s in expected], rtol=1e-6, atol=1e-9)
        valid = np.flatnonzero(labels[row] >= 0)
        if len(valid):
            assert mine[0][0] == valid[0]
            assert mine[-1][1] == valid[-1] + 1
            assert all(one[1] == two[0] and one[2] != two[2] for one, two in pairwise(mine))


def test_a_record_s_segments_do_not_depend_on_its_neighbours() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, (8, 100)).astype(np.int16)
    entropy = rng.random((8, 100), dtype=np.float32)
    together, alone = find_segments(labels, entropy), find_segments(labels[5:6], entropy[5:6])
    part = slice(together.offsets[5], together.offsets[6])
    np.testing.assert_array_equal(together.entropy[part], alone.entropy)


def test_the_column_is_null_where_nothing_is_known() -> None:
    labels = np.array([[-1, 3, 3, 1], [0, 0, 0, -1]], dtype=np.int16)
    entropy = np.array([[9, 0.5, 0.25, 1.0], [0.125, 0.125, 0.125, 9]], dtype=np.float32)
    column = segment_array(find_segments(labels, entropy), np.array([True, False, True]))
    assert column.type == pa.list_(SEGMENT_TYPE)
    assert column.to_pylist() == [
        [
            {"start": 1, "stop": 3, "cluster": 3, "entropy": 0.375},
            {"start": 3, "stop": 4, "cluster": 1, "entropy": 1.0},
        ],
        None,
        [{"start": 0, "stop": 3, "cluster": 0, "entropy": 0.125}],
    ]


def test_lists_of_given_lengths() -> None:
    column = list_array(pa.array([1, 2, 3]), np.array([2, 0, 1]), np.array([True, False, True, True]))
    assert column.to_pylist() == [[1, 2], None, [], [3]]
