"""ResNet1d against an independent computation of the published architecture, and its published names and shapes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import sliding_window_view

from ecgscale.encoders.resnet1d import ResNet1d

CODE_BLOCKS = [[64, 4096], [128, 1024], [196, 256], [256, 64], [320, 16]]


def conv(x: np.ndarray, weight: np.ndarray, stride: int, padding: int) -> np.ndarray:
    """(C_in, T) * (C_out, C_in, k): correlation with zeros around, every `stride`-th place."""
    windows = sliding_window_view(np.pad(x, ((0, 0), (padding, padding))), weight.shape[-1], axis=-1)[:, ::stride]
    return np.einsum("clk,ock->ol", windows, weight)


def norm(x: np.ndarray, state: dict[str, np.ndarray], name: str) -> np.ndarray:
    scale = state[f"{name}.weight"] / np.sqrt(state[f"{name}.running_var"] + 1e-5)
    return (x - state[f"{name}.running_mean"][:, None]) * scale[:, None] + state[f"{name}.bias"][:, None]


def published(
    x: np.ndarray, state: dict[str, np.ndarray], input_length: int, blocks: list[list[int]], kernel: int
) -> dict:
    """The network as published, for one record (n_leads, T) in float64: its prediction and what each block returns."""
    lengths = [input_length, blocks[0][1], *(length for _, length in blocks)]
    stride = lengths[0] // lengths[1]
    stream = norm(conv(x, state["conv1.weight"], stride, (kernel - stride + 1) // 2), state, "bn1")
    raw, out = stream, {}
    for i in range(len(blocks)):
        name, stride = f"resblock1d_{i}", lengths[i + 1] // lengths[i + 2]
        skip = raw.reshape(len(raw), -1, stride).max(axis=-1)
        for j in (0, 1):
            if f"{name}.skip_connection.{j}.weight" in state:
                skip = state[f"{name}.skip_connection.{j}.weight"][:, :, 0] @ skip
        hidden = np.maximum(norm(conv(stream, state[f"{name}.conv1.weight"], 1, kernel // 2), state, f"{name}.bn1"), 0)
        raw = conv(hidden, state[f"{name}.conv2.weight"], stride, (kernel - stride + 1) // 2) + skip
        stream = np.maximum(norm(raw, state, f"{name}.bn2"), 0)
        out[name] = (stream, raw)
    out["prediction"] = state["lin.weight"] @ stream.reshape(-1) + state["lin.bias"]
    return out


@pytest.mark.parametrize(
    ("input_dim", "blocks", "kernel"),
    [
        ((12, 256), [[8, 256], [12, 64], [16, 16], [16, 4]], 17),
        ((3, 60), [[4, 30], [4, 30], [6, 10], [5, 2]], 5),
        ((2, 64), [[4, 64], [6, 64], [6, 32]], 3),
    ],
)
def test_equals_the_published_computation(input_dim: tuple, blocks: list, kernel: int) -> None:
    torch.manual_seed(0)
    net = ResNet1d(input_dim, blocks, 3, kernel_size=kernel).double().eval()
    with torch.no_grad():
        for name, value in net.state_dict().items():
            if "bn" in name and value.is_floating_point():
                value.copy_(torch.rand_like(value) + 0.2)
    caught: dict = {}
    for i in range(len(blocks)):
        name = f"resblock1d_{i}"
        net.get_submodule(name).register_forward_hook(lambda _m, _i, output, name=name: caught.update({name: output}))
    x = torch.randn(2, *input_dim, dtype=torch.float64)
    with torch.no_grad():
        prediction = net(x)
    state = {name: value.numpy() for name, value in net.state_dict().items()}
    for record in range(2):
        expected = published(x[record].numpy(), state, input_dim[1], blocks, kernel)
        np.testing.assert_allclose(prediction[record], expected["prediction"], rtol=1e-10, atol=1e-10)
        for i in range(len(blocks)):
            for element in (0, 1):
                found = caught[f"resblock1d_{i}"][element][record]
                np.testing.assert_allclose(found, expected[f"resblock1d_{i}"][element], rtol=1e-10, atol=1e-10)


def test_has_the_names_and_shapes_of_the_published_checkpoints() -> None:
    with torch.device("meta"):
        state = ResNet1d((12, 4096), CODE_BLOCKS, 6).state_dict()
    expected: dict[str, tuple[int, ...]] = {"conv1.weight": (64, 12, 17), "lin.weight": (6, 5120), "lin.bias": (6,)}
    batch_norms = {"bn1": 64}
    n_in = 64
    for i, (n_out, _) in enumerate(CODE_BLOCKS):
        expected[f"resblock1d_{i}.conv1.weight"] = (n_out, n_in, 17)
        expected[f"resblock1d_{i}.conv2.weight"] = (n_out, n_out, 17)
        batch_norms |= {f"resblock1d_{i}.bn1": n_out, f"resblock1d_{i}.bn2": n_out}
        if n_in != n_out:
            expected[f"resblock1d_{i}.skip_connection.1.weight"] = (n_out, n_in, 1)
        n_in = n_out
    for name, channels in batch_norms.items():
        expected |= {f"{name}.{part}": (channels,) for part in ("weight", "bias", "running_mean", "running_var")}
        expected[f"{name}.num_batches_tracked"] = ()
    assert {name: tuple(value.shape) for name, value in state.items()} == expected


def test_published_defaults_and_lengths() -> None:
    net = ResNet1d((12, 4096), CODE_BLOCKS, 1).eval()
    assert net.resblock1d_0.dropout1.p == 0.8
    assert net.resblock1d_0.skip_connection is None
    lengths = []
    for i in range(5):
        net.get_submodule(f"resblock1d_{i}").register_forward_hook(lambda _m, _i, out: lengths.append(out[0].shape[-1]))
    with torch.inference_mode():
        assert net(torch.zeros(1, 12, 4096)).shape == (1, 1)
    assert lengths == [4096, 1024, 256, 64, 16]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"blocks_dim": [[8, 64], [8, 48]]}, r"blocks_dim\[1\]: 64 samples cannot become 48"),
        ({"blocks_dim": [[8, 64], [8, 128]]}, "cannot become 128"),
        ({"blocks_dim": [[8, 63]]}, "stem: 64 samples cannot become 63"),
        ({"blocks_dim": []}, "blocks_dim is empty"),
        ({"blocks_dim": [[8, 64]], "kernel_size": 16}, "has to be odd"),
    ],
)
def test_shapes_that_do_not_fit(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ResNet1d((12, 64), n_classes=2, **arguments)


def test_folding_batch_norms_changes_nothing_but_rounding() -> None:
    torch.manual_seed(0)
    network = ResNet1d([3, 64], [[8, 64], [12, 16], [12, 4]], 2).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            torch.nn.init.uniform_(module.weight, 0.5, 2.0)
            torch.nn.init.normal_(module.bias)
            torch.nn.init.normal_(module.running_mean)
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
    x = torch.randn(4, 3, 64, dtype=torch.float64)
    network = network.double()
    with torch.inference_mode():
        before = network(x)
        torch.testing.assert_close(network.folded()(x), before, rtol=1e-12, atol=1e-12)
        assert torch.equal(network(x), before)
    assert not any(
        isinstance(m, torch.nn.BatchNorm1d) for m in (network.folded().bn1, network.folded().resblock1d_1.bn1)
    )


def test_gradients_flow_as_before() -> None:
    network = ResNet1d([2, 16], [[4, 16], [4, 4]], 1)
    network(torch.randn(3, 2, 16)).sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
