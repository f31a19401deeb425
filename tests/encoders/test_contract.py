"""From a class and a checkpoint to an encoder: what is guessed is what an expert would write, or is asked for."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

import ecgscale
from ecgscale.archive import Archive
from ecgscale.cli import main
from ecgscale.encoders.check import check_encoder
from ecgscale.encoders.contract import Asked, Made, init_encoder
from ecgscale.encoders.taps import Encoder
from ecgscale.errors import EncoderError, UsageError
from ecgscale.leads import CANONICAL_LEADS
from tests.worlds.formula.small_networks import ARGUMENTS, noise, small_resnet, write_archive, write_small_encoder

NET = '''
import torch
import torch.nn.functional as F
from torch import nn


class Block(nn.Module):
    def __init__(self, inner, outer, stride):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv1d(inner, outer, 7, stride, 3), nn.BatchNorm1d(outer)
        self.conv2, self.bn2 = nn.Conv1d(outer, outer, 7, 1, 3), nn.BatchNorm1d(outer)
        self.short = nn.Sequential(nn.Conv1d(inner, outer, 1, stride), nn.BatchNorm1d(outer))

    def forward(self, x):
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + self.short(x))


class XResNet(nn.Module):
    """Stages of two blocks below a stem, as the networks of the PTB-XL benchmark."""

    def __init__(self, leads=12, classes=2):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv1d(leads, 16, 15, 2, 7), nn.BatchNorm1d(16), nn.ReLU(), nn.MaxPool1d(3, 2, 1))
        widths = (16, 16, 32, 64, 128)
        for i, (inner, outer) in enumerate(zip(widths, widths[1:])):
            stage = nn.Sequential(Block(inner, outer, 1 if i == 0 else 2), Block(outer, outer, 1))
            self.add_module(f"layer{i + 1}", stage)
        self.fc = nn.Linear(128, classes)

    def forward(self, x):
        for stage in (self.stem, self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
        return self.fc(x.mean(2))


class ViT(nn.Module):
    """Patches of 25 samples and a class token."""

    def __init__(self, dim=48, patch=25, depth=4, samples=1000):
        super().__init__()
        self.patch = nn.Conv1d(12, dim, patch, patch)
        self.cls = nn.Parameter(torch.randn(1, 1, dim))
        self.pos = nn.Parameter(torch.randn(1, samples // patch + 1, dim) * 0.1)
        self.blocks = nn.ModuleList(
            [nn.TransformerEncoderLayer(dim, 4, 96, 0.0, batch_first=True, norm_first=True) for _ in range(depth)]
        )
        self.norm, self.head = nn.LayerNorm(dim), nn.Linear(dim, 2)

    def forward(self, x):
        x = torch.cat([self.cls.expand(len(x), -1, -1), self.patch(x).transpose(1, 2)], 1) + self.pos
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


class Unpadded(nn.Module):
    """torch's default: every convolution shortens the time axis. A sigmoid ends it."""

    def __init__(self, leads=12):
        super().__init__()
        parts = []
        for inner, outer in ((leads, 16), (16, 24), (24, 32), (32, 40)):
            parts += [nn.Conv1d(inner, outer, 9), nn.ReLU(), nn.MaxPool1d(3)]
        self.features, self.fc = nn.Sequential(*parts), nn.Linear(40, 3)

    def forward(self, x):
        return torch.sigmoid(self.fc(self.features(x).mean(2)))


class Blind(nn.Module):
    """Keeps no time at all."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(12 * 1000, 16), nn.Linear(16, 2)

    def forward(self, x):
        return self.b(torch.relu(self.a(x.flatten(1))))


class Twice(XResNet):
    """An embedding as wide as the logits."""

    def forward(self, x):
        y = super().forward(x)
        return y * 2, y
'''


@pytest.fixture
def beside(tmp_path: Path) -> Path:
    """A folder with a class in net.py, for checkpoints beside it."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "net.py").write_text(NET)
    return tmp_path / "run"


