"""Likelihoods of sequences, against adding up by hand; a chain is found to be one."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from ecgscale.evaluate.order import (
    Sequences,
    bits_per_segment,
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


@pytest.mark.parametrize("kind", ["bag", "markov"])
def test_likelihoods_by_hand(kind: str) -> None:
    some, rows = chains(3, 10), np.arange(3)
    fitted = [some.of(row).tolist() for row in (0, 1)]
    bag = np.array([sum(own.count(c) for own in fitted) + 0.5 for c in range(K)]) / (20 + 0.5 * K)
    pairs = [pair for own in fitted for pair in pairwise(own)]
    after = np.array([[pairs.count((a, b)) + 0.5 * K * bag[b] for b in range(K)] for a in range(K)])
    after /= after.sum(axis=1, keepdims=True)
    likelihoods = fit_order(kind, some, rows[:2], 0)(some, rows)
    for row in rows.tolist():
        own = some.of(row).tolist()
        each = [bag[b] if kind == "bag" else after[a, b] for a, b in pairwise(own)]
        assert likelihoods[row] == pytest.approx(np.log([bag[own[0]], *each]).sum())


needs_hmmlearn = pytest.mark.skipif(not has_hmmlearn(), reason="hmmlearn is not installed")


def bits(sequences: Sequences, kind: str) -> np.ndarray:
    """Of records 16 to 23, when the others fit."""
    scored = np.arange(16, 24)
    likelihood = fit_order(kind, sequences, np.arange(16), 0)
    return bits_per_segment(likelihood(sequences, scored), sequences, scored)


@pytest.mark.parametrize("kind", ["markov", pytest.param("hmm", marks=needs_hmmlearn)])
def test_a_chain_is_predictable_and_its_shuffle_is_not(kind: str) -> None:
    some = chains(24)
    assert bits(some, "bag").mean() == pytest.approx(2.0, abs=0.05)
    assert bits(some, kind).mean() < 1.3
    assert bits(shuffled(some, 0), kind).mean() > 1.9


def test_a_record_without_segments_has_no_bits() -> None:
    one = Sequences(np.array([0, 1]), np.ones(2), np.array([0, 2, 2]), K)
    assert np.isnan(bits_per_segment(np.array([-1.0, 0.0]), one, np.arange(2))).tolist() == [False, True]
