"""What the end-to-end benchmarks run on: a simulated archive, a network of the CODE shapes, a cluster model.

The network's weights are drawn with a seed and its batch norms calibrated on the archive, so that activations have the
scale of a trained network's; arithmetic does not care what a network has learned.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from ecgscale.archive.reader import Archive
from ecgscale.archive.synthetic.simulation import simulate
from ecgscale.archive.validate import OK, check_batch
from ecgscale.clusters.kmeans import FitSettings
from ecgscale.encoders.inputs import InputSpec
from ecgscale.encoders.preprocess import prepare
from ecgscale.encoders.resnet1d import ResNet1d
from ecgscale.encoders.spec import EncoderSpec, load_spec, write_spec
from ecgscale.leads import CANONICAL_LEADS
from ecgscale.passes.fit.fit import FitRequest, fit_archive

OUTPUTS = ("NORM", "MI", "STTC", "CD", "HYP")


@dataclass(frozen=True)
class Network:
    """A ResNet1d: its time axis, its blocks, and the rate that the archive has too, so that nothing is resampled."""

    sampling_rate: float
    length: int
    blocks: tuple[tuple[int, int], ...]

    @property
    def seconds(self) -> float:
        """How long a recording is that fills the time axis."""
        return self.length / self.sampling_rate


CODE = Network(400.0, 4096, ((64, 4096), (128, 1024), (196, 256), (256, 64), (320, 16)))


def write_archive(path: Path, records: int, network: Network, shard_records: int | None = None) -> Path:
    """`records` simulated recordings at the network's rate and length; a longer archive begins with the same ones."""
    simulate(path, records, 0, shard_records, rate=network.sampling_rate, seconds=network.seconds)
    return path


def write_encoder(path: Path, network: Network, archive: Path, calibrate_on: int = 16) -> Path:
    """An encoder directory with seeded weights."""
    arguments: dict[str, Any] = {
        "input_dim": [len(CANONICAL_LEADS), network.length],
        "blocks_dim": [list(block) for block in network.blocks],
        "n_classes": len(OUTPUTS),
    }
    last = len(network.blocks)
    spec = EncoderSpec.model_validate(
        {
            "name": "benchmark",
            "factory": "ecgscale.encoders.resnet1d:ResNet1d",
            "weights": "weights.safetensors",
            "layers": [f"resblock1d_{i}" for i in range(last - 3, last)],
            "depth_scales": [0.5, 0.75, 1.0],
            "arguments": arguments,
            "input": {
                "leads": list(CANONICAL_LEADS),
                "sampling_rate": network.sampling_rate,
                "length": network.length,
            },
            "output": {"kind": "multilabel", "scale": "logit", "names": list(OUTPUTS)},
        }
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = ResNet1d(**arguments)
    _calibrate(module, decoded(archive, spec.input, calibrate_on))
    path.mkdir(parents=True)
    save_file(module.state_dict(), path / "weights.safetensors")
    write_spec(path, spec)
    return path


def _calibrate(module: ResNet1d, x: NDArray[np.float32]) -> None:
    """Give the batch norms the statistics of `x`."""
    for part in module.modules():
        if isinstance(part, torch.nn.BatchNorm1d):
            part.momentum = None
            part.train()
        else:
            part.training = False
    with torch.no_grad():
        module(torch.from_numpy(x))
    module.eval()


def decoded(archive: Path, spec: InputSpec, records: int | None = None) -> NDArray[np.float32]:
    """The first `records` usable recordings as the network takes them, (N, leads, D), all in memory."""
    opened, found, n = Archive.open(archive), [], 0
    for shard in opened.shards:
        seen: set[str] = set()
        for raw in opened.batches(shard, ()):
            prepared = prepare(raw, *check_batch(raw, seen), spec, hop=1)
            usable = np.array([state == OK for state in prepared.status])
            found.append(prepared.x[usable])
            n += int(usable.sum())
            if records is not None and n >= records:
                return np.concatenate(found)[:records]
    return np.concatenate(found)


def fit_model(archive: Path, encoder: Path, root: Path, n_clusters: int, records: int) -> Path:
    """A cluster model below `root`, fitted quickly: explaining costs the same whatever the centroids."""
    request = FitRequest(clusters=(n_clusters,), records=records, settings=FitSettings(max_epochs=3, n_init=1))
    return fit_archive(Archive.open(archive), encoder, root, request)[0].directory


def load_module(encoder: Path) -> ResNet1d:
    """The bare network of an encoder directory, without taps."""
    module = ResNet1d(**load_spec(encoder).arguments)
    module.load_state_dict(load_file(encoder / "weights.safetensors"))
    return module.eval().requires_grad_(False)
