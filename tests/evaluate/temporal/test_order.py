"""Likelihoods of sequences, against adding up by hand; a chain is found to be one."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from ecgscale.errors import UsageError
from ecgscale.evaluate.temporal.order import (
    Sequences,
    bits_per_segment,
    fit_bag,
    fit_markov,
    fit_order,
    has_hmmlearn,
    shuffled,
)

K = 4


def chains(n: int, length: int = 60, seed: int = 0) -> Sequences:
    """Cluster c is followed by c + 1 nine times of ten."""
    rng = np.random.default_rng(seed)
    steps = np.where(rng.random((n, length)) < 0.9, 1, rng.integers(2, K, (n, length)))
    clusters = np.cumsum(steps, axis=1) % K
    return Sequences(clusters.ravel(), np.ones(n * length), np.arange(n + 1) * length, K)


def test_likelihoods_by_hand() -> None:
    some, rows = chains(3, 10), np.arange(3)
    bag, after = fit_markov(some, rows[:2]).parameters
    np.testing.assert_allclose(np.exp(after).sum(axis=1), 1)
    for row in rows.tolist():
        own = some.of(row).tolist()
        expected = bag[own[0]] + sum(after[a, b] for a, b in pairwise(own))
        assert fit_markov(some, rows[:2]).log_likelihood(some, rows)[row] == pytest.approx(expected)
        assert fit_bag(some, rows[:2]).log_likelihood(some, rows)[row] == pytest.approx(sum(bag[c] for c in own))


needs_hmmlearn = pytest.mark.skipif(not has_hmmlearn(), reason="hmmlearn is not installed")


def bits(sequences: Sequences, kind: str) -> np.ndarray:
    """Of records 16 to 23, when the others fit."""
    scored = np.arange(16, 24)
    model = fit_order(kind, sequences, np.arange(16), 0)
    return bits_per_segment(model.log_likelihood(sequences, scored), sequences, scored)


@pytest.mark.parametrize("kind", ["markov", pytest.param("hmm", marks=needs_hmmlearn)])
def test_a_chain_is_predictable_and_its_shuffle_is_not(kind: str) -> None:
    some = chains(24)
    assert bits(some, "bag").mean() == pytest.approx(2.0, abs=0.05)
    assert bits(some, kind).mean() < 1.3
    assert bits(shuffled(some, 0), kind).mean() > 1.9


def test_a_record_without_segments_has_no_bits() -> None:
    one = Sequences(np.array([0, 1]), np.ones(2), np.array([0, 2, 2]), K)
    assert np.isnan(bits_per_segment(np.array([-1.0, 0.0]), one, np.arange(2))).tolist() == [False, True]


def test_an_unknown_model() -> None:
    with pytest.raises(UsageError, match="bag, markov, hmm"):
        fit_order("lstm", chains(2), np.array([0]), 0)
