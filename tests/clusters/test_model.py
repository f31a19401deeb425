"""The cluster model on disk."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from ecgscale.clusters.model import ClusterModel
from ecgscale.errors import ModelError
from tests.worlds.formula.activations import CODE_LIKE


def model(k: int = 3) -> ClusterModel:
    rng = np.random.default_rng(0)
    info = {"model_id": f"k{k}-abc", "encoder": {"id": "e", "path": "../../encoders/e", "digest": "d"}}
    centroids = rng.standard_normal((k, CODE_LIKE.n_channels)).astype(np.float32)
    return ClusterModel(centroids, np.arange(k), CODE_LIKE, 2, 0.25, info)


def test_round_trip(tmp_path: Path) -> None:
    saved = model().save(tmp_path / "models", {"seen.tsv": "part\n"})
    loaded = ClusterModel.load(saved)
    assert np.array_equal(loaded.centroids, model().centroids)
    assert loaded.digest == model().digest
    assert (loaded.gamma, loaded.tau, loaded.n_clusters, loaded.model_id) == (2, 0.25, 3, "k3-abc")
    assert loaded.encoder_path == tmp_path / "encoders" / "e"
    assert (saved / "seen.tsv").read_text() == "part\n"
    assert set(load_file(saved / "centroids.safetensors")) == {"centroids", "counts"}
    assert json.loads((saved / "model.json").read_text())["n_clusters"] == 3


def test_saving_again_changes_nothing_and_leaves_no_scratch(tmp_path: Path) -> None:
    first = model().save(tmp_path)
    stamp = (first / "model.json").stat().st_mtime_ns
    assert replace(model(), tau=9.0).save(tmp_path) == first
    assert (first / "model.json").stat().st_mtime_ns == stamp
    assert [p.name for p in tmp_path.iterdir()] == ["k3-abc"]


def test_the_digest_is_of_what_decides_labels_and_entropies() -> None:
    assert replace(model(), tau=0.3).digest != model().digest
    assert replace(model(), gamma=1).digest != model().digest
    assert replace(model(), info={"model_id": "other"}).digest == model().digest


def test_what_is_not_a_model_says_so(tmp_path: Path) -> None:
    model().save(tmp_path)
    with pytest.raises(ModelError, match="k3-abc"):
        ClusterModel.load(tmp_path / "k9-typo")
    broken = model(4).save(tmp_path)
    (broken / "model.json").write_text("{")
    with pytest.raises(ModelError, match="fit it again"):
        ClusterModel.load(broken)
    other = model(5).save(tmp_path)
    (other / "centroids.safetensors").write_bytes((tmp_path / "k3-abc" / "centroids.safetensors").read_bytes())
    with pytest.raises(ModelError, match="belong together"):
        ClusterModel.load(other)
    with pytest.raises(ModelError, match="never saved"):
        _ = model().encoder_path
