"""The fit pass: which records it sees, what it writes down, and when it does nothing."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ecgscale.passes.fit.fit as fit_pass
from ecgscale.archive.reader import Archive
from ecgscale.clusters.cache import ActivationCache
from ecgscale.clusters.features import BlockLayout
from ecgscale.clusters.model import MIN_TAU, ClusterModel
from ecgscale.encoders.seen import hashed
from ecgscale.encoders.spec import encoder_digest
from ecgscale.encoders.taps import Encoder
from ecgscale.errors import EncoderError, UsageError
from ecgscale.passes.fit.fit import FittedModel, diagnose, fit_archive
from ecgscale.passes.fit.request import FitRequest
from tests.worlds.commands.explaining import Watching
from tests.worlds.commands.simulated import (
    LENGTH,
    RECORDS,
    VALID,
    arrays_of,
    cut_short,
    damage_signals,
    record_ids,
    request,
    same_centroids,
    simulated,
)
from tests.worlds.formula.small_networks import noise, write_archive, write_small_encoder


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulated(tmp_path_factory.mktemp("fit") / "archive")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_encoder(tmp_path_factory.mktemp("fit") / "encoder")


def fit(archive: Path, encoder: Path, root: Path, watch: Watching | None = None, **changes: Any) -> list[FittedModel]:
    return fit_archive(Archive.open(archive), encoder, root, request(**changes), watch or Watching())


@pytest.fixture(scope="module")
def fitted(archive: Path, encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> FittedModel:
    [one] = fit(archive, encoder, tmp_path_factory.mktemp("fit") / "root")
    return one


def test_model_json_says_what_the_contract_names(fitted: FittedModel, archive: Path, encoder: Path) -> None:
    facts = json.loads((fitted.directory / "model.json").read_text())
    assert fitted.directory.name == facts["model_id"] == fitted.model.model_id
    assert (facts["n_clusters"], facts["channels"], facts["lengths"]) == (4, [8, 12, 16], [256, 64, 16])
    assert facts["layers"] == ["resblock1d_0", "resblock1d_1", "resblock1d_2"]
    assert (facts["depth_scales"], facts["gamma"], facts["algorithm"], facts["seed"]) == ([1, 1, 1], 2, "minibatch", 0)
    assert facts["encoder"]["path"] == f"../../encoders/{facts['encoder']['id']}"
    assert facts["encoder"]["digest"] == encoder_digest(encoder)
    assert 0 < facts["explained_variance"] < 1
    assert facts["inertia"] > 0
    assert len(facts["history"]) == facts["n_iter"] == 30
    assert facts["fitted_on"]["archive_id"] == Archive.open(archive).archive_id
    assert (facts["fitted_on"]["records"], facts["records_used"], facts["left_out"]) == (RECORDS, RECORDS, {})
    assert facts["n_timesteps"] == RECORDS * VALID
    assert sum(facts["reference"]["proportions"]) == pytest.approx(1, abs=1e-12)
    assert {"torch", "numpy", "numba", "ecgscale"} <= set(facts["versions"])
    arrays = arrays_of(fitted.directory)
    assert set(arrays) == {"centroids", "counts"}
    assert (arrays["centroids"].shape, arrays["centroids"].dtype) == ((4, 36), np.float32)
    assert (arrays["counts"].dtype, arrays["counts"].sum()) == (np.int64, RECORDS * VALID)
    head = (fitted.directory / "centroids.safetensors").read_bytes()[8:400]
    assert b"__metadata__" not in head


def test_the_encoder_stands_beside_the_model(fitted: FittedModel, encoder: Path) -> None:
    copy = fitted.model.encoder_path
    assert copy == fitted.directory.parent.parent / "encoders" / fitted.model.info["encoder"]["id"]
    for file in ("encoder.toml", "weights.safetensors"):
        assert (copy / file).read_bytes() == (encoder / file).read_bytes()
    root = fitted.directory.parent.parent
    assert sorted(path.name for path in root.iterdir()) == ["encoders", "models"]
    assert not list(root.rglob("_tmp-*"))


def test_the_same_command_finds_the_finished_model(
    fitted: FittedModel, archive: Path, encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path: path.stat().st_mtime_ns for path in fitted.directory.rglob("*")}

    def ran(*_: object, **__: object) -> None:
        raise AssertionError("the network ran, or records were read, for a model that is there")

    monkeypatch.setattr(Encoder, "forward", ran)
    monkeypatch.setattr(Archive, "batches", ran)
    [again] = fit(archive, encoder, fitted.directory.parent.parent)
    assert again.already_there
    assert again.directory == fitted.directory
    assert again.facts() == fitted.facts()
    assert {path: path.stat().st_mtime_ns for path in fitted.directory.rglob("*")} == before


@pytest.mark.parametrize("algorithm", ["minibatch", "lloyd"])
def test_several_k_in_one_pass_equal_each_alone(archive: Path, encoder: Path, tmp_path: Path, algorithm: str) -> None:
    settings = {"algorithm": algorithm, "max_iterations": 12}
    watch = Watching()
    together = fit(archive, encoder, tmp_path / "together", watch, clusters=(3, 7, 12), settings=settings)
    assert [one.model.n_clusters for one in together] == [3, 7, 12]
    for one in together:
        [alone] = fit(archive, encoder, tmp_path / "alone", clusters=(one.model.n_clusters,), settings=settings)
        assert alone.model.model_id == one.model.model_id
        assert same_centroids(alone.model, one.model)
        assert alone.facts() | {"path": ""} == one.facts() | {"path": ""}


def test_what_decides_the_centroids_decides_the_id(archive: Path, encoder: Path, fitted: FittedModel) -> None:
    root = fitted.directory.parent.parent
    others = [
        fit(archive, encoder, root, **changes)[0].model
        for changes in (
            {"settings": {"seed": 1}},
            {"settings": {"algorithm": "lloyd"}},
            {"folds": (1, 2, 3)},
            {"records": 30},
            {"clusters": (5,)},
            {"batch": 16},
            {"gamma": 1},
            {"include_padding": True},
            {"cache_dtype": "float16"},
        )
    ]
    assert len({model.model_id for model in [fitted.model, *others]}) == 10
    by_records = others[3]
    assert by_records.info["records_used"] == 30
    assert by_records.info["n_timesteps"] == 30 * VALID
    assert others[2].info["fitted_on"]["folds"] == [1, 2, 3]
    padded = others[7]
    assert padded.info["n_timesteps"] == RECORDS * LENGTH
    assert padded.info["include_padding"] is True


def test_tau_follows_the_rule_of_gamma(archive: Path, encoder: Path, fitted: FittedModel) -> None:
    root, model = fitted.directory.parent.parent, fitted.model
    assert model.tau == model.info["mean_margin"] > 0
    [literal] = fit(archive, encoder, root, gamma=1)
    assert (literal.model.gamma, literal.model.tau) == (1, 1.0)
    assert np.array_equal(literal.model.centroids, model.centroids)
    [given] = fit(archive, encoder, root, tau=0.25)
    assert (given.model.gamma, given.model.tau) == (2, 0.25)
    assert given.model.digest != model.digest


@pytest.mark.parametrize("tau", [float("nan"), float("inf"), -1.0, MIN_TAU / 2])
def test_a_temperature_that_is_no_positive_number_is_refused(tau: float) -> None:
    with pytest.raises(UsageError, match="--tau"):
        FitRequest(tau=tau)


def test_seen_tsv_lists_the_records_of_the_fit_and_no_others(archive: Path, encoder: Path, tmp_path: Path) -> None:
    [model] = fit(archive, encoder, tmp_path, folds=(1, 2, 5))
    table = Archive.open(archive).metadata(["record_id", "patient_id", "fold"]).to_pylist()
    expected = {
        ("fit", hashed("simulated", "record", row["record_id"]), hashed("simulated", "patient", row["patient_id"]))
        for row in table
        if row["fold"] in (1, 2, 5)
    }
    lines = (model.directory / "seen.tsv").read_text().splitlines()
    assert lines[0].split("\t") == ["part", "record", "patient"]
    assert {tuple(line.split("\t")) for line in lines[1:]} == expected
    assert len(lines) - 1 == model.records == len(expected)
    assert not any(row["record_id"] in line for row in table for line in lines)


def test_records_that_cannot_be_used_are_counted_and_told(encoder: Path, tmp_path: Path) -> None:
    spoilt = noise(VALID)
    spoilt[3, 7] = np.nan
    rows: list[dict[str, Any]] = [{"signal": noise(VALID, seed=i)} for i in range(6)]
    rows[1] = {"signal": spoilt}
    rows[2] = {"signal": np.zeros((12, VALID), np.float32)}
    rows[3] = {"signal": noise(VALID), "sampling_rate": 0.0}
    rows[4] = {"signal": noise(VALID, 2), "leads": ["I", "II"]}
    rows.append({"signal": noise(VALID), "record_id": "r0"})
    path = write_archive(tmp_path / "archive", rows).path
    watch = Watching()
    [model] = fit(path, encoder, tmp_path / "root", watch)
    left_out = dict.fromkeys(
        ["bad_sampling_rate", "duplicate_record_id", "flat_signal", "missing_leads", "non_finite_samples"], 1
    )
    assert model.model.info["left_out"] == left_out
    assert (model.records, model.model.info["n_timesteps"]) == (2, 2 * VALID)
    message = [line for line in watch.said if "take no part" in line]
    assert message == ["5 of 7 records take no part: " + ", ".join(f"1 {status}" for status in sorted(left_out))]


def test_no_usable_record_is_an_error_that_says_where_to_look(encoder: Path, tmp_path: Path) -> None:
    path = write_archive(tmp_path / "archive", [{"signal": np.zeros((12, VALID), np.float32)}] * 2).path
    with pytest.raises(UsageError, match="ecgscale inspect"):
        fit(path, encoder, tmp_path / "root")
    assert not (tmp_path / "root" / "models").exists()


def test_a_shard_cut_short_is_left_out_and_told(encoder: Path, tmp_path: Path) -> None:
    whole = simulated(tmp_path / "whole")
    broken = simulated(tmp_path / "broken")
    cut_short(broken / "part-00001.parquet")
    watch = Watching()
    [model] = fit(broken, encoder, tmp_path / "root", watch)
    [message] = [line for line in watch.said if line.startswith("left out of the fit")]
    assert "part-00001.parquet" in message
    assert model.records == RECORDS - 16
    [full] = fit(whole, encoder, tmp_path / "root")
    assert full.model.model_id != model.model.model_id


def test_a_shard_that_breaks_off_is_counted_as_it_was_used(encoder: Path, tmp_path: Path) -> None:
    path = simulated(tmp_path / "archive", 180, 150)
    shard = path / "part-00000.parquet"
    whole = shard.read_bytes()
    damage_signals(shard)
    watch = Watching()
    [torn] = fit(path, encoder, tmp_path / "root", watch)
    info = torn.model.info
    assert "part-00000.parquet breaks off" in " ".join(watch.said)
    assert torn.records + sum(info["left_out"].values()) == 180
    assert info["n_timesteps"] == torn.records * VALID
    seen = (torn.directory / "seen.tsv").read_text()
    assert all(hashed("simulated", "record", r) in seen for r in record_ids(path, "part-00001.parquet"))

    shard.write_bytes(whole)
    [restored] = fit(path, encoder, tmp_path / "root")
    assert (restored.already_there, restored.records) == (False, 180)


def test_half_precision_activations_give_nearly_the_same_model(
    archive: Path, encoder: Path, fitted: FittedModel
) -> None:
    [half] = fit(archive, encoder, fitted.directory.parent.parent, cache_dtype="float16")
    assert not np.array_equal(half.model.centroids, fitted.model.centroids)
    assert half.model.centroids.dtype == np.float32
    assert half.model.info["explained_variance"] == pytest.approx(fitted.model.info["explained_variance"], abs=0.02)


def test_where_the_activations_lie_changes_no_bit(
    archive: Path, encoder: Path, fitted: FittedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ways: tuple[dict[str, Any], ...] = ({}, {"cache_dtype": "float16"}, {"settings": {"algorithm": "lloyd"}})
    whole = [fit(archive, encoder, fitted.directory.parent.parent, **changes)[0] for changes in ways]
    planned, scratch = fit_pass.plan_memory, tmp_path / "scratch"
    scratch.mkdir()

    def half(*arguments: Any, **named: Any) -> Any:
        plan = planned(*arguments, **named)
        return dataclasses.replace(plan, cache_budget=plan.cache_resident // 2)

    class HalfOnDisk(ActivationCache):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            assert 0 < self.n_resident < self.n_records
            assert str(scratch) in Path("/proc/self/maps").read_text(), "what does not fit is mapped from there"
            assert not list(scratch.iterdir()), "without a name: nothing is left by a process that is killed"

    monkeypatch.setattr(fit_pass, "plan_memory", half)
    monkeypatch.setattr("ecgscale.passes.fit.worker.ActivationCache", HalfOnDisk)
    for changes, expected in zip(ways, whole, strict=True):
        [spilled] = fit(archive, encoder, tmp_path / "spilled", scratch=scratch, **changes)
        assert not spilled.already_there
        assert same_centroids(spilled.model, expected.model)
        assert spilled.model.info["history"] == expected.model.info["history"]
    assert not list(scratch.iterdir())


def test_a_limit_that_cannot_hold_the_fit_is_refused_before_any_work(
    archive: Path, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ran(*_: object) -> None:
        raise AssertionError("the network ran")

    monkeypatch.setattr(Encoder, "forward", ran)
    with pytest.raises(UsageError, match=r"--memory 1 MiB cannot hold the fit: .* are needed"):
        fit(archive, encoder, tmp_path / "root", memory=2**20)
    assert not (tmp_path / "root").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"device": "tpu"}, "choose auto, cpu or cuda"),
        ({"folds": (1, 11)}, "has no fold 11; it has 1, 2, 3"),
        ({"clusters": (300,), "records": 1}, "distinct ones; give more records, or fewer --clusters"),
    ],
)
def test_requests_that_cannot_be_met(
    archive: Path, encoder: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        fit(archive, encoder, tmp_path, **changes)
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize("clusters", [(), (1,), (513,), (5, 5)])
def test_numbers_of_clusters_that_make_no_sense(clusters: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="--clusters"):
        FitRequest(clusters=clusters)


def test_an_encoder_that_is_not_there(archive: Path, tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match=r"no encoder\.toml in .*`ecgscale train` makes one"):
        fit(archive, tmp_path / "nowhere", tmp_path / "root")


def test_what_is_odd_is_told_with_what_to_do() -> None:
    def odd(**facts: Any) -> str:
        info = {
            "diagnostics": {"largest_share": 0.1, "nearly_empty": []} | facts.pop("diagnostics", {}),
            "explained_variance": 0.6,
            "converged": True,
        } | facts
        layout = BlockLayout((2,), (4,), 8, (1.0,))
        return " ".join(diagnose(ClusterModel(np.eye(2, dtype=np.float32), np.ones(2, np.int64), layout, 2, 1.0, info)))

    assert odd() == ""
    assert "one cluster holds 70%" in odd(diagnostics={"largest_share": 0.7})
    assert "clusters 3, 8 hold less than 0.1%" in odd(diagnostics={"nearly_empty": [3, 8]})
    assert "--compare-random" in odd(explained_variance=0.1)
    assert "raise --max-epochs" in odd(converged=False)
