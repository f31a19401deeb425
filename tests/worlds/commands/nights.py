"""A place where nights are run: an archive that shards come to, a small network, and a configuration."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from click.testing import CliRunner

from ecgscale.archive.shard import ShardInMemory
from ecgscale.cli import main
from ecgscale.io.objects import open_objects
from ecgscale.io.places import place, upload
from ecgscale.store import newest_manifest, open_explanations
from tests.worlds.commands.simulated import simulated
from tests.worlds.formula.small_networks import write_small_encoder

CONFIG = """
root = "{where}/results"
batch = 8
device = "cpu"
[archive]
path = "{where}/archive"
[encoder]
path = "{where}/encoder"
[fit]
clusters = 4
max_epochs = 2
"""


@dataclass(frozen=True)
class NightWorld:
    """Everything below one place, on a disk or in a bucket; `scratch` is a local folder."""

    where: str
    scratch: Path

    @property
    def root(self) -> str:
        return f"{self.where}/results"

    @property
    def config(self) -> Path:
        return self.scratch / "job.toml"

    def arrive(self, number: int, seed: int, records: int = 12, change: Any = None) -> str:
        """Shard `number` is put into the archive: recordings of that seed; its key."""
        folder = self.scratch / f"new-{number}-{seed}"
        if not folder.exists():
            simulated(folder, records, records, seed)
        table = pq.read_table(folder / "part-00000.parquet")
        if change is not None:
            table = change(table)
        key = f"part-{number:05d}.parquet"
        open_objects(f"{self.where}/archive").put(key, shard_bytes(table))
        return key

    def remove(self, number: int) -> None:
        open_objects(f"{self.where}/archive").delete(f"part-{number:05d}.parquet")

    def night(self, *options: str, code: int = 0) -> dict[str, Any]:
        return self.run("nightly", str(self.config), *options, code=code)

    def run(self, *arguments: str, code: int = 0) -> dict[str, Any]:
        result = CliRunner().invoke(main, [*arguments, "--json"], catch_exceptions=False)
        assert result.exit_code == code, result.output
        facts: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
        return facts

    def ids(self) -> list[str]:
        """Ids of the records that are published and not quarantined."""
        table = open_explanations(self.root).to_table(columns=["record_id", "status"])
        pairs = zip(table["record_id"].to_pylist(), table["status"].to_pylist(), strict=True)
        return [record_id for record_id, status in pairs if status == "ok"]

    def published(self) -> list[str]:
        return [entry.key for entry in newest_manifest(self.root).content.shards]


def shard_bytes(table: pa.Table) -> bytes:
    """A shard of these rows, as the archive writer makes it."""
    shard = ShardInMemory(table.schema)
    shard.write(table)
    return bytes(shard.close())


def new_world(
    where: str, scratch: Path, more: str = "", records: int = 24, outputs: tuple[str, str] = ("A", "B")
) -> NightWorld:
    """A world with so many recordings in two shards, explained and published by `ecgscale run`."""
    scratch.mkdir(parents=True, exist_ok=True)
    simulated(scratch / "archive", records, records // 2, seed=1)
    write_small_encoder(scratch / "encoder", output={"kind": "multilabel", "scale": "logit", "names": outputs})
    world = NightWorld(where, scratch)
    if str(place(where)) != str(scratch):
        upload(scratch / "archive", f"{where}/archive", last="_archive.json")
        upload(scratch / "encoder", f"{where}/encoder")
    world.config.write_text(CONFIG.format(where=where) + more)
    world.run("run", str(world.config))
    return world
