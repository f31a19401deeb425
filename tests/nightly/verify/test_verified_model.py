"""A model or an encoder that was changed below ROOT: told by `verify`, and by `explain` also when nothing is new."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from ecgscale.errors import ModelError
from ecgscale.store.root import dataset_ids
from tests.worlds.commands.small_world import SmallWorld


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SmallWorld:
    return SmallWorld.made(tmp_path_factory.mktemp("verify"), {})


@pytest.fixture
def world(made: SmallWorld, tmp_path: Path) -> SmallWorld:
    """A copy that may be damaged."""
    return made.copied(tmp_path)


def flipped(file: Path) -> bytes:
    """A bit of the last number of a file; what it was before."""
    before = file.read_bytes()
    file.write_bytes(before[:-2] + bytes([before[-2] ^ 1]) + before[-1:])
    return before


@pytest.mark.parametrize("file", ["weights.safetensors", "encoder.toml"])
def test_a_changed_encoder_is_told_also_when_nothing_is_new(world: SmallWorld, file: str) -> None:
    [encoder] = (Path(world.root) / "encoders").iterdir()
    assert world.explain().computed == 0
    if file == "encoder.toml":
        (encoder / file).write_text((encoder / file).read_text().replace("1.0, 1.0", "1.0, 2.0"))
    else:
        flipped(encoder / file)
    assert world.problems() == {"model": 1}
    assert world.verify().datasets[0].problems[0].where == f"encoders/{encoder.name}"
    [model] = (Path(world.root) / "models").iterdir()
    for given in (world.model, model):
        with pytest.raises(ModelError, match=f"encoder in .*{encoder.name} is not the one"):
            dataclasses.replace(world, model=given).explain()


def test_a_model_of_before_is_noted_and_checked_against_what_was_published(world: SmallWorld) -> None:
    [model] = (Path(world.root) / "models").iterdir()
    assert world.verify().datasets[0].notes == ()
    facts = json.loads((model / "model.json").read_text())
    del facts["digest"]
    (model / "model.json").write_text(json.dumps(facts))
    of_root = dataclasses.replace(world, model=model)
    assert of_root.explain().computed == 0
    verified = world.verify()
    assert verified.exit_code == 0
    assert "written before models held digests" in verified.datasets[0].notes[0]
    (model / "model.json").write_text(json.dumps({**facts, "gamma": 1}))
    with pytest.raises(ModelError, match="was published with"):
        of_root.explain()
    assert len(dataset_ids(world.root)) == 1
    with pytest.raises(ModelError, match="is another model than"):
        world.explain()
