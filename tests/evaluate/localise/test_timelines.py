"""Clusters and waves on one axis: whose sample is whose timestep, and what lies between two waves."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from ecgscale.archive.waves import QRS, WAVES, P, T, Waves, waves_of
from ecgscale.evaluate.localise.timelines import PARTS, Ragged, cluster_labels, runs, timelines
from ecgscale.explain.segments import SEGMENT_TYPE, find_segments, segment_array

RATE = 100.0


def waves(*marks: tuple[int, int, float, float], n_records: int = 1) -> Waves:
    """(record, kind, onset, offset) each."""
    record, kind, onset, offset = (np.array(column) for column in zip(*marks, strict=True))
    return waves_of(n_records, record, kind, onset, (onset + offset) / 2, offset)


def named(parts: np.ndarray) -> str:
    """One letter a timestep: P Q T for waves, - for TP, p for PQ, s for ST, . for unknown."""
    return "".join("PQT-ps."[part] for part in parts)


def lined(
    *marks: tuple[int, int, float, float], steps: int = 24, source_rate: float = RATE, start_s: float = 0.0
) -> str:
    labels = np.zeros((1, steps), np.int16)
    return named(timelines(labels, waves(*marks), RATE, np.array([start_s]), np.array([source_rate])).parts[0])


def test_what_lies_between_two_waves() -> None:
    beat = [(0, P, 1, 2), (0, QRS, 5, 6), (0, T, 9, 11), (0, QRS, 15, 16), (0, QRS, 20, 21)]
    assert lined(*beat) == ".PPppQQssTTT---QQ...QQ.."


def test_onset_and_offset_are_inside() -> None:
    # Samples at 250 Hz: onset 10 is at 40 ms, offset 20 at 80 ms: timesteps 4 to 8. From 41 to 79 ms: 5 to 7.
    assert lined((0, QRS, 10, 20), steps=12, source_rate=250.0) == "....QQQQQ..."
    assert lined((0, QRS, 41, 79), steps=12, source_rate=1000.0) == ".....QQQ...."


def test_the_axis_may_begin_before_the_recording() -> None:
    assert lined((0, QRS, 0, 2), steps=10, start_s=-0.05) == ".....QQQ.."
    assert lined((0, QRS, 8, 10), steps=10, start_s=0.05) == "...QQQ...."


def test_waves_that_overlap_after_merging_give_way_to_the_later_one() -> None:
    assert lined((0, P, 2, 7), (0, QRS, 6, 9), steps=12) == "..PPPPQQQQ.."


def test_the_span_ends_where_the_explanation_ends() -> None:
    labels = np.full((2, 20), -1, np.int16)
    labels[0, 4:12] = 1
    lines = timelines(labels, waves((0, P, 2, 5), (0, QRS, 8, 14), n_records=2), RATE, np.zeros(2), np.full(2, RATE))
    assert named(lines.parts[0]) == "....PPppQQQQ........"
    assert (lines.start.tolist(), lines.stop.tolist()) == ([4, 0], [12, 0])


def test_changes_and_edges_inside_the_span() -> None:
    labels = np.zeros((1, 30), np.int16)
    labels[0, 12:] = 1
    labels[0, 20:] = 2
    labels[0, 28:] = 3
    lines = timelines(labels, waves((0, QRS, 5, 8), (0, T, 14, 25)), RATE, np.zeros(1), np.full(1, RATE))
    assert (lines.start[0], lines.stop[0]) == (5, 26)
    np.testing.assert_allclose(lines.boundaries.values, [0.07, 0.15])
    np.testing.assert_allclose(lines.edges.values, [0.03, 0.09])
    both = lines.take(np.array([0, 0]))
    np.testing.assert_allclose(both.boundaries.values, [0.07, 0.15] * 2)
    assert both.edges.offsets.tolist() == [0, 2, 4]


def test_segments_and_labels_are_the_same_thing() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(rng.integers(0, 4, (3, 10)), 5, axis=1).astype(np.int16)
    labels[:, :7], labels[1, 40:] = -1, -1
    known = np.array([True, False, True, True])
    column = segment_array(find_segments(labels, np.zeros((3, 50), np.float32)), known)
    read = cluster_labels(pa.chunked_array([column]), 50)
    np.testing.assert_array_equal(read[known], labels)
    assert (read[1] == -1).all()
    assert cluster_labels(pa.array([], pa.list_(SEGMENT_TYPE)), 50).shape == (0, 50)


def test_no_records_and_no_waves() -> None:
    none = waves_of(2, *(np.zeros(0, int),) * 2, *(np.zeros(0),) * 3)
    lines = timelines(np.zeros((2, 8), np.int16), none, RATE, np.zeros(2), np.full(2, RATE))
    assert (lines.parts == -1).all()
    assert (lines.stop == lines.start).all()


@pytest.mark.parametrize("lengths", [[], [0], [2, 0, 3]])
def test_runs(lengths: list[int]) -> None:
    first = np.arange(len(lengths)) * 10
    expected = [i * 10 + j for i, length in enumerate(lengths) for j in range(length)]
    assert runs(first, np.array(lengths, int)).tolist() == expected


def test_parts_begin_with_the_waves() -> None:
    assert PARTS[: len(WAVES)] == WAVES
    assert Ragged.of(np.array([0, 2]), np.array([1.0, 2.0]), 3).offsets.tolist() == [0, 1, 1, 2]
