"""Tensors in the layout that a network takes, and windows of a longer input, held to the network run by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from ecgscale.encoders.inputs import InputSpec
from ecgscale.encoders.network import build_module
from ecgscale.encoders.spec import load_spec, write_spec
from ecgscale.encoders.taps import Encoder
from ecgscale.encoders.timing import measure_taps
from ecgscale.errors import EncoderError
from ecgscale.passes.probe.network import ProbeNetwork
from tests.worlds.formula.small_networks import noise
from tests.worlds.formula.small_networks import spec_of as encoder_spec

LEADS = ("I", "II", "V1")
RATE = 100.0


def spec_of(**keys: Any) -> InputSpec:
    return InputSpec.model_validate({"leads": LEADS, "sampling_rate": RATE, "length": 256, **keys})


NETWORK = """
from torch import nn
class Net(nn.Module):
    def __init__(self, shape, back):
        super().__init__()
        self.shape, self.back = shape, back
        self.early, self.late = nn.Conv1d(3, 4, 5, padding=2, stride=2), nn.Conv1d(4, 5, 3, padding=1, stride=2)
        self.head = nn.Linear(5, 2)
    def forward(self, x):
        if [*x.shape[: self.back[0]], *x.shape[self.back[0] + 1 :]] != self.shape:
            raise ValueError(f"given {tuple(x.shape)}")
        n, axes = x.shape[self.back[0]], self.back[1:]
        x = x.movedim(self.back[0], 0).reshape(n, *([64, 3] if axes == [1] else [3, 64]))
        x = x.transpose(1, 2) if axes == [1] else x
        return self.head(self.late(self.early(x)).mean(-1))
"""
# The shape without the records, the place of the records, and whether samples come before leads.
LAYOUTS: dict[str, tuple[list[int], list[int]]] = {
    "bct": ([3, 64], [0]),
    "btc": ([64, 3], [0, 1]),
    "b1ct": ([1, 3, 64], [0]),
    "bt1c": ([64, 1, 3], [0, 1]),
    "b1tc": ([1, 64, 3], [0, 1]),
    "b(ct)": ([192], [0]),
    "b(tc)": ([192], [0, 1]),
    "b1(ct)": ([1, 192], [0]),
    "bct1": ([3, 64, 1], [0]),
    "tbc": ([64, 3], [1, 1]),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_network_is_given_the_layout_that_it_takes(layout: str, tmp_path: Path) -> None:
    shape, back = LAYOUTS[layout]
    content = {
        "factory": "layouts:Net",
        "arguments": {"shape": shape, "back": back},
        "layers": ["early", "late"],
        "input": {"leads": list(LEADS), "sampling_rate": RATE, "length": 64, "layout": layout},
    }
    (tmp_path / "layouts.py").write_text(NETWORK)
    write_spec(tmp_path, encoder_spec(**content))
    torch.manual_seed(3)
    net = build_module(load_spec(tmp_path), tmp_path)
    save_file(net.state_dict(), tmp_path / "weights.safetensors")
    x = torch.from_numpy(np.stack([noise(64, 3, seed) for seed in range(4)]))
    encoder = Encoder.load(tmp_path, batch=4)
    found = encoder.forward(x)
    assert isinstance(net.early, torch.nn.Conv1d)
    assert isinstance(net.late, torch.nn.Conv1d)
    with torch.inference_mode():
        early = net.early(x)
        late = net.late(early)
    torch.testing.assert_close(found.blocks[0], early)
    torch.testing.assert_close(found.blocks[1], late)
    torch.testing.assert_close(found.prediction, net.head(late.mean(-1)))  # type: ignore[operator]
    torch.testing.assert_close(encoder.forward(x[1:2]).prediction, found.prediction[1:2], rtol=0, atol=0)
    probed = ProbeNetwork.load(tmp_path, "cpu", 4).forward(x.numpy())
    torch.testing.assert_close(probed.blocks[1], late)


@pytest.mark.parametrize("layout", ["bc", "bcct", "(bc)t", "b2ct", "b(c)t)", ""])
def test_a_layout_that_is_none_is_told(layout: str) -> None:
    with pytest.raises(ValidationError, match=r"is no layout: b .records."):
        spec_of(layout=layout)


WINDOWED = """
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.early, self.late = nn.Conv1d(3, 4, 5, padding=2, stride=2), nn.Conv1d(4, 5, 3, padding=1, stride=4)
        self.head = nn.Linear(5, 2)
    def forward(self, x):
        if x.shape[2] != 64:
            raise ValueError(f"given {tuple(x.shape)}")
        x = x / x.abs().amax((1, 2), keepdim=True)  # NaN of nothing but zeros
        return self.head(self.late(self.early(x)).mean(-1))
