"""Job configuration: TOML in, a typed frozen tree out, checked whole before any work starts.

Relative paths are relative to the file. Every section but `[archive]` and `[encoder]` may be left out. Commands make
their options of these fields, so a default, a bound and a description are said here and nowhere else.

Thresholds of the quality gates: section `[gates]` of a nightly configuration. Formulae stand in docs/gates.md.
"""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from contextlib import nullcontext
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import (
    Field,
    ValidationError,
    field_validator,
)

from ecgscale.archive_config import ArchiveConfig as ArchiveConfig
from ecgscale.archive_config import PlaceField, Section, SizeField
from ecgscale.errors import UsageError, sentences_of
from ecgscale.io.places import is_remote, place
from ecgscale.io.settings import StorageSettings, storage_errors, use_storage


class GateSettings(Section):
    """When a night is held back. By chance alone, the defaults do so about once in three years."""

    quarantine_rate: float = Field(default=0.05, gt=0, lt=1)
    """Share of records that may be quarantined; more than this, beyond chance, is an alarm."""

    freshness_hours: float = Field(default=48.0, gt=0, allow_inf_nan=False)
    """How much older than usual the newest recording of a night may be."""

    silent_nights: int = Field(default=3, ge=1)
    """Days without a single record that are an alarm, unless the feed has been silent for longer before."""

    volume_low: float = Field(default=0.5, ge=0, lt=1)
    """Share of the weekday's usual number of records under which a night is suspected."""

    volume_high: float = Field(default=3.0, gt=1, allow_inf_nan=False)
    """Multiple of the weekday's usual number of records over which a night is suspected."""

    holidays: tuple[date, ...] = ()
    """UTC dates of nights on which few or no records are no alarm."""

    closed_sites: tuple[str, ...] = ()
    """Sites that deliver no more: their silence is no alarm."""

    history_nights: int = Field(default=84, ge=28)
    """Days of past nights that say what is usual; none is judged by them before 28 are known."""

    effect: float = Field(default=0.474, gt=0, le=1)
    """Smallest |Cliff's delta| against the reference that is an alarm. 0.474 is "large" by Romano et al. 2006."""

    effect_reported: float = Field(default=0.33, gt=0, le=1)
    """Smallest |Cliff's delta| that is told without an alarm; 0.33 is "medium" by the same."""

    alpha: float = Field(default=0.001, gt=0, lt=0.5)
    """Chance that a gate raises an alarm on a sound night, all its comparisons of that night together."""

    minimum_records: int = Field(default=300, ge=1)
    """Records, one a patient, in the longest window and in the reference: with fewer, drift is told and never held."""

    windows: tuple[int, ...] = (1, 2, 7, 28)
    """Nights with records, tonight included, that are taken together when drift is looked for; ascending from 1."""

    window_records: int = Field(default=20_000, ge=300)
    """Rows of earlier nights, newest first, that are looked at at most; whole shards."""

    @field_validator("windows")
    @classmethod
    def _ascending(cls, windows: tuple[int, ...]) -> tuple[int, ...]:
        if not windows or windows[0] != 1 or any(b <= a for a, b in pairwise(windows)):
            raise ValueError("has to begin with 1 and to ascend, such as [1, 2, 7, 28]")
        return windows


BATCH = 32
"""Records in a forward pass where nothing else is said; the bits of results hold for one number alone."""


class TrainConfig(Section):
    """`[train]`: how to make the encoder if it is not there yet."""

    target: str = Field(description="Column to learn: superclasses, age, sex, … or bool columns a,b,c.")
    kind: Literal["auto", "multilabel", "multiclass", "regression"] = Field(
        default="auto",
        description="Auto: list of strings → multilabel; string, integer, bool → multiclass; float → regression.",
    )
    epochs: int = Field(default=18, gt=0, description="Passes over the records.")
    train_folds: tuple[int, ...] = Field(
        default=(), description="Folds to learn from, as 1-7 or 1,2,3 (default: all not named)."
    )
    validation_folds: tuple[int, ...] = Field(
        default=(), description="Folds that pick the best epoch (default: by patient)."
    )
    test_folds: tuple[int, ...] = Field(default=(), description="Folds that are only scored, once, at the end.")
    rate: float = Field(default=400.0, gt=0, description="Hz that the network sees.")
    length: int = Field(default=4096, gt=0, description="Samples that it sees.")
    blocks: tuple[tuple[int, int], ...] = Field(
        default=(), description="Residual blocks as CHANNELSxSAMPLES,… (default: the CODE shapes)."
    )
    batch_size: int = Field(default=16, gt=0, description="Records a step.")
    learning_rate: float = Field(default=1e-3, gt=0)
    dropout: float = Field(default=0.5, ge=0, lt=1)
    seed: int = Field(default=0, description="Of weights, order and split.")


