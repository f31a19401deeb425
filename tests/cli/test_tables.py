"""Sizes, ages and tables as operators read them."""

from __future__ import annotations

import pytest

from ecgscale.cli.tables import age, by_reason, facts_table, rows_table, size


@pytest.mark.parametrize(
    ("n", "told"),
    [(0, "0 bytes"), (1023, "1023 bytes"), (1536, "1.5 KiB"), (5 * 2**20, "5.0 MiB")],
)
def test_sizes(n: int, told: str) -> None:
    assert size(n) == told


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(None, ""), (-1, "0 s"), (59, "59 s"), (119, "119 s"), (240, "4 min"), (3 * 3600, "3 h"), (12 * 86400, "12 d")],
)
def test_ages(seconds: float | None, told: str) -> None:
    assert age(seconds) == told


def test_equal_reasons_are_told_once() -> None:
    shards = {f"part-{i:05d}.parquet": "drift" for i in range(12, 0, -1)} | {"part-00000.parquet": "volume"}
    assert by_reason(shards) == ["part-00000.parquet: volume", "12 shards, first part-00001.parquet: drift"]
    assert by_reason(shards, 1) == ["part-00000.parquet: volume", "and 12 shards more"]
    assert by_reason({}, 5) == []


def test_tables_show_what_is_in_them_and_nothing_else() -> None:
    text = facts_table("dataset [bold]", {"held": "2\na: [red]b[/red]", "none": ""})
    assert "dataset [bold]" in text
    assert "a: [red]b[/red]" in text
    assert not text.endswith("\n")
    long = "r" * 300
    text = rows_table(["record", "row"], [[long, "7"]], "records", right=("row",))
    assert text.count("r" * 50) >= 2, "nothing is cut off"
