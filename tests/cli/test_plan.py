"""`ecgscale plan` as a user types it: everything said, nothing done."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from click.testing import CliRunner, Result

from ecgscale.archive.synthetic.simulation import simulate
from ecgscale.cli import main
from ecgscale.cli import plan as command
from ecgscale.encoders.preprocess import prepare_batch
from ecgscale.encoders.spec import InputSpec
from ecgscale.io.places import upload
from ecgscale.passes.run.outlook import _longer
from tests.passes.run.test_pipeline import SIMULATE, write_config
from tests.worlds.commands.simulated import simulated
from tests.worlds.formula.recordings import record, wave, write_archive
from tests.worlds.formula.small_networks import write_small_encoder


def plan(config: Path | str, *more: str) -> Result:
    return CliRunner().invoke(main, ["plan", str(config), *more, "--json"])


def facts(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return found


def test_everything_is_said_and_nothing_done(tmp_path: Path) -> None:
    config = write_config(tmp_path, SIMULATE)
    result = plan(config)
    found = facts(result)
    message = result.stdout
    assert f"{tmp_path / 'archive'}: to be made from simulate, about 48 records in 3 shards" in message
    assert f"{tmp_path / 'encoder'}: to be trained on superclasses, 33 records in each of 1 epochs" in message
    assert "K = 4 on 38 records" in message
    assert "48 records: 3 shards to do" in message
    assert "records/s a worker, measured here on" in message
    assert "at most" in message
    assert found["rates"]["explain"] > 0
    assert [row["workers"] for row in found["table"]] == [1, 4, 16, 64]
    assert found["estimate"]["seconds"] == pytest.approx(found["table"][0]["seconds"])
    assert [path.name for path in tmp_path.iterdir()] == ["job.toml"]


def test_what_is_still_to_be_ingested_is_counted(tmp_path: Path) -> None:
    write_small_encoder(tmp_path / "encoder")
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "attributes.csv").write_text("age,sex\n" + "50,M\n" * 7)
    with h5py.File(tmp_path / "src" / "ecg_tracings.hdf5", "w") as file:
        file["tracings"] = np.zeros((7, 256, 12), np.float32)
    source = 'source = "table"\nsrc = "src"\nlayout = "code-test"'
    assert facts(plan(write_config(tmp_path, source, ""), "--rate", "10"))["archive"]["records"] == 7


def test_what_is_done_is_not_planned_again(tmp_path: Path) -> None:
    simulated(tmp_path / "archive", 40, 20)
    write_small_encoder(tmp_path / "encoder")
    config = write_config(tmp_path, "", "")
    assert CliRunner().invoke(main, ["run", str(config)]).exit_code == 0
    before = sorted(tmp_path.rglob("*"))
    result = plan(config, "--rate", "10")
    found = facts(result)
    assert found["model"].startswith("k4-")
    assert "0 records: 0 shards to do, 2 committed" in result.stdout
    assert "nothing to compute" in result.stdout
    assert (found["fit_records"], found["table"][0]["seconds"]) == (0, 0)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("rate", [100.0, 360.0, 500.0, 257.0])
def test_records_that_will_be_cropped_are_foretold(rate: float, tmp_path: Path) -> None:
    rows = [
        record(f"{seconds}, {samples}", signal=wave(1, 12, samples), sampling_rate=rate)
        for seconds in (1.0, 1.99, 2.0, 2.01, 5.0)
        for samples in (round(seconds * rate), round(seconds * rate) + 1)
    ]
    archive = write_archive(tmp_path / "archive", rows, shard_records=4)
    spec = InputSpec(leads=("I", "V1"), sampling_rate=100.0, length=200)
    flags = [
        flag for shard in archive.shards for raw in archive.batches(shard) for flag in prepare_batch(raw, spec, 1).flags
    ]
    assert _longer(archive, spec) == sum("cropped" in one for one in flags) > 0


def test_a_plan_says_what_is_longer_than_the_network_sees(tmp_path: Path) -> None:
    simulate(tmp_path / "archive", 20, shard_records=10, rate=100.0, seconds=3.0)
    write_small_encoder(tmp_path / "encoder")
    config = write_config(tmp_path, "", "")
    result = plan(config, "--rate", "10")
    found = facts(result)
    assert found["explain"]["longer"] == 20
    assert f"20 of 20 records are longer than the {found['network_seconds']:g} s that the network sees" in result.stdout


def test_a_plan_for_what_lies_in_a_bucket(tmp_path: Path, s3_root: str) -> None:
    simulated(tmp_path / "archive", 40, 20)
    write_small_encoder(tmp_path / "encoder")
    upload(tmp_path / "archive", f"{s3_root}/archive")
    upload(tmp_path / "encoder", f"{s3_root}/encoder")
    (tmp_path / "job").mkdir()
    upload(write_config(tmp_path / "job", "", "").parent, s3_root)
    found = facts(plan(f"{s3_root}/job.toml", "--rate", "10"))
    assert (found["archive"]["path"], found["encoder"]) == (f"{s3_root}/archive", f"{s3_root}/encoder")
    assert found["explain"]["pending"] == 2


def test_a_given_rate_is_taken(tmp_path: Path) -> None:
    result = plan(write_config(tmp_path), "--rate", "10", "--workers", "1,2", "--records", "1000")
    found = facts(result)
    assert found["rates"] == {"forward": 10.0, "explain": 10.0, "kmeans": 1000.0, "source": "given"}
    assert found["table"][0]["explain_s"] == pytest.approx(100.0)
    assert found["table"][1]["explain_s"] == pytest.approx(50.0)
    assert "| 2 | 1,000 |" in result.stdout


def test_a_gpu_that_is_not_here_cannot_be_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    more = '[runtime]\nname = "ray"\nworkers = 4\ngpus_per_worker = 1\n'
    config = write_config(tmp_path)
    config.write_text(config.read_text() + more)
    result = plan(config)
    assert "none is here to measure; give --rate" in result.stdout
    assert (facts(result)["estimate"], facts(result)["table"]) == (None, [])
    given = plan(config, "--rate", "1000")
    assert facts(given)["estimate"]["workers"] == 4
    assert "on 4 workers" in given.stdout


def test_what_would_stop_the_run_stops_the_plan(tmp_path: Path) -> None:
    result = plan(write_config(tmp_path, 'source = "ptbxl"\nsrc = "nowhere"'))
    assert result.exit_code == 2
    assert "nowhere: no such folder" in result.stderr
    config = write_config(tmp_path)
    config.write_text('memory = "1MiB"\n' + config.read_text())
    tight = plan(config, "--rate", "10")
    assert tight.exit_code == 2
    assert "cannot hold the fit" in tight.stderr
    assert command.TRAINING > 1


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ('target = "superclas"', "[surrogate] target: the explanations have no label column 'superclas'. Did you mean"),
        ('target = "age"', "[surrogate] target: age (float) does not hold what the network tells"),
        ('target = "superclasses"\ntest_folds = [11]', "has no fold 11; there are: 1, 2, 3"),
    ],
)
def test_a_surrogate_that_the_run_would_refuse(tmp_path: Path, section: str, said: str) -> None:
    simulated(tmp_path / "archive", 40, 20)
    write_small_encoder(tmp_path / "encoder")
    config = write_config(tmp_path, "", "")
    config.write_text(f"{config.read_text()}\n[surrogate]\n{section}\n")
    result = plan(config, "--rate", "10")
    assert result.exit_code == 2
    assert said in result.stderr
