"""`ecgscale sweep` from the outside."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from ecgscale.cli import main
from tests.worlds.commands.small_root import SmallRoot, write_small_root

QUICK = [
    *("--clusters", "2,4", "--base", "4", "--train-records", "40", "--seeds", "1", "--layers", "0,2"),
    *("--depth", "1,0.5,0.25", "--trees", "10", "--max-epochs", "1", "--records", "100", "--device", "cpu"),
]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> SmallRoot:
    return write_small_root(tmp_path_factory.mktemp("small"))


def test_sweep_of_a_root(small: SmallRoot, tmp_path: Path) -> None:
    picture = tmp_path / "sweep.png"
    result = CliRunner().invoke(main, ["sweep", str(small.root), *QUICK, "-o", str(picture), "--json"])
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout.strip().splitlines()[-1])
    assert [row["setting"] for row in facts["summary"]["layers"]] == ["resblock1d_0+resblock1d_2"]
    assert [row["setting"] for row in facts["summary"]["depth"]] == ["1 0.5 0.25"]
    assert facts["summary"]["clusters"][0]["information"] is not None
    assert picture.stat().st_size > 1000
    assert Path(facts["path"]).is_file()
    assert "training records of K-means" in result.stdout
    assert result.stdout.count("always the most frequent answer agrees in 0.") == 1
    assert "from K = 4 on" not in result.stdout


def test_sweep_of_one_choice(small: SmallRoot, tmp_path: Path) -> None:
    arguments = ["sweep", str(small.archive), "--encoder", str(small.encoder), "--out", str(tmp_path), *QUICK]
    result = CliRunner().invoke(main, [*arguments, "--only", "layers"])
    assert result.exit_code == 0, result.output
    assert "tapped layers" in result.stdout
    assert not any(head in result.stdout for head in ("training records of K-means", "depth factors", "elbow"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--k", "5"], "Did you mean '--clusters'?"),
        (["--only", "k"], "is not one of 'clusters', 'records'"),
        (["--layers", "a"], "is not a list such as"),
        (["--layers", "5"], "the encoder taps 0: resblock1d_0"),
        (["--target", "superclass"], "Did you mean 'superclasses'"),
    ],
)
def test_sweep_tells_what_is_wrong(small: SmallRoot, arguments: list[str], said: str) -> None:
    result = CliRunner().invoke(main, ["sweep", str(small.root), *arguments])
    assert result.exit_code == 2
    assert said in result.stderr
    alone = CliRunner().invoke(main, ["sweep", str(small.archive)])
    assert alone.exit_code == 2
    assert "give --encoder and --out" in alone.stderr
