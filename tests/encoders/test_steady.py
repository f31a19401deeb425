"""A network that is no function of its input alone is told, with the modules that do it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ecgscale.encoders.check import require_steady, unsteadiness
from ecgscale.encoders.taps import Encoder
from ecgscale.errors import EncoderError
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
    from ecgscale.encoders import check

    directory = write_small_encoder(tmp_path)
    assert check.check_encoder(directory).unsteady is None
    monkeypatch.setattr(check, "unsteadiness", lambda _: "it is random")
    report = check.check_encoder(directory)
    assert "not a function of its input alone: it is random" in report.warnings[0]
    assert report.as_dict()["unsteady"] == "it is random"