class EncoderConfig(Section):
    """`[encoder]`: the encoder directory."""

    path: PlaceField


TRAINING = TrainConfig(target="")
"""A training of which nothing else is said."""


class FitConfig(Section):
    """`[fit]`"""

    clusters: int = Field(default=20, ge=2, le=512, description="K; several (5,10,20) share one pass.")
    folds: tuple[int, ...] | None = Field(default=None, description="Fit on these folds of the archive only, e.g. 1-8.")
    records: int | None = Field(default=None, gt=0, description="Fit on a seeded draw of at most so many records.")
    algorithm: Literal["minibatch", "lloyd"] = Field(default="minibatch", description="K-means.")
    max_epochs: int = Field(default=30, gt=0, description="Of mini-batch K-means.")
    seed: int = Field(default=0, description="Of the initialisation, the batches and the draw.")
    gamma: Literal[1, 2] = Field(default=2, description="Power of the distance.")
    tau: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description="Softmax temperature. Default: the mean margin (gamma 2), 1 (gamma 1).",
    )
    cache_dtype: Literal["float32", "float16"] = "float32"
    allow_nondeterministic: bool = Field(
        default=False, description="Fit a network too that is no function of its input alone; the model records it."
    )


class FitOptions(FitConfig):
    """What `ecgscale fit` can be asked besides."""

    max_iterations: int = Field(default=100, gt=0, description="Of Lloyd.")


FIT = FitOptions()
"""A fit of which nothing else is said."""


class ExplainConfig(Section):
    """`[explain]`"""

    entropy: Literal["none", "timestep"] = Field(
        default="none",
        description="Write the entropy of every timestep too; its means over segments and records always are.",
    )


class SurrogateConfig(Section):
    """`[surrogate]`: the check whether proportions hold what the network decides on; left out, it is not made.

    target: label column; left out, the one the encoder was trained on, or, without it, the network's decisions alone
    """

    target: str | None = None
    train_folds: tuple[int, ...] | None = None
    test_folds: tuple[int, ...] | None = None


class RuntimeConfig(Section):
    """`[runtime]`: where ingest, fit and explain run; one local worker is this process itself."""

    name: Literal["local", "ray"] = Field(
        default="local", description="ray joins the cluster of RAY_ADDRESS, or starts a private one."
    )
    workers: int = Field(default=1, gt=0, description="Processes or Ray actors. Default: 1.")
    gpus_per_worker: float | None = Field(
        default=None,
        ge=0,
        description="Of Ray actors; a fraction shares a GPU. Default: 1 with --device cuda, else 0.",
    )


class NightlyConfig(Section):
    """`[nightly]`: what `ecgscale nightly` heeds; times are UTC.

    settle_minutes: a set of source files counts when the newest has been as it is for so long
    give_up_hours: an incomplete set is taken as it is after so long
    deadline: "HH:MM" after which no shard is begun; policy: what is published when it cuts a night short: what is
    committed, or nothing until all is complete
    max_shards: of one night, the oldest first; recompute_share, max_records: of published records that a night may
    compute again without --allow-recompute; withdraw_share: of published records that it may withdraw, since their
    shards are gone from the archive, without --allow-withdrawal
    gc_grace_hours: what nobody has referred to for so long goes when a night has published (`ecgscale gc`)
    lease_seconds: after so long without a sign of life another run takes over
    """

    settle_minutes: float = Field(default=15, ge=0)
    give_up_hours: float = Field(default=24, ge=0)
    deadline: str | None = Field(default=None, pattern=r"^([01]\d|2[0-3]):[0-5]\d$")
    policy: Literal["committed", "complete"] = "committed"
    max_shards: int | None = Field(default=None, gt=0)
    max_records: int | None = Field(default=None, gt=0)
    recompute_share: float = Field(default=0.05, ge=0, le=1)
    withdraw_share: float = Field(default=0.1, ge=0, le=1)
    gc_grace_hours: float = Field(default=72, ge=1)
    lease_seconds: float = Field(default=180, ge=3)


