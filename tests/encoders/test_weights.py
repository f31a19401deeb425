"""Checkpoints as training scripts save them: loaded when that runs no code, refused with the remedy when it would."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import pickle
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import nn

from ecgscale.encoders.network import load_weights
from ecgscale.encoders.spec import write_spec
from ecgscale.encoders.taps import Encoder
from ecgscale.errors import EncoderError
from tests.worlds.formula.small_networks import small_resnet, spec_of

STATE = small_resnet().state_dict()


def loaded(folder: Path, content: Any, key: str | None = None, file: str = "w.pt", save: Any = torch.save) -> nn.Module:
    """A network with other weights, after loading `content`."""
    save(content, folder / file)
    module = small_resnet(seed=5)
    load_weights(module, folder, spec_of(weights=file, weights_key=key))
    return module


def same(module: nn.Module) -> bool:
    return all(torch.equal(value, STATE[name]) for name, value in module.state_dict().items())


def prefixed(*prefixes: str, state: Any = STATE) -> dict[str, Any]:
    return {"".join(prefixes) + name: value for name, value in state.items()}


def legacy(content: Any, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize(
    ("content", "key"),
    [
        ({"epoch": 3, "model": STATE, "valid_loss": np.float32(3.5) / 7}, "model"),
        (
            {"model": STATE, "loss": np.float64(1), "n": np.int64(2), "best": np.bool_(True), "c": np.complex64(1)},
            "model",
        ),
        (
            {"model": STATE, "history": np.arange(6.0).reshape(2, 3), "text": np.array(["a"]), "t": np.str_("x")},
            "model",
        ),
        ({"model": STATE, "rng": np.random.RandomState(0).get_state()}, "model"),
        ({"args": argparse.Namespace(lr=1, out=Path("x"), betas=(0.9, 0.99)), "state_dict": STATE}, "state_dict"),
        (
            {"model": OrderedDict(STATE), "meters": defaultdict(list, a=[1]), "at": datetime.datetime(2020, 1, 1)},
            "model",
        ),
        (prefixed("module."), None),
        (prefixed("_orig_mod."), None),
        (prefixed("module.", "_orig_mod."), None),
        ({"state_dict": prefixed("model.")}, "state_dict"),
        ({"state_dict": prefixed("model.", "_orig_mod.")}, "state_dict"),
        (prefixed("net.encoder."), None),
        ({name.replace(".", ".module.", 1): value for name, value in STATE.items()}, None),
        ({"checkpoint": {"model": STATE}}, "checkpoint.model"),
        ({"a.b": STATE, "a": {"c": 1}}, "a.b"),
        ({name: value for name, value in STATE.items() if "num_batches" not in name}, None),
        # Where one set of weights fits, it need not be named.
        ({"epoch": 3, "model": STATE, "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}}}, None),
        ({"epoch": 3, "model_state": {"net": prefixed("module.")}, "torch": torch.__version__}, None),
        ({"model": STATE, "ema": {"module": STATE}}, "ema"),
        ((STATE, 3), None),
        ([{"lr": 1.0}, {"weights": STATE}], None),
        ([STATE, STATE], "1"),
        ({"step": torch.tensor(3), "params": {name: value.numpy() for name, value in STATE.items()}}, None),
        ({**STATE, "epoch": 3, "name": "best"}, None),
        (prefixed("_fsdp_wrapped_module."), None),
    ],
)
@pytest.mark.parametrize("save", [torch.save, legacy])
def test_what_training_scripts_save_loads(tmp_path: Path, content: Any, key: str | None, save: Any) -> None:
    assert same(loaded(tmp_path, content, key, save=save))


@pytest.mark.parametrize(
    ("content", "key", "left_out"),
    [
        # Lightning: the loss's weights beside; torch.optim.swa_utils.AveragedModel: how many were averaged.
        ({"state_dict": {**prefixed("model."), "loss.weight": torch.ones(2)}}, None, "loss.weight"),
        ({**prefixed("net.model."), "net.auroc.n": torch.ones(2), "lr": torch.ones(1)}, None, "net.auroc.n, lr"),
        ({"n_averaged": torch.tensor(3), **prefixed("module.")}, None, "n_averaged"),
        ({**STATE, "criterion.pos_weight": torch.ones(2)}, None, "criterion.pos_weight"),
        # Two fit: which one is said as the beginning of the names.
        ({"state_dict": {**prefixed("model."), **prefixed("ema.")}}, "state_dict.model", ""),
        ({**prefixed("student.net."), **prefixed("teacher.net.")}, "teacher.net", ""),
    ],
)
def test_what_lies_beside_the_weights_is_left_out_and_told(
    tmp_path: Path, content: Any, key: str | None, left_out: str
) -> None:
    torch.save(content, tmp_path / "w.pt")
    module = small_resnet(seed=5)
    found = load_weights(module, tmp_path, spec_of(weights="w.pt", weights_key=key))
    assert same(module)
    assert found.notes == ((f"left out of the checkpoint, as no part of the network: {left_out}",) if left_out else ())


def test_weight_norm_as_it_was_saved_before_it_was_a_parametrisation(tmp_path: Path) -> None:
    with pytest.warns(FutureWarning):
        old = torch.nn.utils.weight_norm(nn.Conv1d(2, 3, 5), dim=2)
    new = torch.nn.utils.parametrizations.weight_norm(nn.Conv1d(2, 3, 5), dim=2)
    torch.save({"state_dict": {f"pos.{name}": value for name, value in old.state_dict().items()}}, tmp_path / "w.pt")
    load_weights(nn.ModuleDict({"pos": new}), tmp_path, spec_of(weights="w.pt"))
    x = torch.ones(1, 2, 9)
    assert torch.allclose(old(x), new(x))


@pytest.mark.parametrize("file", ["last.ckpt", "pytorch_model.bin", "checkpoint.pth.tar", "model.pth"])
def test_files_may_be_named_as_scripts_name_them(tmp_path: Path, file: str) -> None:
    assert same(loaded(tmp_path, dict(STATE), file=file))


def test_a_published_training_script_gives_a_whole_encoder(tmp_path: Path) -> None:
    total: Any = 0
    total += torch.tensor(3.5).detach().cpu().numpy()
    optimiser = torch.optim.Adam(small_resnet().parameters(), 1e-3)
    content = {"epoch": 3, "model": STATE, "valid_loss": total / 7, "optimizer": optimiser.state_dict()}
    torch.save(content, tmp_path / "model.pth")
    write_spec(tmp_path, spec_of(weights="model.pth", weights_key="model"))
    assert Encoder.load(tmp_path, batch=2).n_parameters > 0


class Touching:
    """Pickles as a call that makes a file."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self._call = function, arguments

    def __reduce__(self) -> Any:
        return self._call


