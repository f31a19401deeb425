"""The cluster model on disk: `centroids.safetensors` and `model.json` under ROOT/models/<model_id>/.

A directory exists only when it is complete: it is written beside its place and renamed into it.
"""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save_file

from ecgscale.clusters.features import BlockLayout
from ecgscale.errors import ModelError
from ecgscale.io.objects import open_objects
from ecgscale.io.places import Place, is_remote, place, place_whole

MIN_TAU = 1e-6


@dataclass(frozen=True)
class ClusterModel:
    """Frozen centroids (K, C) float32 with the counts (K,) they were fitted with, and how distances become p.

    `info` is what model.json holds besides: encoder, seed, history, diagnostics, what the fit has seen.
    """

    centroids: NDArray[np.float32]
    counts: NDArray[np.int64]
    layout: BlockLayout
    gamma: int
    tau: float
    info: dict[str, Any] = field(default_factory=dict)
    directory: Path | None = None

    @property
    def n_clusters(self) -> int:
        """K."""
        return len(self.centroids)

    @property
    def model_id(self) -> str:
        """The name of the model's directory."""
        return str(self.info["model_id"])

    @property
    def encoder_path(self) -> Path:
        """The encoder as used by the fit, copied under the same ROOT."""
        if self.directory is None:
            raise ModelError("this cluster model was never saved, so it has no encoder directory")
        if is_remote(self.directory):
            # An object store has no `..`: the encoder of a model in ROOT/models/ID lies below the same ROOT.
            return self.directory.parent.parent / self.info["encoder"]["path"].removeprefix("../../")
        return (self.directory / self.info["encoder"]["path"]).resolve()

    @property
    def digest(self) -> str:
        """sha256 of everything that decides a label or an entropy."""
        deciding = {
            "channels": self.layout.channels,
            "lengths": self.layout.lengths,
            "n_steps": self.layout.n_steps,
            "scales": self.layout.scales,
            "gamma": self.gamma,
            "tau": self.tau,
        }
        digest = hashlib.sha256(json.dumps(deciding, sort_keys=True).encode())
        digest.update(np.ascontiguousarray(self.centroids, "<f4").tobytes())
        return digest.hexdigest()

    def save(self, models: Place, sidecars: Mapping[str, str] | None = None) -> Place:
        """Write `models`/<model_id>/ whole, `sidecars` (name → text) included; one that is there is left alone."""
        facts = {
            "n_clusters": self.n_clusters,
            "channels": list(self.layout.channels),
            "lengths": list(self.layout.lengths),
            "n_steps": self.layout.n_steps,
            "depth_scales": list(self.layout.scales),
            "gamma": self.gamma,
            "tau": self.tau,
            **self.info,
        }

        def fill(scratch: Path) -> None:
            arrays: dict[str, NDArray[Any]] = {
                "centroids": np.ascontiguousarray(self.centroids),
                "counts": np.ascontiguousarray(self.counts),
            }
            save_file(arrays, scratch / "centroids.safetensors")
            for name, text in (sidecars or {}).items():
                (scratch / name).write_text(text, encoding="utf-8")
            (scratch / "model.json").write_text(json.dumps(facts, indent=2) + "\n")

        return place_whole(models / self.model_id, fill, last="model.json")

    @classmethod
    def load(cls, directory: str | Path) -> ClusterModel:
        """Read a model directory. Raises ModelError when it is absent, unfinished or inconsistent."""
        directory = place(directory) if is_remote(directory) else Path(directory).resolve()
        try:
            info = json.loads(_read(directory, "model.json"))
            arrays = load(_read(directory, "centroids.safetensors"))
        except FileNotFoundError as error:
            missing = error.filename or "model.json"
            raise ModelError(f"{directory} is not a cluster model: {missing} is missing{_known(directory)}") from error
        except (json.JSONDecodeError, SafetensorError) as error:
            raise ModelError(f"{directory} cannot be read as a cluster model: {error}; fit it again") from error
        try:
            layout = BlockLayout(
                tuple(info.pop("channels")),
                tuple(info.pop("lengths")),
                info.pop("n_steps"),
                tuple(info.pop("depth_scales")),
            )
            model = cls(
                arrays["centroids"], arrays["counts"], layout, info.pop("gamma"), info.pop("tau"), info, directory
            )
        except KeyError as error:
            raise ModelError(f"{directory / 'model.json'} lacks {error}; fit the model again") from error
        if model.centroids.shape != (info.pop("n_clusters"), layout.n_channels):
            raise ModelError(
                f"{directory}: centroids have shape {model.centroids.shape}, model.json tells of"
                f" {layout.n_channels} channels; the two files do not belong together"
            )
        return model


def _read(directory: Place, name: str) -> bytes:
    data = open_objects(directory).read(name)
    if data is None:
        raise FileNotFoundError(errno.ENOENT, "no such file", str(directory / name))
    return data


def _known(directory: Path) -> str:
    models = directory.parent
    known = sorted(p.name for p in models.iterdir() if (p / "model.json").exists()) if models.is_dir() else []
    return f"; models there: {', '.join(known)}" if known else "; make one with `ecgscale fit`"
