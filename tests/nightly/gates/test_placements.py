"""Placements against scipy's test, van Elteren's mean by hand, and the bound against exact probabilities."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom, mannwhitneyu

from ecgscale.nightly.gates.placements import Quantities, Strata, Stratum, placed


def of(values: np.ndarray, site: str = "", device: str = "") -> Quantities:
    n = len(values)
    names = tuple(f"q{i}" for i in range(values.shape[1]))
    where = [np.array([name] * n, dtype=object) for name in (site, device)]
    return Quantities(names, values.astype(np.float32), *where)


def joined(*parts: Quantities) -> Quantities:
    return Quantities(
        parts[0].names,
        np.concatenate([part.values for part in parts]),
        np.concatenate([part.site for part in parts]),
        np.concatenate([part.device for part in parts]),
    )


@pytest.mark.parametrize("ties", [False, True])
def test_delta_and_probability_are_those_of_mann_and_whitney(ties: bool) -> None:
    rng = np.random.default_rng(0)
    there, here = rng.normal(size=(900, 3)), rng.normal(0.15, 1, size=(300, 3))
    if ties:
        there, here = np.round(there), np.round(here)
    placed_here = Strata(of(there)).place(of(here))
    everyone = np.ones(len(here), bool)
    shift = placed_here.shift(everyone)
    for column in range(3):
        u, p = mannwhitneyu(here[:, column], there[:, column], method="asymptotic", use_continuity=False)
        assert shift.delta[column] == pytest.approx(2 * u / (300 * 900) - 1, abs=1e-6)
        normal = placed_here._normal(np.full((1, 3), 300), shift.delta)[column]
        # Ties are counted in the reference here and in both together there.
        assert np.log(normal) == pytest.approx(np.log(p), rel=0.05)
        assert shift.p[column] >= normal


def test_each_record_is_compared_with_its_own_site() -> None:
    rng = np.random.default_rng(1)
    north, south = rng.normal(size=(400, 1)), rng.normal(5, 1, size=(400, 1))
    strata = Strata(joined(of(north, "north"), of(south, "south")))
    night = joined(of(rng.normal(5, 1, size=(90, 1)), "south"), of(rng.normal(size=(10, 1)), "north"))
    shift = strata.place(night).shift(np.ones(100, bool))
    assert abs(shift.delta[0]) < 0.15
    assert shift.p[0] > 0.01
    by_hand = 0.9 * placed(np.sort(south[:, 0]).astype(np.float32), night.values[:90, 0]).mean()
    by_hand += 0.1 * placed(np.sort(north[:, 0]).astype(np.float32), night.values[90:, 0]).mean()
    assert shift.delta[0] == pytest.approx(by_hand, abs=1e-5)


def test_few_reference_records_of_a_site_and_device_make_the_circle_wider() -> None:
    rng = np.random.default_rng(2)
    reference = joined(
        of(rng.normal(size=(300, 1)), "north", "a"),
        of(rng.normal(9, 1, size=(20, 1)), "north", "b"),
        of(rng.normal(-9, 1, size=(300, 1)), "south", "a"),
    )
    strata = Strata(reference)
    placed_here = strata.place(
        joined(of(np.zeros((1, 1)), "north", "b"), of(np.zeros((1, 1)), "east", "a"), of(np.zeros((1, 1)), "east", "c"))
    )
    assert sorted(int(stratum.sizes[0]) for stratum in placed_here.strata) == [320, 600, 620]


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.3])
@pytest.mark.parametrize("n", [10, 30, 100])
def test_the_bound_is_never_under_the_exact_probability_of_something_rare(rate: float, n: int) -> None:
    """A quantity that is 1 in a share of records and 0 in the others: the exact probability is binomial."""
    m = 1000
    there = (np.arange(m) < rate * m).astype(float)[:, None]
    strata = Strata(of(there))
    for hits in range(1, n + 1):
        here = (np.arange(n) < hits).astype(float)[:, None]
        shift = strata.place(of(here)).shift(np.ones(n, bool))
        if shift.delta[0] > 0:
            assert shift.p[0] >= binom.sf(hits - 1, n, rate)


def test_a_quantity_that_is_constant_in_the_reference() -> None:
    strata = Strata(of(np.full((500, 1), 10.0)))
    same = strata.place(of(np.full((30, 1), 10.0))).shift(np.ones(30, bool))
    assert (same.delta[0], same.p[0]) == (0.0, 1.0)
    longer = strata.place(of(np.full((30, 1), 20.0))).shift(np.ones(30, bool))
    assert longer.delta[0] == 1.0
    assert longer.p[0] < 1e-12


def test_sound_groups_are_found_about_as_often_as_said() -> None:
    """2,000 groups of 30 among skewed, tied and plain quantities: probabilities under 0.01 in no more than 1 %."""
    rng = np.random.default_rng(3)

    def draw(n: int) -> np.ndarray:
        rare = (rng.random(n) < 0.03) * rng.random(n)
        return np.stack([rng.normal(size=n), rng.lognormal(size=n), rare, np.round(rng.normal(size=n))], axis=1)

    strata = Strata(of(draw(3000)))
    placed_here = strata.place(of(draw(60_000)))
    groups = np.arange(60_000) // 30
    low = np.array([placed_here.shift(groups == group).p < 0.01 for group in range(2000)])
    assert (low.mean(axis=0) <= 0.012).all()


def test_unknown_values_take_no_part() -> None:
    values = np.array([[0.0, np.nan], [1.0, np.nan], [np.nan, np.nan]], np.float32)
    assert Stratum.of(values).sizes.tolist() == [2, 0]
    shift = Strata(of(values)).place(of(np.array([[2.0, 1.0], [np.nan, 1.0]]))).shift(np.ones(2, bool))
    assert shift.n.tolist() == [1, 0]
    assert shift.delta.tolist() == [1.0, 0.0]
    assert shift.p[1] == 1.0
