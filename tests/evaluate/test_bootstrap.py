"""Weighted scores against scikit-learn's, and intervals that behave."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import r2_score, roc_auc_score

from ecgscale.evaluate.metrics import interval, macro_auroc, patient_weights, r_squared, weighted_mean

RNG = np.random.default_rng(5)
N, B = 60, 12
WEIGHTS = RNG.integers(0, 4, (B, N)).astype(float)


def test_macro_auroc_is_the_weighted_one_with_ties() -> None:
    truth = RNG.integers(0, 2, (N, 3))
    scores = np.round(RNG.random((N, 3)), 1)
    scorer = macro_auroc(truth, scores)
    assert scorer is not None
    expected = [
        np.mean([roc_auc_score(truth[:, i], scores[:, i], sample_weight=weights) for i in range(3)])
        for weights in WEIGHTS
    ]
    np.testing.assert_allclose(scorer(WEIGHTS), expected, rtol=1e-12)


def test_auroc_skips_labels_with_one_value() -> None:
    truth = np.column_stack([RNG.integers(0, 2, N), np.zeros(N, int)])
    scores = RNG.random((N, 2))
    scorer = macro_auroc(truth, scores)
    assert scorer is not None
    assert scorer(np.ones((1, N)))[0] == pytest.approx(roc_auc_score(truth[:, 0], scores[:, 0]))
    assert macro_auroc(np.ones((N, 1), int), scores[:, :1]) is None
    one_sided = np.where(truth[:, 0] == 1, 1.0, 0.0)[None]
    assert np.isnan(scorer(one_sided)[0]), "a resample without negatives has no AUROC"


def test_r_squared_and_mean_are_the_weighted_ones() -> None:
    truth, predicted = RNG.normal(size=N), RNG.normal(size=N)
    expected = [r2_score(truth, predicted, sample_weight=weights) for weights in WEIGHTS]
    np.testing.assert_allclose(r_squared(truth, predicted)(WEIGHTS), expected, rtol=1e-12)
    expected = [np.average(truth, weights=weights) for weights in WEIGHTS]
    np.testing.assert_allclose(weighted_mean(truth)(WEIGHTS), expected, rtol=1e-12)


def test_patients_are_drawn_whole() -> None:
    weights = patient_weights(["a", "a", "b", "c", "c", "c"], 200, seed=1)
    assert weights.shape == (200, 6)
    np.testing.assert_array_equal(weights[:, 0], weights[:, 1])
    np.testing.assert_array_equal(weights[:, 3], weights[:, 5])
    assert np.all(weights[:, 0] + weights[:, 2] + weights[:, 3] == 3)
    np.testing.assert_array_equal(weights, patient_weights(["a", "a", "b", "c", "c", "c"], 200, seed=1))


def test_interval_covers_the_mean_at_about_its_level() -> None:
    rng = np.random.default_rng(2)
    covered = 0
    for trial in range(200):
        sample = rng.normal(1.0, 1.0, 80)
        found = interval(weighted_mean(sample), patient_weights(range(80), 300, trial))
        assert found is not None
        covered += found[0] <= 1.0 <= found[1]
    assert 0.88 < covered / 200 < 0.99


def test_no_interval_where_hardly_a_resample_has_a_score() -> None:
    truth = np.array([[1]] + [[0]] * 30)
    scorer = macro_auroc(truth, np.arange(31.0)[:, None])
    assert scorer is not None
    weights = np.ones((10, 31))
    weights[:8, 0] = 0
    assert interval(scorer, weights) is None
