"""Boundaries on the lines of the network's grid are found out; boundaries anywhere are not."""

from __future__ import annotations

import numpy as np
import pytest

from ecgscale.evaluate.localise.shifts import checkerboard

D, LAYERS, HOPS = 1024, ("fine", "coarse"), (16.0, 64.0)


def labels_with(boundaries: list[np.ndarray]) -> np.ndarray:
    labels = np.zeros((len(boundaries), D), np.int16)
    for row, at in zip(labels, boundaries, strict=True):
        row[at] = 1
    return np.cumsum(labels, axis=1).astype(np.int16) % 5


def test_boundaries_on_the_grid() -> None:
    rng = np.random.default_rng(0)
    grid = [rng.choice(np.arange(1, 64), 12, replace=False) * 16 for _ in range(30)]
    (fine, coarse), table = checkerboard(labels_with(grid), LAYERS, HOPS)
    assert fine.uneven
    assert fine.cramers_v == pytest.approx(1.0)
    assert fine.fullest_bin == pytest.approx(16.0)
    assert coarse.p_value is not None
    assert (fine.hop, coarse.hop) == (16.0, 64.0)
    assert table.num_rows == 32
    rows = table.to_pylist()
    assert sum(row["boundaries"] for row in rows if row["layer"] == "fine") == 30 * 12
    assert rows[0]["boundaries"] == 30 * 12


def test_boundaries_anywhere() -> None:
    rng = np.random.default_rng(1)
    anywhere = [rng.choice(np.arange(1, D), 20, replace=False) for _ in range(30)]
    labels = labels_with(anywhere)
    labels[:, :100] = -1
    for test in checkerboard(labels, LAYERS, HOPS)[0]:
        assert test.uneven is False
        assert test.cramers_v is not None
        assert test.cramers_v < 0.1


def test_too_few_boundaries_and_layers_that_do_not_downsample() -> None:
    (few, none), table = checkerboard(labels_with([np.array([5])]), LAYERS, (16.0, 1.0))
    assert few.uneven is None
    assert (none.bins, none.uneven) == (1, None)
    assert table.num_rows == 16
