"""What evaluations and reports read is what was published, or they say why not."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from ecgscale.errors import EcgscaleError
from ecgscale.evaluate.published import open_published
from ecgscale.io.settings import StoreError
from tests.worlds.commands.small_world import SmallWorld

COLUMNS = ["record_id", "patient_id", "proportions", "mean_entropy", "age", "prediction", "segments"]


def test_a_flipped_bit_is_told_or_changes_nothing(tmp_path: Path) -> None:
    """Pages, statistics that filters believe, names of columns, the rest of the footer."""
    world = SmallWorld.made(tmp_path, {})
    file = Path(world.store.location(world.manifest.content.shards[0].file))
    good, drawn, told = file.read_bytes(), random.Random(3), 0
    expected = open_published(world.root).table(COLUMNS)
    for _ in range(120):
        at, bit = drawn.randrange(len(good)), drawn.randrange(8)
        file.write_bytes(good[:at] + bytes([good[at] ^ 1 << bit]) + good[at + 1 :])
        try:
            assert open_published(world.root).table(COLUMNS).equals(expected), f"byte {at}, bit {bit}"
        except EcgscaleError:
            told += 1
        if bit == 0:
            assert world.problems(), "verify compares the hash of the whole file"
    assert told > 40
    named = good.replace(b"mean_entropy", b"mean_entropx")
    file.write_bytes(named)
    with pytest.raises(StoreError, match="has a column 'mean_entropx' of type float, which its manifest"):
        open_published(world.root).table(COLUMNS)
