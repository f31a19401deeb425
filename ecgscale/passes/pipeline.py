"""The whole job from one configuration: what is not there yet is made, the rest is left alone.

archive (ingest or simulate) → encoder (train) → cluster model (fit) → explanations
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ecgscale.archive.code15 import ingest_code15
from ecgscale.archive.ptbxl import ingest_ptbxl
from ecgscale.archive.reader import Archive
from ecgscale.archive.source import IngestOptions
from ecgscale.archive.synthetic import simulate
from ecgscale.archive.wfdb_records import ingest_wfdb
from ecgscale.clusters.kmeans import FitSettings
from ecgscale.config import ArchiveConfig, RunConfig, TrainConfig, byte_size
from ecgscale.encoders.optimise import LoopSettings
from ecgscale.encoders.spec import SPEC_FILE, load_spec
from ecgscale.encoders.splits import Folds
from ecgscale.encoders.train import TrainSettings, train_encoder
from ecgscale.errors import UsageError
from ecgscale.passes.explain import ExplainResult, explain_archive
from ecgscale.passes.fit import FittedModel, fit_archive
from ecgscale.passes.request import FitRequest
from ecgscale.passes.workers import OpenPool
from ecgscale.progress import SILENT, Progress


@dataclass(frozen=True)
class PipelineResult:
    """What a run ended with, and which of its inputs it had to make."""

    archive: Path
    encoder: Path
    fitted: FittedModel
    explained: ExplainResult
    made: tuple[str, ...]


def run_pipeline(
    config: RunConfig, progress: Progress = SILENT, pool: OpenPool | None = None, device: str | None = None
) -> PipelineResult:
    """Do what `config` says, fit and explain on the workers of `pool` if there is one, which have `device`.

    Raises UsageError before any work when an input is absent and cannot be made."""
    device = device or config.device
    made, request = _check(config), fit_request(config, device)
    archive = _archive(config.archive, "archive" in made, progress)
    if "encoder" in made:
        assert config.train is not None
        progress.say(f"training an encoder into {config.encoder.path}")
        train_encoder(archive, config.encoder.path, train_settings(config.train, config.device), progress=progress)
    [fitted] = fit_archive(archive, config.encoder.path, config.root, request, progress, pool)
    for warning in fitted.warnings:
        progress.say(f"note: {warning}")
    explained = explain_archive(
        archive,
        fitted.directory,
        config.root,
        entropy=config.explain.entropy,
        batch=config.batch,
        include_padding=config.include_padding,
        device=device,
        progress=progress,
        pool=pool,
    )
    return PipelineResult(config.archive.path, config.encoder.path, fitted, explained, made)


def _check(config: RunConfig) -> tuple[str, ...]:
    """Which inputs have to be made."""
    made = []
    if not (config.archive.path / "_archive.json").exists():
        if config.archive.source is None:
            raise UsageError(
                f"{config.archive.path} is no archive, and [archive] names no source to make it from (source, src)"
            )
        if config.archive.src is not None and not config.archive.src.is_dir():
            raise UsageError(f"archive.src {config.archive.src}: no such folder")
        made.append("archive")
    if (config.encoder.path / SPEC_FILE).exists():
        load_spec(config.encoder.path)
    elif config.train is None:
        raise UsageError(
            f"{config.encoder.path} has no {SPEC_FILE}, and there is no [train] section to make an encoder from"
        )
    else:
        made.append("encoder")
    return tuple(made)


def _archive(config: ArchiveConfig, make: bool, progress: Progress) -> Archive:
    if make:
        progress.say(f"making the archive {config.path} from {config.source}")
        # An unfinished archive is in nobody's use: it has no _archive.json.
        options = IngestOptions(
            carry=config.carry, shard_records=config.shard_records, overwrite=True, progress=progress
        )
        if config.source == "simulate":
            simulate(config.path, config.records, config.seed, config.shard_records, progress, overwrite=True)
        elif config.source == "ptbxl":
            ingest_ptbxl(_src(config), config.path, config.rate, options)
        elif config.source == "code15":
            ingest_code15(_src(config), config.path, config.units_per_mv or 1.0, options)
        else:
            ingest_wfdb(_src(config), config.path, config.units_per_mv, options)
    return Archive.open(config.path)


def _src(config: ArchiveConfig) -> Path:
    if config.src is None:
        raise UsageError("archive.src is missing")
    return config.src


def train_settings(config: TrainConfig, device: str) -> TrainSettings:
    """What `[train]` means to the trainer."""
    return TrainSettings(
        target=config.target,
        kind=config.kind,
        folds=Folds(config.train_folds, config.validation_folds, config.test_folds),
        sampling_rate=config.rate,
        length=config.length,
        blocks=config.blocks,
        dropout=config.dropout,
        loop=LoopSettings(
            epochs=config.epochs,
            batch_size=config.batch_size,
            learning_rate=config.learning_rate,
            seed=config.seed,
        ),
        device=device,
    )


def fit_request(config: RunConfig, device: str) -> FitRequest:
    """What `[fit]` and the common keys mean to the fit."""
    fit = config.fit
    return FitRequest(
        clusters=(fit.clusters,),
        folds=fit.folds,
        records=fit.records,
        settings=FitSettings(algorithm=fit.algorithm, seed=fit.seed, max_epochs=fit.max_epochs),
        gamma=fit.gamma,
        tau=fit.tau,
        batch=config.batch,
        device=device,
        include_padding=config.include_padding,
        precision=config.precision,
        cache_dtype=fit.cache_dtype,
        memory=byte_size(config.memory) if config.memory else None,
    )
