"""What a fit asks of the network: that it is what the files say, and a function of its input alone."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ecgscale.archive.reader import Archive
from ecgscale.clusters.model import ClusterModel
from ecgscale.errors import EncoderError, ModelError
from ecgscale.explain.facts import load_encoder, require_contract, require_encoder, require_encoder_files
from ecgscale.passes.explain.explain import explain_archive
from ecgscale.passes.fit.fit import FittedModel, fit_archive
from tests.worlds.commands.explaining import Watching
from tests.worlds.commands.simulated import request, simulated
from tests.worlds.formula.small_networks import write_small_encoder

NETWORK = """
import torch.nn.functional as F
from ecgscale.encoders.resnet1d import ResNet1d
from own_parts import SLOPE

class Own(ResNet1d):
    def forward(self, x):
        return super().forward(x * SLOPE)

class Random(ResNet1d):
    def forward(self, x):
        return super().forward(F.dropout(x, 0.5))
"""


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulated(tmp_path_factory.mktemp("network") / "archive")


def forget_modules() -> None:
    for name in ("own_network", "own_parts"):
        sys.modules.pop(name, None)


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a user's network in two modules, where the command is typed."""
    (tmp_path / "own_network.py").write_text(NETWORK)
    (tmp_path / "own_parts.py").write_text("SLOPE = 1.0\n")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    forget_modules()


def fit(
    archive: Path, folder: Path, watch: Watching | None = None, network: str = "Own", **changes: bool
) -> FittedModel:
    encoder = write_small_encoder(folder / network, factory=f"own_network:{network}")
    asked = request(clusters=(3,), **changes)
    [one] = fit_archive(Archive.open(archive), encoder, folder / "root", asked, watch or Watching())
    return one


def test_a_changed_class_is_another_encoder_and_the_old_model_is_refused(archive: Path, own: Path) -> None:
    first, watch = fit(archive, own), Watching()
    assert first.model.info["deterministic"] is True
    assert set(first.model.info["encoder"]["parts"]["code"]) == {"own_network.py", "own_parts.py"}
    assert fit(archive, own).already_there
    require_contract(first.model, first.model.encoder_path)
    explain_archive(Archive.open(archive), first.directory, own / "root", device="cpu")
    (own / "own_parts.py").write_text("SLOPE = 2.0\n")
    forget_modules()
    with pytest.raises(ModelError, match=r"the network's code \(own_parts.py\) changed"):
        explain_archive(Archive.open(archive), first.directory, own / "root", device="cpu")
    require_encoder_files(first.model, first.model.encoder_path)
    second = fit(archive, own, watch)
    assert not second.already_there
    assert second.model.info["encoder"]["id"] != first.model.info["encoder"]["id"]
    assert any(
        f"since model {first.model.model_id}, the network's code (own_parts.py) changed" in s for s in watch.said
    )
    (own / "own_parts.py").write_text("SLOPE = 1.0\n")
    forget_modules()
    assert fit(archive, own).model.model_id == first.model.model_id


def test_a_model_of_before_code_counted_goes_on(archive: Path, own: Path) -> None:
    [model] = [fit(archive, own).model]
    parts = model.info["encoder"].pop("parts")
    model.info["encoder"]["digest"] = model.info["encoder_digest"] = parts["files"]
    require_encoder(model)
    assert load_encoder(model, "cpu").digest == parts["files"]


def test_a_damaged_copy_of_the_encoder_is_told_by_a_fit(archive: Path, own: Path) -> None:
    weights = fit(archive, own).model.encoder_path / "weights.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(data[:-2] + bytes([data[-2] ^ 1]) + data[-1:])
    with pytest.raises(ModelError, match="the weights changed"):
        fit(archive, own)
    with pytest.raises(EncoderError, match="is not the encoder that it is named after"):
        fit(archive, own, include_padding=True)
    weights.write_bytes(data)
    assert fit(archive, own).already_there
    contract = weights.with_name("encoder.toml")
    contract.write_text(contract.read_text().replace('"A", "B"', '"B", "A"'))
    with pytest.raises(ModelError, match="was changed since cluster model"):
        require_contract(fit_model(own), weights.parent)


def fit_model(folder: Path) -> ClusterModel:
    [directory] = (folder / "root" / "models").iterdir()
    return ClusterModel.load(directory)


def test_a_random_network_is_refused_unless_allowed_and_recorded(archive: Path, own: Path) -> None:
    with pytest.raises(EncoderError, match=r"Random, in its own forward.*--allow-nondeterministic"):
        fit(archive, own, network="Random")
    assert not list((own / "root").glob("models/*"))
    watch = Watching()
    fitted = fit(archive, own, watch, network="Random", allow_nondeterministic=True)
    assert json.loads((fitted.directory / "model.json").read_text())["deterministic"] is False
    assert any("not a function of its input alone" in said for said in watch.said)
    assert explain_archive(Archive.open(archive), fitted.directory, own / "root", device="cpu").published


def test_a_model_that_never_asked_is_asked_when_it_explains(archive: Path, own: Path) -> None:
    fitted = fit(archive, own, network="Random", allow_nondeterministic=True)
    facts = json.loads((fitted.directory / "model.json").read_text())
    del facts["deterministic"], facts["digest"]
    (fitted.directory / "model.json").write_text(json.dumps(facts))
    assert not ClusterModel.load(fitted.directory).is_sealed
    with pytest.raises(EncoderError, match="not a function of its input alone"):
        explain_archive(Archive.open(archive), fitted.directory, own / "root", device="cpu")
