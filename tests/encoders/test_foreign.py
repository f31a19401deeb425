"""Networks that come as programs, or as a folder of `from_pretrained`: the same numbers as the network itself gives."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import nn

from ecgscale.encoders.check import check_encoder, unsteadiness
from ecgscale.encoders.spec import EncoderSpec, encoder_files, encoder_parts, write_spec
from ecgscale.encoders.taps import Encoder
from ecgscale.errors import EncoderError
from ecgscale.passes.alongside import copy_encoder
from ecgscale.passes.fit.worker import random_encoder
from ecgscale.passes.probe.network import ProbeNetwork
from tests.worlds.formula.small_networks import spec_of

LENGTH = 64
X = np.random.default_rng(0).normal(size=(4, 12, LENGTH)).astype(np.float32)


class Block(nn.Module):
    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv1d(width, out, 5, stride=2, padding=2), nn.BatchNorm1d(out)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.bn(self.conv(x)))


class Net(nn.Module):
    """Blocks of one class in a list, one that is used twice, one that returns a tuple, in-place operations."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(12, 5), Block(5, 5)])
        self.again, self.drop = nn.Tanh(), nn.Dropout(0.5)
        self.two = Two()
        self.lin = nn.Linear(5, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        x, mean = self.two(self.again(x))
        x += 1
        return self.lin(self.drop(self.again(x).mean(-1) + mean))


class Two(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x * 2, x.mean(-1)


def net() -> Net:
    torch.manual_seed(3)
    made = Net().eval()
    for block in made.blocks:
        nn.init.normal_(block.bn.running_mean)  # type: ignore[union-attr,arg-type]
    return made


def spec(**changes: Any) -> EncoderSpec:
    given = {"sampling_rate": 100.0, "length": LENGTH, "leads": list(spec_of().input.leads)}
    return spec_of(**{"arguments": {}, "input": given, **changes})


def hooked(module: nn.Module, names: list[str]) -> dict[str, torch.Tensor]:
    """By hooks written by hand: what these modules give for X, and what the network predicts under ""."""
    kept: dict[str, torch.Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        return lambda _module, _inputs, output: kept.update({name: (output[0] if "two" in name else output).clone()})

    for name in names:
        module.get_submodule(name).register_forward_hook(keep(name))
    with torch.inference_mode():
        kept[""] = module(torch.from_numpy(X))
    return kept


def scripted(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(net()).save(str(path))


def traced(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.trace(net(), torch.zeros(2, 12, LENGTH)).save(str(path))


LAYERS = ["blocks.0.conv", "blocks.1", "blocks.1.bn", "two#0"]


@pytest.mark.parametrize("save", [scripted, traced])
def test_torchscript_is_tapped_by_its_submodules(tmp_path: Path, save: Callable[[Path], None]) -> None:
    save(tmp_path / "net.torchscript.pt")
    content = spec(weights="net.torchscript.pt", layers=LAYERS, factory="torchscript")
    write_spec(tmp_path, content)
    text = (tmp_path / "encoder.toml").read_text()
    (tmp_path / "encoder.toml").write_text(text.replace('factory = "torchscript"\n', ""))
    encoder = Encoder.load(tmp_path, batch=4)
    assert encoder.spec == content
    expected = hooked(net(), [layer.partition("#")[0] for layer in LAYERS])
    same_as(encoder, [expected[layer.partition("#")[0]] for layer in LAYERS], expected[""], exact=True)
    assert encoder.n_parameters == sum(one.numel() for one in net().parameters())
    probe = ProbeNetwork.load(tmp_path, "cpu", 4)
    plain = ProbeNetwork(net(), content, "cpu", 4)
    target = np.zeros(4, np.int64)
    for found, wanted in zip(probe.gradcam(X, target).gradcam, plain.gradcam(X, target).gradcam, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)
    tapped = {layer.name: layer for layer in check_encoder(tmp_path).layers if layer.tapped}
    assert tapped["blocks.0.conv"].module == "Conv1d"
    for layer, why in (("again", "ran 0 times"), ("blocks.7", "no layer 'blocks.7'.*Did you mean 'blocks.")):
        write_spec(tmp_path, spec(weights="net.torchscript.pt", layers=[layer], factory="torchscript"))
        with pytest.raises(EncoderError, match=why):
            Encoder.load(tmp_path, batch=4)


def same_as(encoder: Encoder, blocks: list[torch.Tensor], prediction: torch.Tensor, exact: bool = False) -> None:
    """Taps and predictions equal these, the same bits twice and alone among neighbours."""
    found = encoder.forward(X)
    tolerance = {"rtol": 0.0, "atol": 0.0} if exact else {"rtol": 1e-5, "atol": 1e-6}
    for block, expected in zip(found.blocks, blocks, strict=True):
        torch.testing.assert_close(block, expected, **tolerance)
    torch.testing.assert_close(found.prediction, prediction, **tolerance)
    assert unsteadiness(encoder) is None
    for row in range(2):
        alone = encoder.forward(X[row : row + 1])
        for block, expected in zip((*alone.blocks, alone.prediction), (*found.blocks, found.prediction), strict=True):
            assert torch.equal(block[0], expected[row])


@pytest.mark.parametrize("size", [None, 1, 3])
def test_exported_programs_are_tapped_by_their_nodes(tmp_path: Path, size: int | None) -> None:
    dynamic = {0: torch.export.Dim("n", min=1, max=1024)} if size is None else None
    program = torch.export.export(net(), (torch.zeros(size or 2, 12, LENGTH),), dynamic_shapes=(dynamic,))
    torch.export.save(program, tmp_path / "net.pt2")
    nodes = {"conv1d": "blocks.0.conv", "batch_norm_1": "blocks.1.bn", "mul": "two"}
    write_spec(tmp_path, spec(weights="net.pt2", layers=list(nodes), factory="torch.export"))
    encoder = Encoder.load(tmp_path, batch=4)
    expected = hooked(net(), list(nodes.values()))
    same_as(encoder, [expected[name] for name in nodes.values()], expected[""])
    probe = ProbeNetwork.load(tmp_path, "cpu", 4)
    if size is None:
        maps = probe.gradcam(X, np.zeros(4, np.int64)).gradcam
        assert any(one.any() for one in maps)
    else:
        # Run in parts, whose values are put together behind it.
        with pytest.raises(EncoderError, match="no Grad-CAM"):
            probe.gradcam(X, np.zeros(4, np.int64))
    [(part, other)] = probe.randomised(0)
    assert part == "everything"
    assert not np.array_equal(other.forward(X).prediction, probe.forward(X).prediction)
    write_spec(tmp_path, spec(weights="net.pt2", layers=["conv1"], factory="torch.export"))
    with pytest.raises(EncoderError, match=r"no layer 'conv1'.*Did you mean 'conv1d'"):
        Encoder.load(tmp_path, batch=4)


def write_onnx(path: Path, size: int | str = "n", elsewhere: str | None = None) -> nn.Sequential:
    """Convolution, ReLU, mean and a linear layer, the data in another file where that is named; the same in torch."""
    torch.manual_seed(5)
    conv, lin = nn.Conv1d(12, 6, 5, stride=2, padding=2), nn.Linear(6, 2)
    plain = nn.Sequential(conv, nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), lin)
    weights = {"w": conv.weight, "b": conv.bias, "lw": lin.weight, "lb": lin.bias}
    assert all(value is not None for value in weights.values())
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["/block.0/Conv_output_0"], pads=[2, 2], strides=[2]),
        helper.make_node("Relu", ["/block.0/Conv_output_0"], ["block/Relu:0"]),
        helper.make_node("GlobalAveragePool", ["block/Relu:0"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "lw", "lb"], ["logits"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [size, 12, LENGTH])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [size, 2])],
        [numpy_helper.from_array(value.detach().numpy(), name) for name, value in weights.items()],  # type: ignore[union-attr]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    options = {"save_as_external_data": True, "location": elsewhere, "size_threshold": 0} if elsewhere else {}
    onnx.save(model, str(path), **options)
    return plain.eval()


VALUES = ["/block.0/Conv_output_0", "block/Relu:0"]


@pytest.mark.parametrize("size", ["n", 1, 3])
def test_onnx_is_tapped_by_its_values(tmp_path: Path, size: int | str) -> None:
    plain = write_onnx(tmp_path / "net.onnx", size)
    write_spec(tmp_path, spec(weights="net.onnx", layers=VALUES, factory="onnx"))
    encoder = Encoder.load(tmp_path, batch=4)
    expected = hooked(plain, ["0", "1"])
    same_as(encoder, [expected["0"], expected["1"]], expected[""])
    assert encoder.n_parameters == sum(one.numel() for one in plain.parameters())
    before = torch.get_num_threads()
    torch.set_num_threads(3 - min(before, 2))
    try:
        assert torch.equal(Encoder.load(tmp_path, batch=4).forward(X).blocks[1], encoder.forward(X).blocks[1])
    finally:
        torch.set_num_threads(before)
    with pytest.raises(EncoderError, match="has no gradients"):
        ProbeNetwork.load(tmp_path, "cpu", 4).gradcam(X, np.zeros(4, np.int64))


def test_onnx_keeps_large_weights_beside_it(tmp_path: Path) -> None:
    write_onnx(tmp_path / "net.onnx", elsewhere="net.onnx.data")
    write_spec(tmp_path, spec(weights="net.onnx", layers=VALUES, factory="onnx"))
    encoder = Encoder.load(tmp_path, batch=4)
    assert [path.name for path in encoder_files(tmp_path)] == ["encoder.toml", "net.onnx", "net.onnx.data"]
    copy_encoder(encoder, tmp_path / "root")
    there = tmp_path / "root" / "encoders" / encoder.encoder_id
    assert torch.equal(Encoder.load(there, batch=4).forward(X).prediction, encoder.forward(X).prediction)
    data = bytearray((tmp_path / "net.onnx.data").read_bytes())
    data[0] ^= 1
    (tmp_path / "net.onnx.data").write_bytes(data)
    assert encoder_parts(tmp_path).weights != encoder_parts(there).weights
    write_onnx(tmp_path / "net.onnx", elsewhere="other.bin")
    with pytest.raises(EncoderError, match=r"keeps weights in other.bin; .*location='net.onnx.data'"):
        Encoder.load(tmp_path, batch=4)


@pytest.mark.parametrize("kind", ["torchscript", "torch.export", "onnx"])
def test_programs_that_are_none_are_one_line(tmp_path: Path, kind: str) -> None:
    name = {"torchscript": "net.pt", "torch.export": "net.pt2", "onnx": "net.onnx"}[kind]
    write_spec(tmp_path, spec(weights=name, layers=["a"], factory=kind))
    with pytest.raises(EncoderError, match="no program at"):
        Encoder.load(tmp_path, batch=4)
    for data in (b"", b"nothing", b"PK\x03\x04" + bytes(40)):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(EncoderError, match=f"cannot be loaded as {kind}") as caught:
            Encoder.load(tmp_path, batch=4)
        assert "\n" not in str(caught.value)


def test_what_a_program_does_not_take_is_refused() -> None:
    for changes in ({"arguments": {"a": 1}}, {"weights_key": "model"}):
        with pytest.raises(ValidationError, match=r"takes no \[arguments\] and no weights_key"):
            spec(weights="net.onnx", factory="onnx", **changes)
    content = {name: value for name, value in spec().model_dump().items() if name != "factory"}
    with pytest.raises(ValidationError, match=r'factory is missing.*"torchscript" or "torch.export" or "onnx"'):
        EncoderSpec.model_validate({**content, "weights": "net.pt"})


def test_random_weights_of_what_has_no_class_are_its_own_in_another_order(tmp_path: Path) -> None:
    scripted(tmp_path / "net.ts")
    write_spec(tmp_path, spec(weights="net.ts", layers=["blocks.1"], factory="torchscript"))
    one, same, other = (random_encoder(tmp_path, seed, "cpu", 4).forward(X).blocks[0] for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    write_onnx(tmp_path / "net.onnx")
    write_spec(tmp_path, spec(weights="net.onnx", layers=VALUES, factory="onnx"))
    one, same, other = (random_encoder(tmp_path, seed, "cpu", 4).forward(X).blocks[0] for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


HUB = """
import json, os, pathlib
import torch
from torch import nn
from safetensors.torch import load_file

class Model(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.embed, self.head = nn.Conv1d(12, width, 8, stride=8), nn.Linear(width, 2)

    @classmethod
    def from_pretrained(cls, folder, **options):
        assert options.pop("local_files_only") and os.environ["HF_HUB_OFFLINE"] == "1"
        assert not options, options
        model = cls(**json.loads(pathlib.Path(folder, "config.json").read_text()))
        index = pathlib.Path(folder, "model.safetensors.index.json")
        names = set(json.loads(index.read_text())["weight_map"].values()) if index.exists() else ["model.safetensors"]
        for name in names:
            model.load_state_dict(load_file(pathlib.Path(folder, name)), strict=False)
        return model

    def forward(self, x):
        states = self.embed(x)
        return {"logits": self.head(states.mean(-1)), "hidden_states": (x, states)}
"""


def hub_folder(tmp_path: Path) -> dict[str, torch.Tensor]:
    (tmp_path / "hub.py").write_text(HUB)
    (tmp_path / "config.json").write_text('{"width": 7}')
    torch.manual_seed(1)
    embed, head = nn.Conv1d(12, 7, 8, stride=8), nn.Linear(7, 2)
    state = {**{f"embed.{k}": v for k, v in embed.state_dict().items()}, "head.bias": head.bias.detach()}
    return {**state, "head.weight": head.weight.detach()}


def test_a_folder_of_from_pretrained_is_loaded_from_the_disk_alone(tmp_path: Path) -> None:
    state = hub_folder(tmp_path)
    save_file(state, tmp_path / "model.safetensors")
    content = spec(weights="model.safetensors", factory="hub:Model.from_pretrained", layers=["embed"])
    write_spec(tmp_path, content)
    encoder = Encoder.load(tmp_path, batch=4)
    block = nn.functional.conv1d(torch.from_numpy(X), state["embed.weight"], state["embed.bias"], stride=8)
    same_as(encoder, [block], block.mean(-1) @ state["head.weight"].T + state["head.bias"])
    names = [path.name for path in encoder_files(tmp_path)]
    assert names == ["encoder.toml", "model.safetensors", "config.json", "hub.py"]
    before = encoder.digest
    (tmp_path / "config.json").write_text('{"width":  7}')
    assert encoder_parts(tmp_path).digest != before
    one, other = (random_encoder(tmp_path, seed, "cpu", 4).forward(X).blocks[0] for seed in (0, 1))
    assert not torch.equal(one, other)
    assert not torch.equal(one, block)


def test_a_folder_of_several_files_and_what_it_lacks(tmp_path: Path) -> None:
    state = hub_folder(tmp_path)
    parts = {"a.safetensors": ["embed.weight", "embed.bias"], "b.safetensors": ["head.weight", "head.bias"]}
    for file, names in parts.items():
        save_file({name: state[name] for name in names}, tmp_path / file)
    where = ", ".join(f'"{name}": "{file}"' for file, names in parts.items() for name in names)
    (tmp_path / "model.safetensors.index.json").write_text(f'{{"weight_map": {{{where}}}}}')
    factory = "hub:Model.from_pretrained"
    write_spec(tmp_path, spec(weights="model.safetensors.index.json", factory=factory, layers=["embed"]))
    encoder = Encoder.load(tmp_path, batch=4)
    copy_encoder(encoder, tmp_path / "root")
    there = tmp_path / "root" / "encoders" / encoder.encoder_id
    assert torch.equal(Encoder.load(there, batch=4).forward(X).prediction, encoder.forward(X).prediction)
    save_file({"head.bias": state["head.bias"]}, tmp_path / "b.safetensors")
    with pytest.raises(EncoderError, match=r"lacks weights that this class has, .*: head.weight"):
        Encoder.load(tmp_path, batch=4)
    write_spec(
        tmp_path,
        spec(
            weights="model.safetensors.index.json",
            factory=factory,
            layers=["embed"],
            arguments={"trust_remote_code": True},
        ),
    )
    with pytest.raises(EncoderError, match=r"modeling_x:XModel.from_pretrained"):
        Encoder.load(tmp_path, batch=4)
    torch.save(state, tmp_path / "pytorch_model.bin")
    write_spec(tmp_path, spec(weights="pytorch_model.bin", factory=factory, layers=["embed"]))
    with pytest.raises(EncoderError, match=r"save_pretrained\('new'\)"):
        Encoder.load(tmp_path, batch=4)
