"""The cluster model on disk: `centroids.safetensors` and `model.json` under ROOT/models/<model_id>/.

A directory exists only when it is complete: it is written beside its place and renamed into it. `model.json` holds
digests of the arrays and of its own other facts, which every load checks:

    "digest": {"arrays": sha256 of centroids and counts, "facts": sha256 of model.json but for this entry and `seconds`}

Models of before that have none; of theirs, what their id was made from is checked.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load, save_file

from ecgscale.clusters.features import BlockLayout
from ecgscale.errors import ModelError, UsageError
from ecgscale.io.numbered import DocumentError, canonical_digest, read_document
from ecgscale.io.objects import open_objects
from ecgscale.io.places import Place, is_remote, place, place_whole

MODEL_FILE = "model.json"
ARRAYS_FILE = "centroids.safetensors"
UNSEALED = ("digest", "seconds")
"""What the digest of the facts leaves out: itself, and how long a fit took, so that equal fits have equal digests."""
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
            **self._places(),
        }
        digest = hashlib.sha256(json.dumps(deciding, sort_keys=True).encode())
        digest.update(np.ascontiguousarray(self.centroids, "<f4").tobytes())
        return digest.hexdigest()

    def _places(self) -> dict[str, Any]:
        """Where the steps of blocks sit, when that is not at half-pixel centres: models of those stay as they were."""
        places = [list(block) if block else None for block in self.layout.places]
        return {"places": places} if places else {}

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
            **self._places(),
            **self.info,
        }
        facts["digest"] = self._digests(facts)

        def fill(scratch: Path) -> None:
            arrays: dict[str, NDArray[Any]] = {
                "centroids": np.ascontiguousarray(self.centroids),
                "counts": np.ascontiguousarray(self.counts),
            }
            save_file(arrays, scratch / ARRAYS_FILE)
            for name, text in (sidecars or {}).items():
                (scratch / name).write_text(text, encoding="utf-8")
            (scratch / MODEL_FILE).write_text(json.dumps(facts, indent=2) + "\n")

        return place_whole(models / self.model_id, fill, last=MODEL_FILE)

    def _digests(self, facts: Mapping[str, Any]) -> dict[str, str]:
        """What `digest` in model.json is to be, with these facts. ModelError when one of them is not finite."""
        arrays = hashlib.sha256()
        for name, array, kind in (("centroids", self.centroids, "<f4"), ("counts", self.counts, "<i8")):
            arrays.update(f"{name}\0{array.shape}\0".encode() + np.ascontiguousarray(array, kind).tobytes())
        others = {name: value for name, value in facts.items() if name not in UNSEALED}
        try:
            # As they come back from the file: with lists for tuples, and text for keys.
            written = json.loads(json.dumps(others, allow_nan=False))
        except ValueError as error:
            raise ModelError(f"the fit of {facts.get('model_id')} ended with a number that is not finite") from error
        return {"arrays": arrays.hexdigest(), "facts": canonical_digest(written)}

    @property
    def is_sealed(self) -> bool:
        """Whether model.json has digests; models that were written by earlier versions have none."""
        return "digest" in self.info

    @classmethod
    def load(cls, directory: str | Path) -> ClusterModel:
        """Read a model directory. Raises ModelError when it is absent, unfinished, or not what was written."""
        directory = place(directory) if is_remote(directory) else Path(directory).resolve()
        where = directory / MODEL_FILE
        try:
            facts = _facts(directory)
        except DocumentError as error:
            raise ModelError(f"{where} cannot be read as a cluster model: {error}; {_REMEDY}") from error
        try:
            arrays = load(_read(directory, ARRAYS_FILE))
            centroids, counts = arrays["centroids"], arrays["counts"]
        except KeyError as error:
            raise ModelError(f"{directory / ARRAYS_FILE} lacks {error}; {_REMEDY}") from error
        except (SafetensorError, TypeError, ValueError, AttributeError) as error:
            raise ModelError(f"{directory / ARRAYS_FILE} cannot be read as centroids: {error}; {_REMEDY}") from error
        info = dict(facts)
        layout = _layout(where, info)
        model = cls(centroids, counts, layout, info.pop("gamma"), info.pop("tau"), info, directory)
        model._require_arrays(directory, info.pop("n_clusters"))
        model._require_digests(directory, facts)
        return model

    def _require_arrays(self, directory: Place, n_clusters: int) -> None:
        where = directory / ARRAYS_FILE
        if self.centroids.shape != (n_clusters, self.layout.n_channels):
            raise ModelError(
                f"{directory}: centroids have shape {self.centroids.shape}, model.json tells of {n_clusters} clusters "
                f"and {self.layout.n_channels} channels; the two files do not belong together"
            )
        if self.centroids.dtype != np.float32 or self.counts.dtype != np.int64 or self.counts.shape != (n_clusters,):
            raise ModelError(
                f"{where} holds centroids of {self.centroids.dtype} and counts {self.counts.shape} of "
                f"{self.counts.dtype}; expected float32 and ({n_clusters},) of int64; {_REMEDY}"
            )
        if not np.isfinite(self.centroids).all() or (self.counts < 0).any():
            raise ModelError(f"{where} holds centroids that are not finite, or counts below 0; {_REMEDY}")

    def _require_digests(self, directory: Place, facts: Mapping[str, Any]) -> None:
        said = facts.get("digest")
        if said is None:
            if not _id_fits(facts):
                raise ModelError(
                    f"{directory / MODEL_FILE} was changed: {facts['model_id']} is not the id of what it says the "
                    f"model was fitted on; {_REMEDY}"
                )
            return
        for part, digest in self._digests(facts).items():
            if said[part] != digest:
                file = {"arrays": ARRAYS_FILE, "facts": MODEL_FILE}[part]
                raise ModelError(
                    f"{directory / file} was changed since the model was written (digest {digest[:12]}…, written "
                    f"{said[part][:12]}…); {_REMEDY}"
                )


_REMEDY = "restore it from a copy, or remove the model's folder and fit it again"


class _Digests(BaseModel):
    arrays: str
    facts: str


class _EncoderFacts(BaseModel):
    path: str
    digest: str | None = None


_Count = Annotated[int, Field(ge=1, le=2**31)]


class _Facts(BaseModel):
    """Types of what code relies on in model.json; what else stands there is nobody's condition."""

    model_config = ConfigDict(extra="allow", strict=True)

    n_clusters: _Count
    channels: list[_Count]
    lengths: list[_Count]
    n_steps: _Count
    depth_scales: list[float]
    gamma: Literal[1, 2]
    tau: float = Field(gt=0, allow_inf_nan=False)
    places: list[Annotated[list[float], Field(min_length=2, max_length=2)] | None] = []
    model_id: str = Field(pattern=r"^[A-Za-z0-9_.-]+$")
    encoder: _EncoderFacts | None = None
    digest: _Digests | None = None