"""


def windowed(tmp_path: Path, **windows: Any) -> Path:
    tmp_path.mkdir(exist_ok=True)
    section = {"leads": list(LEADS), "sampling_rate": RATE, "length": 256, "windows": {"length": 64, **windows}}
    write_spec(tmp_path, encoder_spec(factory="windowed:Net", arguments={}, layers=["early", "late"], input=section))
    (tmp_path / "windowed.py").write_text(WINDOWED)
    torch.manual_seed(5)
    save_file(build_module(load_spec(tmp_path), tmp_path).state_dict(), tmp_path / "weights.safetensors")
    return tmp_path


def by_hand(net: Any, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    with torch.inference_mode():
        early = net.early(x / x.abs().amax((1, 2), keepdim=True))
        late = net.late(early)
        return early, late, net.head(late.mean(-1))


@pytest.mark.parametrize("pool", ["mean", "max"])
@pytest.mark.parametrize("stride", [64, 32])
def test_windows_lie_side_by_side_and_predictions_are_pooled_over_those_that_see_something(
    pool: str, stride: int, tmp_path: Path
) -> None:
    encoder = Encoder.load(windowed(tmp_path / "enc", stride=stride, pool=pool), batch=4)
    net = build_module(encoder.spec, tmp_path / "enc")
    net.load_state_dict(load_file(tmp_path / "enc" / "weights.safetensors"))
    x = torch.from_numpy(np.stack([noise(256, 3, seed) for seed in range(4)]))
    x[1, :, :128] = 0  # padding: the first windows of the second record see nothing
    found = encoder.forward(x)
    assert encoder.layout == ((4, 128), (5, 32))
    starts = range(0, 193, stride)
    passes = [by_hand(net, x[:, :, start : start + 64]) for start in starts]
    assert not passes[0][2][1].isfinite().any()
    for row in (0, 1, 3):
        seen = [k for k, start in enumerate(starts) if x[row, :, start : start + 64].any()]
        outputs = torch.stack([passes[k][2][row] for k in seen])
        torch.testing.assert_close(found.prediction[row], outputs.mean(0) if pool == "mean" else outputs.amax(0))
    for block, tap in enumerate(found.blocks):
        size = tap.shape[2] // 4
        own = size * stride // 64
        margin = (size - own) // 2
        parts = [one[block][0, :, margin : margin + own] for one in passes]
        parts[0] = passes[0][block][0, :, : margin + own]
        parts[-1] = passes[-1][block][0, :, margin:]
        torch.testing.assert_close(tap[0], torch.cat(parts, 1))
    assert found.finite().all()
    part = encoder.forward(x[1:2])
    torch.testing.assert_close(part.prediction, found.prediction[1:2], rtol=0, atol=0)
    torch.testing.assert_close(part.blocks[1], found.blocks[1][1:2], rtol=0, atol=0)


def test_windows_that_do_not_fit_are_told(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=r"windows of 64 samples every 60 .*: take 244 or 304"):
        spec_of(windows={"length": 64, "stride": 60})
    with pytest.raises(ValidationError, match="a stride of at most their length"):
        spec_of(windows={"length": 64, "stride": 96})
    with pytest.raises(EncoderError, match="a window of 64 samples, and a stride of 12 is no whole number"):
        Encoder.load(windowed(tmp_path, stride=12), batch=2)


def test_encoder_check_measures_the_time_of_windows(tmp_path: Path) -> None:
    encoder = Encoder.load(windowed(tmp_path, stride=64), batch=4)
    for fact in measure_taps(encoder):
        assert fact.lag is not None
        assert abs(fact.lag) < fact.hop
