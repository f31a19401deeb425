"""Scores under weights, held against scikit-learn's with sample weights."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from sklearn import metrics

from ecgscale.evaluate.metrics import (
    among,
    average_precision,
    cohens_kappa,
    difference,
    intervals,
    macro,
    weighted_mean,
)
from ecgscale.evaluate.questions import fixed_thresholds

RNG = np.random.default_rng(3)
N = 200
TRUTH = (RNG.random(N) < 0.3).astype(int)
SCORES = np.round(TRUTH * 0.4 + RNG.random(N), 1)
WEIGHTS = RNG.integers(0, 4, (5, N)).astype(float)


def test_average_precision_is_that_of_scikit_learn() -> None:
    scorer = average_precision(TRUTH, SCORES)
    assert scorer is not None
    expected = [metrics.average_precision_score(TRUTH, SCORES, sample_weight=w) for w in WEIGHTS]
    np.testing.assert_allclose(scorer(WEIGHTS), expected)
    assert average_precision(np.ones(4, int), SCORES[:4]) is None
    only_negative = np.where(TRUTH == 0, 1.0, 0.0)[None]
    assert np.isnan(scorer(only_negative)).all()


def test_kappa_is_that_of_scikit_learn() -> None:
    coded = np.digitize(SCORES, [0.4, 0.9])
    other = np.where(RNG.random(N) < 0.7, coded, RNG.integers(0, 3, N))
    expected = [metrics.cohen_kappa_score(coded, other, sample_weight=w) for w in WEIGHTS]
    np.testing.assert_allclose(cohens_kappa(coded, other)(WEIGHTS), expected)
    constant = np.zeros(N, int)
    assert np.isnan(cohens_kappa(constant, constant)(WEIGHTS)).all(), "chance alone agrees always"


def test_macro_means_leave_out_what_has_no_value() -> None:
    truth = np.column_stack([TRUTH, np.zeros(N, int), 1 - TRUTH])
    scores = np.column_stack([SCORES, SCORES, SCORES])
    mean = macro(average_precision, truth, scores)
    assert mean is not None
    each = [average_precision(truth[:, i], scores[:, i]) for i in (0, 2)]
    np.testing.assert_allclose(mean(WEIGHTS), np.mean([one(WEIGHTS) for one in each if one], axis=0))
    assert macro(average_precision, truth[:, 1:2], scores[:, :1]) is None


def test_differences_are_paired_and_groups_take_their_own_weights() -> None:
    a, b = weighted_mean(SCORES), weighted_mean(SCORES + 0.1)
    np.testing.assert_allclose(difference(b, a)(WEIGHTS), 0.1)
    chosen = TRUTH > 0
    some = among(chosen, weighted_mean(SCORES[chosen]))
    assert some is not None
    np.testing.assert_allclose(some(WEIGHTS), [np.average(SCORES[chosen], weights=w[chosen]) for w in WEIGHTS])
    spread = intervals({"a": a, "-": difference(b, a), "none": None}, list(range(N)), 100, 0)
    assert spread["none"] is None
    assert spread["-"] == pytest.approx((0.1, 0.1))


def test_thresholds_are_best_where_they_are_fixed_and_near_a_half_otherwise() -> None:
    says = np.column_stack([SCORES, SCORES, SCORES])
    y = np.column_stack([TRUTH, (SCORES > 0.75).astype(int), np.zeros(N, int)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        thresholds, remarks = fixed_thresholds(says, y, ("a", "b", "none"), "accuracy")
    right = [((t < SCORES) == TRUTH).mean() for t in np.linspace(-0.05, 1.5, 32)]
    assert ((thresholds[0] < SCORES) == TRUTH).mean() == max(right)
    little = np.where(np.arange(100) < 2, 0.45, np.where(np.arange(100) < 50, 0.9, 0.1))
    yes = (np.arange(100) < 50).astype(int)
    assert fixed_thresholds(little[:, None], yes[:, None], ("a",), "accuracy")[0] == 0.5, "two records are no evidence"
    assert thresholds[1] == pytest.approx(0.75)
    assert thresholds[2] == 0.5
    assert "0.5 for none" in remarks[0]
    f1, _ = fixed_thresholds(says, y, ("a", "b", "none"), "f1")
    best = max(metrics.f1_score(TRUTH, t < SCORES) for t in np.linspace(-0.05, 1.3, 28))
    assert metrics.f1_score(TRUTH, f1[0] < SCORES) == pytest.approx(best)
    np.testing.assert_array_equal(fixed_thresholds(says, y, ("a", "b", "none"), "half")[0], 0.5)
    np.testing.assert_array_equal(fixed_thresholds(says[:10], y[:10], ("a", "b", "none"), "f1")[0], 0.5)
