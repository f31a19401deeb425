"""Rank correlations under weights, against SciPy's on the resamples that the weights stand for."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import rankdata, spearmanr

from ecgscale.evaluate.metrics import partial_spearman, ranker, spearman

RNG = np.random.default_rng(0)
X = RNG.normal(size=60).round(1)
Y = (X + RNG.normal(size=60)).round(1)
Z = (X + Y + RNG.normal(size=60)).round(1)
WEIGHTS = RNG.integers(0, 4, (5, 60)).astype(float)


def test_ranks_are_those_of_the_resample() -> None:
    for row, ranks in zip(WEIGHTS, ranker(X)(WEIGHTS), strict=True):
        drawn = np.repeat(np.arange(60), row.astype(int))
        np.testing.assert_allclose(ranks[drawn], rankdata(X[drawn]) - 0.5)


def test_spearman_of_resamples() -> None:
    for row, rho in zip(WEIGHTS, spearman(X, Y)(WEIGHTS), strict=True):
        drawn = np.repeat(np.arange(60), row.astype(int))
        assert rho == pytest.approx(spearmanr(X[drawn], Y[drawn]).statistic)


def test_what_a_third_quantity_leaves() -> None:
    ranks = np.stack([rankdata(values) for values in (X, Y, Z)])
    left = [a - np.polyval(np.polyfit(ranks[2], a, 1), ranks[2]) for a in ranks[:2]]
    expected = np.corrcoef(*left)[0, 1]
    assert partial_spearman(X, Y, Z)(np.ones((1, 60)))[0] == pytest.approx(expected)


def test_constants_have_no_correlation() -> None:
    alike = np.ones((2, 60))
    assert np.isnan(spearman(X, np.ones(60))(alike)).all()
    assert np.isnan(partial_spearman(X, Y, X)(alike)).all()
    assert np.isnan(spearman(X, Y)(np.zeros((1, 60)))).all()
