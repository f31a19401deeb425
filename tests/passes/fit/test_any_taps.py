"""One network with a tap of each form, from its contract to labels: as hooks by hand and the dense definition say."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ecgscale.archive.reader import Archive
from ecgscale.clusters.features import BlockLayout, dense_assign, dense_features
from ecgscale.clusters.model import ClusterModel
from ecgscale.encoders.preprocess import prepare_batch
from ecgscale.encoders.spec import load_spec, write_spec
from ecgscale.encoders.taps import Encoder
from ecgscale.errors import EncoderError, ModelError
from ecgscale.explain.facts import explain_batch, load_encoder
from ecgscale.passes.fit.fit import fit_archive
from ecgscale.passes.probe.network import ProbeNetwork
from tests.worlds.commands.explaining import Watching
from tests.worlds.commands.simulated import request, simulated
from tests.worlds.formula.small_networks import noise, spec_of

NETWORK = """
import torch
from torch import nn

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True, norm_first=True)

    def forward(self, tokens):
        return {"tokens": self.layer(tokens), "how_many": tokens.shape[1]}

class Every(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv1d(12, 10, 21, stride=4)
        self.embed, self.lead = nn.Conv1d(12, 8, 16, stride=16), nn.Linear(8, 6)
        self.special = nn.Parameter(torch.randn(1, 1, 8) * 0.02)
        self.block, self.head = Block(), nn.Linear(8, 2)

    def forward(self, x):
        h = torch.relu(self.stem(x))
        by_lead = self.lead(x.unflatten(2, (32, 8))) * 0.5
        tokens = torch.cat([self.special.expand(x.shape[0], 1, 8), self.embed(x).transpose(1, 2)], 1)
        tokens = self.block(tokens)["tokens"]
        logits = self.head(tokens[:, 0]) + h.mean((1, 2))[:, None] + by_lead.mean((1, 2, 3))[:, None]
        return {"embedding": tokens[:, 0, :2], "logits": logits}
"""
LAYERS = ["stem", "block#tokens", "fx:mul"]
TAPS: dict[str, Any] = {
    "stem": {"start": 10.0, "step": 4.0},
    "block#tokens": {"axes": "btc", "drop_steps": 1},
    "fx:mul": {"axes": "bltc", "leads": "stack"},
}
OUTPUT = {"kind": "multilabel", "names": ["A", "B"], "element": "logits"}


@pytest.fixture
def every(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An encoder directory with that network, whose module stands where the command is typed."""
    (tmp_path / "every_network.py").write_text(NETWORK)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    directory = tmp_path / "encoder"
    directory.mkdir()
    write_spec(directory, spec_of(**contract()))
    torch.manual_seed(3)
    torch.save(plain().state_dict(), directory / "weights.pt")
    yield directory
    sys.modules.pop("every_network", None)


def contract(**taps: Any) -> dict[str, Any]:
    said = {"factory": "every_network:Every", "arguments": {}, "weights": "weights.pt", "layers": LAYERS}
    return {**said, "taps": TAPS | taps, "output": OUTPUT}


def plain() -> torch.nn.Module:
    from every_network import Every  # type: ignore[import-not-found]

    network: torch.nn.Module = Every().eval()
    return network


def by_hand(directory: Path, x: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
    network, caught = plain(), {}
    network.load_state_dict(torch.load(directory / "weights.pt"))
    for name in ("stem", "lead", "block"):
        network.get_submodule(name).register_forward_hook(lambda _m, _i, out, name=name: caught.update({name: out}))
    with torch.inference_mode():
        prediction = network(torch.from_numpy(x))["logits"]
    by_lead = (caught["lead"] * 0.5).permute(0, 1, 3, 2).flatten(1, 2)
    blocks = [caught["stem"], caught["block"]["tokens"][:, 1:].transpose(1, 2), by_lead]
    return [block.numpy() for block in blocks], prediction.numpy()


def test_taps_of_every_form_from_the_contract_to_labels(every: Path, tmp_path: Path) -> None:
    archive = Archive.open(simulated(tmp_path / "archive"))
    encoder = Encoder.load(every, batch=16)
    assert encoder.layout == ((10, 59), (8, 16), (72, 32))
    x = np.stack([noise(256, seed=seed) for seed in range(5)])
    found, (blocks, prediction) = encoder.forward(x), by_hand(every, x)
    for block, wanted in zip(found.blocks, blocks, strict=True):
        np.testing.assert_allclose(block.numpy(), wanted, atol=2e-6)
    np.testing.assert_allclose(found.prediction.numpy(), prediction, atol=2e-6)
    alone = encoder.forward(x[3:4])
    assert all(torch.equal(one[0], several[3]) for one, several in zip(alone.blocks, found.blocks, strict=True))

    probed = ProbeNetwork.load(every, "cpu", 16).gradcam(x, np.zeros(5, np.int64))
    np.testing.assert_allclose(probed.prediction, prediction, atol=2e-6)
    for cam, block, wanted in zip(probed.gradcam, probed.blocks, found.blocks, strict=True):
        torch.testing.assert_close(block, wanted, atol=2e-6, rtol=0)
        assert cam.shape == (5, wanted.shape[2])
    # Nothing behind the last block reads its patches: the class token alone goes on.
    assert [cam.max() > 0 for cam in probed.gradcam] == [True, False, True]

    [fitted] = fit_archive(archive, every, tmp_path / "root", request(clusters=(3,)), Watching())
    model = ClusterModel.load(fitted.directory)
    assert model.layout == BlockLayout((10, 8, 72), (59, 16, 32), 256, (1.0, 1.0, 1.0), ((10.0, 4.0), None, None))
    loaded = load_encoder(model, "cpu", batch=16)
    raw = next(iter(archive.batches(archive.shards[0], batch_records=16)))
    prepared = prepare_batch(raw, loaded.spec.input, loaded.hop)
    facts = explain_batch(prepared, loaded, model)
    wide = [block.astype(np.float64) for block in by_hand(every, prepared.x)[0]]
    dense = dense_assign(dense_features(wide, model.layout), model.centroids.astype(np.float64), model.gamma, model.tau)
    assert facts.assignment is not None
    assert facts.explained.all()
    nearest = np.sort(dense.square_distances, -1)
    clear = (facts.assignment.labels >= 0) & (nearest[..., 1] - nearest[..., 0] > 1e-4)
    assert clear.mean() > 0.5
    assert (facts.assignment.labels[clear] == dense.labels[clear]).all()
    moved = replace(model, layout=replace(model.layout, places=()))
    with pytest.raises(ModelError, match=r"places|steps at \(start, step\)|changed"):
        load_encoder(replace(moved, info=model.info), "cpu")


@pytest.mark.parametrize(
    ("taps", "message"),
    [
        (
            {"stem": {}},
            r'stem lags by -\d+ ms at 10 % .* \+\d+ ms at 90 %.*\[taps."stem"\] start = (9|10)\.\d, step = 4.0',
        ),
        ({"block#tokens": {}}, r'block#tokens does not follow time .*axes = "btc", drop_steps = 1'),
    ],
)
def test_a_fit_refuses_taps_that_do_not_keep_time(every: Path, tmp_path: Path, taps: Any, message: str) -> None:
    write_spec(every, spec_of(**contract(**taps)))
    assert load_spec(every).tap("stem").time is None or "block#tokens" in taps
    archive = Archive.open(simulated(tmp_path / "archive"))
    with pytest.raises(EncoderError, match=message):
        fit_archive(archive, every, tmp_path / "root", request(clusters=(3,)), Watching())
    assert not list((tmp_path / "root").glob("models/*"))
