"""A tiny encoder, cluster model and archive, all made by formula: no random generator, no training, no files.

What is asserted of them may only change together with `RESULTS_VERSION`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from ecgscale.archive.writer import ArchiveWriter
from ecgscale.clusters.features import BlockLayout
from ecgscale.clusters.model import ClusterModel
from ecgscale.encoders.resnet1d import ResNet1d
from ecgscale.encoders.spec import EncoderSpec, encoder_digest, encoder_id, write_spec

LEADS = ("I", "II", "V1")
LENGTH = 256
RATE = 100.0
BLOCKS = ((4, 128), (6, 64), (8, 16))
ARGUMENTS: dict[str, Any] = {
    "input_dim": [3, LENGTH],
    "blocks_dim": [list(block) for block in BLOCKS],
    "n_classes": 2,
    "kernel_size": 5,
}
CENTROIDS = (
    (44, 55, 54, 46, 0, 0, 2, 0, 0, 100, 0, 0, 0, 0, 27, 0, 84, 45),
    (48, 55, 50, 45, 0, 0, 48, 0, 0, 87, 0, 0, 0, 0, 5, 0, 93, 35),
    (50, 59, 42, 46, 0, 0, 86, 0, 0, 50, 0, 0, 0, 0, 17, 0, 89, 40),
    (44, 54, 55, 46, 0, 0, 2, 0, 0, 100, 0, 0, 0, 0, 1, 0, 90, 43),
)
"""K = 4 rows of C = 18 hundredths."""


def wave(shape: Sequence[int], seed: float) -> np.ndarray:
    """Numbers in (−1, 1) that look irregular and are the same everywhere."""
    i = np.arange(int(np.prod(shape)), dtype=np.float64)
    return np.sin(12.9898 * (i + 1) + 78.233 * seed).reshape(shape)


def write_encoder(directory: Path) -> Path:
    directory.mkdir(parents=True)
    state = ResNet1d(**ARGUMENTS).state_dict()
    for seed, (name, tensor) in enumerate(state.items()):
        if not tensor.is_floating_point():
            continue
        values = wave(tensor.shape, seed)
        if name.endswith(("running_var", "bn1.weight", "bn2.weight")):
            values = 1.0 + 0.25 * values
        elif tensor.ndim == 1:
            values = 0.2 * values
        else:
            values = values / np.sqrt(np.prod(tensor.shape[1:]))
        state[name] = torch.from_numpy(values.astype(np.float32))
    save_file(state, directory / "weights.safetensors")
    spec = EncoderSpec.model_validate(
        {
            "name": "golden",
            "factory": "ecgscale.encoders.resnet1d:ResNet1d",
            "weights": "weights.safetensors",
            "layers": ["resblock1d_0", "resblock1d_1", "resblock1d_2"],
            "depth_scales": [1.0, 1.0, 1.0],
            "arguments": ARGUMENTS,
            "input": {"leads": list(LEADS), "sampling_rate": RATE, "length": LENGTH},
            "output": {"kind": "multilabel", "scale": "logit", "names": ["A", "B"]},
        }
    )
    write_spec(directory, spec)
    return directory


def write_model(root: Path) -> Path:
    """ROOT with the encoder and a cluster model of K = 4; the model's directory."""
    scratch = write_encoder(root / "encoder")
    digest = encoder_digest(scratch)
    encoder = root / "encoders" / encoder_id("golden", digest)
    encoder.parent.mkdir()
    scratch.rename(encoder)
    layout = BlockLayout(tuple(c for c, _ in BLOCKS), tuple(length for _, length in BLOCKS), LENGTH, (1.0, 1.0, 1.0))
    info = {"model_id": "golden-k4", "encoder": {"path": f"../../encoders/{encoder.name}", "digest": digest}}
    centroids = np.array(CENTROIDS, np.float32) / 100
    return ClusterModel(centroids, np.ones(len(centroids), np.int64), layout, 2, 0.1, info).save(root / "models")


def signal(number: int, seconds: float = 2.2, rate: float = RATE, leads: int = 3) -> np.ndarray:
    """(leads, samples) int16 in µV: beats of a width, rate and height that depend on `number`."""
    t = np.arange(round(seconds * rate)) / rate
    period = 0.6 + 0.05 * (number % 7)
    phase = (t - 0.1 * number) % period - period / 2
    beat = np.exp(-((phase / 0.02) ** 2)) + 0.25 * np.exp(-(((phase - 0.18) / 0.05) ** 2))
    drift = 0.1 * np.sin(2 * np.pi * 0.4 * t + number)
    scale = np.array([1.0, 0.7, -0.5, 0.3])[:leads, None] * (1 + 0.1 * (number % 5))
    return np.round(1000 * (scale * beat + drift)).astype(np.int16)


def write_archive(path: Path, records: int = 10, shard_records: int = 4, **changes: Any) -> Path:
    """An archive of `records` good records; `changes` maps a record's number to columns that replace its own."""
    rows = [good_row(number) | changes.get(f"r{number}", {}) for number in range(records)]
    return write_rows(path, rows, shard_records)


def good_row(number: int) -> dict[str, Any]:
    return {
        "record_id": f"r{number}",
        "patient_id": f"p{number // 2}",
        "signal": signal(number),
        "leads": list(LEADS),
        "sampling_rate": RATE,
        "units_per_mv": 1000.0,
        "age": 40.0 + number,
        "sex": "female" if number % 2 else "male",
        "fold": number % 10,
    }


def write_rows(path: Path, rows: Sequence[dict[str, Any]], shard_records: int = 4) -> Path:
    with ArchiveWriter(path, {"name": "golden"}, shard_records=shard_records, archive_id="golden-archive") as writer:
        for row in rows:
            writer.append(row)
    return path


def golden_rows() -> list[dict[str, Any]]:
    """Four records whose facts are asserted: padded, resampled, cropped with a derived lead, and a flat one."""
    i, ii, v1 = signal(2, seconds=2.8).astype(np.float32) / 1000
    resampled = {"signal": signal(1, rate=250.0), "sampling_rate": 250.0}
    cropped = {"signal": np.round(1000 * np.stack([ii, ii - i, v1])).astype(np.int16), "leads": ["II", "III", "V1"]}
    return [
        good_row(0),
        good_row(1) | resampled,
        good_row(2) | cropped,
        good_row(3) | {"signal": np.ones((3, 220), np.int16)},
    ]
