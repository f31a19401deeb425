"""`ecgscale probe` from the outside."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner

from ecgscale.cli import main
from ecgscale.evaluate.written import read_evaluations
from tests.explain.golden import write_archive, write_model
from tests.worlds.commands.explaining import explain


def test_probes_are_told_written_and_committed(tmp_path: Path) -> None:
    archive = write_archive(tmp_path / "archive", 6, shard_records=6)
    (tmp_path / "model").mkdir()
    dataset_id = explain(archive, write_model(tmp_path / "model"), tmp_path / "root").dataset_id
    arguments = ["probe", str(tmp_path / "root"), "--sample", "1", "--batch", "4", "--dropout-passes", "2"]
    arguments += ["--mask-shifts", "1", "--device", "cpu", "--json"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout.splitlines()[-1])
    assert facts["records"] == 6
    assert "entropy and Grad-CAM over time, resblock1d_2" in result.stdout
    assert "entropy left with random everything" in result.stdout
    assert "output falls without lead V1 by" in result.stdout
    written = read_evaluations(tmp_path / "root", dataset_id)["probes"]
    assert written.facts["probe_id"] == facts["probe_id"]
    assert written.table("clusters").num_rows == 4
    assert written.table("leads").num_rows == 3 * 4
    assert (tmp_path / "root" / "probes" / dataset_id / facts["probe_id"] / "_manifests").is_dir()
    again = CliRunner().invoke(main, arguments)
    assert json.loads(again.stdout.splitlines()[-1])["computed"] == 0


def test_an_unknown_probe(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["probe", str(tmp_path), "--only", "saliency"])
    assert result.exit_code == 2
    assert "gradcam" in result.output
