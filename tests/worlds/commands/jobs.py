"""What jobs are tried on: a simulated archive, a network of the CODE shapes with random weights, and a configuration.

The network is slow enough for a job to be stopped between two shards, and quick enough for all of them to be done.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from ecgscale.archive.synthetic.simulation import simulate
from ecgscale.encoders.resnet1d import ResNet1d
from ecgscale.encoders.spec import EncoderSpec, write_spec
from ecgscale.leads import CANONICAL_LEADS

REPOSITORY = Path(__file__).resolve().parents[3]

RECORDS, SHARD_RECORDS = 320, 16
SHARDS = RECORDS // SHARD_RECORDS

CONFIG = """
root = "{root}"
batch = 16
device = "cpu"
[archive]
path = "{archive}"
[encoder]
path = "{encoder}"
[fit]
clusters = 4
records = 40
max_epochs = 2
[explain]
entropy = "timestep"
"""

ARGUMENTS: dict[str, Any] = {
    "input_dim": [12, 4096],
    "blocks_dim": [[32, 4096], [64, 1024], [96, 256], [128, 64], [160, 16]],
    "n_classes": 2,
}


def write_network(directory: Path) -> Path:
    """An encoder directory: half the channels of the CODE network, untrained."""
    directory.mkdir(parents=True)
    torch.manual_seed(0)
    save_file(ResNet1d(**ARGUMENTS).state_dict(), directory / "weights.safetensors")
    content = {
        "name": "half",
        "factory": "ecgscale.encoders.resnet1d:ResNet1d",
        "weights": "weights.safetensors",
        "layers": ["resblock1d_2", "resblock1d_3", "resblock1d_4"],
        "depth_scales": [1.0, 1.0, 1.0],
        "arguments": ARGUMENTS,
        "input": {"leads": list(CANONICAL_LEADS), "sampling_rate": 400.0, "length": 4096},
        "output": {"kind": "multilabel", "scale": "logit", "names": ["A", "B"]},
    }
    write_spec(directory, EncoderSpec.model_validate(content))
    return directory


def write_world(folder: Path) -> Path:
    """Archive, encoder and job.toml below `folder`; the configuration, whose root is `folder`/results."""
    simulate(folder / "archive", RECORDS, 3, SHARD_RECORDS, rate=400.0)
    write_network(folder / "encoder")
    return write_config(folder / "job.toml", folder, "results")


def write_config(path: Path, folder: Path, root: str, more: str = "") -> Path:
    """A configuration of the world in `folder` with absolute paths, and another ROOT."""
    where = {"root": folder / root, "archive": folder / "archive", "encoder": folder / "encoder"}
    path.write_text(CONFIG.format(**where) + more)
    return path


def commits(root: Path) -> list[Path]:
    """Commit records below a ROOT."""
    return sorted(root.glob("explanations/*/_commits/*.json"))


def wait_for(condition: Callable[[], Any], what: str, seconds: float = 240.0) -> None:
    """Return as soon as `condition` holds; AssertionError when it never does."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"{what} did not come about within {seconds:.0f} s"
        time.sleep(0.05)


def outputs(root: Path) -> dict[str, str]:
    """Name and sha256 of every data file below a ROOT."""
    files = sorted(root.glob("explanations/*/data/*.parquet"))
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def run_records(root: Path) -> list[dict[str, Any]]:
    """Run records below a ROOT, oldest first."""
    found = [json.loads(path.read_text()) for path in (root / "runs").glob("*.json")]
    return sorted(found, key=lambda record: str(record["started"]))
