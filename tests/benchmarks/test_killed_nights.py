"""Nights with faults, fewer than the benchmark has: the ledger balances, and one that does not is seen."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.hospital import older_by
from benchmarks.killed_nights import FIRST, Size, begin, run
from benchmarks.ledger import ledger
from benchmarks.quiet_nights import QuietSize

SMALL = Size(6, (24, 30), 3, QuietSize((1, 5), ()))


def silent(_text: str) -> None:
    pass


def test_six_nights_with_faults_balance() -> None:
    found = run(SMALL, silent)
    details = found.details
    assert (details["nights"], details["shards_computed"]) == (6, details["shards_new_or_changed"])
    assert details["killed"] > 0
    assert details["ledger"]["came"] > 6 * 24
    assert [point["shards"] for point in details["quiet"]["disk"]] == [1, 5]
    assert set(found.ratios) == {"quiet_night_5_vs_1_disk"}


@pytest.mark.parametrize("wrong", ["lost", "stale", "more came"])
def test_a_ledger_that_does_not_balance_is_seen(tmp_path: Path, wrong: str) -> None:
    world = begin(tmp_path, SMALL, silent)
    tables = dict(world.hospital.tables)
    assert ledger(world.root, tables).balanced
    key = sorted(tables)[0]
    fresh = world.hospital.fresh(1, FIRST)
    changed = {
        "more came": {"part-00099.parquet": fresh},
        "lost": {key: fresh},
        "stale": {key: older_by(tables[key], 1)},
    }
    assert not ledger(world.root, {**tables, **changed[wrong]}).balanced