@pytest.mark.parametrize(
    "evil",
    [
        Touching(os.system, "touch pwned"),
        Touching(eval, "open('pwned', 'w')"),
        Touching(open, "pwned", "w"),
        Touching(np.load, "x.npy", None, True),
        Touching(np.fromfile, "/etc/passwd", "u1"),
        Touching(Path.touch, Path("pwned")),
        Touching(torch.load, "x.pt"),
        Touching(nn.Linear, 2, 2),
        np.array([Touching(os.system, "touch pwned")], dtype=object),
    ],
)
@pytest.mark.parametrize("save", [torch.save, legacy])
def test_nothing_that_a_file_says_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, evil: Any, save: Any) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EncoderError, match=r"could run any code.*torch.save\(checkpoint\['model'\]") as caught:
        loaded(tmp_path, {"model": STATE, "extra": evil}, "model", save=save)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "pwned").exists()


class Config(dict[str, Any]):
    """A settings object of some package, as OmegaConf's are."""


def save_script(module: nn.Module, path: Path) -> None:
    torch.jit.trace(module, torch.zeros(1, 12, 256), check_trace=False).save(str(path))


@pytest.mark.parametrize(
    ("content", "key", "save", "message"),
    [
        (
            small_resnet(),
            None,
            torch.save,
            r"ResNet1d.*model = torch.load\('w.pt', .*\); torch.save\(model.state_dict\(\)",
        ),
        (small_resnet(), None, legacy, r"ResNet1d.*; torch.save\(model.state_dict\(\), 'weights.pt'\)$"),
        (
            {"epoch": 3, "net": small_resnet()},
            None,
            torch.save,
            r"checkpoint = torch.load\('w.pt', .*weights_only=False\); torch.save\(checkpoint\['net'\].state_dict\(\),",
        ),
        (
            {"hyper_parameters": Config(), "state_dict": STATE},
            None,
            torch.save,
            r"Config.*torch.save\(checkpoint\['state_dict'\], 'weights.pt'\)$",
        ),
        (small_resnet(), None, save_script, r"TorchScript.*torch.jit.load\(FILE\).state_dict"),
        (
            {"model": STATE, "ema": {"module": STATE}},
            None,
            torch.save,
            "2 sets .* set weights_key to one of model, ema.module$",
        ),
        ({**prefixed("a."), **prefixed("b."), "c": torch.ones(1)}, None, torch.save, "weights_key to one of a, b$"),
        ({"ema": {"module": STATE}}, "ema.modul", torch.save, "no 'ema.modul'.*Did you mean 'module'"),
        ([1, 2], None, torch.save, "is no state_dict.*torch.save"),
        ({}, None, torch.save, "is no state_dict"),
        ({1: torch.ones(2)}, None, torch.save, "is no state_dict"),
        ({"epoch": 3, "args": {"lr": 1.0}}, None, torch.save, "no state_dict .*it holds epoch, args: save the weights"),
        # What is left out is never a part of a network that the class does not have.
        ({**STATE, "attention.weight": torch.ones(2)}, None, torch.save, "unexpected attention.weight$"),
        (
            {"model": {f"model.{name}": value for name, value in STATE.items() if name != "lin.bias"}},
            None,
            torch.save,
            r"weights_key = 'model'\) does not fit .* missing lin.bias$",
        ),
        ({**STATE, "lin.bias": torch.ones(2).to_sparse()}, None, torch.save, "sparse or quantised weights in lin.bias"),
        ({**STATE, "lin.bias": torch.ones(7)}, None, torch.save, r"lin.bias is \(7,\), expected \(2,\)"),
    ],
)
def test_what_is_no_state_dict_says_what_to_do(
    tmp_path: Path, content: Any, key: str | None, save: Any, message: str
) -> None:
    with pytest.raises(EncoderError, match=message) as caught:
        loaded(tmp_path, content, key, save=save)
    assert "\n" not in str(caught.value)