def _facts(directory: Place) -> dict[str, Any]:
    """What model.json holds. ModelError when there is none, or of another form; DocumentError when it is no JSON."""
    try:
        facts = read_document(directory, MODEL_FILE)
    except FileNotFoundError as error:
        raise ModelError(f"{directory} is not a cluster model: {MODEL_FILE} is missing{_known(directory)}") from error
    try:
        _Facts.model_validate(facts)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        if first["type"] == "missing":
            raise ModelError(f"{directory / MODEL_FILE} lacks {key}; {_REMEDY}") from error
        what = f"{key}: {first['msg']}" if key else "it is no JSON object"
        raise ModelError(f"{directory / MODEL_FILE} cannot be read as a cluster model: {what}; {_REMEDY}") from error
    found: dict[str, Any] = facts
    return found


def _layout(where: Place, info: dict[str, Any]) -> BlockLayout:
    """Taken out of `info`."""
    shapes = tuple(info.pop("channels")), tuple(info.pop("lengths")), info.pop("n_steps")
    scales, places = tuple(info.pop("depth_scales")), info.pop("places", [])
    try:
        return BlockLayout(*shapes, scales, tuple(tuple(block) if block else None for block in places))
    except UsageError as error:
        raise ModelError(f"{where} cannot be read as a cluster model: {error}; {_REMEDY}") from error


IDENTITY = (
    *("fit_version", "encoder_digest", "layers", "fitted_on", "algorithm", "seed", "settings", "softmax", "batch"),
    *("include_padding", "fill_gaps", "precision", "cache_dtype", "device", "start", "n_clusters"),
)
"""The facts of model.json that a fit's id was made from in models without digests."""


def id_of_fit(identity: Mapping[str, Any]) -> str:
    """The id of the model that is fitted with these facts; they name `n_clusters`."""
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return f"k{identity['n_clusters']}-{digest[:12]}"


def _id_fits(facts: Mapping[str, Any]) -> bool:
    """Whether the id is that of the facts; a refit has its id from two models, and one from elsewhere from nothing."""
    if "fit_version" not in facts or "refit_of" in facts:
        return True
    expected = id_of_fit({name: facts[name] for name in IDENTITY if name in facts})
    return str(facts["model_id"]).removesuffix("-torn") == expected


def _read(directory: Place, name: str) -> bytes:
    data = open_objects(directory).read(name)
    if data is None:
        raise ModelError(f"{directory} is not a cluster model: {name} is missing{_known(directory)}")
    return data


def _known(directory: Path) -> str:
    models = directory.parent
    known = sorted(p.name for p in models.iterdir() if (p / MODEL_FILE).exists()) if models.is_dir() else []
    return f"; models there: {', '.join(known)}" if known else "; make one with `ecgscale fit`"
