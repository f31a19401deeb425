"""`ecgscale fit` as a user types it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from ecgscale.cli import main
from ecgscale.clusters.model import ClusterModel
from ecgscale.encoders.taps import Encoder
from tests.worlds.commands.simulated import QUICK, RECORDS, VALID, cut_short, same_centroids, simulated
from tests.worlds.formula.small_networks import write_small_encoder


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulated(tmp_path_factory.mktemp("fit") / "archive")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_encoder(tmp_path_factory.mktemp("fit") / "encoder", seed=3)


def fit(archive: Path, encoder: Path, root: Path, *options: str) -> Result:
    arguments = ["fit", str(archive), "--encoder", str(encoder), "--out", str(root), *QUICK, *options]
    return CliRunner().invoke(main, arguments)


def facts(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return found


def test_summary_and_json(archive: Path, encoder: Path, tmp_path: Path) -> None:
    result = fit(archive, encoder, tmp_path / "root", "--json")
    found = facts(result)
    assert {"model_id", "inertia", "explained_variance", "n_iter", "records", "models", "path"} <= set(found)
    assert (found["records"], found["n_clusters"]) == (RECORDS, 4)
    assert found["models"] == [{key: found[key] for key in found["models"][0]}]
    model = ClusterModel.load(found["path"])
    assert (model.model_id, model.info["inertia"]) == (found["model_id"], found["inertia"])
    first, *_ = result.stdout.splitlines()
    assert first.startswith(f"{found['model_id']}: K = 4, ")
    assert f"{RECORDS} records, {RECORDS * VALID:,} timesteps" in first
    assert f"next: ecgscale explain {archive} --model {found['path']} --out {tmp_path / 'root'}" in result.stdout
    assert "memory: at most" in result.stderr
    assert f"activations: {RECORDS}/{RECORDS} records" in result.stderr


def test_again_it_finds_the_model(
    archive: Path, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = facts(fit(archive, encoder, tmp_path / "root", "--json"))

    def ran(*_: object) -> None:
        raise AssertionError("the network ran")

    monkeypatch.setattr(Encoder, "forward", ran)
    again = fit(archive, encoder, tmp_path / "root", "--json")
    assert "(was there already)" in again.stdout
    assert facts(again) == first


def test_several_k_share_one_pass(archive: Path, encoder: Path, tmp_path: Path) -> None:
    result = fit(archive, encoder, tmp_path / "root", "--clusters", "3,5,8", "--json")
    found = facts(result)
    assert [model["n_clusters"] for model in found["models"]] == [3, 5, 8]
    assert found["model_id"] == found["models"][0]["model_id"]
    assert result.stderr.count("activations:") == 1
    variances = [model["explained_variance"] for model in found["models"]]
    assert variances == sorted(variances)
    alone = facts(fit(archive, encoder, tmp_path / "alone", "--clusters", "5", "--json"))
    assert same_centroids(ClusterModel.load(alone["path"]), ClusterModel.load(found["models"][1]["path"]))


def test_folds_records_and_seed(archive: Path, encoder: Path, tmp_path: Path) -> None:
    folds = facts(fit(archive, encoder, tmp_path, "--folds", "1-3", "--json"))
    few = facts(fit(archive, encoder, tmp_path, "--records", "12", "--json"))
    other = facts(fit(archive, encoder, tmp_path, "--records", "12", "--seed", "1", "--json"))
    assert folds["records"] < RECORDS
    assert few["records"] == other["records"] == 12
    assert len({folds["model_id"], few["model_id"], other["model_id"]}) == 3
    assert few["inertia"] != other["inertia"]


def test_padding_and_gamma(archive: Path, encoder: Path, tmp_path: Path) -> None:
    padded = fit(archive, encoder, tmp_path, "--include-padding")
    assert f"{RECORDS * 256:,} timesteps" in padded.stdout
    assert facts(fit(archive, encoder, tmp_path, "--gamma", "1", "--json"))["tau"] == 1.0
    assert facts(fit(archive, encoder, tmp_path, "--tau", "0.5", "--json"))["tau"] == 0.5


def test_beside_random_weights(archive: Path, encoder: Path, tmp_path: Path) -> None:
    result = fit(archive, encoder, tmp_path, "--clusters", "3,5", "--compare-random", "--json")
    found = facts(result)["random_weights_explained_variance"]
    assert set(found) == {"3", "5"}
    assert 0 < found["3"] < found["5"] < 1
    assert "the same network with random weights, K = 5:" in result.stdout


def test_shards_that_cannot_be_read_are_told(encoder: Path, tmp_path: Path) -> None:
    path = simulated(tmp_path / "archive")
    cut_short(path / "part-00000.parquet")
    result = fit(path, encoder, tmp_path / "root", "--json")
    assert facts(result)["records"] == RECORDS - 16
    assert "left out of the fit: " in result.stderr
    assert "part-00000.parquet" in result.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--clusters", "1"], "between 2 and 512"),
        (["--folds", "1,12"], "has no fold 12; it has 1, 2"),
        (["--folds", "1-99"], "has no fold 11, 12, 13, 14, 15 and 84 more; it has 1, 2"),
        (["--k", "5"], "Did you mean '--clusters'?"),
        (["--memory", "1MiB"], "cannot hold the fit"),
        (["--memory", "much"], "is not a size such as 8GiB"),
        (["--device", "tpu"], "'tpu' is not one of"),
        (["--tau", "0"], "--tau 0.0"),
        (["--algorithm", "elkan"], "'elkan' is not one of"),
        (["--batch", "0"], "x>=1"),
        (["--records", "0"], "x>=1"),
        (["--encoder", "nowhere"], "no encoder.toml in nowhere"),
        (["--scratch", "nowhere"], "nowhere: no such folder"),
    ],
)
def test_bad_usage_is_exit_code_2_before_any_work(
    archive: Path, encoder: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    result = fit(archive, encoder, tmp_path / "root", *options)
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert not (tmp_path / "root").exists()


def test_an_archive_that_is_none(encoder: Path, tmp_path: Path) -> None:
    result = fit(tmp_path / "nowhere", encoder, tmp_path / "root")
    assert (result.exit_code, "no such folder" in result.stderr) == (2, True)


def test_a_gpu_that_is_not_there(archive: Path, encoder: Path, tmp_path: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    result = fit(archive, encoder, tmp_path / "root", "--device", "cuda")
    assert (result.exit_code, "torch sees no GPU here" in result.stderr) == (2, True)
