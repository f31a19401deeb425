"""Option values that several commands share, and options made of a configuration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import click
import pytest
from click.testing import CliRunner, Result
from pydantic import BaseModel, Field

from ecgscale.cli import main
from ecgscale.cli.options import BYTES, INTEGERS, option_of, options_of
from ecgscale.config import FIT, PlaceField


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


class Asked(BaseModel):
    """One field of every kind."""

    target: str
    passes: int = Field(default=3, gt=0, description="So often.")
    share: float = Field(default=0, ge=0, lt=1)
    rate: Literal[100, 500] = 500
    folds: tuple[int, ...] | None = None
    names: tuple[str, ...] = ()
    limit: int | None = Field(default=None, ge=2, le=9)
    where: PlaceField | None = None
    literal: bool = False


@click.command()
@options_of(Asked, *Asked.model_fields)
@option_of(FIT.__class__, "max_epochs", "--epochs", help="Otherwise.")
def ask(**given: Any) -> None:
    click.echo(json.dumps(given, default=str))


def asked(*arguments: str) -> Result:
    return CliRunner().invoke(ask, ["--target", "t", *arguments])


def test_an_option_is_what_the_field_is() -> None:
    nothing = {name: field.default for name, field in Asked.model_fields.items()} | {"target": "t", "names": []}
    assert json.loads(asked().stdout) == nothing | {"epochs": FIT.max_epochs}
    line = "--passes 1 --share 0.5 --rate 100 --folds 1-3 --names a --names b --limit 9 --where x --literal"
    typed = line.split()
    found = json.loads(asked(*typed).stdout)
    few = Asked(target="t", passes=1, share=0.5, rate=100, folds=(1, 2, 3), limit=9, where=Path("x"), literal=True)
    assert Asked(**{name: found[name] for name in Asked.model_fields}) == few.model_copy(update={"names": ("a", "b")})
    page = asked("--help").stdout
    for said in (
        "[required]",
        "So often.  [default: 3; x>=1]",
        "[default: 0.0; 0<=x<1]",
        "[default: 500]",
        "Otherwise.",
    ):
        assert said in page


@pytest.mark.parametrize("wrong", ["--passes 0", "--share 1", "--rate 250", "--folds x", "--limit 10", "--limit 1"])
def test_an_option_takes_what_the_field_takes(wrong: str) -> None:
    assert asked(*wrong.split()).exit_code == 2
