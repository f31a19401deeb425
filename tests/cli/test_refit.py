"""`ecgscale refit` and `ecgscale promote` as people type them: what they show, what they say to type next."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from ecgscale.cli import main
from ecgscale.io.places import place
from ecgscale.passes.run.pipeline import published_model
from ecgscale.store.dataset import find_dataset
from tests.worlds.commands.refitted import ServedWorld, name_clusters, served_world
from tests.worlds.commands.simulated import cut_short


def run(*words: str) -> Result:
    return CliRunner().invoke(main, [*words, "--json"])


def facts(result: Result) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return found


@pytest.fixture
def world(tmp_path: Path) -> ServedWorld:
    world, _ = served_world(tmp_path / "world")
    name_clusters(published_model(world.config()), {k: f"name {k}" for k in range(6)})
    return world


def typed_next(result: Result, word: str) -> list[str]:
    """The command that the output says to type next."""
    [line] = [line for line in result.stdout.splitlines() if f"ecgscale {word} " in line]
    return shlex.split(line.split("ecgscale ", 1)[1].rsplit("     (", 1)[0])


def test_fit_look_explain_promote_and_back(world: ServedWorld) -> None:
    config, before = str(world.config_file()), find_dataset(world.root).dataset_id
    assert "nothing new" in run("refit", config).stdout
    world.grow(5)
    fitted = run("refit", config, "--fit-only")
    assert fitted.exit_code == 0, fitted.output
    found = facts(fitted)
    assert found["changed"]
    assert (found["records"], found["explained"], found["served"]) == (None, None, before)
    assert sorted([*found["persisting"], *found["births"]]) == list(range(6))
    assert 0 < found["ari"] <= 1
    assert found["comparison"]["new"]["model_id"] == found["model_id"] == Path(found["model"]).name
    heading = next(i for i, line in enumerate(fitted.stdout.splitlines()) if line.split()[:2] == ["old", "new"])
    [first, *_] = found["comparison"]["persisting"]
    row = fitted.stdout.splitlines()[heading + 1].split()
    assert row[:2] == [str(first["old"]), str(first["new"])]
    assert row[-2:] == ["name", str(first["old"])]
    explained = run(*typed_next(fitted, "refit"))
    assert explained.exit_code == 0, explained.output
    assert f"{before} is still what is served." in explained.stdout
    done = facts(explained)
    assert (done["model_id"], done["records"], done["dataset_id"]) == (found["model_id"], 80, found["dataset_id"])
    assert find_dataset(world.root).dataset_id == before
    promote = [word if word != "TEXT" else "looked at by cardiology" for word in typed_next(explained, "promote")]
    promoted = run(*promote)
    assert promoted.exit_code == 0, promoted.output
    assert f"now serves dataset {done['dataset_id']}" in promoted.stdout
    assert facts(promoted)["reason"] == "looked at by cardiology"
    assert (facts(promoted)["before"], facts(promoted)["changed"]) == (before, True)
    assert find_dataset(world.root).dataset_id == done["dataset_id"]
    assert published_model(world.config()).name == done["model_id"]
    again = run(*promote)
    assert "looked at by cardiology" in again.stdout
    assert not facts(again)["changed"]
    refused = run(*[word if word != "TEXT" else "back" for word in typed_next(promoted, "promote")])
    assert refused.exit_code == 2
    assert "lacks 2 shards" in refused.stderr
    forced = run("promote", str(world.root), before, "--reason", "back", "--incomplete")
    assert forced.exit_code == 0, forced.output
    assert facts(forced)["lacking"] == ["part-00003.parquet", "part-00004.parquet"]
    assert "the next nightly run explains them" in forced.stdout
    records = [json.loads(path.read_text()) for path in (world.root / "runs").glob("*.json")]
    assert [record["command"] for record in records].count("refit") == 3


def test_shards_set_aside_are_exit_code_3_and_then_refused(world: ServedWorld) -> None:
    world.grow(4)
    cut_short(world.folder / "archive" / "part-00001.parquet")
    result = run("refit", str(world.config_file()))
    assert result.exit_code == 3, result.output
    assert "set aside part-00001.parquet" in result.stdout
    refused = run("promote", str(world.root), facts(result)["dataset_id"], "--reason", "in a hurry")
    assert refused.exit_code == 2
    assert "lacks 1 shard (part-00001.parquet)" in refused.stderr
    assert "1 set aside" in refused.stderr


def test_a_stopped_refit_is_exit_code_6_and_goes_on(world: ServedWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    import ecgscale.nightly.models.refit as refit_pass

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    world.grow(4)
    with monkeypatch.context() as patch:
        patch.setattr(refit_pass, "explain_config", stop)
        stopped = run("refit", str(world.config_file()))
    assert (stopped.exit_code, facts(stopped)["error"]) == (6, "stopped")
    assert facts(run("refit", str(world.config_file())))["records"] == 64


def test_in_an_object_store(tmp_path: Path, s3_root: str) -> None:
    world, _ = served_world(tmp_path / "world", s3_root, shards=2)
    before = find_dataset(s3_root).dataset_id
    world.grow(3)
    done = facts(run("refit", str(world.config_file())))
    assert (done["records"], done["served"], done["explained"]["computed"]) == (48, before, 3)
    assert (place(s3_root) / "models" / done["model_id"] / "comparison.json").exists()
    again = facts(run("refit", str(world.config_file())))
    assert (again["model_id"], again["explained"]["computed"]) == (done["model_id"], 0)
    promoted = run("promote", s3_root, done["dataset_id"], "--reason", "looked at")
    assert promoted.exit_code == 0, promoted.output
    assert published_model(world.config()).name == done["model_id"]
    assert len(world.rows()) == 48
