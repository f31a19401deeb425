"""`ecgscale explain`: summary, JSON and exit codes."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from ecgscale.cli import main
from ecgscale.store import open_explanations
from tests.explain.golden import write_archive, write_model
from tests.worlds.commands.explaining import rewrite
from tests.worlds.commands.simulated import QUICK


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return write_model(tmp_path / "out")


def run(archive: Path, model: Path, *options: str) -> Result:
    arguments = ["explain", str(archive), "--model", str(model), "--out", str(model.parent.parent)]
    return CliRunner().invoke(main, [*arguments, "--batch", "4", "--device", "cpu", "--json", *options])


def facts(result: Result) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return found


def test_summary_json_and_the_query_it_suggests(model: Path, tmp_path: Path) -> None:
    archive = write_archive(tmp_path / "archive", r1={"signal": np.zeros((3, 220), np.int16)})
    result = run(archive, model)
    assert result.exit_code == 0, result.output
    assert "10 records in 3 shards, 9 explained and 1 quarantined" in result.stdout
    assert "quarantined: 1 flat_signal" in result.stdout
    found = facts(result)
    assert (found["records"], found["quarantined"], found["shards"], found["manifest"]) == (10, 1, 3, 1)
    assert len(found["dataset_id"]) == 16
    assert found["seconds"] > 0
    query = [line.strip() for line in result.stdout.splitlines() if line.startswith("  ")][-3:]
    scope: dict[str, Any] = {}
    exec("\n".join(query).replace(".show()", ".fetchall()").replace("duckdb.sql", "found = duckdb.sql"), scope)
    assert len(scope["found"]) == 9
    assert "nothing new; still manifest 1" in run(archive, model).stdout


def test_a_bad_shard_is_exit_code_3(model: Path, tmp_path: Path) -> None:
    archive = write_archive(tmp_path / "archive")
    (archive / "part-00002.parquet").write_bytes(b"PAR1")
    result = run(archive, model)
    assert result.exit_code == 3
    assert "1 set aside" in result.stdout
    assert result.output.count("is not a whole Parquet file") == 2, "in the log, and in the JSON"
    assert facts(result)["set_aside"][0]["key"] == "part-00002.parquet"


def test_a_record_in_two_shards_is_exit_code_1(model: Path, tmp_path: Path) -> None:
    archive = write_archive(tmp_path / "archive", r9={"record_id": "r0"})
    result = run(archive, model)
    assert result.exit_code == 1
    assert "shard part-00000.parquet row 0 and shard part-00002.parquet row 1" in result.stderr


def test_wrong_paths_are_exit_code_2(model: Path, tmp_path: Path) -> None:
    archive = write_archive(tmp_path / "archive")
    missing = run(tmp_path / "nowhere", model)
    assert (missing.exit_code, "no such folder" in missing.stderr) == (2, True)
    wrong = run(archive, model.with_name("golden"))
    assert (wrong.exit_code, "golden-k4" in wrong.stderr) == (2, True)
    assert run(archive, model, "--entropy", "sample").exit_code == 2


def test_the_model_may_be_left_out_where_there_is_one(model: Path, tmp_path: Path) -> None:
    archive, root = write_archive(tmp_path / "archive"), model.parent.parent
    words = ["explain", str(archive), "--out", str(root), "--batch", "4", "--device", "cpu", "--json"]

    def typed(*more: str) -> Result:
        return CliRunner().invoke(main, [*words, *more])

    first = typed()
    assert first.exit_code == 0, first.output
    assert f"with model {model.name}" in first.stderr
    by_id = typed("--model", model.name)
    assert (facts(by_id)["dataset_id"], facts(by_id)["manifest"]) == (facts(first)["dataset_id"], 1)
    unknown = typed("--model", "golden-k5")
    assert unknown.exit_code == 2
    assert f"Did you mean '{model.name}'? There are: {model.name}" in unknown.stderr
    # Of several, the one whose explanations are served.
    shutil.copytree(model, model.with_name("another"))
    assert facts(typed())["dataset_id"] == facts(first)["dataset_id"]


def test_of_several_models_of_which_none_is_served_one_is_to_be_named(model: Path, tmp_path: Path) -> None:
    archive, root = write_archive(tmp_path / "archive"), model.parent.parent
    shutil.copytree(model, model.with_name("another"))
    words = ["explain", str(archive), "--out", str(root)]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 2
    assert f"Name one with --model. There are: another, {model.name}" in result.stderr
    shutil.rmtree(root / "models")
    none = CliRunner().invoke(main, words)
    assert none.exit_code == 2
    assert "`ecgscale fit` makes one" in none.stderr


def test_stopping_is_exit_code_6_and_typing_it_again_goes_on(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ecgscale.passes.explain.explain as explain_pass

    archive = write_archive(tmp_path / "archive")

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(explain_pass, "publish", stop)
        stopped = run(archive, model)
    assert stopped.exit_code == 6
    assert "type the same command again" in stopped.stderr
    found = facts(run(archive, model))
    assert (found["computed"], found["unchanged"]) == (0, 3)


def test_a_slip_in_the_path_of_the_root_is_told(model: Path, tmp_path: Path) -> None:
    archive, root = write_archive(tmp_path / "archive"), model.parent.parent
    slip = root.with_name(root.name + "s")
    result = CliRunner().invoke(main, ["explain", str(archive), "--out", str(slip)])
    assert result.exit_code == 2
    assert f"{slip}: no such folder. Did you mean {root}?" in result.stderr
    assert not slip.exists()


def test_half_an_archive_is_not_published_by_mistake(model: Path, tmp_path: Path) -> None:
    """A disk that is not mounted: nothing is changed, until somebody says that it is meant."""
    archive, root = write_archive(tmp_path / "archive"), model.parent.parent
    assert run(archive, model).exit_code == 0
    shard = archive / "part-00001.parquet"
    away = shard.rename(tmp_path / shard.name)
    refused = run(archive, model)
    assert refused.exit_code == 2
    assert "4 records would be withdrawn, 40.0% of what is published (the limit is 10%)" in refused.stderr
    assert "Is its disk mounted" in refused.stderr
    # Nor as a dataset of its own.
    assert run(archive, model, "--entropy", "timestep").exit_code == 2
    assert open_explanations(root).count_rows() == 10
    away.rename(shard)
    assert facts(run(archive, model))["published"] is False
    shutil.copy(shard, archive / "part-00009.parquet")
    rewrite(archive / "part-00009.parquet", lambda table: table.slice(0, 0))
    assert facts(run(archive, model))["computed"] == 1, "what is new hinders nobody"
    shard.unlink()
    meant = facts(run(archive, model, "--allow-withdrawal"))
    assert (meant["withdrawn"], meant["records"], open_explanations(root).count_rows()) == (4, 6, 6)


def test_an_archive_that_is_empty_or_gone_changes_nothing(model: Path, tmp_path: Path) -> None:
    archive = write_archive(tmp_path / "archive")
    assert run(archive, model).exit_code == 0
    for shard in archive.glob("part-*"):
        shard.unlink()
    for message in ("no part-*.parquet: is a disk not mounted", "no such folder"):
        refused = run(archive, model, "--allow-withdrawal")
        assert (refused.exit_code, message in refused.stderr) == (2, True), refused.output
        shutil.rmtree(archive, ignore_errors=True)
    assert open_explanations(model.parent.parent).count_rows() == 10


def test_what_is_published_is_not_computed_again_by_mistake(model: Path, tmp_path: Path) -> None:
    archive = write_archive(tmp_path / "archive")
    assert run(archive, model).exit_code == 0
    rewrite(archive / "part-00001.parquet", lambda table: table.slice(0, 3))
    refused = run(archive, model)
    assert refused.exit_code == 2
    assert "1 of 3 published shards have changed: 3 records would be computed again" in refused.stderr
    assert facts(run(archive, model, "--allow-recompute"))["computed"] == 1
    other = run(archive, model, "--entropy", "timestep")
    assert (other.exit_code, facts(other)["computed"]) == (0, 3), "another setting is what somebody asked for"


def test_odd_shards_are_set_aside_by_every_command(model: Path, tmp_path: Path) -> None:
    archive, root = write_archive(tmp_path / "archive"), model.parent.parent
    assert run(archive, model).exit_code == 0
    (archive / "part-folder.parquet").mkdir()
    (archive / "part-gone.parquet").symlink_to(tmp_path / "not mounted")
    os.mkfifo(archive / "part-pipe.parquet")
    shutil.copy(archive / "part-00000.parquet", os.fsencode(archive) + b"/part-\xe4.parquet")
    shutil.copy(archive / "part-00000.parquet", archive / "part-8.PARQUET")
    (archive / "part-00000.parquet.tmp").write_bytes(b"")
    odd = ["part-8.PARQUET", "part-\\udce4.parquet", "part-folder.parquet", "part-gone.parquet", "part-pipe.parquet"]
    result = run(archive, model)
    assert result.exit_code == 3, result.output
    assert sorted(aside["key"] for aside in facts(result)["set_aside"]) == sorted(odd)
    assert (facts(result)["records"], facts(result)["unchanged"]) == (10, 3)
    assert "that is no shard, not read: part-00000.parquet.tmp" in result.stderr
    assert facts(run(archive, model))["published"] is False, "nothing new the second time"
    [encoder] = (root / "encoders").iterdir()
    places = f'root = "{root}"\nbatch = 4\n[archive]\npath = "{archive}"\n[encoder]\npath = "{encoder}"\n'
    (tmp_path / "c.toml").write_text(places)
    for words, code in (
        (["inspect", archive], 3),
        (["inspect", archive, "--quick"], 3),
        (["status", root], 0),
        (["verify", root], 0),
        (["quarantine", root], 0),
        (["plan", tmp_path / "c.toml", "--model", model, "--rate", "10"], 0),
        (["nightly", tmp_path / "c.toml"], 3),
        (["fit", archive, "--encoder", encoder, "--out", root, *QUICK], 0),
    ):
        found = CliRunner().invoke(main, [*map(str, words), "--json"])
        assert found.exit_code == code, (words, found.output, found.exception)
        if words[0] not in ("quarantine", "status"):
            assert all(name in found.output.replace("\\\\", "\\") for name in odd), found.output
    assert "set aside                  5" in CliRunner().invoke(main, ["status", str(root)]).stdout
