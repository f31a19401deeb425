"""`ecgscale train` as a user types it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from ecgscale.archive import Archive
from ecgscale.cli import main
from ecgscale.encoders.spec import load_spec
from tests.worlds.formula.small_networks import write_archive

SMALL = ["--rate", "100", "--length", "128", "--blocks", "4x128,4x32,4x8", "--epochs", "2", "--threads", "1"]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    rng = np.random.default_rng(0)
    records: list[dict[str, Any]] = [
        {"signal": rng.normal(size=(12, 128)).astype(np.float32), "age": float(i), "sex": "male", "fold": i % 4 + 1}
        for i in range(40)
    ]
    records[0]["signal"][0, 0] = np.nan
    return write_archive(tmp_path_factory.mktemp("archive"), records)


def invoke(*arguments: Any) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, ["train", *map(str, arguments)])
    return result.exit_code, result.stdout, result.stderr


def test_trains_and_tells(archive: Archive, tmp_path: Path) -> None:
    folds = ["--train-folds", "1,2", "--validation-folds", "3", "--test-folds", "4"]
    code, out, err = invoke(archive.path, "--target", "age", "--out", tmp_path / "e", *SMALL, *folds, "--json")
    assert code == 0, err
    facts = json.loads(out.splitlines()[-1])
    assert (facts["kind"], facts["names"], facts["epochs"]) == ("regression", ["age"], 2)
    assert (facts["train_records"], facts["validation_records"], facts["test_records"]) == (19, 10, 10)
    assert set(facts["metrics"]) == {"validation", "test"}
    assert facts["encoder_id"].startswith("test-age-resnet1d-")
    assert facts["rejected"] == {"non_finite_samples": 1}
    assert "note: 1 record(s) are left out: non_finite_samples" in err
    assert "epoch 2/2" in err
    assert f"next: ecgscale encoder check {tmp_path / 'e'}" in out
    assert load_spec(tmp_path / "e").arguments["blocks_dim"] == [[4, 128], [4, 32], [4, 8]]
    checked = CliRunner().invoke(main, ["encoder", "check", str(tmp_path / "e")])
    assert checked.exit_code == 0
    assert "learned  age from 19 records" in checked.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--target", "superclasses"], "no column 'superclasses'"),
        (["--target", "sex"], "only 'male'"),
        (["--target", "age", "--train-folds", "one"], "is not a list of numbers"),
        (["--target", "age", "--blocks", "64-128"], "is no list of blocks"),
        (["--target", "age", "--leads", "I,,II"], "is no list of leads"),
        (["--target", "age", "--validation-folds", "12"], "no record is in fold 12"),
    ],
)
def test_bad_usage_exits_with_2(archive: Archive, tmp_path: Path, arguments: list[str], message: str) -> None:
    code, _, err = invoke(archive.path, "--out", tmp_path / "new" / "e", *SMALL, *arguments)
    assert code == 2
    assert message in err
    assert not (tmp_path / "new").exists(), "what it made for nothing is gone"
    (tmp_path / "new" / "e").mkdir(parents=True)
    invoke(archive.path, "--out", tmp_path / "new" / "e", *SMALL, *arguments)
    assert (tmp_path / "new" / "e").is_dir(), "what was there stays"


def test_a_shard_that_cannot_be_read_is_left_out_and_told(archive: Archive, tmp_path: Path) -> None:
    copy = shutil.copytree(archive.path, tmp_path / "a")
    (copy / "part-gone.parquet").symlink_to(tmp_path / "not mounted")
    code, _, err = invoke(copy, "--target", "age", "--out", tmp_path / "e", *SMALL, "--epochs", "1")
    assert code == 0, err
    assert f"left out: {copy}/part-gone.parquet is a link into nowhere" in err


def test_ctrl_c_says_that_nothing_was_written(
    archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_args: Any, **_kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ecgscale.encoders.train.optimise", killed)
    code, _, err = invoke(archive.path, "--target", "age", "--out", tmp_path / "e", *SMALL)
    assert code == 6
    assert "no encoder was written" in err


def test_help_teaches() -> None:
    _, out, _ = invoke("--help")
    assert "ecgscale train ptbxl --target superclasses --train-folds 1-7 --validation-folds 8" in out
