"""Calibration of probabilities that are known to be true, or not."""

from __future__ import annotations

import numpy as np
import pytest

from ecgscale.evaluate.uncertainty import bins_of, brier, calibration_error, reliability

RNG = np.random.default_rng(0)
SAYS = RNG.random((40_000, 2))
TRUE = (RNG.random(SAYS.shape) < SAYS).astype(np.int64)
ALIKE = np.ones((1, len(SAYS)))


def test_true_probabilities_have_no_calibration_error() -> None:
    assert calibration_error(SAYS, TRUE)(ALIKE)[0] < 0.01
    assert brier(SAYS, TRUE)(ALIKE)[0] == pytest.approx(1 / 6, abs=0.005)


def test_overconfident_probabilities_have() -> None:
    pushed = np.clip(SAYS + 0.3 * np.sign(SAYS - 0.5), 0, 1)
    expected = np.abs(np.where(SAYS > 0.5, np.minimum(SAYS + 0.3, 1) - SAYS, SAYS - np.maximum(SAYS - 0.3, 0))).mean()
    assert calibration_error(pushed, TRUE)(ALIKE)[0] == pytest.approx(expected, abs=0.01)


def test_weights_are_records_drawn_again() -> None:
    says, y = SAYS[:50], TRUE[:50]
    weights = RNG.integers(0, 3, (3, 50)).astype(float)
    for row, error in zip(weights, calibration_error(says, y)(weights), strict=True):
        drawn = np.repeat(np.arange(50), row.astype(int))
        assert error == pytest.approx(calibration_error(says[drawn], y[drawn])(np.ones((1, len(drawn))))[0])
    assert np.isnan(calibration_error(says, y)(np.zeros((1, 50))))


def test_the_curve_counts_every_label_once() -> None:
    table = reliability(SAYS, TRUE, "all")
    rows = table.to_pylist()
    assert sum(row["labels"] for row in rows) == SAYS.size
    assert all(row["observed"] == pytest.approx(row["mean_probability"], abs=0.02) for row in rows)
    assert bins_of(np.array([0.0, 0.999, 1.0])).tolist() == [0, 9, 9]
    assert reliability(SAYS[:0], TRUE[:0], "none").num_rows == 0
