"""Clusterings compared, and curves over K read."""

from __future__ import annotations

import numpy as np
import pytest

from ecgscale.evaluate.sweep.fits import effective_number, matched_distance, nearest, stability
from ecgscale.evaluate.sweep.result import elbow, plateau

RNG = np.random.default_rng(0)
CENTRES = RNG.normal(size=(4, 6)) * 5
SAMPLE = CENTRES[RNG.integers(0, 4, 400)] + RNG.normal(size=(400, 6))


def test_the_same_clusters_in_another_order_are_the_same() -> None:
    found = stability([CENTRES, CENTRES[::-1], CENTRES[[2, 0, 3, 1]]], SAMPLE)
    assert found is not None
    assert (found.pairs, found.ari, found.ari_min, found.centroid_distance) == (3, 1.0, 1.0, 0.0)


def test_other_clusters_are_not() -> None:
    found = stability([CENTRES, RNG.normal(size=(4, 6))], SAMPLE)
    assert found is not None
    assert found.ari < 0.9
    assert found.centroid_distance > 0.3
    assert stability([CENTRES], SAMPLE) is None
    assert matched_distance(CENTRES, CENTRES[::-1] + 1.0) == pytest.approx(np.sqrt(6))
    assert set(nearest(SAMPLE, CENTRES)) == {0, 1, 2, 3}


def test_effective_number() -> None:
    assert effective_number(np.array([5, 5, 5, 5])) == pytest.approx(4)
    assert effective_number(np.array([5, 0, 0, 0])) == pytest.approx(1)


def test_elbow_and_plateau() -> None:
    x = [5.0, 10.0, 20.0, 30.0, 50.0]
    assert elbow(x, [0.1, 0.3, 0.5, 0.53, 0.56]) == 20
    assert elbow(x, [0.5, 0.4, 0.3, 0.2, 0.1]) is None
    assert elbow(x[:2], [0.1, 0.2]) is None
    assert plateau(x, [0.80, 0.88, 0.93, 0.932, 0.931], [0.01] * 5) == 20
    assert plateau(x, [0.80, 0.88, 0.93, 0.95, 0.97], [0.001] * 5) is None
    assert plateau(x, [3.0, 2.0, 1.5, 1.49, 1.5], [0.05] * 5, rising=False) == 20
    assert plateau(x[:2], [0.80, 0.80], [0.01] * 2) == 5
    assert plateau(x[:2], [0.80, 0.88], [0.01] * 2) is None, "the last that was tried is no plateau"
    assert plateau(x[:1], [0.80], [0.01]) is None
