"""Counts and lists as people write them."""

from __future__ import annotations

import pytest

from ecgscale.words import counted, named


@pytest.mark.parametrize(("n", "told"), [(0, "0 shards"), (1, "1 shard"), (2, "2 shards"), (345_779, "345,779 shards")])
def test_counts_go_with_their_nouns(n: int, told: str) -> None:
    assert counted(n, "shard") == told


def test_a_plural_of_its_own() -> None:
    assert counted(1, "other quantity", "other quantities") == "1 other quantity"
    assert counted(14, "other quantity", "other quantities") == "14 other quantities"


def test_of_many_names_the_first() -> None:
    assert named([]) == ""
    assert named(["a", "b"]) == "a, b"
    assert named(["a", "b", "c", "d"], most=2) == "a, b and 2 more"
