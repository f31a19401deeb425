"""The published experiment in small: both protocols on simulated records, typed twice, and the table."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from ecgscale.archive.reader import Archive
from ecgscale.archive.synthetic.simulation import simulate
from ecgscale.errors import UsageError
from ecgscale.evaluate.forests import ForestSettings
from ecgscale.evaluate.reproduction import (
    Outcome,
    ReproductionOptions,
    facts_of,
    reproduce_code15,
    reproduce_ptbxl,
    table_lines,
)
from tests.e2e.documents import REPOSITORY

TRAIN = {"epochs": 1, "rate": 100.0, "length": 256, "blocks": ((8, 256), (8, 64), (12, 16), (16, 8))}
SMALL = ReproductionOptions(
    clusters=4, train=TRAIN, forests=ForestSettings(trees=20, n_jobs=1), n_bootstrap=20, device="cpu"
)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Outcome]]:
    """An archive stands where the ingest would have put it."""
    out = tmp_path_factory.mktemp("reproduction")
    simulate(out / "archive", 260, rate=100.0, seconds=2.2)
    return out, reproduce_ptbxl(Path("nowhere"), out, folds=(10, 12), options=SMALL)


def test_protocols_keep_apart_what_they_say(done: tuple[Path, list[Outcome]]) -> None:
    out, (strict, inside) = done
    fold = {
        row["record_id"]: row["fold"]
        for row in Archive.open(out / "archive").metadata(["record_id", "fold"]).to_pylist()
    }
    assert list(strict.runs) == ["fold 10"]
    for name, run in strict.runs.items():
        own = int(name.split()[1])
        assert run["headline"] == "neither"
        assert (run["seen_by_encoder"], run["seen_by_clusters"]) == (0, 0)
        assert run["records"] == sum(one == own for one in fold.values())
        assert own not in [*run["encoder_folds"], *run["clusters_folds"]]
    [run] = inside.runs.values()
    assert (run["headline"], run["clusters_folds"]) == ("clusters", [10])
    assert run["encoder_folds"] == [*range(1, 10)]
    assert run["records"] == run["seen_by_clusters"]
    assert run["seen_by_encoder"] == 0


def test_the_table_tells_spread_and_intervals(done: tuple[Path, list[Outcome]]) -> None:
    _, outcomes = done
    text = "\n".join(table_lines(outcomes, "Title"))
    assert "| forest agrees with the network, per label | 94.9 ± 0.5 % |" in text
    assert "R²" not in text
    run = outcomes[0].runs["fold 10"]
    value, sd, pair = outcomes[0].value("agreement") or (0, 0, None)
    assert (value, sd, pair) == (run["agreement"], None, tuple(run["intervals"]["agreement"]))
    scores = facts_of(outcomes)["B"]["scores"]
    assert scores["agreement"]["sd"] is not None, "over the ten parts"
    two = Outcome("A", "told", {"fold 9": {**run, "agreement": value - 0.2}, "fold 10": run})
    mean, spread, _ = two.value("agreement") or (0, 0, None)
    assert (mean, spread) == (pytest.approx(value - 0.1), pytest.approx(0.2 / 2**0.5))


def test_typed_again_nothing_is_made_again(done: tuple[Path, list[Outcome]]) -> None:
    out, before = done
    stamps = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    again = reproduce_ptbxl(Path("nowhere"), out, folds=(10,), options=SMALL)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()} == stamps
    assert facts_of(again) == facts_of(before)


def test_what_cannot_be_reproduced_is_told(done: tuple[Path, list[Outcome]], tmp_path: Path) -> None:
    out, _ = done
    with pytest.raises(UsageError, match="none of those asked for"):
        reproduce_ptbxl(Path("nowhere"), out, folds=(11,), options=SMALL)
    (tmp_path / "exams_part0.hdf5").touch()
    with pytest.raises(UsageError, match=r"holds 1 exams_part\*"):
        reproduce_code15(tmp_path, tmp_path / "out", SMALL)
    command = [sys.executable, str(REPOSITORY / "jobs" / "reproduce.py"), "--json"]
    message = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert message.returncode == 2
    assert "nothing to reproduce" in json.loads(message.stdout)["error"]


def test_ages_from_the_parts_of_a_release(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    source, each = tmp_path / "src", 30
    source.mkdir()
    rows = ["exam_id,age,is_male,patient_id,trace_file"]
    for part in range(4):
        ids = [each * part + i + 1 for i in range(each)]
        age = rng.uniform(20, 80, each)
        traces = rng.normal(0, age[:, None, None] / 50, (each, 4096, 12))
        with h5py.File(source / f"exams_part{part}.hdf5", "w") as file:
            file["exam_id"], file["tracings"] = [*ids, 0], np.append(traces, np.zeros((1, 4096, 12)), 0).astype("f4")
        # The first exam of every part is of one patient.
        rows += [
            f"{n},{years:.1f},True,{n if n != ids[0] else 1},exams_part{part}.hdf5"
            for n, years in zip(ids, age, strict=True)
        ]
    (source / "exams.csv").write_text("\n".join(rows) + "\n")
    [outcome] = reproduce_code15(source, tmp_path / "out", replace(SMALL, fit_records=40))
    [run] = outcome.runs.values()
    assert run["kind"] == "regression"
    assert run["headline"] == "neither"
    assert run["records"] == each - 1, "one exam is of a patient that was learnt from"
    assert None not in (run["r2"], run["mae"], run["network_mae"])
    assert "published" in table_lines([outcome], "Age")[2]