def network(beside: Path, name: str, **arguments: Any) -> torch.nn.Module:
    scope: dict[str, Any] = {}
    exec((beside / "net.py").read_text(), scope)
    torch.manual_seed(0)
    net = scope[name](**arguments).eval()
    torch.save({"epoch": 3, "state_dict": net.state_dict()}, beside / "best.pt")
    return net


def made_of(beside: Path, name: str, arguments: dict[str, Any] | None = None, like: Any = None, **asked: Any) -> Made:
    network(beside, name, **(arguments or {}))
    asked = {"sampling_rate": 100.0} | asked if like is None else asked
    return init_encoder(
        beside.parent / "enc", f"net:{name}", beside / "best.pt", arguments or {}, Asked(**asked), like=like
    )


def test_stages_of_a_resnet(beside: Path) -> None:
    made = made_of(beside, "XResNet")
    assert made.spec.layers == ("layer2", "layer3", "layer4")
    assert (made.spec.input.leads, made.spec.input.length) == (CANONICAL_LEADS, 1000)
    assert (made.spec.output.scale, made.spec.output.names) == ("logit", ("out0", "out1"))
    assert made.warnings == ()
    encoder = Encoder.load(made.directory, batch=4)
    x = noise(1000)[None]
    plain = network(beside, "XResNet")(torch.from_numpy(np.repeat(x, 4, 0)))[:1]
    assert torch.equal(encoder.forward(x).prediction, plain)


def test_tokens_of_a_transformer(beside: Path) -> None:
    made = made_of(beside, "ViT")
    assert made.spec.layers == ("blocks.1", "blocks.2", "blocks.3")
    assert made.spec.taps["*"].axes == "btc"
    assert made.spec.taps["*"].drop_steps == 1
    assert made.spec.input.length == 1000
    assert [tap.wrong for tap in made.taps] == [None] * 3


def test_steps_of_an_unpadded_network_are_put_where_they_answer(beside: Path) -> None:
    made = made_of(beside, "Unpadded")
    assert made.spec.layers == ("features.3", "features.6", "features.9")
    assert [made.spec.tap(layer).time.step for layer in made.spec.layers] == [3.0, 9.0, 27.0]  # type: ignore[union-attr]
    assert [tap.wrong for tap in made.taps] == [None] * 3
    assert made.spec.output.scale == "probability"


def test_a_network_without_time_is_refused(beside: Path) -> None:
    with pytest.raises(EncoderError, match="no layer of net:Blind follows time"):
        made_of(beside, "Blind", leads=CANONICAL_LEADS)
    assert not (beside.parent / "enc").exists()


def test_what_cannot_be_found_out_is_asked_for(beside: Path) -> None:
    with pytest.raises(EncoderError, match="give --rate, or --like"):
        made_of(beside, "XResNet", sampling_rate=None)
    with pytest.raises(EncoderError, match=r"first convolution takes 3 channels.*Give --leads"):
        made_of(beside, "XResNet", {"leads": 3})
    with pytest.raises(EncoderError, match=r"returns 0 \(4, 2\), 1 \(4, 2\).*Give --element"):
        made_of(beside, "Twice")
    made = made_of(beside, "Twice", element="1", leads=CANONICAL_LEADS, names=("AF", "LBBB"))
    assert (made.spec.output.element, made.spec.output.names) == ("1", ("AF", "LBBB"))
    with pytest.raises(UsageError, match="is an encoder already"):
        made_of(beside, "XResNet")


def test_guesses_stand_beside_their_reasons(beside: Path) -> None:
    made = made_of(beside, "XResNet")
    text = (Path(made.directory) / "encoder.toml").read_text()
    assert tomllib.loads(text)["layers"] == ["layer2", "layer3", "layer4"]
    lines = text.splitlines()
    assert lines[lines.index(next(line for line in lines if line.startswith("layers"))) - 1].startswith("# the ends of")
    assert {"leads", "length", "names", "kind", "scale", "layers"} <= made.guesses.keys()


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    path = tmp_path_factory.mktemp("like") / "archive"
    return write_archive(path, [{"signal": noise(1000, seed=i) * 0.3} for i in range(8)])


