"""Evaluations tell the same wherever their tasks are done: in this process, on two others, on Ray."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from ecgscale.cli import main
from ecgscale.evaluate.written import read_evaluations
from tests.runtime.ray_clusters import nodes
from tests.worlds.commands.small_root import SmallRoot, write_small_root

pytest.importorskip("cleanlab")
pytest.importorskip("hmmlearn")
pytest.importorskip("neurokit2")

FEW = ["--trees", "8"]
COMMANDS = {
    "sweep-superclasses": [
        *[
            "sweep",
            "--clusters",
            "2,3",
            "--base",
            "3",
            "--train-records",
            "40",
            "--layers",
            "0",
            "--depth",
            "1,0.5,0.25",
        ],
        *["--seeds", "2", "--records", "100", "--max-epochs", "1", *FEW, "--device", "cpu"],
    ],
    "localisation": ["localise", "--waves", "delineated", "--records", "70"],
    "uncertainty-superclasses": ["uncertainty", "--everyone", "--bootstrap", "50"],
    "temporal-sex": ["temporal", "--target", "sex", "--bootstrap", "50", *FEW],
    "audit-superclasses": ["audit", "--folds", "patients:3", "--flips", "1", *FEW],
    "surrogate-superclasses": ["surrogate", "--folds", "patients:3", "--bootstrap", "50", *FEW],
}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> SmallRoot:
    return write_small_root(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    with nodes({"num_cpus": 2}) as cluster, pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ADDRESS", cluster.address)
        yield


def message(small: SmallRoot, name: str, *options: str) -> tuple[str, dict[str, list]]:
    """Facts and tables that the command writes; on workers, this process may do none of the tasks."""
    command, *rest = COMMANDS[name]
    with pytest.MonkeyPatch.context() as patch:
        if options:
            patch.setattr("ecgscale.passes.spread.answered", None)
        done = CliRunner().invoke(main, [command, str(small.root), *rest, *options])
    assert done.exit_code == 0, done.output
    found = read_evaluations(small.root, small.dataset_id)[name]
    tables = {table: found.table(table).to_pylist() for table in found.table_names}
    # As JSON: the same number twice, and "not a number" beside itself.
    return json.dumps(found.facts, sort_keys=True), {key: [json.dumps(r, default=str) for r in rows] for key, rows in
                                                     tables.items()}  # fmt: skip


@pytest.fixture(scope="module")
def here(small: SmallRoot) -> dict[str, tuple[str, dict[str, list]]]:
    return {name: message(small, name) for name in COMMANDS}


@pytest.mark.parametrize("name", COMMANDS)
def test_on_two_processes(small: SmallRoot, here: dict, name: str) -> None:
    assert message(small, name, "--workers", "2") == here[name]


@pytest.mark.parametrize("name", ["sweep-superclasses", "localisation", "audit-superclasses"])
@pytest.mark.usefixtures("cluster")
def test_on_ray(small: SmallRoot, here: dict, name: str) -> None:
    assert message(small, name, "--runtime", "ray", "--workers", "2") == here[name]


@pytest.mark.usefixtures("cluster")
def test_a_network_trained_on_ray(small: SmallRoot, tmp_path: Path) -> None:
    arguments = ["train", str(small.archive), "--target", "sex", "--out", str(tmp_path / "encoder"), "--epochs", "1"]
    small_network = ["--rate", "100", "--length", "1024", "--blocks", "4x1024,4x256,4x64", "--threads", "1"]
    done = CliRunner().invoke(main, [*arguments, *small_network, "--runtime", "ray", "--json"])
    assert done.exit_code == 0, done.output
    facts = json.loads(done.stdout.splitlines()[-1])
    assert facts["encoder"] == str(tmp_path / "encoder")
    assert facts["train_records"] > 50
    checked = CliRunner().invoke(main, ["encoder", "check", str(tmp_path / "encoder")])
    assert checked.exit_code == 0, checked.output
    again = CliRunner().invoke(main, [*arguments, *small_network, "--runtime", "ray"])
    assert again.exit_code != 0
    assert "already holds an encoder" in again.stderr
