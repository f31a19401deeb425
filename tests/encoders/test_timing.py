"""Whether taps keep time from edge to edge, and what puts those right that do not, on stand-ins of many forms."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from ecgscale.encoders.check import require_timely
from ecgscale.encoders.resnet1d import ResNet1d
from ecgscale.encoders.taps import Encoder
from ecgscale.encoders.timing import measure_taps, proposed
from ecgscale.errors import EncoderError
from ecgscale.leads import CANONICAL_LEADS
from tests.worlds.formula.small_networks import ARGUMENTS, spec_of

LENGTH = 600


class Layers(nn.Module):
    """A convolutional network; `pad` goes on what each layer sees, left and right."""

    def __init__(self, *layers: nn.Module, pad: tuple[int, int] = (0, 0)) -> None:
        super().__init__()
        self.l, self.pad = nn.ModuleList(layers), pad

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.l:
            x = torch.relu(layer(functional.pad(x, self.pad)))
        return x.mean(-1)[:, :2]


class Tokens(nn.Module):
    """Patches, class and register tokens in front, attention; over time alone, or over leads and time."""

    def __init__(self, patch: int = 20, special: int = 1, leads: bool = False, width: int = 48) -> None:
        super().__init__()
        self.patch, self.leads = patch, leads
        self.embed = nn.Linear(patch if leads else 12 * patch, width)
        self.special = nn.Parameter(torch.randn(1, special, width) * 0.02)
        layer = nn.TransformerEncoderLayer(width, 4, width, dropout=0.0, batch_first=True, norm_first=True)
        self.block, self.head = layer, nn.Linear(width, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        patches = x.unflatten(2, (-1, self.patch))
        tokens = self.embed(patches.flatten(1, 2) if self.leads else patches.transpose(1, 2).flatten(2))
        tokens = self.block(torch.cat([self.special.expand(len(x), -1, -1), tokens], 1))
        return self.head(tokens.mean(1))


class OneAfterTheOther(nn.Module):
    """Leads one after the other through convolutions without padding, so that tokens straddle them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv1d(1, 24, 40, stride=32), nn.LayerNorm(24)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(x.flatten(1)[:, None]).transpose(1, 2))[:, 0, :2]


def conv(channels: int, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1) -> nn.Conv1d:
    return nn.Conv1d(channels, 16, kernel, stride=stride, padding=padding, dilation=dilation)


def pool(kernel: int) -> nn.Module:
    return nn.MaxPool1d(kernel, stride=1)


def encoder(net: nn.Module, layers: list[str], taps: dict[str, Any] | None = None, length: int = LENGTH) -> Encoder:
    signal = {"leads": list(CANONICAL_LEADS), "sampling_rate": 100.0, "length": length}
    return Encoder(net, spec_of(layers=layers, input=signal, taps=taps or {}), batch=16)


def unpadded() -> nn.Module:
    return Layers(conv(12, 15), conv(16, 15, stride=2), conv(16, 15, stride=2))


def one_sided() -> nn.Module:
    return Layers(conv(12, 9), pool(9), pool(9), pad=(0, 8))


def causal() -> nn.Module:
    return Layers(conv(12, 3, dilation=3), conv(16, 3, dilation=3), pad=(6, 0))


def overpadded() -> nn.Module:
    return Layers(conv(12, 9, stride=2, padding=14), conv(16, 9, stride=2, padding=14))


OFF = [
    (unpadded, "l.2", (28, 4), 12),
    (one_sided, "l.2", None, 8),
    (causal, "l.1", None, 4),
    (overpadded, "l.1", (-30, 4), 12),
]


