"""Taps of any shape: axes by letters, steps that are no time, leads, elements by key; errors that say what would do."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn

from ecgscale.encoders.check import check_encoder
from ecgscale.encoders.shapes import Tap, TapSpec, TimeMap, plausible_axes
from ecgscale.encoders.spec import EncoderSpec, contract_digest
from ecgscale.encoders.taps import Encoder
from ecgscale.errors import EncoderError
from tests.worlds.formula.small_networks import spec_of

N, LENGTH, LEADS = 4, 256, 12
T, C = 8, 5


def tap(**said: Any) -> Tap:
    return Tap.of("x", {"*": TapSpec(**said)})


def tensor(*shape: int) -> torch.Tensor:
    return torch.arange(float(torch.Size(shape).numel())).reshape(shape)


@pytest.mark.parametrize(
    ("shape", "said", "expected"),
    [
        ((N, C, T), {}, lambda x: x),
        ((N, T, C), {"axes": "btc"}, lambda x: x.transpose(1, 2)),
        ((T, N, C), {"axes": "tbc"}, lambda x: x.permute(1, 2, 0)),
        ((N, T), {"axes": "bt"}, lambda x: x[:, None]),
        ((N, T + 1, C), {"axes": "btc", "drop_steps": 1}, lambda x: x[:, 1:].transpose(1, 2)),
        ((N, T + 3, C), {"axes": "btc", "drop_steps": [1, 2]}, lambda x: x[:, 1:-2].transpose(1, 2)),
        ((N, C, LEADS, T), {"axes": "bclt"}, lambda x: x.mean(2)),
        ((N, LEADS, T, C), {"axes": "bltc"}, lambda x: x.mean(1).transpose(1, 2)),
        ((N, LEADS, T, C), {"axes": "bltc", "leads": "stack"}, lambda x: x.permute(0, 1, 3, 2).reshape(N, -1, T)),
        ((N, LEADS * T, C), {"axes": "b(lt)c"}, lambda x: x.reshape(N, LEADS, T, C).mean(1).transpose(1, 2)),
        ((N, T * LEADS, C), {"axes": "b(tl)c"}, lambda x: x.reshape(N, T, LEADS, C).mean(2).transpose(1, 2)),
        ((N, C, 1, T), {"axes": "bc1t"}, lambda x: x[:, :, 0]),
        ((N, LEADS * (T + 2), C), {"axes": "b(lt)c", "drop_steps": [1, 1]}, None),
    ],
)
def test_any_axes_become_records_channels_steps(shape: tuple[int, ...], said: dict[str, Any], expected: Any) -> None:
    x = tensor(*shape)
    block = tap(**said).block(x, N, LENGTH, LEADS)
    wanted = expected(x) if expected else x.reshape(N, LEADS, T + 2, C)[:, :, 1:-1].mean(1).transpose(1, 2)
    assert block.shape[2] == T
    torch.testing.assert_close(block, wanted, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("shape", "said", "message"),
    [
        ((N, 12, 40, 16), {}, r'gives shape \(4, 12, 40, 16\).*\[taps."x"\] axes = "bltc"'),
        ((N, 40, 384), {}, r'at most 256 steps.*axes = "btc"'),
        ((50, N, 300), {}, r'axes = "tbc"'),
        ((N, 7), {"axes": "btc"}, r'axes "btc".*axes = "bt"'),
        ((N, C, 259), {}, r"drop_steps = \[1, 2\] .steps at its ends"),
        ((N, 300), {}, "No axis of it can be time"),
        ((N, 2, 2), {"drop_steps": 2}, "less 2 dropped"),
        ((N, 11, 16), {"axes": "b(lt)c"}, r'axes "b\(lt\)c"'),
    ],
)
def test_what_does_not_fit_is_told_with_what_would(shape: tuple[int, ...], said: dict[str, Any], message: str) -> None:
    with pytest.raises(EncoderError, match=message):
        tap(**said).block(tensor(*shape), N, LENGTH, LEADS)


def test_plausible_axes_go_by_sizes() -> None:
    assert list(plausible_axes((N, 23, 383), N, LENGTH, LEADS)) == ["btc", "bc(lt)"]
    assert list(plausible_axes((N, LEADS, 30, 7), N, LENGTH, LEADS)) == ["bltc", "blct"]
    assert list(plausible_axes((N, 20, 22), N, LENGTH, LEADS)) == ["bct", "btc"]
    assert list(plausible_axes((N, 93, 500), N, LENGTH, LEADS)) == ["btc", "b(lt)c", "bc(lt)"]


def test_tokens_that_straddle_leads_are_interpolated_within_each() -> None:
    # Three leads of 40 samples one after the other, 16 tokens of 7.5: five whole ones a lead, eight samples apart.
    places = (torch.arange(16) + 0.5) * 7.5 - 0.5
    block = tap(axes="b(lt)c", leads="stack").block(places[None, :, None], 1, 40, 3)
    wanted = torch.tensor([[lead * 40 + 3.5 + 8 * step for step in range(5)] for lead in range(3)])
    torch.testing.assert_close(block[0], wanted.clamp(float(places[0]), float(places[-1])))


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"axes": "bcx"}, "one letter an axis"),
        ({"axes": "bcc"}, "b and t have to be there"),
        ({"start": 1.0}, "state both, or neither"),
        ({"start": 0.0, "step": 0.0}, "more than 0|greater than 0"),
        ({"drop_steps": -1}, "how many leading steps"),
        ({"drop_steps": [1]}, "how many leading steps"),
    ],
)
def test_sections_that_make_no_sense(said: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        spec_of(taps={"*": said})
    with pytest.raises(ValueError, match="Did you mean 'resblock1d_"):
        spec_of(taps={"resblock1d_l": {}})


def test_the_section_of_one_layer_comes_before_that_of_all() -> None:
    sections = {"*": {"axes": "btc", "drop_steps": 1}, "resblock1d_1": {"axes": "bct", "start": 1.0, "step": 4.0}}
    spec = spec_of(taps=sections)
    assert (spec.tap("resblock1d_0").axes, spec.tap("resblock1d_0").drop) == ("btc", (1, 0))
    own = spec.tap("resblock1d_1")
    assert (own.axes, own.drop, own.time) == ("bct", (1, 0), TimeMap(1.0, 4.0))
    # What is said again in the words of the default is not the same as what is not said.
    sections["resblock1d_1"].pop("axes")
    assert contract_digest(spec_of(taps=sections)) != contract_digest(spec)
    assert contract_digest(spec_of()) == contract_digest(spec_of(taps={}))


class Container(OrderedDict):
    """Like the outputs of transformers: a dict whose values are attributes too."""


Named = namedtuple("Named", ["hidden", "logits"])


@dataclass
class Fields:
    hidden: torch.Tensor
    logits: torch.Tensor


class Returns(nn.Module):
    """A network whose layer and whose output are what `form` makes of hidden activations and logits."""

    def __init__(self, form: Any) -> None:
        super().__init__()
        self.pool, self.form = nn.AvgPool1d(4), form
        self.layer = nn.Identity()

    def forward(self, x: torch.Tensor) -> Any:
        h = self.pool(x)
        self.layer(self.form(h, h + 1))
        return self.form(x[:, :2, 0], x[:, 2:4, 0])


FORMS = [
    (lambda a, b: (a, b), "1"),
    (lambda a, b: [a, b], "1"),
    (lambda a, b: Container(hidden=a, logits=b), "logits"),
    (lambda a, b: Container(hidden=a, logits=b), "1"),
    (Named, "logits"),
    (Fields, "logits"),
    (lambda a, b: {"deep": (a, b), "n": 3}, "deep#1"),
]


@pytest.mark.parametrize(("form", "element"), FORMS)
def test_elements_of_any_container(form: Any, element: str) -> None:
    output = {"kind": "multilabel", "names": ["A", "B"], "element": element}
    encoder = Encoder(Returns(form), spec_of(layers=[f"layer#{element}", "pool"], output=output), batch=N)
    x = torch.randn(N, LEADS, LENGTH)
    found = encoder.forward(x)
    torch.testing.assert_close(found.blocks[0], found.blocks[1] + 1, rtol=0, atol=0)
    torch.testing.assert_close(found.prediction, x[:, 2:4, 0], rtol=0, atol=0)


@pytest.mark.parametrize("form", [form for form, element in FORMS if "#" not in element])
def test_two_outputs_of_the_shape_of_a_prediction_are_not_chosen_between(form: Any) -> None:
    with pytest.raises(EncoderError, match=r'2 of them have the shape.*\[output\].*element = "(0|hidden)" or element'):
        Encoder(Returns(form), spec_of(layers=["pool"]), batch=N)


def test_the_only_output_of_the_shape_of_a_prediction_is_it() -> None:
    net = Returns(lambda a, b: (a.mean(1, keepdim=True), b))
    x = torch.randn(N, LEADS, LENGTH)
    found = Encoder(net, spec_of(layers=["pool"]), batch=N).forward(x)
    torch.testing.assert_close(found.prediction, x[:, 2:4, 0], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("form", "layers", "message"),
    [
        (
            lambda a, b: {"x": a, "y": b},
            ["layer"],
            r"2 elements: x \(4, 12, 64\), y \(4, 12, 64\); choose by #, as in #x",
        ),
        (lambda a, b: {"hidden": a, "y": b}, ["layer#hiden"], "element hiden is not there. Did you mean 'hidden'"),
        (lambda a, b: (3, None), ["layer"], "no tensor among them"),
    ],
)
def test_elements_that_are_not_there(form: Any, layers: list[str], message: str) -> None:
    with pytest.raises(EncoderError, match=message):
        Encoder(Returns(form), spec_of(layers=layers), batch=N)


TWO = {"kind": "multilabel", "names": ["A", "B"]}
DEEP = {**TWO, "element": "deep#1"}


class Listed(nn.Module):
    """Items of a list, a block that is gone around, a weight that is shared, and values that are no module's."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Conv1d(12, 12, 3, padding=1), nn.Conv1d(12, 12, 3, padding=1)])
        self.around = nn.Sequential(nn.AvgPool1d(4))
        self.shared = nn.ReLU()
        self.spare = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = self.shared(block(x)) + x
        h = self.around[0](x) * 2
        h += 1
        return h.mean(-1)[:, :2]


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("blocks", "ModuleList holds modules.*tap its items, 'blocks.0', 'blocks.1'"),
        ("around", "calls its parts and not it: tap one of them, 'around.0'"),
        ("shared", "ran 2 times.*torch.fx node"),
        ("spare", "does not use it"),
        ("fx:ad", "no torch.fx node 'ad'.*Did you mean 'add'"),
    ],
)
def test_layers_that_do_not_run_once(layer: str, message: str) -> None:
    with pytest.raises(EncoderError, match=message):
        Encoder(Listed(), spec_of(layers=[layer]), batch=N)


