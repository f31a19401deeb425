"""`ray job submit`, `ray job stop` and `ray job submit` again, against a real head that does not have the package."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ecgscale.config import load_config
from ecgscale.passes.run.pipeline import explain_config, fit_config
from tests.jobs.conftest import PYTHON, Head
from tests.worlds.commands.jobs import (
    RECORDS,
    REPOSITORY,
    SHARDS,
    commits,
    outputs,
    run_records,
    wait_for,
    write_config,
)
from tests.worlds.commands.simulated import arrays_of

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


def json_lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


@pytest.mark.skipif(sys.executable == PYTHON, reason="not in a virtual environment: the package is installed for all")
def test_the_cluster_does_not_have_the_package(head: Head, tmp_path: Path) -> None:
    code = "import importlib.util as u, ray, torch; assert u.find_spec('ecgscale') is None"
    subprocess.run([PYTHON, "-c", code], env=head.environment, cwd=tmp_path, check=True)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What a user submits, as it is now: Ray names the package by its content and unpacks it once."""
    for part in ("ecgscale", "jobs"):
        shutil.copytree(REPOSITORY / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def test_a_job_is_submitted_stopped_and_resumed(world: Path, head: Head, checkout: Path) -> None:
    folder = world.parent
    root = folder / "results"
    fit = json_lines(head.submit(checkout, "jobs/fit_clusters.py", "--config", str(world), "--json"))
    assert any(line.get("stage") == "activations" and line["ended"] for line in fit)
    assert fit[-1]["path"].startswith(str(root / "models"))
    explain = ("jobs/explain_archive.py", "--config", str(world), "--json")
    head.submit(checkout, *explain, options=("--no-wait", "--submission-id", "first"))
    wait_for(lambda: len(commits(root)) >= 2, "the second commit")
    stopped = head.ray("job", "stop", "first")
    assert stopped.returncode == 0, stopped.stdout + stopped.stderr
    before = len(commits(root))
    assert 2 <= before < SHARDS
    assert not list(root.glob("explanations/*/_manifests/*"))
    log = head.ray("job", "logs", "first").stdout
    assert json_lines(log)[-1] == {"error": "stopped", "exit_code": 6}, log
    record = run_records(root)[-1]
    assert (record["outcome"], record["exit_code"], record["submission_id"]) == ("stopped", 6, "first")
    assert 0 < record["totals"]["shards"] <= before

    lines = json_lines(head.submit(checkout, *explain))
    facts, progress = lines[-1], [line for line in lines if line.get("stage") == "explain"]
    assert (facts["records"], facts["computed"], facts["unchanged"]) == (RECORDS, SHARDS - before, before)
    assert progress[-1]["ended"]
    assert progress[-1]["done"] == progress[-1]["total"] == (SHARDS - before) * (RECORDS // SHARDS)
    assert len(commits(root)) == SHARDS

    # What one process makes of the same configuration is the same, bit for bit.
    config = load_config(write_config(folder / "here.toml", folder, "here"))
    fitted = fit_config(config)
    assert fitted.directory.name == Path(fit[-1]["path"]).name
    ours, theirs = arrays_of(fitted.directory), arrays_of(Path(fit[-1]["path"]))
    assert {name: array.tobytes() for name, array in ours.items()} == {n: a.tobytes() for n, a in theirs.items()}
    explain_config(config, fitted.directory)
    assert outputs(folder / "here") == outputs(root)
    assert len(outputs(root)) == SHARDS

    done = run_records(root)[-1]
    assert (done["command"], done["outcome"], done["runtime"]["name"]) == ("jobs/explain_archive", "done", "ray")
    assert done["runtime"]["workers"] == 2
    assert (done["totals"]["shards"], done["totals"]["records"]) == (SHARDS - before, RECORDS - before * 16)
    assert done["worker_seconds"]["forward"] > 0
    commit = json.loads(commits(root)[-1].read_text())
    assert commit["run"]["code_commit"] is None, "the code did not come with the job"
    shown = head.metrics()
    assert shown["ray_ecgscale_shards_total"] > 0
    assert shown['ray_ecgscale_stage_seconds_total{stage="forward"}'] > 0
    assert shown['ray_ecgscale_progress_total{stage="activations"}'] >= 40