@pytest.mark.parametrize(
    ("size", "zscore", "found"),
    [(1.0, False, {}), (1000.0, False, {"millivolt": 1000.0}), (1.0, True, {"normalisation": "zscore-lead"})],
)
def test_batch_norms_remember_units(
    beside: Path, recordings: Archive, size: float, zscore: bool, found: dict[str, Any]
) -> None:
    net = network(beside, "XResNet")
    x = torch.from_numpy(np.stack([noise(1000, seed=i) * 0.3 for i in range(8)])) * size
    x = (x - x.mean(2, keepdim=True)) / x.std(2, keepdim=True) if zscore else x
    for inner in net.modules():
        if isinstance(inner, torch.nn.BatchNorm1d):
            inner.momentum = None  # the plain mean over what it sees
    net.train()(x)
    torch.save(net.eval().state_dict(), beside / "best.pt")
    made = init_encoder(beside.parent / "enc", "net:XResNet", beside / "best.pt", {}, Asked(), like=recordings)
    assert made.spec.input.model_dump(include={"millivolt", "normalisation"}, exclude_defaults=True) == found
    assert (made.spec.input.sampling_rate, made.spec.input.length) == (100.0, 1000)
    assert made.warnings == ()
    # The same contract without it is warned of.
    text = (Path(made.directory) / "encoder.toml").read_text()
    for key, value in found.items():
        text = text.replace(f"{key} = {json.dumps(value)}", "")
    (Path(made.directory) / "encoder.toml").write_text(text)
    told = check_encoder(made.directory, like=recordings).warnings
    assert any("of the variance that it remembers" in warning for warning in told) == bool(found)


def test_a_second_sigmoid_is_warned_of(beside: Path, recordings: Archive) -> None:
    made = made_of(beside, "Unpadded", like=recordings, scale="logit")
    assert any("a sigmoid or softmax ends the network" in warning for warning in made.warnings)


def test_check_proposes_what_encoder_toml_does_not_name(tmp_path: Path) -> None:
    directory = write_small_encoder(tmp_path / "enc")
    text = (directory / "encoder.toml").read_text()
    kept = [line for line in text.splitlines() if not line.startswith(("layers", "depth_scales"))]
    (directory / "encoder.toml").write_text("\n".join(kept))
    report = check_encoder(directory)
    assert report.proposed_lines[0] == 'layers = ["resblock1d_0", "resblock1d_1", "resblock1d_2"]'
    with pytest.raises(EncoderError, match="names no layers; `ecgscale encoder check` proposes"):
        Encoder.load(directory)


def test_scales_that_are_not_given_are_one(tmp_path: Path) -> None:
    directory = write_small_encoder(tmp_path / "enc")
    stated = Encoder.load(directory, batch=2)
    text = (directory / "encoder.toml").read_text()
    kept = [line for line in text.splitlines() if not line.startswith("depth_scales")]
    (directory / "encoder.toml").write_text("\n".join(kept))
    plain = Encoder.load(directory, batch=2)
    assert (plain.spec, plain.digest) == (stated.spec, stated.digest)


def test_as_a_user_types_it(beside: Path) -> None:
    network(beside, "XResNet", classes=3)
    words = ["encoder", "init", str(beside.parent / "enc"), "--factory", "net:XResNet", "--weights"]
    words += [str(beside / "best.pt"), "--argument", "classes=3", "--rate", "100", "--names", "A,B,C", "--json"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout.splitlines()[-1])
    assert facts["contract"]["arguments"] == {"classes": 3}
    assert "guessed: layers: the ends of the last 3 stages" in result.stdout
    assert "ecgscale plot ROOT RECORD" in result.stdout
    checked = CliRunner().invoke(main, ["encoder", "check", str(beside.parent / "enc")])
    assert checked.exit_code == 0, checked.output
    assert len(checked.stdout.splitlines()) <= 12
    assert "layer1.0.conv1" not in checked.stdout
    assert (
        "layer1.0.conv1" in CliRunner().invoke(main, ["encoder", "check", str(beside.parent / "enc"), "--all"]).stdout
    )


