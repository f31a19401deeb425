"""Sixty sound nights and four faults, on simulated recordings that a real network read and the real pass explained."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.night_pool import Pool, PoolSize, make_pool
from benchmarks.nights import Feed, Sizes, anything, sound_nights, steady
from ecgscale.config import GateSettings
from ecgscale.nightly.gates.reference import Reference

FAULTS = ("gain x10", "arms reversed", "mains hum", "rate doubled")


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    return make_pool(tmp_path_factory.mktemp("pool"), PoolSize(200, 400, 300, 3, n_clusters=10), faults=FAULTS)


@pytest.fixture(scope="module")
def reference(pool: Pool) -> Reference:
    return Reference.of([pool.reference], pool.model_id, pool.output_names)


def feed(pool: Pool, reference: Reference, seed: int) -> Feed:
    return Feed(pool, reference, GateSettings(), np.random.default_rng(seed))


@pytest.mark.parametrize(("sizes", "seed"), [(anything(), 0), (steady(30), 1), (steady(300), 2)])
def test_sixty_sound_nights_raise_at_most_one_alarm(pool: Pool, reference: Reference, sizes: Sizes, seed: int) -> None:
    reports = [report for _, report in sound_nights(feed(pool, reference, seed), sizes, 60)]
    failed = [finding.message for report in reports for finding in report.alarms]
    assert sum(not report.passed for report in reports) <= 1, failed


@pytest.mark.parametrize("level", [30, 300, 3000])
def test_each_fault_is_found_within_two_nights(pool: Pool, reference: Reference, level: int) -> None:
    history = feed(pool, reference, level)
    for _ in range(28):
        history.skip_judging(steady(level)(history.number, history.rng))
    for number, fault in enumerate(FAULTS):
        faulty = history.copy(number)
        reports = [faulty.night(level, fault) for _ in range(2)]
        found = [report for report in reports if any(finding.gate == "drift" for finding in report.alarms)]
        assert found, f"{fault} at {level} records a night"
        assert found[0].held
        assert found[0].alarms[0].cluster is not None
        assert found[0].alarms[0].cluster.startswith("cluster ")
