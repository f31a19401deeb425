"""K-means that begins where an earlier fit ended: with as many clusters, fewer, or more."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from ecgscale.clusters.checkpoint import Checkpoint
from ecgscale.clusters.init import Earlier, from_earlier
from ecgscale.clusters.kmeans import FitSettings, fit_kmeans
from ecgscale.clusters.matching import match_clusters
from ecgscale.errors import UsageError
from tests.clusters.test_kmeans import cached

SETTINGS = FitSettings(sample=300, max_epochs=4)


def points(n: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(n, 5)).astype(np.float32)


def earlier(k: int = 4) -> Earlier:
    return Earlier(points(k, seed=1), np.array([5, 50, 500, 50][:k]))


def test_as_many_are_taken_as_they_are_and_of_fewer_the_largest() -> None:
    start = earlier()
    assert np.array_equal(from_earlier(start, points(50), 4, 0), start.centroids)
    assert np.array_equal(from_earlier(start, points(50), 2, 0), start.centroids[[1, 2]])
    assert np.array_equal(from_earlier(start, points(50), 3, 0), start.centroids[[1, 2, 3]])


def test_more_are_drawn_far_from_the_earlier_ones() -> None:
    start, sample = earlier(), points(60)
    sample[7] = 100.0
    grown = from_earlier(start, sample, 6, 3)
    assert np.array_equal(grown[:4], start.centroids)
    assert any((row == sample[7]).all() for row in grown[4:])
    assert len(np.unique(grown, axis=0)) == 6
    assert all((row == sample).all(axis=1).any() for row in grown[4:])
    assert np.array_equal(from_earlier(start, sample, 6, 3), grown)
    assert not np.array_equal(from_earlier(start, points(60), 6, 3), from_earlier(start, points(60), 6, 4))


def test_too_few_distinct_timesteps_are_told() -> None:
    start = earlier()
    with pytest.raises(UsageError, match="has not that many distinct ones"):
        from_earlier(start, np.repeat(start.centroids[:1], 30, axis=0), 5, 0)


def test_a_fit_that_goes_on_keeps_its_clusters() -> None:
    with cached() as cache:
        [first] = fit_kmeans(cache, [4], SETTINGS)
        begun = Earlier(first.centroids, first.final.counts)
        other = FitSettings(sample=300, max_epochs=4, seed=9)
        [on, more] = fit_kmeans(cache, [4, 6], other, earlier=begun)
    assert match_clusters(first.centroids, on.centroids, on.final.counts).persisting == {k: k for k in range(4)}
    assert on.inertia == pytest.approx(first.inertia, rel=0.05)
    assert more.inertia < on.inertia
    assert len(match_clusters(first.centroids, more.centroids, more.final.counts).persisting) >= 3


def test_stopped_and_resumed_it_ends_with_the_same_bits(tmp_path: Path) -> None:
    with cached() as cache:
        [first] = fit_kmeans(cache, [4], SETTINGS)
        begun = Earlier(first.centroids, first.final.counts)
        [undisturbed] = fit_kmeans(cache, [5], SETTINGS, earlier=begun)
        checkpoint = Checkpoint(tmp_path / "fit.npz", interval_s=0.0)
        [kept] = fit_kmeans(cache, [5], SETTINGS, checkpoint=checkpoint, earlier=begun)
        [resumed] = fit_kmeans(cache, [5], SETTINGS, checkpoint=checkpoint, earlier=begun)
    assert np.array_equal(undisturbed.centroids, kept.centroids)
    assert np.array_equal(undisturbed.centroids, resumed.centroids)