class RunConfig(Section):
    """Everything one `ecgscale run CONFIG.toml` does, in order."""

    root: PlaceField
    archive: ArchiveConfig
    encoder: EncoderConfig
    train: TrainConfig | None = None
    fit: FitConfig = FitConfig()
    explain: ExplainConfig = ExplainConfig()
    surrogate: SurrogateConfig | None = None
    runtime: RuntimeConfig = RuntimeConfig()
    storage: StorageSettings | None = None
    nightly: NightlyConfig = NightlyConfig()
    gates: GateSettings = GateSettings()
    batch: int = Field(default=BATCH, gt=0, description="Records a forward pass.")
    device: Literal["auto", "cpu", "cuda"] = "auto"
    include_padding: bool = Field(default=False, description="Let zero padding take part, as the literal method does.")
    fill_gaps: float = Field(
        default=0.0, ge=0, le=1000, description="Fill gaps of up to MS ms in a lead by a straight line, with a flag."
    )
    precision: Literal["float32", "bfloat16"] = Field(
        default="float32", description="Of the network; bfloat16 is faster on recent hardware, and recorded."
    )
    memory: SizeField | None = Field(
        default=None, description="Stay below this (8GiB); activations that do not fit go to disk."
    )

    @property
    def digest(self) -> str:
        """sha256 of what was asked for, whatever the file looked like."""
        return hashlib.sha256(json.dumps(self.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()


def load_config(path: str | Path) -> RunConfig:
    """Read and check a configuration; UsageError names the file, the key, and the nearest right one."""
    path = place(path)
    try:
        with storage_errors(f"cannot read {path}") if is_remote(path) else nullcontext():
            text = path.read_text(encoding="utf-8")
        content = tomllib.loads(text)
    except OSError as error:
        raise UsageError(
            f"{path}: {error.strerror}; a configuration is a TOML file such as configs/ptbxl.toml"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not TOML: {error}") from error
    try:
        folder = path.parent if is_remote(path) else path.resolve().parent
        config = RunConfig.model_validate(_anchored(content, folder))
    except ValidationError as error:
        raise UsageError(f"{path}: {sentences_of(error, _keys)}") from error
    if config.archive.source not in (None, "simulate") and config.archive.src is None:
        raise UsageError(f"{path}: archive.source is {config.archive.source!r}, so archive.src has to name its folder")
    if config.storage is not None:
        use_storage(config.storage)
    return config


def _anchored(content: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The same content with relative paths made absolute."""
    anchored: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, dict):
            anchored[key] = _anchored(value, folder)
        elif key in ("path", "src", "root", "pseudonymise") and isinstance(value, str):
            anchored[key] = _absolute(value, folder)
        elif key == "table" and isinstance(value, list):
            anchored[key] = [_absolute(one, folder) if isinstance(one, str) else one for one in value]
        elif key == "layout" and isinstance(value, str) and value.lower().endswith(".toml"):
            anchored[key] = _absolute(value, folder)
        elif key == "patients" and isinstance(value, str):
            # A table of patients is a file; every other rule stays as it is.
            anchored[key] = _TABLE_FILE.sub(lambda file: _absolute(file[0], folder), value)
        else:
            anchored[key] = value
    return anchored


_TABLE_FILE = re.compile(r".*\.(?:csv|tsv|parquet|pq)(?=$|:)", re.IGNORECASE)


def _absolute(value: str, folder: Path) -> str:
    """A place as a configuration in `folder` means it; one that is none is left to whoever checks the key."""
    try:
        found = place(value)
    except UsageError:
        return value
    return str(found if is_remote(found) or found.is_absolute() else folder / found)


def _keys(section: list[str]) -> list[str]:
    """The keys of a section, or of the file."""
    if not section:
        return list(RunConfig.model_fields)
    annotation: Any = RunConfig.model_fields[section[0]].annotation
    models = [annotation, *get_args(annotation)]
    return list(next(model for model in models if hasattr(model, "model_fields")).model_fields)