def test_a_class_made_in_a_function_is_saved_with_its_source(tmp_path: Path) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv1d(12, 8, 7, 2, 3), nn.Conv1d(8, 8, 7, 2, 3), nn.Conv1d(8, 8, 7, 2, 3)
            self.fc = nn.Linear(8, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(self.c(torch.relu(self.b(torch.relu(self.a(x))))).mean(2))

    known = {"leads": CANONICAL_LEADS, "sampling_rate": 100.0, "length": 256, "names": ["A", "B"]}
    made = ecgscale.save_encoder(Net(), tmp_path / "enc", **known)
    assert (made.spec.factory, made.spec.layers) == ("net:Net", ("a", "b", "c"))


def test_a_module_beside_is_found_by_a_relative_path(beside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made_of(beside, "XResNet")
    monkeypatch.chdir(beside.parent)
    assert check_encoder("enc").warnings == []


def test_layers_are_listed_in_the_layout_that_the_network_takes(beside: Path) -> None:
    text = (beside / "net.py").read_text()
    last = "class Last(XResNet):\n    def forward(self, x):\n        return super().forward(x.transpose(1, 2))\n"
    (beside / "net.py").write_text(f"{text}\n\n{last}")
    made = made_of(beside, "Last", length=1000, leads=CANONICAL_LEADS, input={"layout": "btc"})
    report = check_encoder(made.directory)
    assert [layer.name for layer in report.layers if layer.tapped] == ["layer2", "layer3", "layer4"]


def test_windows_are_what_the_network_sees(tmp_path: Path) -> None:
    net = windowed()
    made = ecgscale.save_encoder(
        net,
        tmp_path / "enc",
        factory="tests.encoders.test_contract:windowed",
        leads=CANONICAL_LEADS,
        sampling_rate=100.0,
        length=1024,
        names=["A", "B"],
        input={"windows": {"length": 256, "stride": 128}},
    )
    report = check_encoder(made.directory)
    assert made.spec.layers == ("0", "1", "2")
    assert [layer.shape[2] for layer in report.layers if layer.tapped] == [128, 64, 32]
    assert all(layer.tappable for layer in report.layers if layer.tapped)


def windowed() -> nn.Module:
    """What the test above saves: no weights of its own, which come from the file."""
    layers = [nn.Conv1d(12 if i == 0 else 8, 8, 7, 2, 3) for i in range(3)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(256, 2))


def test_a_network_in_memory_is_saved(tmp_path: Path) -> None:
    net = small_resnet().train()
    known = {"leads": CANONICAL_LEADS, "sampling_rate": 100.0, "length": 256, "names": ["A", "B"]}
    made = ecgscale.save_encoder(net, tmp_path / "enc", arguments=ARGUMENTS, **known)
    assert net.training
    assert made.spec.factory == "ecgscale.encoders.resnet1d:ResNet1d"
    assert made.spec.layers == ("resblock1d_0", "resblock1d_1", "resblock1d_2")
    x = noise(256)[None]
    written = Encoder.load(write_small_encoder(tmp_path / "other"), batch=4)
    assert torch.equal(Encoder.load(made.directory, batch=4).forward(x).prediction, written.forward(x).prediction)
    with pytest.raises(EncoderError, match=r"\[arguments\]"):
        ecgscale.save_encoder(net, tmp_path / "b", **known)
    with pytest.raises(EncoderError, match=r"gives other outputs|does not fit"):
        ecgscale.save_encoder(net, tmp_path / "b", arguments={**ARGUMENTS, "kernel_size": 7}, **known)
    assert not (tmp_path / "b").exists()