@pytest.mark.parametrize(("make", "layer", "place", "least"), OFF)
def test_a_tap_beside_the_signal_is_found_and_the_proposed_lines_put_it_right(
    make: Any, layer: str, place: tuple[float, float] | None, least: float
) -> None:
    torch.manual_seed(0)
    net = make()
    [fact] = measure_taps(encoder(net, [layer]))
    assert fact.late
    assert fact.wrong is not None
    assert f'[taps."{layer}"] start = {fact.start}, step = {fact.step}' in fact.wrong
    assert max(abs(fact.lag_from_ms or 0), abs(fact.lag_to_ms or 0)) > 10 * least
    if place is not None:
        # A random kernel answers a little beside its middle.
        assert (fact.start, fact.step) == (pytest.approx(place[0], abs=3), place[1])
    with pytest.raises(EncoderError, match=r"do not keep time.*start = "):
        require_timely(encoder(net, [layer]))
    mended = encoder(net, [layer], {layer: fact.lines})
    [after] = measure_taps(mended)
    assert after.hop == fact.step
    for lag in (after.lag_from_ms, after.lag_ms, after.lag_to_ms):
        assert abs(lag or 0) <= 0.5 * after.hop_ms
    assert require_timely(mended) == []


@pytest.mark.parametrize("seed", [0, 1])
def test_networks_that_keep_time_pass(seed: int) -> None:
    torch.manual_seed(seed)
    [*facts] = measure_taps(encoder(ResNet1d(**ARGUMENTS), ["resblock1d_0", "resblock1d_2"], length=256))
    padded = Layers(conv(12, 7, 2, 3), conv(16, 3, 2, 1), conv(16, 3, 2, 1), conv(16, 3, 2, 1))
    facts += measure_taps(encoder(padded, ["l.0", "l.1", "l.2", "l.3"]))
    wide = Layers(conv(12, 39, 1, 19), conv(16, 39, 1, 19))
    facts += measure_taps(encoder(wide, ["l.0", "l.1"]))
    assert [fact.wrong for fact in facts] == [None] * len(facts)
    assert all(fact.is_time and fact.slope == pytest.approx(1, abs=0.05) for fact in facts)


@pytest.mark.parametrize(
    ("net", "axes", "drop", "steps"),
    [
        ({"special": 1}, "btc", (1, 0), 30),
        ({"special": 0}, "btc", None, 30),
        ({"special": 0, "leads": True, "patch": 50}, "b(lt)c", None, 12),
    ],
)
def test_tokens_are_not_taken_for_channels(net: Any, axes: str, drop: Any, steps: int) -> None:
    torch.manual_seed(0)
    module = Tokens(**net)
    [fact] = measure_taps(encoder(module, ["block"]))
    assert fact.is_time is False
    assert (fact.answers_by, fact.drop_steps) == ((axes,), drop)
    assert fact.wrong is not None
    assert f'It does by another axis: [taps."block"] axes = "{axes}"' in fact.wrong
    assert ("drop_steps = 1" in fact.wrong) == (drop is not None)
    [after] = measure_taps(encoder(module, ["block"], {"*": fact.lines}))
    assert (after.wrong, after.steps, after.channels) == (None, steps, 48)
    assert abs(after.lag_from_ms or 0) < 0.5 * after.hop_ms
    assert abs(after.lag_to_ms or 0) < 0.5 * after.hop_ms


def test_tokens_that_straddle_leads_keep_time() -> None:
    torch.manual_seed(0)
    module = OneAfterTheOther()
    [fact] = measure_taps(encoder(module, ["norm"]))
    assert (fact.is_time, fact.answers_by) == (False, ("b(lt)c",))
    [after] = measure_taps(encoder(module, ["norm"], {"norm": {"axes": "b(lt)c"}}))
    assert (after.wrong, after.steps, after.channels) == (None, 18, 24)
    assert max(abs(after.lag_from_ms or 0), abs(after.lag_to_ms or 0)) < 0.5 * after.hop_ms


