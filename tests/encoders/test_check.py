"""`check_encoder`: lags that are known are measured, layers are listed, and what is wrong is warned of."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

from ecgscale.encoders.check import check_encoder
from ecgscale.encoders.resnet1d import ResNet1d
from ecgscale.encoders.spec import write_spec
from ecgscale.encoders.taps import Encoder
from ecgscale.encoders.timing import measure_taps
from tests.worlds.formula.small_networks import small_resnet, spec_of, write_small_encoder


class Delayed(nn.Module):
    """One tap of stride 4 whose step l answers to the samples around 4 l + 1.5, and one `delay` samples later."""

    def __init__(self, delay: int) -> None:
        super().__init__()
        self.pool = nn.AvgPool1d(4)
        self.late = nn.AvgPool1d(4)
        self.dead = nn.ConstantPad1d(0, 0.0)
        self.delay = delay

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.dead(0 * x)
        self.late(functional.pad(x, (self.delay, 0))[..., : x.shape[-1]])
        return self.pool(x)[:, :2, 0]


@pytest.mark.parametrize("delay", [0, 1, 3, 8])
def test_measures_a_known_delay(delay: int) -> None:
    encoder = Encoder(Delayed(delay), spec_of(layers=["pool", "late", "dead"]), batch=8)
    pool, late, dead = measure_taps(encoder)
    assert (pool.channels, pool.steps, pool.hop, pool.hop_ms) == (12, 64, 4.0, 40.0)
    assert pool.lag == pytest.approx(0, abs=0.3)
    assert late.lag == pytest.approx(delay, abs=0.3)
    assert late.lag_ms == pytest.approx(10 * late.lag)
    assert late.late == (delay > 2)
    assert dead.lag is None
    assert not dead.late


def test_reports_a_resnet(tmp_path: Path) -> None:
    report = check_encoder(write_small_encoder(tmp_path))
    assert report.parameters == sum(parameter.numel() for parameter in small_resnet().parameters())
    assert report.prediction == (4, 2)
    layers = {layer.name: layer for layer in report.layers}
    assert layers["resblock1d_1"].shape == layers["resblock1d_1#1"].shape == (4, 12, 64)
    assert layers["resblock1d_1"].tapped
    assert not layers["resblock1d_1#1"].tapped
    assert not layers["lin"].tappable
    assert layers["resblock1d_2.conv2"].module == "Conv1d"
    assert [tap.steps for tap in report.taps] == [256, 64, 16]
    assert all(tap.lag is not None and not tap.late for tap in report.taps)
    assert report.warnings == []
    widths = [tap.width_ms for tap in report.taps]
    assert widths == sorted(widths)
    assert report.as_dict()["taps"][0]["late"] is False


def test_warns_of_late_taps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = ResNet1d.forward
    monkeypatch.setattr(ResNet1d, "forward", lambda self, x: original(self, functional.pad(x, (6, 0))[..., :256]))
    warnings = check_encoder(write_small_encoder(tmp_path)).warnings
    assert len(warnings) == 2  # six samples are more than half a hop of 1 or 4, but not of 16
    assert all("lags by +" in warning for warning in warnings)


def test_warns_when_no_time_is_left(tmp_path: Path) -> None:
    arguments = {"input_dim": [12, 256], "blocks_dim": [[8, 256], [8, 1]], "n_classes": 2, "kernel_size": 5}
    write_spec(tmp_path, spec_of(arguments=arguments, layers=["resblock1d_1"]))
    save_file(ResNet1d(**arguments).state_dict(), tmp_path / "weights.safetensors")
    report = check_encoder(tmp_path)
    assert report.taps[0].steps == 1
    assert any("single step" in warning for warning in report.warnings)