def test_any_value_by_its_node_beside_layers_by_name() -> None:
    torch.manual_seed(0)
    net, x = Listed(), torch.randn(N, LEADS, LENGTH)
    encoder = Encoder(net, spec_of(layers=["fx:add", "fx:shared_1", "around.0", "fx:mul"]), batch=N)
    found = encoder.forward(x)
    with torch.inference_mode():
        first = net.shared(net.blocks[0](x)) + x
        second = net.shared(net.blocks[1](first))
        pooled = net.around[0](second + first)
        expected = (first, second, pooled, pooled * 2)
        plain = net(x)
    for block, wanted in zip(found.blocks, expected, strict=True):
        torch.testing.assert_close(block, wanted, rtol=0, atol=0)
    torch.testing.assert_close(found.prediction, plain, rtol=0, atol=0)


def test_check_lists_nodes_keys_and_tokens(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for net, layers, nodes in ((Listed(), ["fx:add"], False), (Returns(FORMS[-1][0]), ["pool"], True)):
        encoder = Encoder(net, spec_of(layers=layers, output=DEEP if nodes else TWO), batch=N)
        monkeypatch.setattr("ecgscale.encoders.check.load_spec", lambda _directory, spec=encoder.spec: spec)
        monkeypatch.setattr(Encoder, "load", lambda *_args, encoder=encoder, **_options: encoder)
        facts = {fact.name: fact for fact in check_encoder(tmp_path, nodes=nodes).layers}
        if nodes:
            assert facts["layer#deep#1"].shape == facts["layer#deep#0"].shape == (N, LEADS, 64)
            assert facts["fx:add"].tappable
        else:
            assert (facts["fx:add"].tapped, facts["fx:add"].shape) == (True, (N, LEADS, LENGTH))
            assert (facts["shared"].tappable, facts["around.0"].tappable) == (False, True)
            assert facts["fx:getitem"].tappable is False


class Branching(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :2, 0] if x.sum() > 0 else x[:, :2, 1]


def test_where_torch_fx_cannot_trace_it_says_so() -> None:
    with pytest.raises(EncoderError, match=r"torch.fx cannot trace .*control flow.*nn.Identity"):
        Encoder(Branching(), spec_of(layers=["fx:add"]), batch=N)


def test_sections_survive_being_written(tmp_path: Any) -> None:
    from ecgscale.encoders.spec import load_spec, write_spec

    spec = spec_of(taps={"*": {"axes": "bct"}, "resblock1d_2": {"start": -1.5, "step": 4.0, "drop_steps": [1, 0]}})
    write_spec(tmp_path, spec)
    assert isinstance(load_spec(tmp_path), EncoderSpec)
    assert load_spec(tmp_path) == spec
