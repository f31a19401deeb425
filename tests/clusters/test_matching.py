"""Ids that stay: what persists, what is born, what dies, in constructed centroids."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from ecgscale.clusters.matching import PERSISTS, Matching, match_clusters, square_distances


def far_apart(k: int, channels: int = 12, seed: int = 0) -> NDArray[np.float32]:
    """Centroids (k, channels) about 1 to 2 apart."""
    rows = np.random.default_rng(seed).normal(size=(k, channels))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def moved(centroids: NDArray[np.float32], by: float, seed: int = 1) -> NDArray[np.float32]:
    """Each moved by that distance, in a direction of its own."""
    step = np.random.default_rng(seed).normal(size=centroids.shape)
    step /= np.linalg.norm(step, axis=1, keepdims=True)
    return (centroids + by * step).astype(np.float32)


def match(old: NDArray[np.float32], new: NDArray[np.float32], counts: list[int] | None = None) -> Matching:
    return match_clusters(old, new, np.array(counts or [100] * len(new)))


@given(st.permutations(range(8)), st.floats(0, 0.25))
def test_ids_stay_however_the_fit_numbers_its_clusters(order: list[int], by: float) -> None:
    old = far_apart(8)
    new = moved(old, by)[order]
    found = match(old, new)
    assert found.persisting == {k: k for k in range(8)}
    assert (found.births, found.deaths) == ((), ())
    assert np.array_equal(new[found.order], moved(old, by))
    assert np.allclose(np.diag(found.distance), by, atol=1e-6)


def test_a_birth_gets_the_id_of_a_death() -> None:
    old = far_apart(6)
    new = moved(old, 0.05)
    new[2] = -5.0
    found = match(old, new[::-1].copy())
    assert found.persisting == {0: 0, 1: 1, 3: 3, 4: 4, 5: 5}
    assert (found.births, found.deaths, found.origin[2]) == ((2,), (2,), None)
    assert np.array_equal(new[::-1][found.order], new)


def test_a_centroid_halfway_to_its_neighbour_is_another_cluster() -> None:
    old = np.array([[0.0, 0.0], [2.0, 0.0], [9.0, 9.0]], np.float32)
    inside, outside = old.copy(), old.copy()
    inside[0, 0], outside[0, 0] = 0.999, 1.0
    assert match(old, inside).persisting == {0: 0, 1: 1, 2: 2}
    assert match(old, inside).relative(0, 0) == pytest.approx(0.4995)
    assert match(old, outside).deaths == (0,)
    assert match(old, outside).births == (0,)


def test_of_a_cluster_that_split_the_nearer_half_goes_on() -> None:
    old = np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]], np.float32)
    new = np.array([[1.5, 0.0], [-1.0, 0.0], [10.0, 0.0]], np.float32)
    found = match(old, new)
    # The other half would fit the dead cluster's place in an assignment over all pairs; it is a birth all the same.
    assert found.persisting == {0: 0, 1: 1}
    assert found.order.tolist() == [1, 2, 0]
    assert (found.births, found.deaths) == ((2,), (2,))


def test_more_and_fewer_clusters_and_back() -> None:
    six = far_apart(6)
    eight = np.concatenate([six, [[3.0] * 12, [-3.0] * 12]]).astype(np.float32)
    grown = match(six, moved(eight, 0.05)[::-1].copy(), counts=[5, 9, 1, 1, 1, 1, 1, 1])
    assert grown.persisting == {k: k for k in range(6)}
    assert (grown.births, grown.deaths) == ((6, 7), ())
    # Of two births the larger one comes first.
    assert grown.order.tolist() == [7, 6, 5, 4, 3, 2, 1, 0]
    back = match(eight, moved(six, 0.05)[[3, 1, 0, 5, 4, 2]])
    assert back.persisting == {k: k for k in range(6)}
    assert (back.births, back.deaths) == ((), (6, 7))


def test_new_ids_come_before_those_of_the_dead() -> None:
    old = far_apart(4)
    new = np.concatenate([moved(old[:3], 0.01), [[4.0] * 12], [[-4.0] * 12]]).astype(np.float32)
    found = match(old, new, counts=[10, 10, 10, 10, 20])
    assert found.persisting == {0: 0, 1: 1, 2: 2}
    assert (found.births, found.deaths) == ((3, 4), (3,))
    assert found.order[4] == 4


def test_a_persisting_cluster_beyond_the_new_ids_is_numbered_anew_before_births() -> None:
    old = far_apart(5)
    new = np.stack([old[4], old[1], np.full(12, 7.0, np.float32)])
    found = match(old, new, counts=[1, 1, 99])
    assert found.persisting == {1: 1, 4: 0}
    assert found.births == (2,)
    assert found.deaths == (0, 2, 3)
    assert found.order.tolist() == [0, 1, 2]


def test_equal_centroids_match_at_distance_zero_only() -> None:
    old = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]], np.float32)
    same = match(old, old[[2, 0, 1]])
    assert sorted(same.persisting) == [0, 1, 2]
    assert same.relative(0, 0) == 0.0
    other = match(old, old + np.float32(1e-3))
    assert other.persisting == {2: 2}
    assert other.relative(0, 0) is None


@given(st.integers(0, 10_000), st.integers(1, 7), st.integers(1, 7))
def test_matched_clusters_are_each_others_nearest(seed: int, k_old: int, k_new: int) -> None:
    rng = np.random.default_rng(seed)
    old, new = rng.normal(size=(k_old, 2)).astype(np.float32), rng.normal(size=(k_new, 2)).astype(np.float32)
    counts = rng.integers(1, 5, k_new)
    found = match_clusters(old, new, counts)
    assert sorted(found.order.tolist()) == list(range(k_new))
    assert np.allclose(found.distance**2, square_distances(old, new[found.order]))
    for i, j in found.persisting.items():
        assert found.distance[i, j] < PERSISTS * found.spacing[i]
        assert found.distance[i].argmin() == j
        assert found.distance[:, j].argmin() == i
        assert i == j or i >= k_new
    assert set(found.persisting) | set(found.deaths) == set(range(k_old))
    assert set(found.persisting.values()) | set(found.births) == set(range(k_new))
    shuffled = rng.permutation(k_new)
    again = match_clusters(old, new[shuffled], counts[shuffled])
    assert np.array_equal(new[shuffled][again.order], new[found.order])
