"""Shares sum to one."""

from __future__ import annotations

import numpy as np

from ecgscale.explain.segments import shares


def test_shares_sum_to_one_in_float32() -> None:
    rng = np.random.default_rng(0)
    amounts = rng.integers(0, 4096, (500, 50))
    amounts[:, 0] += 1
    given = shares(amounts)
    assert given.dtype == np.float32
    np.testing.assert_allclose(given.sum(axis=1, dtype=np.float64), 1.0, atol=1e-7)
    np.testing.assert_allclose(given.sum(axis=1), 1.0, atol=1e-6)
    np.testing.assert_allclose(shares(amounts / 3.3e-5), given, atol=1e-7)
