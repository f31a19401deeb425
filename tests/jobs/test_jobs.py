"""Jobs as programs: what each does of a configuration, what it ends with, and how it takes being stopped."""

from __future__ import annotations

import ast
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from ecgscale.cli.options import placement_of
from ecgscale.config import load_config
from ecgscale.progress import SILENT
from ecgscale.runtime import ray_pool
from ecgscale.runtime.ray_pool import JOB_CONFIG, submission_id
from jobs.evaluate import evaluate
from jobs.explain_archive import explain_archive
from jobs.fit_clusters import fit_clusters
from jobs.ingest import ingest
from jobs.nightly import nightly
from tests.passes.run.test_pipeline import CONFIG, SIMULATE, TRAIN
from tests.worlds.commands.explaining import rewrite
from tests.worlds.commands.jobs import REPOSITORY, SHARDS, commits, outputs, run_records, wait_for, write_config
from tests.worlds.commands.simulated import cut_short, simulated
from tests.worlds.formula.small_networks import write_small_encoder

JOBS = sorted((REPOSITORY / "jobs").glob("*.py"))


def run(job: click.Command, config: Path, *more: str) -> Result:
    return CliRunner().invoke(job, ["--config", str(config), *more, "--json"])


def facts(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return found


def small(folder: Path, archive: str = SIMULATE) -> Path:
    path = folder / "job.toml"
    path.write_text(CONFIG.format(archive=archive, train=TRAIN))
    return path


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_jobs_are_thin_and_say_how_to_submit_them(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 60
    option = "--ptbxl" if path.stem == "reproduce" else "--config"
    command = f"ray job submit --working-dir . -- python jobs/{path.name} {option} "
    assert command in str(ast.get_docstring(ast.parse(text)))
    done = subprocess.run([sys.executable, str(path), "--help"], capture_output=True, text=True, check=True)
    assert command in done.stdout or path.stem == "reproduce"


def test_each_job_does_its_part_and_the_night_does_what_is_new(tmp_path: Path) -> None:
    config = small(tmp_path, 'source = "simulate"\nrecords = 160\nshard_records = 40')
    too_early = run(explain_archive, config)
    assert (too_early.exit_code, "archive" in too_early.stderr) == (2, True)
    made = facts(run(ingest, config))
    assert (made["records"], made["shards"], made["made"]) == (160, 4, True)
    assert facts(run(ingest, config))["made"] is False
    unfitted = run(explain_archive, config)
    assert unfitted.exit_code == 2
    early = run(nightly, config)
    assert early.exit_code == 2
    assert "no model is frozen" in early.stderr
    fitted = facts(run(fit_clusters, config))
    assert not fitted["already_there"]
    assert facts(run(fit_clusters, config))["already_there"]
    explained = facts(run(explain_archive, config))
    assert (explained["records"], explained["computed"], explained["manifest"]) == (160, 4, 1)
    # A shard with records of the fit's folds: another fit would be another model, and the night does not make one.
    new = simulated(tmp_path / "longer", 200, 40) / "part-00004.parquet"
    rewrite(new, lambda table: table.replace_schema_metadata(None))
    new.rename(tmp_path / "archive" / new.name)
    assert "no finished model of this configuration" in run(explain_archive, config).stderr
    night = facts(run(nightly, config))
    assert (night["dataset_id"], night["manifest"]) == (explained["dataset_id"], 2)
    assert (night["computed"], night["unchanged"], night["records"]) == (1, 4, 200)
    assert facts(run(nightly, config))["computed"] == 0
    scored = facts(run(evaluate, config))
    assert scored["dataset_id"] == explained["dataset_id"]
    message = [(record["command"], record["outcome"]) for record in run_records(tmp_path / "results")]
    assert message.count(("jobs/nightly", "done")) == 2
    assert ("jobs/evaluate", "done") in message
    named = json.loads(Path(night["run"]).read_text())
    assert (named["totals"]["shards"], named["totals"]["records"]) == (1, 40)


def test_shards_set_aside_are_exit_code_3(tmp_path: Path) -> None:
    archive = simulated(tmp_path / "archive", 48, 20)
    write_small_encoder(tmp_path / "encoder")
    config = small(tmp_path, "")
    model = facts(run(fit_clusters, config))["path"]
    cut_short(archive / "part-00002.parquet")
    result = run(explain_archive, config, "--model", model)
    assert result.exit_code == 3, result.output
    [record] = [r for r in run_records(tmp_path / "results") if r["command"] == "jobs/explain_archive"]
    assert (record["outcome"], record["exit_code"]) == ("set aside", 3)
    assert list(record["totals"]["set_aside"]) == ["part-00002.parquet"]


def test_a_configuration_that_is_wrong_is_exit_code_2_and_leaves_nothing(tmp_path: Path) -> None:
    config = small(tmp_path, SIMULATE + "\nreccords = 3")
    result = run(ingest, config)
    assert result.exit_code == 2
    assert "Did you mean 'records'?" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["job.toml"]


def test_results_that_ray_would_throw_away_are_refused(tmp_path: Path) -> None:
    copy = tmp_path / "working_dir_files" / "_ray_pkg_0123456789abcdef"
    copy.mkdir(parents=True)
    result = run(ingest, small(copy))
    assert result.exit_code == 2
    assert "root would lie in" in result.stderr
    assert "absolute paths on storage that all nodes share" in result.stderr


def test_a_stopped_job_goes_on_where_it_was(world: Path) -> None:
    root = world.parent / "stopped"
    config = write_config(world.parent / "stopped.toml", world.parent, root.name)
    facts(run(fit_clusters, config))
    command = [sys.executable, str(REPOSITORY / "jobs" / "explain_archive.py"), "--config", str(config), "--json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: commits(root), "the first commit")
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 6, out + err
    assert json.loads(out.splitlines()[-1]) == {"error": "stopped", "exit_code": 6}
    before = len(commits(root))
    assert 1 <= before < SHARDS
    assert not list(root.rglob("_tmp-*"))
    record = run_records(root)[-1]
    assert (record["outcome"], record["exit_code"], record["totals"]["shards"]) == ("stopped", 6, before)
    resumed = facts(run(explain_archive, config))
    assert (resumed["computed"], resumed["unchanged"]) == (SHARDS - before, before)
    assert len(outputs(root)) == SHARDS


@pytest.mark.parametrize(
    ("more", "gpus", "expected"),
    [
        ("", None, ("ray", 7, "cpu")),
        ("[runtime]\nworkers = 3", None, ("ray", 3, "cpu")),
        ('[runtime]\nname = "local"\nworkers = 1', None, ("local", 1, "cpu")),
        ("[runtime]\ngpus_per_worker = 0.5", 0.5, ("ray", 7, "cuda")),
    ],
)
def test_under_a_ray_job_the_cluster_is_what_is_not_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: str, gpus: float | None, expected: tuple[str, int, str]
) -> None:
    config = load_config(write_config(tmp_path / "job.toml", tmp_path, "results", more))
    assert placement_of(config, SILENT).runtime == "local"
    asked: list[float] = []
    monkeypatch.setattr(ray_pool, "workers_that_fit", lambda gpus: asked.append(gpus) or 7)
    monkeypatch.setenv(JOB_CONFIG, json.dumps({"metadata": {"job_submission_id": "raysubmit_1"}}))
    where = placement_of(config, SILENT)
    assert (where.runtime, where.workers, where.device) == expected
    assert asked == ([gpus or 0.0] if where.workers == 7 else [])
    assert submission_id() == "raysubmit_1"
