"""Encoders of any kind: taps, fixed-shape passes, imports, weights, and errors that say what would fit."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from ecgscale.encoders.resnet1d import ResNet1d
from ecgscale.encoders.spec import write_spec
from ecgscale.encoders.taps import Encoder, resolve_device
from ecgscale.errors import EncoderError, UsageError
from tests.worlds.formula.small_networks import ARGUMENTS, noise, small_resnet, spec_of, write_small_encoder

X = np.stack([noise(256, seed=seed) for seed in range(16)])


def test_taps_are_what_the_layers_return_in_the_order_given(tmp_path: Path) -> None:
    layers = ["resblock1d_2#1", "resblock1d_1", "resblock1d_0.conv2"]
    encoder = Encoder.load(write_small_encoder(tmp_path, layers=layers), batch=16)
    assert encoder.layout == ((16, 16), (12, 64), (8, 256))
    assert encoder.hop == 1
    found = encoder.forward(X)
    net = small_resnet()
    caught: dict[str, Any] = {}
    for name in ("resblock1d_2", "resblock1d_1", "resblock1d_0.conv2"):
        net.get_submodule(name).register_forward_hook(lambda _m, _i, out, name=name: caught.update({name: out}))
    with torch.inference_mode():
        prediction = net(torch.from_numpy(X))
    expected = [caught["resblock1d_2"][1], caught["resblock1d_1"][0], caught["resblock1d_0.conv2"]]
    for block, wanted in zip(found.blocks, expected, strict=True):
        # Batch norms are folded into convolutions for inference: equal but for rounding.
        torch.testing.assert_close(block, wanted, rtol=1e-4, atol=2e-6)
    torch.testing.assert_close(found.prediction, prediction, rtol=1e-4, atol=2e-6)
    assert encoder.encoder_id.startswith("small-")
    assert encoder.directory == tmp_path


def test_a_short_batch_is_filled_up_and_neighbours_do_not_matter(tmp_path: Path) -> None:
    encoder = Encoder.load(write_small_encoder(tmp_path), batch=16)
    assert encoder.hop == 1
    whole = encoder.forward(X)
    for rows in (slice(0, 5), slice(11, 16), slice(3, 4)):
        part = encoder.forward(torch.from_numpy(X[rows]))
        assert len(part.prediction) == rows.stop - rows.start
        torch.testing.assert_close(part.prediction, whole.prediction[rows], rtol=0, atol=0)
        for found, expected in zip(part.blocks, whole.blocks, strict=True):
            torch.testing.assert_close(found, expected[rows], rtol=0, atol=0)


def test_input_of_another_shape(tmp_path: Path) -> None:
    encoder = Encoder.load(write_small_encoder(tmp_path), batch=8)
    with pytest.raises(EncoderError, match=r"\(1..8, 12, 256\)"):
        encoder.forward(X)
    with pytest.raises(EncoderError, match=r"\(1..8, 12, 256\)"):
        encoder.forward(X[:2, :, :100])


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (
            ["resblock_2"],
            "no layer 'resblock_2'.*Did you mean 'resblock1d_2'.*resblock1d_0, .*lin and [0-9]+ inside them",
        ),
        (["resblock1d_2#7"], "returns 2 element.*element 7"),
        (["resblock1d_2#"], "number of an element"),
        (["resblock1d_2.conv1#1"], "returns 1 element"),
        (["resblock1d_2#x"], "element x is not there"),
        (["lin"], r"gives shape \(4, 2\)"),
    ],
)
def test_layers_that_cannot_be_tapped(tmp_path: Path, layers: list[str], message: str) -> None:
    write_small_encoder(tmp_path, layers=layers)
    with pytest.raises(EncoderError, match=message):
        Encoder.load(tmp_path, batch=4)


NETWORKS = '''
import torch
from torch import nn

class Tuple(nn.Module):
    """Returns (prediction, features); works in place on what its layer returned; may use one module twice."""
    def __init__(self, times=1, width=3, longer=False):
        super().__init__()
        self.conv = nn.Conv1d(12, width, 5, stride=4, padding=2)
        self.again = nn.Identity()
        self.times, self.longer = times, longer
        self.unused = nn.Identity()
        self.long = nn.Upsample(scale_factor=2)
    def forward(self, x):
        h = self.conv(x)
        h += 1000.0
        for _ in range(self.times):
            h = self.again(h)
        if self.longer:
            self.long(x)
        return h.mean(dim=-1)[:, 0], h

def wrong_kind(**kwargs):
    return [1, 2]
'''


def own_spec(**changes: Any) -> Any:
    defaults: dict[str, Any] = {
        "factory": "own_networks:Tuple",
        "layers": ["conv"],
        "arguments": {},
        "output": {"kind": "regression", "names": ["age"]},
    }
    return spec_of(**(defaults | changes))


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An encoder whose network is somebody's own file in the working directory."""
    (tmp_path / "own_networks.py").write_text(NETWORKS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "own_networks", raising=False)
    net = nn.ModuleDict({"conv": nn.Conv1d(12, 3, 5)})
    torch.manual_seed(0)
    save_file(net.state_dict(), tmp_path / "weights.safetensors")
    write_spec(tmp_path, own_spec())
    return tmp_path


