"""`ecgscale run` as a user types it: one file, everything made that is missing, nothing made twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from ecgscale.cli import main
from tests.passes.run.test_pipeline import CONFIG, SIMULATE, TRAIN
from tests.worlds.commands.simulated import cut_short, simulated
from tests.worlds.formula.small_networks import write_small_encoder

SURROGATE = '[surrogate]\ntarget = "superclasses"\ntrain_folds = [1, 2, 3, 4, 5, 6, 7, 8]\ntest_folds = [9, 10]\n'


def write_config(folder: Path, archive: str = SIMULATE, train: str = TRAIN, more: str = "") -> Path:
    path = folder / "job.toml"
    path.write_text(CONFIG.format(archive=archive, train=train) + more)
    return path


def run(config: Path) -> Result:
    return CliRunner().invoke(main, ["run", str(config), "--json"])


def facts(result: Result) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return found


def contents(folder: Path) -> dict[str, int]:
    """Every file and its time, but for what every run writes anew: what it did, and evaluations, which are cheap."""
    files = (path for path in folder.rglob("*") if path.is_file() and not {"evaluations", "runs"} & set(path.parts))
    return {str(path): path.stat().st_mtime_ns for path in files}


def test_from_nothing_and_again(tmp_path: Path) -> None:
    config = write_config(tmp_path, SIMULATE.replace("48", "160"), more=SURROGATE)
    first = run(config)
    assert first.exit_code == 0, first.output
    found = facts(first)
    assert found["made"] == ["archive", "encoder"]
    assert (found["records"], found["root"]) == (160, str(tmp_path / "results"))
    assert found["surrogate"]["target"] == "superclasses"
    assert 0 <= found["surrogate"]["agreement"] <= 1
    assert f"160 records explained, 0 quarantined: {found['path']}" in first.stdout
    assert (tmp_path / "results" / "models" / found["model_id"] / "model.json").exists()
    before = contents(tmp_path)
    again = facts(run(config))
    assert again["made"] == []
    assert (again["computed"], again["unchanged"], again["published"]) == (0, found["shards"], False)
    assert again["surrogate"] == found["surrogate"]
    assert contents(tmp_path) == before


def test_what_is_missing_is_made_and_the_rest_left_alone(tmp_path: Path) -> None:
    simulated(tmp_path / "archive", 40, 20)
    write_small_encoder(tmp_path / "encoder")
    before = contents(tmp_path)
    found = facts(run(write_config(tmp_path)))
    assert (found["made"], found["surrogate"]) == ([], None)
    assert before.items() <= contents(tmp_path).items()


def test_stopped_in_the_middle_it_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ecgscale.passes.run import pipeline

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    config = write_config(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "fit_archive", stop)
        stopped = run(config)
    assert (stopped.exit_code, facts(stopped)) == (6, {"error": "stopped", "exit_code": 6})
    assert (tmp_path / "encoder" / "encoder.toml").exists()
    resumed = run(config)
    assert (resumed.exit_code, facts(resumed)["made"]) == (0, [])


def test_shards_set_aside_are_exit_code_3(tmp_path: Path) -> None:
    cut_short(simulated(tmp_path / "archive", 40, 20) / "part-00001.parquet")
    write_small_encoder(tmp_path / "encoder")
    result = run(write_config(tmp_path))
    assert result.exit_code == 3
    assert (facts(result)["records"], facts(result)["exit_code"]) == (20, 3)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("[fit]\ncluster = 3", "Did you mean 'clusters'?"),
        ("[explain]\nentropy = 1", "explain.entropy"),
        ("[[archive]]", "is not TOML"),
    ],
)
def test_a_wrong_file_is_exit_code_2_and_nothing_happens(tmp_path: Path, wrong: str, message: str) -> None:
    config = tmp_path / "job.toml"
    config.write_text(f'root = "r"\n[archive]\npath = "a"\nsource = "simulate"\n[encoder]\npath = "e"\n{wrong}\n')
    result = run(config)
    assert result.exit_code == 2
    assert message in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["job.toml"]


def test_a_target_that_is_not_there_lists_those_that_are(tmp_path: Path) -> None:
    result = run(write_config(tmp_path, train=TRAIN.replace("superclasses", "superclass")))
    assert result.exit_code == 2
    assert "no column 'superclass' to train on. Did you mean 'superclasses'?" in result.stderr
    assert "rhythm" in result.stderr


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ('target = "superclas"', "[surrogate] target: the explanations have no label column 'superclas'. Did you mean"),
        ('target = "age"', "[surrogate] target: age (float) does not hold what the network tells"),
        ('target = "superclasses"\ntest_folds = [11]', "has no fold 11; there are: 1, 2, 3"),
    ],
)
def test_a_surrogate_that_cannot_be_scored_is_told_before_anything_is_fitted(
    tmp_path: Path, section: str, said: str
) -> None:
    simulated(tmp_path / "archive", 40, 20)
    write_small_encoder(tmp_path / "encoder")
    result = run(write_config(tmp_path, more=f"[surrogate]\n{section}\n"))
    assert result.exit_code == 2
    assert said in result.stderr
    assert not (tmp_path / "results" / "models").exists()


def test_folds_of_a_fit_that_are_not_there_are_told_before_training(tmp_path: Path) -> None:
    result = run(write_config(tmp_path, SIMULATE.replace("48", "5")))
    assert result.exit_code == 2
    assert "has no fold" in result.stderr
    assert not (tmp_path / "encoder").exists()


def test_a_slip_in_the_path_of_the_archive_makes_no_other_one(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    assert run(config).exit_code == 0
    config.write_text(config.read_text().replace('path = "archive"', 'path = "archve"'))
    result = run(config)
    assert result.exit_code == 2
    assert f"there is no archive at {tmp_path / 'archve'}" in result.stderr
    assert f"serves explanations of {tmp_path / 'archive'}" in result.stderr
    assert not (tmp_path / "archve").exists()
