"""`ecgscale uncertainty` and `ecgscale temporal` from the outside."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from ecgscale.cli import main
from tests.worlds.published.heart_root import HeartRoot, publish_heart


@pytest.fixture(scope="module")
def heart(tmp_path_factory: pytest.TempPathFactory) -> HeartRoot:
    return publish_heart(tmp_path_factory.mktemp("heart"), records=48)


def test_uncertainty(heart: HeartRoot) -> None:
    result = CliRunner().invoke(main, ["uncertainty", str(heart.root), "--bootstrap", "20", "--json"])
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout.splitlines()[-1])
    assert facts["target"] == "superclasses"
    assert facts["records"] == 48
    assert -1 <= facts["rho"] <= 1
    assert Path(facts["evaluation"]).is_file()
    assert "rank correlation of entropy and error" in result.stdout
    assert "class NORM" in result.stdout


def test_temporal(heart: HeartRoot) -> None:
    arguments = ["temporal", str(heart.root), "--target", "superclasses", "--bootstrap", "20", "--trees", "5", "--json"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout.splitlines()[-1])
    assert 0 <= facts["auroc_bag"] <= 1
    assert "of shuffled segments (control)" in result.stdout


@pytest.mark.parametrize("command", ["uncertainty", "temporal"])
def test_a_target_that_is_not_there(heart: HeartRoot, command: str) -> None:
    result = CliRunner().invoke(main, [command, str(heart.root), "--target", "diagnosis"])
    assert result.exit_code == 2
    assert "There are: " in result.output
    assert "superclasses" in result.output