def test_any_network_by_import_path_from_the_working_directory(own: Path) -> None:
    encoder = Encoder.load(own, batch=4)
    found = encoder.forward(X[:2])
    assert encoder.layout == ((3, 64),)
    assert encoder.hop == 4
    assert found.prediction.shape == (2, 1)
    # Caught before the network added 1000 to it in place.
    assert found.blocks[0].abs().max() < 100
    assert found.prediction.min() > 900


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arguments": {"times": 2}, "layers": ["again"]}, "ran 2 times"),
        ({"layers": ["unused"]}, "ran 0 times"),
        ({"arguments": {"longer": True}, "layers": ["long"]}, "at most 256 steps"),
        ({"arguments": {"depth": 2}}, "refuses its .arguments. .depth.: depth unknown"),
        ({"factory": "own_networks:Tupel"}, "has no 'Tupel'.*Did you mean 'Tuple'"),
        ({"factory": "own_network:Tuple"}, "cannot be imported.*PYTHONPATH"),
        ({"factory": "own_networks:wrong_kind"}, "gives a list"),
        ({"output": {"kind": "multilabel", "names": ["A", "B"]}}, r"predicts shape \(4, 1\).*names 2: A, B"),
        ({"arguments": {"width": 4}}, r"conv.weight is \(3, 12, 5\), expected \(4, 12, 5\)"),
        ({"input": {"leads": ["I", "II"], "sampling_rate": 100, "length": 256}}, "does not run on a batch of zeros"),
        ({"weights": "other.safetensors"}, "no weights at"),
    ],
)
def test_encoders_that_do_not_fit(own: Path, changes: dict[str, Any], message: str) -> None:
    write_spec(own, own_spec(**changes))
    with pytest.raises(EncoderError, match=message):
        Encoder.load(own, batch=4)


class Malicious:
    def __reduce__(self) -> Any:
        return os.system, ("touch pwned",)


def test_pickled_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"model": small_resnet().state_dict(), "extra": Malicious()}, tmp_path / "w.pt")
    write_spec(tmp_path, spec_of(weights="w.pt", weights_key="model"))
    with pytest.raises(EncoderError, match="unpickling it could run any code"):
        Encoder.load(tmp_path, batch=4)
    assert not (tmp_path / "pwned").exists()


def test_a_published_checkpoint_loads_by_its_key(tmp_path: Path) -> None:
    state = {name: value for name, value in small_resnet().state_dict().items() if "num_batches" not in name}
    torch.save({"epoch": 3, "model": state, "optimizer": {"lr": 0.1}}, tmp_path / "model.pth")
    write_spec(tmp_path, spec_of(weights="model.pth", weights_key="model"))
    encoder = Encoder.load(tmp_path, batch=16)
    expected = Encoder.load(write_small_encoder(tmp_path / "same"), batch=16).forward(X).prediction
    torch.testing.assert_close(encoder.forward(X).prediction, expected, rtol=0, atol=0)
    write_spec(tmp_path, spec_of(weights="model.pth", weights_key="modle"))
    with pytest.raises(EncoderError, match="Did you mean 'model'"):
        Encoder.load(tmp_path, batch=4)


def test_weights_that_do_not_fit_are_listed(tmp_path: Path) -> None:
    write_small_encoder(tmp_path)
    state = ResNet1d(**{**ARGUMENTS, "n_classes": 3}).state_dict()
    state["head.weight"] = state.pop("lin.weight")
    save_file(state, tmp_path / "weights.safetensors")
    with pytest.raises(EncoderError, match=r"missing lin.weight; unexpected head.weight; other shapes: lin.bias is"):
        Encoder.load(tmp_path, batch=4)
    save_file({f"module.{name}": value for name, value in state.items()}, tmp_path / "weights.safetensors")
    with pytest.raises(EncoderError, match=r"missing lin.weight; unexpected head.weight; other shapes: lin.bias is"):
        Encoder.load(tmp_path, batch=4)


def test_spoilt_and_cut_weights(tmp_path: Path) -> None:
    write_small_encoder(tmp_path)
    state = small_resnet().state_dict()
    state["lin.bias"][0] = torch.nan
    save_file(state, tmp_path / "weights.safetensors")
    with pytest.raises(EncoderError, match=r"NaN or infinite weights in lin.bias"):
        Encoder.load(tmp_path, batch=4)
    (tmp_path / "weights.safetensors").write_bytes(b"cut")
    with pytest.raises(EncoderError, match="cannot be read as weights"):
        Encoder.load(tmp_path, batch=4)


def test_devices() -> None:
    assert resolve_device("cpu").type == "cpu"
    assert resolve_device("auto").type in ("cpu", "cuda")
    with pytest.raises(UsageError, match="choose auto, cpu or cuda"):
        resolve_device("quantum")
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match="torch sees no GPU"):
            resolve_device("cuda")


def test_batch_of_none(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="batch is 0"):
        Encoder(small_resnet(), spec_of(), batch=0)
