"""The cluster model on disk."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ecgscale.clusters.model import IDENTITY, ClusterModel, id_of_fit
from ecgscale.errors import ModelError
from tests.worlds.formula.activations import CODE_LIKE

CHANNELS = CODE_LIKE.n_channels


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


def test_places_of_steps_are_kept_and_decide_the_digest(tmp_path: Path) -> None:
    layout = replace(CODE_LIKE, places=((1.5, 3.9), None, (-7.0, 250.0)))
    moved = replace(model(), layout=layout)
    loaded = ClusterModel.load(moved.save(tmp_path))
    assert loaded.layout == layout
    assert loaded.digest == moved.digest != model().digest
    assert "places" not in json.loads((model(2).save(tmp_path) / "model.json").read_text())


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
    other = model(5).save(tmp_path)
    (other / "centroids.safetensors").write_bytes((tmp_path / "k3-abc" / "centroids.safetensors").read_bytes())
    with pytest.raises(ModelError, match="belong together"):
        ClusterModel.load(other)
    with pytest.raises(ModelError, match="never saved"):
        _ = model().encoder_path


def rewritten(directory: Path, **changes: Any) -> None:
    file = directory / "model.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def flipped(file: Path, at: int) -> None:
    data = bytearray(file.read_bytes())
    data[at] ^= 1
    file.write_bytes(data)


def without_digest(directory: Path) -> None:
    facts = json.loads((directory / "model.json").read_text())
    del facts["digest"]
    (directory / "model.json").write_text(json.dumps(facts))


def last_count(directory: Path) -> None:
    arrays = load_file(directory / "centroids.safetensors")
    arrays["counts"][-1] += 1
    save_file(arrays, directory / "centroids.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: flipped(d / "centroids.safetensors", -40), "centroids.safetensors was changed since"),
        (last_count, "centroids.safetensors was changed since"),
        (lambda d: rewritten(d, gamma=1), "model.json was changed since"),
        (lambda d: rewritten(d, tau=0.2500001), "model.json was changed since"),
        (lambda d: rewritten(d, depth_scales=[1, 1, 2]), "model.json was changed since"),
        (lambda d: rewritten(d, encoder={"path": "../../encoders/e", "digest": "f"}), "model.json was changed since"),
        (lambda d: rewritten(d, added=1), "model.json was changed since"),
        (lambda d: rewritten(d, digest={"arrays": "0", "facts": "0"}), "was changed since"),
    ],
)
def test_a_change_of_any_fact_or_bit_is_told(tmp_path: Path, change: Callable[[Path], None], message: str) -> None:
    saved = model().save(tmp_path)
    change(saved)
    with pytest.raises(ModelError, match=message + ".*fit it again") as caught:
        ClusterModel.load(saved)
    assert "\n" not in str(caught.value)


def test_how_long_it_took_is_not_part_of_the_digest(tmp_path: Path) -> None:
    one, other = (replace(model(), info={**model().info, "seconds": n}).save(tmp_path / f"{n}") for n in (1, 2))
    assert ClusterModel.load(one).info["digest"] == ClusterModel.load(other).info["digest"]
    again = ClusterModel.load(one)
    assert ClusterModel.load(again.save(tmp_path / "copy")).info == again.info


def test_a_model_of_before_loads_and_its_id_is_checked(tmp_path: Path) -> None:
    identity = {"fit_version": 1, "encoder_digest": "d", "batch": 32, "device": "cpu", "n_clusters": 3}
    assert set(identity) <= set(IDENTITY)
    made = replace(model(), info={**model().info, **identity, "model_id": id_of_fit(identity)})
    saved = made.save(tmp_path)
    assert ClusterModel.load(saved).is_sealed
    without_digest(saved)
    assert not ClusterModel.load(saved).is_sealed
    rewritten(saved, batch=16)
    with pytest.raises(ModelError, match="is not the id of what it says the model was fitted on"):
        ClusterModel.load(saved)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "it is no JSON"),
        ("[1, 2]", "it is no JSON object"),
        ("null", "it is no JSON object"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a": ' * 100_000, "nested too deeply"),
        ("\xff", "it is no JSON"),
        ("{}", "lacks n_clusters"),
        (("channels", 3), "channels: Input should be a valid list"),
        (("channels", [8, None, 16]), "channels.1"),
        (("channels", [8, 12.5, 16]), "channels.1"),
        (("lengths", []), "one depth scale a tapped block"),
        (("lengths", [64, 32, 10**9]), "tapped block 2 has shape"),
        (("n_clusters", True), "n_clusters"),
        (("n_steps", 10**400), "n_steps"),
        (("depth_scales", ["1", 1, 1]), "depth_scales.0"),
        (("depth_scales", [0, 1, 1]), "depth scale of block 0"),
        (("gamma", 3), "gamma"),
        (("tau", float("nan")), "NaN, which is no number"),
        (("tau", -1.0), "tau"),
        (("tau", None), "tau"),
        (("history", [float("inf")]), "Infinity, which is no number"),
        (("model_id", "../x"), "model_id"),
        (("encoder", 3), "encoder"),
        (("encoder", {"path": 1}), "encoder.path"),
        (("digest", []), "digest"),
    ],
)
def test_a_model_json_of_another_form_is_one_sentence(tmp_path: Path, text: Any, message: str) -> None:
    saved = model().save(tmp_path)
    if isinstance(text, str):
        (saved / "model.json").write_bytes(text.encode("latin-1"))
    else:
        rewritten(saved, **{text[0]: text[1]})
    with pytest.raises(ModelError, match=re.escape(message)) as caught:
        ClusterModel.load(saved)
    assert "model.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_number_too_large_for_a_float(tmp_path: Path) -> None:
    saved = model().save(tmp_path)
    text = (saved / "model.json").read_text()
    (saved / "model.json").write_text(text.replace('"tau": 0.25', '"tau": 1e999'))
    with pytest.raises(ModelError, match="1e999 is too large"):
        ClusterModel.load(saved)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"centroids": np.full((3, CHANNELS), np.nan, np.float32), "counts": np.arange(3)}, "not finite"),
        (
            {"centroids": np.ones((3, CHANNELS), np.float32), "counts": np.array([1, -1, 2])},
            "counts below 0",
        ),
        ({"centroids": np.ones((3, CHANNELS)), "counts": np.arange(3)}, "expected float32"),
        ({"centroids": np.ones((3, CHANNELS), np.float32), "counts": np.arange(4)}, "expected float32"),
        ({"centroids": np.ones((3, CHANNELS), np.float32)}, "lacks 'counts'"),
        (None, "cannot be read as centroids"),
    ],
)
def test_arrays_that_cannot_be(tmp_path: Path, arrays: dict[str, np.ndarray] | None, message: str) -> None:
    saved = model().save(tmp_path)
    without_digest(saved)
    if arrays is None:
        (saved / "centroids.safetensors").write_bytes(b"cut")
    else:
        save_file(arrays, saved / "centroids.safetensors")
    with pytest.raises(ModelError, match=message):
        ClusterModel.load(saved)


def test_a_fit_that_ends_without_a_number_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not finite"):
        replace(model(), info={**model().info, "inertia": float("nan")}).save(tmp_path)
    assert not list(tmp_path.iterdir())
