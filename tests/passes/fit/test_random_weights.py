"""The same network with random weights: reproducible, and no trace left in the process's random state."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ecgscale.archive.reader import Archive
from ecgscale.encoders.taps import Encoder
from ecgscale.passes.fit import worker as random_weights
from ecgscale.passes.fit.worker import random_encoder, random_weights_variance
from tests.worlds.commands.explaining import Watching
from tests.worlds.commands.simulated import request, simulated
from tests.worlds.formula.small_networks import write_small_encoder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_encoder(tmp_path_factory.mktemp("random") / "encoder", seed=7)


def weights(encoder: Encoder) -> list[torch.Tensor]:
    return [value.clone() for value in encoder.module.state_dict().values() if value.is_floating_point()]


def equal(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_weights_follow_the_seed_and_nothing_else(encoder: Path) -> None:
    torch.manual_seed(123)
    expected = torch.rand(3)
    torch.manual_seed(123)
    one, again, other = (weights(random_encoder(encoder, seed, "cpu", 8)) for seed in (0, 0, 1))
    assert torch.equal(torch.rand(3), expected)
    assert equal(one, again)
    assert not equal(one, other)
    assert not equal(one, weights(Encoder.load(encoder, batch=8)))


def test_architecture_and_contract_are_those_of_the_encoder(encoder: Path) -> None:
    trained, random = Encoder.load(encoder, batch=8), random_encoder(encoder, 0, "cpu", 8)
    assert (random.layout, random.hop, random.spec, random.batch) == (trained.layout, trained.hop, trained.spec, 8)


def test_variance_for_each_k_on_some_of_the_records(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = Archive.open(simulated(tmp_path / "archive", 40))
    found = random_weights_variance(archive, encoder, request(clusters=(3, 9)))
    assert list(found) == [3, 9]
    assert 0 < found[3] < found[9] < 1
    assert found == random_weights_variance(archive, encoder, request(clusters=(3, 9)))
    watch = Watching()
    monkeypatch.setattr(random_weights, "AT_MOST", 10)
    random_weights_variance(archive, encoder, request(), watch)
    assert watch.advanced >= 10
    assert sum(1 for _ in tmp_path.iterdir()) == 1
