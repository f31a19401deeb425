"""A served dataset of a simulated archive that then grows: what tests of refitting and promoting share."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ecgscale.config import RunConfig, load_config
from ecgscale.io.places import Place, is_remote, place
from ecgscale.passes.run.pipeline import PipelineResult, run_pipeline
from ecgscale.report.subject import NAMES_FILE
from ecgscale.store.commit import Source
from ecgscale.store.dataset import find_dataset, open_explanations
from ecgscale.store.manifest import ShardEntry
from tests.worlds.commands.simulated import simulated
from tests.worlds.formula.small_networks import write_small_encoder

SHARD = 16

CONFIG = """
root = "{root}"
batch = 16
device = "cpu"
[archive]
path = "{archive}"
[encoder]
path = "{encoder}"
[fit]
clusters = {clusters}
max_epochs = 8
seed = {seed}
[explain]
entropy = "timestep"
"""


@dataclass(frozen=True)
class ServedWorld:
    """Where things are; `results` may be in an object store, or is relative to `folder`."""

    folder: Path
    results: str

    @property
    def root(self) -> Place:
        """ROOT."""
        return place(self.results) if is_remote(self.results) else self.folder / self.results

    def config_file(self, clusters: int = 6, seed: int = 0, encoder: str = "encoder") -> Path:
        """A configuration file of this world."""
        path = self.folder / f"job-{clusters}-{seed}.toml"
        where = {"root": self.root, "archive": self.folder / "archive", "encoder": self.folder / encoder}
        path.write_text(CONFIG.format(clusters=clusters, seed=seed, **where))
        return path

    def config(self, clusters: int = 6, seed: int = 0, encoder: str = "encoder") -> RunConfig:
        """The same, loaded."""
        return load_config(self.config_file(clusters, seed, encoder))

    def grow(self, shards: int) -> None:
        """Let the archive have so many shards."""
        source = simulated(self.folder / f"grown-{shards}", shards * SHARD, SHARD)
        for shard in sorted(source.glob("part-*.parquet")):
            target = self.folder / "archive" / shard.name
            if not target.exists():
                shard.rename(target)

    def rows(self, dataset: str | None = None) -> dict[str, dict[str, Any]]:
        """Rows of what is served, or of a dataset, by record."""
        return {row["record_id"]: row for row in open_explanations(self.root, dataset).to_table().to_pylist()}

    def shards(self, dataset: str | None = None) -> dict[str, ShardEntry]:
        """Published shards by key."""
        manifest = find_dataset(self.root, dataset).manifest
        assert manifest is not None
        return {entry.key: entry for entry in manifest.content.shards}


def served_world(folder: Path, results: str = "results", shards: int = 3) -> tuple[ServedWorld, PipelineResult]:
    """A world of that many shards, fitted, explained and published."""
    folder.mkdir(parents=True, exist_ok=True)
    simulated(folder / "archive", shards * SHARD, SHARD)
    write_small_encoder(folder / "encoder")
    world = ServedWorld(folder, results)
    return world, run_pipeline(world.config())


def name_clusters(model: Path, names: Mapping[int, str]) -> None:
    """Put a names.json beside a model, as a cardiologist does."""
    content = {"model_id": model.name, "names": {str(k): name for k, name in names.items()}}
    (model / NAMES_FILE).write_text(json.dumps(content), encoding="utf-8")


def source_of(entry: ShardEntry) -> Source:
    """The source that a published shard was made of."""
    return Source(**entry.model_dump(include={"key", "size", "stamp", "rows", "content_digest"}))
