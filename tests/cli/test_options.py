"""Option values that several commands share."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from ecgscale.cli import main
from ecgscale.cli.options import BYTES, INTEGERS


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("5", (5,)),
        ("1,2,5", (1, 2, 5)),
        ("1-7,9", (1, 2, 3, 4, 5, 6, 7, 9)),
        (" 3 - 5 , 4", (3, 4, 5)),
        ("4,4,1", (4, 1)),
        ("8-8", (8,)),
    ],
)
def test_lists_of_numbers(text: str, numbers: tuple[int, ...]) -> None:
    assert INTEGERS.convert(text, None, None) == numbers
    assert INTEGERS.convert(numbers, None, None) == numbers


@pytest.mark.parametrize("text", ["", "1,", "one", "1-", "-1", "1.5", "1;2", "1 2"])
def test_what_is_no_list_of_numbers(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is not a list of numbers such as 1,2,5 or 1-7,9"):
        INTEGERS.convert(text, None, None)


def test_a_range_goes_upwards() -> None:
    with pytest.raises(click.BadParameter, match="a range goes upwards, as 3-7"):
        INTEGERS.convert("7-3", None, None)
    result = CliRunner().invoke(main, ["fit", "archive", "--encoder", "e", "--out", "o", "--clusters", "7-3"])
    assert result.exit_code == 2
    assert "--clusters" in result.stderr


def test_sizes() -> None:
    assert BYTES.convert("8GiB", None, None) == 8 * 2**30
    assert BYTES.convert(512, None, None) == 512
    with pytest.raises(click.BadParameter, match="'plenty' is not a size such as 8GiB or 500MiB"):
        BYTES.convert("plenty", None, None)
