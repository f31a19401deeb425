"""A network that is no function of its input alone is told, with the modules that do it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ecgscale.encoders import check
from ecgscale.encoders.check import require_steady, thread_dependence, unsteadiness
from ecgscale.encoders.taps import Encoder
from ecgscale.errors import EncoderError
from ecgscale.passes.probe.network import ProbeNetwork
from tests.worlds.formula.small_networks import small_resnet, spec_of, write_small_encoder


class Base(nn.Module):
    """Two convolutions; what lies between them is what is tried."""

    def __init__(self, between: nn.Module, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.a = nn.Conv1d(12, 8, 9, padding=4)
        self.norm = norm or nn.BatchNorm1d(8)
        self.between = between
        self.b = nn.Conv1d(8, 6, 9, padding=4, stride=4)
        self.head = nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.between(torch.relu(self.norm(self.a(x))))
        return self.head(torch.relu(self.b(h)).mean(-1))


class Functional(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.dropout(x, 0.5)


class StaysOn(nn.Dropout):
    def train(self, mode: bool = True) -> StaysOn:
        return super().train(True)


class Noise(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 1e-6 * torch.randn_like(x)


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.n = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.n += 1
        return x * (1 + 1e-3 * self.n)


class Threads(nn.Module):
    """As a sum that is divided among threads: other last bits with another number of them."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * (1 + 1e-6 * torch.get_num_threads())


class BatchMean(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x - x.mean(0, keepdim=True)


class Outer(nn.Module):
    """The dropout lies in the forward of a module that has others inside."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.dropout(self.inner(x), 0.1)


def encoder(module: nn.Module, batch: int = 4, **changes: Any) -> Encoder:
    torch.manual_seed(0)
    return Encoder(module, spec_of(**({"layers": ["a", "b"]} | changes)), batch=batch)


@pytest.mark.parametrize(
    ("module", "why"),
    [
        (Base(Functional()), r"second time \(between: Functional\)"),
        (Base(StaysOn()), r"second time \(between: StaysOn in training mode\)"),
        (Base(Noise()), r"second time \(between: Noise\)"),
        (Base(Counting()), r"second time \(between: Counting\)"),
        (Base(Outer()), r"second time \(between: Outer, in its own forward\)"),
        (Base(nn.Sequential(nn.Identity(), Functional())), r"second time \(between.1: Functional\)"),
        (Base(BatchMean()), r"records beside it \(between: BatchMean\)"),
        (
            Base(nn.Identity(), nn.BatchNorm1d(8, track_running_stats=False)),
            r"records beside it \(norm: BatchNorm1d with track_running_stats=False\)",
        ),
    ],
)
def test_what_makes_results_differ_is_named(module: nn.Module, why: str) -> None:
    with pytest.raises(EncoderError, match=why + ".*--allow-nondeterministic") as caught:
        require_steady(encoder(module))
    assert "\n" not in str(caught.value)
    assert require_steady(encoder(module), allowed=True) is False


def test_bits_that_hang_on_the_number_of_threads_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    why = r"with two threads it gives other outputs than with one \(between: Threads\).*passes of 32 \(--batch 32\) may"
    with pytest.raises(EncoderError, match=why + ".*--allow-nondeterministic"):
        require_steady(encoder(Base(Threads())))
    assert require_steady(encoder(Base(Threads())), allowed=True) is False
    assert require_steady(encoder(Base(Threads())), threads=False) is True
    assert "--batch" not in str(thread_dependence(encoder(Base(Threads()), batch=32)))
    assert torch.get_num_threads() == before
    # `encoder check` asks it of passes as a fit has them.
    asked: list[int] = []
    monkeypatch.setattr(check, "thread_dependence", lambda encoder: asked.append(encoder.batch))
    assert check.check_encoder(write_small_encoder(tmp_path)).unsteady is None
    assert asked == [32]


@pytest.mark.parametrize(
    ("batch", "threads", "used"), [(32, 2, 2), (32, 3, 2), (32, 6, 4), (6, 6, 3), (24, 6, 6), (1, 2, 1), (7, 3, 1)]
)
def test_threads_share_a_pass_evenly(batch: int, threads: int, used: int) -> None:
    """Of 32 records three threads would take 11, 11 and 10, two shapes more, for which others kernels are chosen."""
    seen: list[int] = []

    class Noticing(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(torch.get_num_threads())
            return x

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        one = encoder(Base(Noticing()), batch)
        one.forward(np.zeros((1, 12, 256), np.float32))
        ProbeNetwork(Base(Noticing()), one.spec, "cpu", batch).forward(np.zeros((1, 12, 256), np.float32))
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert set(seen) == {used}


def test_a_reference_network_gives_the_same_bits_with_one_thread_and_with_two() -> None:
    small = encoder(small_resnet(), 32, layers=["resblock1d_0", "resblock1d_1", "resblock1d_2"])
    assert thread_dependence(small) is None


@pytest.mark.parametrize("batch", [1, 4, 32])
def test_networks_that_are_functions_pass(batch: int) -> None:
    modules = [
        Base(nn.Dropout(0.5)),
        Base(nn.Identity(), nn.InstanceNorm1d(8)),
        Base(nn.Identity(), nn.GroupNorm(2, 8)),
    ]
    assert [unsteadiness(encoder(module, batch)) for module in modules] == [None, None, None]
    small = encoder(small_resnet(), batch, layers=["resblock1d_0", "resblock1d_1", "resblock1d_2"])
    assert require_steady(small) is True


def test_encoder_check_warns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = write_small_encoder(tmp_path)
    assert check.check_encoder(directory).unsteady is None
    monkeypatch.setattr(check, "unsteadiness", lambda _: "it is random")
    report = check.check_encoder(directory)
    assert "not a function of its input alone: it is random" in report.warnings[0]
    assert report.as_dict()["unsteady"] == "it is random"
