"""The network with its taps open: the same forward pass, gradients as by hand, dropout, weights out of order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ecgscale.encoders.spec import EncoderSpec
from ecgscale.encoders.taps import Encoder
from ecgscale.passes.probe.network import ProbeNetwork
from tests.worlds.formula.small_networks import noise, spec_of, write_small_encoder

X = np.stack([noise(256, seed=i) for i in range(3)])
TARGET = np.array([0, 1, 1])


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture
def network(directory: Path) -> ProbeNetwork:
    return ProbeNetwork.load(directory, "cpu", 4)


class InPlace(nn.Module):
    """Taps whose outputs are changed in place behind them, and given as a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Conv1d(12, 4, 5, padding=2), Doubled(), nn.Linear(4, 2)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden, _ = self.second(self.act(self.first(x)))
        return self.head(hidden.mean(dim=2))


class Doubled(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return 2 * x, x


def in_place_spec() -> EncoderSpec:
    return spec_of(factory="tests.passes.probe.test_probe_network:InPlace", arguments={}, layers=["first", "second#0"])


def test_the_forward_pass_is_the_encoders(directory: Path, network: ProbeNetwork) -> None:
    theirs, ours = Encoder.load(directory, batch=4).forward(X), network.forward(X)
    for a, b in zip(theirs.blocks, ours.blocks, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(ours.prediction, theirs.prediction.numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(network.predict(np.concatenate([X, X]))[3:], network.predict(X))


def test_gradcam_against_a_nudge(network: ProbeNetwork) -> None:
    """The last block feeds the linear layer alone: ∂y/∂A is its weights."""
    passed = network.gradcam(X, TARGET)
    weights = network.module.lin.weight.detach().reshape(2, *passed.blocks[-1].shape[1:])  # type: ignore[union-attr, operator]
    for i, target in enumerate(TARGET):
        expected = torch.relu((weights[target].mean(dim=1, keepdim=True) * passed.blocks[-1][i]).sum(dim=0))
        np.testing.assert_allclose(passed.gradcam[-1][i], expected.numpy(), rtol=1e-4, atol=1e-6)
    assert [cam.shape for cam in passed.gradcam] == [(3, length) for length in (256, 64, 16)]
    np.testing.assert_allclose(passed.prediction, network.forward(X).prediction, rtol=1e-5, atol=1e-6)


def test_records_do_not_notice_each_other(network: ProbeNetwork) -> None:
    alone = network.gradcam(X[1:2], TARGET[1:2])
    together = network.gradcam(X, TARGET)
    for a, b in zip(alone.gradcam, together.gradcam, strict=True):
        np.testing.assert_array_equal(a[0], b[1])


def test_taps_that_are_changed_in_place_or_come_in_tuples() -> None:
    torch.manual_seed(0)
    module = InPlace()
    network = ProbeNetwork(module, in_place_spec(), "cpu", 4)
    passed = network.gradcam(X, TARGET)
    x = torch.from_numpy(X)
    np.testing.assert_allclose(passed.blocks[0].numpy(), module.first(x).detach().numpy(), atol=1e-5)
    assert (passed.blocks[0] < 0).any()
    gradient = module.head.weight.detach()[TARGET] / 256
    expected = torch.relu((gradient[:, :, None] * passed.blocks[1]).sum(dim=1))
    np.testing.assert_allclose(passed.gradcam[1], expected.numpy(), rtol=1e-4, atol=1e-7)


def test_dropout_is_seeded_and_goes_off_again(network: ProbeNetwork) -> None:
    plain = network.forward(X).prediction
    with network.dropping(1):
        first, second = network.forward(X).prediction, network.forward(X).prediction
    with network.dropping(1):
        again = network.forward(X).prediction
    assert network.has_dropout
    assert (first != plain).any()
    assert (first != second).any()
    np.testing.assert_array_equal(again, first)
    np.testing.assert_array_equal(network.forward(X).prediction, plain)
    assert not ProbeNetwork(InPlace(), in_place_spec(), "cpu", 4).has_dropout


def test_weights_out_of_order_from_the_output_down(network: ProbeNetwork) -> None:
    plain = network.forward(X)
    stages = list(network.randomised(0))
    assert [name for name, _ in stages] == [
        "lin and behind",
        "resblock1d_2 and behind",
        "resblock1d_1 and behind",
        "resblock1d_0 and behind",
        "everything",
    ]
    first, last = stages[0][1].forward(X), stages[-1][1].forward(X)
    torch.testing.assert_close(first.blocks, plain.blocks)
    assert (first.prediction != plain.prediction).any()
    assert all((a != b).any() for a, b in zip(last.blocks, plain.blocks, strict=True))
    assert np.isfinite(last.prediction).all()
    np.testing.assert_array_equal(network.forward(X).prediction, plain.prediction)
    again = dict(network.randomised(0))["everything"].forward(X)
    np.testing.assert_array_equal(again.prediction, last.prediction)