def test_the_lines_are_toml_once_for_all_where_they_are_alike() -> None:
    torch.manual_seed(0)
    facts = measure_taps(encoder(Tokens(special=1), ["block", "block.norm1"]))
    assert proposed(facts) == ['[taps."*"]', 'axes = "btc"', "drop_steps = 1"]
    facts = measure_taps(encoder(unpadded(), ["l.0", "l.1"]))
    content = tomllib.loads("\n".join(proposed(facts)))["taps"]
    assert content == {"l.0": facts[0].lines, "l.1": facts[1].lines}
    assert content["l.1"].keys() == {"start", "step"}
    assert proposed(measure_taps(encoder(Layers(conv(12, 7, 2, 3)), ["l.0"]))) == []


def test_attention_that_answers_everywhere_does_not_hide_the_time_of_tokens() -> None:
    torch.manual_seed(0)
    module = Tokens(special=0)
    for weights in (module.block.self_attn.in_proj_weight, module.block.self_attn.out_proj.weight):
        weights.data *= 3
    [fact] = measure_taps(encoder(module, ["block"], {"*": {"axes": "btc"}}))
    assert fact.wrong is None
    assert fact.slope == pytest.approx(1, abs=0.03)
    [channels] = measure_taps(encoder(module, ["block"]))
    assert channels.answers_by == ("btc",)


def test_taps_of_few_steps_whose_answers_fill_the_record_pass() -> None:
    torch.manual_seed(0)
    net = Layers(*(conv(12 if i == 0 else 16, 17, 4, 8) for i in range(4)))
    facts = measure_taps(encoder(net, ["l.2", "l.3"]))
    assert [(fact.steps, fact.wrong, fact.is_time) for fact in facts] == [(10, None, True), (3, None, None)]


def test_a_network_that_divides_by_the_spread_of_its_input_is_measured_too() -> None:
    class Normalising(Layers):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward((x - x.mean(-1, keepdim=True)) / x.std(-1, keepdim=True))

    torch.manual_seed(0)
    [fact] = measure_taps(encoder(Normalising(conv(12, 9, 4, 4)), ["l.0"]))
    assert (fact.is_time, fact.wrong) == (True, None)
    assert fact.slope == pytest.approx(1, abs=0.02)


def test_a_class_token_that_was_left_in_is_told() -> None:
    torch.manual_seed(0)
    [fact] = measure_taps(encoder(Tokens(special=1), ["block"], {"*": {"axes": "btc"}}))
    assert fact.late
    assert 'no time are among them: [taps."block"] drop_steps = 1' in str(fact.wrong)


def test_axes_that_are_stated_and_wrong_are_told_as_stated() -> None:
    torch.manual_seed(0)
    net = Layers(conv(12, 7, 2, 3))
    taps = {"l.0": {"axes": "btc"}}
    with pytest.raises(EncoderError, match=r'axes "btc", as encoder.toml states: .*by another axis: .*axes = "bct"'):
        require_timely(encoder(net, ["l.0"], taps))
    [why] = require_timely(encoder(net, ["l.0"], {"l.0": {"axes": "btc", "trust": True}}))
    assert "does not follow time" in why


def test_places_that_are_stated_and_wrong_are_told_as_stated() -> None:
    torch.manual_seed(0)
    moved = encoder(Layers(conv(12, 7, 2, 3)), ["l.0"], {"l.0": {"start": 40.0, "step": 2.0}})
    with pytest.raises(EncoderError, match=r"lags by \+\d+ ms, \+[12]\d\.\d+ of its hop where encoder.toml puts"):
        require_timely(moved)


def test_a_network_that_answers_nowhere_in_particular_has_no_time() -> None:
    class Global(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix = nn.Linear(LENGTH, 50)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.mix(x)[:, :2, 0]

    torch.manual_seed(0)
    [fact] = measure_taps(encoder(Global(), ["mix"]))
    assert (fact.is_time, fact.answers, fact.lag) == (False, True, None)
    assert "No other axis of it does: tap an earlier layer" in str(fact.wrong)
