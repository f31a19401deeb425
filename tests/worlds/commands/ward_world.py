"""Worlds in which a night has work: recordings arrive at a source, or shards come by themselves."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa

from ecgscale.io.objects import open_objects
from ecgscale.io.places import is_remote, upload
from ecgscale.nightly.verify.verify import verify_root
from tests.worlds.commands.nights import NightWorld, new_world
from tests.worlds.formula.recordings import wave, write_wfdb
from tests.worlds.formula.small_networks import write_small_encoder

WARD = """
root = "{where}/results"
batch = 8
device = "cpu"
[archive]
path = "{where}/archive"
source = "wfdb"
src = "{scratch}/src"
shard_records = 12
[encoder]
path = "{where}/encoder"
[fit]
clusters = 4
max_epochs = 2
[nightly]
settle_minutes = 0
"""
HELD = 4
"""What the night after `shard_world` or `ward_world` ends with: the gates hold a shard."""
CHEST = ("V1", "V2", "V3")


def shard_world(where: str, scratch: Path, more: str = "") -> NightWorld:
    """24 recordings are published; a sound shard has come since, and one that the gates will hold."""
    world = new_world(where, scratch, more)
    world.arrive(2, seed=2)
    world.arrive(3, seed=3, change=without_rate)
    return world


def ward_world(where: str, scratch: Path) -> NightWorld:
    """12 recordings were ingested and published; 12 sound ones have arrived since, and 12 without most leads."""
    world = NightWorld(where, scratch)
    scratch.mkdir(parents=True, exist_ok=True)
    _recordings(scratch / "src", 0)
    _encoder(world)
    world.config.write_text(WARD.format(where=where, scratch=scratch))
    world.run("run", str(world.config))
    _recordings(scratch / "src", 12)
    _recordings(scratch / "src", 24, leads=CHEST)
    return world


def without_rate(table: pa.Table) -> pa.Table:
    """The same recordings, and nobody knows how fast they were sampled."""
    at = table.schema.get_field_index("sampling_rate")
    return table.set_column(at, table.schema.field(at), pa.array([0.0] * table.num_rows, pa.float32()))


def copied(world: NightWorld, to: Path, where: str | None = None) -> NightWorld:
    """The same state elsewhere, times kept: in the folder `to`, and at `where` if that is another place."""
    shutil.copytree(world.scratch, to, dirs_exist_ok=True)
    copy = NightWorld(where or str(to), to)
    text = world.config.read_text().replace(f'"{world.where}/', f'"{copy.where}/')
    copy.config.write_text(text.replace(f'"{world.scratch}/', f'"{to}/'))
    if is_remote(copy.where):
        source, target = open_objects(world.where), open_objects(copy.where)
        for key in source.list_prefix(""):
            target.put(key, source.read(key) or b"")
    return copy


def whole(world: NightWorld, **options: Any) -> bool:
    """Whether `ecgscale verify` finds nothing wrong."""
    return verify_root(world.root, sample=0, **options).problems == 0


def _recordings(folder: Path, first: int, leads: tuple[str, ...] | None = None) -> None:
    for number in range(first, first + 12):
        signal = wave(number, len(leads) if leads else 12, 220)
        write_wfdb(folder, f"n{number:02d}", signal, **({"leads": leads} if leads else {}), fs=100)


def _encoder(world: NightWorld) -> None:
    write_small_encoder(world.scratch / "encoder")
    if is_remote(world.where):
        upload(world.scratch / "encoder", f"{world.where}/encoder")
