"""One table as text, Markdown and HTML; what stands in it stays what it is."""

from __future__ import annotations

from typing import Any

import pytest

from ecgscale.tables import Cell, Row, Table, number, scored, written
from ecgscale.words import printable

SCORES = Table(
    "Scores",
    ("score", "of"),
    (Row("ours", (scored(0.5, [0.4, 0.6]), Cell("all")), "own", "r-1"), Row("theirs", (number(None), Cell("")))),
    "name",
)
HOSTILE = Table.of(["<i>", "a|b"], [["<script>x</script>", "\x1b[31m"], ['" onclick="', "[b]c[/b]\nd"]], "<b>", ["a|b"])


def test_as_text() -> None:
    lines = SCORES.text().splitlines()
    assert lines[0] == "Scores"
    assert lines[2].split() == ["name", "score", "of"]
    assert lines[4:] == [" ours     0.500 [0.400, 0.600]   all", " theirs                      –"]


def test_as_markdown() -> None:
    assert SCORES.markdown() == (
        "| name | score | of |\n| --- | ---: | --- |\n| ours | 0.500 [0.400, 0.600] | all |\n| theirs | – |  |\n"
    )


def test_as_html() -> None:
    assert SCORES.html() == (
        '<table><caption>Scores</caption><thead><tr><th scope="col">name</th><th scope="col" class="n">score</th>'
        '<th scope="col">of</th></tr></thead><tbody><tr class="own"><th scope="row">'
        '<button type="button" class="open" data-record="r-1">ours</button></th>'
        '<td class="n">0.500 <span class="note">[0.400, 0.600]</span></td><td>all</td></tr>'
        '<tr><th scope="row">theirs</th><td class="n">–</td><td></td></tr></tbody></table>'
    )


def test_facts_have_no_head() -> None:
    facts = Table.of_facts("dataset d", [("model", "k6"), ("held", "2\na: [red]b[/red]")])
    assert [line.strip() for line in facts.text().splitlines()] == [
        "dataset d",
        "",
        "model   k6",
        "held    2",
        "a: [red]b[/red]",
    ]
    assert facts.html() == (
        '<table class="facts"><caption>dataset d</caption><tbody><tr><th scope="row">model</th><td>k6</td></tr>'
        '<tr><th scope="row">held</th><td>2\na: [red]b[/red]</td></tr></tbody></table>'
    )


def test_what_stands_in_a_table_is_shown_and_never_obeyed() -> None:
    page = HOSTILE.html()
    assert "<i>" not in page
    assert "<script" not in page
    assert '" onclick="' not in page
    assert "\x1b" not in HOSTILE.text()
    assert r"\x1b[31m" in HOSTILE.text()
    assert "[b]c[/b]" in HOSTILE.text()
    assert HOSTILE.markdown().splitlines()[0] == r"| <i> | a\|b |"
    assert HOSTILE.markdown().splitlines()[3] == '| " onclick=" | [b]c[/b] d |'
    assert printable("\x07a\u202eb\u00a0é\t") == "\\x07a\\u202eb\u00a0é\t"


def test_nothing_is_cut_off() -> None:
    text = Table.of(["record", "row"], [["r" * 300, "7"]], "records", ["row"]).text()
    assert text.count("r" * 50) >= 2


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (True, "yes"),
        (3, "3"),
        (12345, "12,345"),
        (0.94949, "0.949"),
        (float("nan"), "–"),
        (0.0001, "< 0.001"),
        (-0.25, "−0.250"),
        (1234.5, "1,234.5"),
        ([1, 2], "1, 2"),
        ([], "none"),
        (list(range(20)), "0, 1, 2, … (20 values)"),
        ({"a_b": 1}, "a b 1"),
    ],
)
def test_values_as_text(value: Any, text: str) -> None:
    assert written(value) == text