def test_files_that_torch_did_not_write_are_one_line(tmp_path: Path) -> None:
    torch.save(dict(STATE), tmp_path / "whole.pt")
    whole = (tmp_path / "whole.pt").read_bytes()
    rng = np.random.default_rng(0)
    spoilt = [b"", b"\x80", b"PK\x03\x04", whole[: len(whole) // 2], whole[:-9], rng.bytes(5000), b"\x80\x02]q\x00."]
    for _ in range(40):
        data = bytearray(whole)
        for at in rng.integers(0, len(data), 8):
            data[at] ^= 1 << rng.integers(8)
        spoilt.append(bytes(data))
    for data in spoilt:
        (tmp_path / "w.pt").write_bytes(data)
        assert "\n" not in told(tmp_path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.example/spec/v1\noid sha256:00\n", "`git lfs pull`"),
        (b"\x89HDF\r\n\x1a\n" + bytes(90), "tf2onnx"),
        (b"\x1f\x8b" + bytes(90), "unpack it"),
        (pickle.dumps({"a": np.ones(3)}), r"torch.save\(checkpoint"),
    ],
)
@pytest.mark.parametrize("file", ["w.pt", "w.safetensors"])
def test_files_of_other_kinds_say_what_to_do(tmp_path: Path, data: bytes, message: str, file: str) -> None:
    (tmp_path / file).write_bytes(data)
    if data[:1] == b"\x80" and file == "w.safetensors":
        message = "cannot be read as weights"
    with pytest.raises(EncoderError, match=message):
        load_weights(small_resnet(), tmp_path, spec_of(weights=file))


def test_safetensors_in_several_files(tmp_path: Path) -> None:
    names = list(STATE)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, its in parts.items():
        save_file({f"model.{name}": STATE[name] for name in its}, tmp_path / file)
    where = {f"model.{name}": file for file, its in parts.items() for name in its}
    (tmp_path / "w.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    module = small_resnet(seed=5)
    load_weights(module, tmp_path, spec_of(weights="w.safetensors.index.json"))
    assert same(module)
    for wrong in ("{", "[]", "{}", '{"weight_map": {"a": "../a.safetensors"}}'):
        (tmp_path / "w.safetensors.index.json").write_text(wrong)
        with pytest.raises(EncoderError, match="is no index of safetensors"):
            load_weights(module, tmp_path, spec_of(weights="w.safetensors.index.json"))


def test_safetensors_under_another_name_say_so(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "w.bin")
    with pytest.raises(EncoderError, match=r"name it w\.safetensors"):
        load_weights(small_resnet(), tmp_path, spec_of(weights="w.bin"))


@pytest.mark.parametrize(("file", "remedy"), [("w.h5", "ONNX"), ("w.keras", "ONNX"), ("w.pkl", "torch.save")])
def test_files_that_are_no_checkpoints_are_refused_with_the_remedy(file: str, remedy: str) -> None:
    with pytest.raises(ValidationError, match=remedy):
        spec_of(weights=file)


def told(folder: Path) -> str:
    try:
        load_weights(small_resnet(seed=5), folder, spec_of(weights="w.pt"))
    except EncoderError as error:
        return str(error)
    return ""
