"""Small encoders on disk, and batches of recordings, for the tests of this folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from ecgscale.archive import Archive, ArchiveWriter, RawBatch
from ecgscale.encoders.resnet1d import ResNet1d
from ecgscale.encoders.spec import EncoderSpec, write_spec
from ecgscale.leads import CANONICAL_LEADS
from tests.worlds.formula.recordings import lawful

ARGUMENTS: dict[str, Any] = {
    "input_dim": [12, 256],
    "blocks_dim": [[8, 256], [12, 64], [16, 16]],
    "n_classes": 2,
    "kernel_size": 5,
}


def spec_of(**changes: Any) -> EncoderSpec:
    """A contract for `ResNet1d(**ARGUMENTS)`; sections are given whole."""
    content: dict[str, Any] = {
        "name": "small",
        "factory": "ecgscale.encoders.resnet1d:ResNet1d",
        "weights": "weights.safetensors",
        "layers": ["resblock1d_0", "resblock1d_1", "resblock1d_2"],
        "depth_scales": [1.0, 1.0, 1.0],
        "arguments": ARGUMENTS,
        "input": {"leads": list(CANONICAL_LEADS), "sampling_rate": 100.0, "length": 256},
        "output": {"kind": "multilabel", "scale": "logit", "names": ["A", "B"]},
    }
    content |= changes
    if "layers" in changes and "depth_scales" not in changes:
        content["depth_scales"] = [1.0] * len(changes["layers"])
    return EncoderSpec.model_validate(content)


def small_resnet(seed: int = 0) -> ResNet1d:
    torch.manual_seed(seed)
    return ResNet1d(**ARGUMENTS).eval()


def write_small_encoder(directory: Path, seed: int = 0, **changes: Any) -> Path:
    """The small ResNet as an encoder directory."""
    directory.mkdir(parents=True, exist_ok=True)
    save_file(small_resnet(seed).state_dict(), directory / "weights.safetensors")
    write_spec(directory, spec_of(**changes))
    return directory


def write_archive(path: Path, records: Sequence[dict[str, Any]], signal: Any = "float32", **options: Any) -> Archive:
    """An archive of these records; what they leave out is 12 leads at 100 Hz in mV."""
    defaults = {"leads": list(CANONICAL_LEADS), "sampling_rate": 100.0, "units_per_mv": 1.0}
    with ArchiveWriter(path, {"kind": "test"}, signal, **options) as writer:
        for i, record in enumerate(records):
            writer.append({"record_id": f"r{i}", **defaults, **record})
    return Archive.open(path)


def one_batch(archive: Archive) -> RawBatch:
    """All records of a one-shard archive as one batch."""
    (batch,) = archive.batches(archive.shards[0], batch_records=1000)
    return batch


def noise(n_samples: int, n_leads: int = 12, seed: int = 0) -> np.ndarray:
    return lawful(np.random.default_rng(seed).normal(size=(n_leads, n_samples))).astype(np.float32)
