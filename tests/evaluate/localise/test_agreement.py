"""Scores from tables of counts, against scikit-learn's from labels."""

from __future__ import annotations

from itertools import chain, combinations

import numpy as np
import pytest
from sklearn.metrics import adjusted_mutual_info_score, f1_score, mutual_info_score, normalized_mutual_info_score

from ecgscale.evaluate.localise.localisation import (
    adjusted_information,
    best_union,
    explained_entropy,
    mutual_information,
    purity,
    share_of_cluster,
    share_of_part,
    union_scores,
)

RNG = np.random.default_rng(0)
PART = RNG.integers(0, 4, 20_000)
CLUSTER = np.where(RNG.random(20_000) < 0.6, PART, RNG.integers(0, 7, 20_000))
COUNTS = np.zeros((7, 4), np.int64)
np.add.at(COUNTS, (CLUSTER, PART), 1)


def test_information_is_scikit_learns() -> None:
    assert mutual_information(COUNTS) == pytest.approx(mutual_info_score(PART, CLUSTER))
    entropy = mutual_info_score(PART, PART)
    assert explained_entropy(COUNTS) == pytest.approx(mutual_info_score(PART, CLUSTER) / entropy)
    assert explained_entropy(COUNTS) > normalized_mutual_info_score(PART, CLUSTER)
    assert adjusted_information(COUNTS) == pytest.approx(adjusted_mutual_info_score(PART, CLUSTER), abs=1e-5)


def test_chance_is_taken_off() -> None:
    shuffled = RNG.permutation(CLUSTER)
    counts = np.zeros((7, 4), np.int64)
    np.add.at(counts, (shuffled, PART), 1)
    assert abs(adjusted_information(counts)) < 1e-3


def test_leading_axes_are_kept_and_nothing_is_nan_not_zero() -> None:
    several = np.stack([COUNTS, np.zeros_like(COUNTS), COUNTS * 3])
    for score in (mutual_information, explained_entropy, adjusted_information, purity):
        values = score(several)
        assert values.shape == (3,)
        assert np.isnan(values[1])
        assert values[0] == pytest.approx(float(score(COUNTS)))
    assert np.isnan(explained_entropy(COUNTS * [1, 0, 0, 0]))  # one part alone has no entropy


def test_shares() -> None:
    assert share_of_part(COUNTS).sum(0) == pytest.approx(np.ones(4))
    assert share_of_cluster(COUNTS).sum(1) == pytest.approx(np.ones(7))
    assert purity(COUNTS) == pytest.approx(COUNTS.max(1).sum() / 20_000)


@pytest.mark.parametrize("part", range(4))
def test_no_union_of_clusters_is_better_than_the_best(part: int) -> None:
    unions = chain.from_iterable(combinations(range(7), size) for size in range(1, 8))
    best = max(f1_score(part == PART, np.isin(CLUSTER, union)) for union in unions)
    f1, precision, recall = union_scores(COUNTS, best_union(COUNTS, part), part)
    assert f1 == pytest.approx(best)
    assert 2 * precision * recall / (precision + recall) == pytest.approx(best)


def test_a_part_that_does_not_occur_has_no_union() -> None:
    counts = COUNTS * [1, 0, 1, 1]
    union = best_union(counts, 1)
    assert not len(union)
    assert np.isnan(union_scores(counts, union, 1)[0])
