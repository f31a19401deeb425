"""A simulated archive, a small untrained network and quick fits: what tests of the fit and of whole runs share."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from safetensors.numpy import load_file

from ecgscale.archive.reader import Archive
from ecgscale.archive.synthetic.simulation import simulate
from ecgscale.clusters.kmeans import FitSettings
from ecgscale.clusters.model import ClusterModel
from ecgscale.passes.fit.request import FitRequest

RECORDS, SHARD_RECORDS = 60, 16
SECONDS, RATE = 2.2, 100.0
VALID, LENGTH = 220, 256
"""Samples of a recording, and of the network's time axis."""


def simulated(path: Path, records: int = RECORDS, shard_records: int | None = SHARD_RECORDS, seed: int = 1) -> Path:
    """An archive of short recordings at the rate of `tests.worlds.formula.small_networks`, folds 1 to 10."""
    simulate(path, records, seed, shard_records, rate=RATE, seconds=SECONDS)
    return path


def request(**changes: Any) -> FitRequest:
    """A fit of K = 4 that takes no time; `settings` may be given as a dict."""
    settings = {"max_epochs": 3, "n_init": 1, "sample": 2000, **changes.pop("settings", {})}
    return FitRequest(**{"clusters": (4,), "device": "cpu", "settings": FitSettings(**settings), **changes})


QUICK = ["--clusters", "4", "--max-epochs", "3", "--device", "cpu"]
"""The same for the command line."""

COMMAND = [sys.executable, "-c", "from ecgscale.cli import main; main(prog_name='ecgscale')"]
"""`ecgscale` in a process of its own."""


def same_centroids(one: ClusterModel, other: ClusterModel) -> bool:
    """Whether two models give the same facts to the last bit."""
    return (
        np.array_equal(one.centroids, other.centroids)
        and np.array_equal(one.counts, other.counts)
        and (one.gamma, one.tau, one.digest) == (other.gamma, other.tau, other.digest)
    )


def arrays_of(model_dir: Path) -> dict[str, np.ndarray]:
    """What lies in centroids.safetensors."""
    found: dict[str, np.ndarray] = load_file(model_dir / "centroids.safetensors")
    return found


def record_ids(archive: Path, *shards: str) -> list[str]:
    """Ids of the records in these shards (all by default), in order."""
    table = Archive.open(archive).metadata(["record_id"])
    rows = zip(table["record_id"].to_pylist(), table["shard"].to_pylist(), strict=True)
    return [record for record, shard in rows if not shards or shard in shards]


def damage_signals(shard: Path) -> None:
    """Overwrite the samples of the shard's last row group: its footer and its other columns stay readable."""
    meta = pq.read_metadata(shard)
    group = meta.row_group(meta.num_row_groups - 1)
    column = next(
        group.column(i) for i in range(group.num_columns) if group.column(i).path_in_schema.startswith("signal")
    )
    at = column.dictionary_page_offset or column.data_page_offset
    with open(shard, "r+b") as file:
        file.seek(at)
        file.write(b"\xff" * column.total_compressed_size)


def cut_short(shard: Path) -> None:
    """Leave the first two thirds, as a copy that ran out of disk does."""
    shard.write_bytes(shard.read_bytes()[: shard.stat().st_size * 2 // 3])
