"""What is taken out of a recording, and what stands in its place."""

from __future__ import annotations

import numpy as np

from ecgscale.passes.probe.batch import bridged, moved, silenced

X = np.array([[9, 0, 1, 2, 9, 9, 5, 6, 7, 9], [0, 4, 4, 4, 0, 0, 4, 4, 4, 1]], np.float32)


def mask(*steps: int) -> np.ndarray:
    return np.isin(np.arange(10), steps)


def test_lines_from_the_last_sample_to_the_next() -> None:
    np.testing.assert_allclose(bridged(X, mask(4, 5), 0, 10), [[9, 0, 1, 2, 3, 4, 5, 6, 7, 9], [0, *[4] * 8, 1]])


def test_flat_at_the_ends_of_the_valid_span() -> None:
    found = bridged(X, mask(0, 1, 2, 8, 9), 1, 9)
    np.testing.assert_allclose(found[0], [9, 2, 2, 2, 9, 9, 5, 6, 6, 9])


def test_everything_taken_out_is_zero_and_nothing_is_the_same() -> None:
    np.testing.assert_array_equal(bridged(X, mask(*range(10)), 2, 8)[:, 2:8], 0)
    np.testing.assert_array_equal(bridged(X, mask(*range(10)), 2, 8)[:, :2], X[:, :2])
    np.testing.assert_array_equal(bridged(X, mask(), 2, 8), X)
    assert X[0, 4] == 9


def test_moved_masks_take_out_as_much_within_the_span() -> None:
    assert np.flatnonzero(moved(mask(2, 3, 7), 2, 8, 1)).tolist() == [2, 3, 4]
    assert np.flatnonzero(moved(mask(3), 2, 8, 3)).tolist() == [6]


def test_a_silenced_lead_is_flat_where_it_is_valid_and_the_others_are_as_they_were() -> None:
    x = np.stack([X, X + 1, X])
    spans = np.array([1, 0, 4], np.int32), np.array([9, 10, 4], np.int32)
    found = silenced(x, 0, spans, "mean")
    assert found[0, 0].tolist() == [9, *[np.float32(39 / 8)] * 8, 9]
    assert found[1, 0].tolist() == [np.float32(6.7)] * 10
    np.testing.assert_array_equal(found[2], x[2])
    np.testing.assert_array_equal(found[:, 1], x[:, 1])
    assert silenced(x, 1, spans, "zeros")[0, 1].tolist() == [0, *[0] * 8, 1]
    assert x[0, 0, 4] == 9
