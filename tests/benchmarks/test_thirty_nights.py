"""The thirty nights, fewer of them: the account has to balance whatever happened."""

from __future__ import annotations

from pathlib import Path

from benchmarks.thirty_nights import nights, quiet_nights


def silent(text: str) -> None:
    """Nobody listens."""


def test_every_record_is_accounted_for(tmp_path: Path) -> None:
    ledger = nights(tmp_path, 6, seed=11, say=silent)
    assert ledger["records_in"] > 100
    assert sum(ledger["happened"].values()) >= 12
    wrong = {name: ledger[name] for name in ("balance", "twice", "computed_again", "problems")}
    assert wrong == dict.fromkeys(wrong, 0)


def test_a_night_with_nothing_new_is_measured(tmp_path: Path) -> None:
    found = quiet_nights(tmp_path, (2, 20), silent)
    assert [one["shards"] for one in found] == [2, 20]
