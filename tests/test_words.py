"""Counts and lists as people write them."""

from __future__ import annotations

import pytest

from ecgscale.words import (
    age,
    by_reason,
    counted,
    cropped_line,
    grouped,
    named,
    one_line,
    printable,
    size,
    spreadsheet_safe,
)


@pytest.mark.parametrize(
    ("n", "written"), [(0, "0 shards"), (1, "1 shard"), (2, "2 shards"), (345_779, "345,779 shards")]
)
def test_counts_go_with_their_nouns(n: int, written: str) -> None:
    assert counted(n, "shard") == written


def test_a_plural_of_its_own() -> None:
    assert counted(1, "other quantity", "other quantities") == "1 other quantity"
    assert counted(14, "other quantity", "other quantities") == "14 other quantities"


def test_of_many_names_the_first() -> None:
    assert named([]) == ""
    assert named(["a", "b"]) == "a, b"
    assert named(["a", "b", "c", "d"], most=2) == "a, b and 2 more"


@pytest.mark.parametrize(
    ("n", "written"),
    [(0, "0 bytes"), (1023, "1023 bytes"), (1536, "1.5 KiB"), (5 * 2**20, "5.0 MiB")],
)
def test_sizes(n: int, written: str) -> None:
    assert size(n) == written


@pytest.mark.parametrize(
    ("seconds", "written"),
    [(None, ""), (-1, "0 s"), (59, "59 s"), (119, "119 s"), (240, "4 min"), (3 * 3600, "3 h"), (12 * 86400, "12 d")],
)
def test_ages(seconds: float | None, written: str) -> None:
    assert age(seconds) == written


def test_equal_reasons_are_told_once() -> None:
    shards = {f"part-{i:05d}.parquet": "drift" for i in range(12, 0, -1)} | {"part-00000.parquet": "volume"}
    assert by_reason(shards) == ["part-00000.parquet: volume", "12 shards, first part-00001.parquet: drift"]
    assert by_reason(shards, 1) == ["part-00000.parquet: volume", "and 12 shards more"]
    assert by_reason({}, 5) == []


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]0;owned\x07", "\\x1b]0;owned\\x07"),
        ("\x9b31m", "\\x9b31m"),
        ("a\rb", "a\\rb"),
        ("\u202egnp.exe\u2066", "\\u202egnp.exe\\u2066"),
        ("\u2028", "\\u2028"),
        ("\udcff", "\\udcff"),
        ("Müller, 心電図, 1 mV\u00a0±", "Müller, 心電図, 1 mV\u00a0±"),
    ],
)
def test_what_a_terminal_would_obey_is_shown(text: str, shown: str) -> None:
    assert printable(text) == one_line(text) == shown
    assert printable("a\nb") == "a\nb"
    assert one_line("a\nb") == "a\\nb"


def test_a_reason_is_one_line() -> None:
    assert by_reason({"part-0\nall is right": "cut\nshort"}) == ["part-0\\nall is right: cut\\nshort"]


@pytest.mark.parametrize("formula", ["=1+1", "+cmd|'/c calc'!A1", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "＝1"])
def test_a_spreadsheet_computes_nothing(formula: str) -> None:
    assert spreadsheet_safe(formula) == "'" + formula


@pytest.mark.parametrize("value", [-1.5, 3, None, True, "-0.25", "+3e-5", "r1", "AF=0.998", ""])
def test_other_cells_stay(value: object) -> None:
    assert spreadsheet_safe(value) is value


def test_flags_are_grouped_by_kind() -> None:
    assert grouped(["needs:II", "needs:V1", "has:ECG", "has:ECG"]) == "needs II, V1; has ECG, ECG"
    assert grouped(["cropped", "flat_lead:V1"]) == "cropped; flat_lead V1"
    assert grouped([]) == ""


def test_what_a_network_does_not_see_is_said() -> None:
    assert cropped_line(100, 2.0).startswith("100 recordings were cropped: the network sees 2 s")
    assert cropped_line(1, 10.24).startswith("1 recording was cropped: the network sees 10.24 s")
