"""The whole job from one configuration: what is not there yet is made, the rest is left alone.

archive (ingest or simulate) → encoder (train) → cluster model (fit) → explanations
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from ecgscale.archive.reader import Archive
from ecgscale.archive.sources.pseudonyms import check_key, pseudonyms_of
from ecgscale.clusters.kmeans import FitSettings
from ecgscale.clusters.model import ClusterModel
from ecgscale.config import RunConfig, TrainConfig
from ecgscale.encoders.optimise import LoopSettings
from ecgscale.encoders.spec import SPEC_FILE, load_spec
from ecgscale.encoders.splits import Folds
from ecgscale.encoders.train import TrainSettings, train_encoder
from ecgscale.errors import UsageError
from ecgscale.explain.facts import fitted_precision
from ecgscale.explain.schema import ExplainSettings
from ecgscale.io.places import absolute
from ecgscale.passes.explain.explain import ExplainResult, Policy, explain_archive
from ecgscale.passes.explain.guard import Guard
from ecgscale.passes.fit.fit import FittedModel, fit_archive, fit_of, fitted_models
from ecgscale.passes.fit.request import FitRequest, select
from ecgscale.passes.ingest.ingest import divides_itself, ingest_archive
from ecgscale.passes.ingest.simulate import simulate_archive
from ecgscale.passes.run.train import train_on
from ecgscale.passes.spread import Spread
from ecgscale.passes.watch import RunWatch
from ecgscale.passes.workers import OpenPool, in_process
from ecgscale.progress import SILENT, Progress
from ecgscale.store.dataset import dataset_store, find_dataset, served_of_archive
from ecgscale.store.manifest import Manifest, newest_number, read_manifest
from ecgscale.store.root import dataset_ids
from ecgscale.words import byte_size


@dataclass(frozen=True)
class PipelineResult:
    """What a run ended with, and which of its inputs it had to make."""

    archive: Path
    encoder: Path
    fitted: FittedModel
    explained: ExplainResult
    made: tuple[str, ...]


def run_pipeline(
    config: RunConfig,
    progress: Progress = SILENT,
    pool: OpenPool = in_process,
    device: str | None = None,
    watch: RunWatch | None = None,
    check: Callable[[Archive], None] | None = None,
    guard: Guard | None = None,
) -> PipelineResult:
    """Do what `config` says, on the workers of `pool`, which have `device`.

    Raises UsageError before any work when an input is absent and cannot be made. What only the archive can tell (its
    columns, its folds) is looked at as soon as it is there, `check` being asked for its part."""
    made = to_be_made(config)
    if "archive" in made:
        _require_no_other(config)
    archive = make_archive(config, progress, pool)
    if check is not None:
        check(archive)
    if "encoder" in made:
        select(archive, config.fit.folds, config.fit.records)
    fitted = (None if made else _served_fit(config, progress)) or fit_config(config, progress, pool, device)
    explained = explain_config(config, fitted.directory, progress, pool, device, watch, guard=guard)
    return PipelineResult(config.archive.path, config.encoder.path, fitted, explained, made)


def _require_no_other(config: RunConfig) -> None:
    """Raise `UsageError` rather than make an archive at a path that is not that of what ROOT serves: a slip in the path
    would put another archive in the place of what is published."""
    where = absolute(config.archive.path)
    for dataset in dataset_ids(config.root):
        store = dataset_store(config.root, dataset)
        manifest = read_manifest(store, newest_number(store))
        if manifest is not None and manifest.content.archive.path == where:
            return
    try:
        serving = find_dataset(config.root).manifest
    except UsageError:
        return  # nothing was published yet
    if serving is not None:
        raise UsageError(
            f"[archive] path: there is no archive at {where}, and {config.root} serves explanations of "
            f"{serving.content.archive.path}. Correct the path; or, to begin with another archive, give another root"
        )


def _served_fit(config: RunConfig, progress: Progress) -> FittedModel | None:
    """The served model, if it is one that this configuration asked for when the archive was smaller, or as it is now.

    What is served does not change because somebody types the same command again: a grown archive is explained with the
    model that is there, and shards that are held back stay held.
    """
    try:
        model = ClusterModel.load(published_model(config))
    except UsageError:
        return None
    archive, request = Archive.open(config.archive.path), fit_request(config, config.device)
    when = fit_of(model, archive, config.encoder.path, request)
    if when is None:
        return None
    if when == "before":
        progress.say(
            "the archive has changed since the fit; the model that is served goes on (ecgscale refit: a new one)"
        )
    assert model.directory is not None
    return FittedModel(model.directory, model, int(model.info["records_used"]), True, ())


def make_archive(config: RunConfig, progress: Progress = SILENT, pool: OpenPool = in_process) -> Archive:
    """The archive; made from its source if it is not there, on the workers of `pool` where the source allows it."""
    made, asked = to_be_made(config), config.archive
    pseudonyms = pseudonyms_of(asked)
    if "archive" in made:
        progress.say(f"making the archive {asked.path} from {asked.source}")
        # Only shards of a known number of records can be told apart before they are written.
        workers = pool if asked.shard_records or divides_itself(asked) else in_process
        # An unfinished archive is in nobody's use: it has no _archive.json.
        if asked.source == "simulate":
            simulate_archive(
                asked.path, asked.records, asked.seed, asked.shard_records, progress, workers, overwrite=True
            )
        else:
            ingest_archive(asked, progress, workers, overwrite=True)
    archive = Archive.open(asked.path)
    if pseudonyms is not None:
        check_key(archive.info.get("source", {}), pseudonyms, archive.path)
    return archive


def fit_config(
    config: RunConfig, progress: Progress = SILENT, pool: OpenPool = in_process, device: str | None = None
) -> FittedModel:
    """The cluster model of a configuration; its encoder is trained first if it is not there.

    In this process, unless workers have GPUs and this process has none.
    """
    made, archive = to_be_made(config), Archive.open(config.archive.path)
    if "encoder" in made:
        assert config.train is not None
        progress.say(f"training an encoder into {config.encoder.path}")
        out = config.encoder.path
        if device == "cuda" and not torch.cuda.is_available():
            with Spread(pool, device, at_most=1) as spread:
                train_on(spread, archive, out, train_settings(config.train, device), progress=progress)
        else:
            train_encoder(archive, out, train_settings(config.train, config.device), progress=progress)
    request = fit_request(config, device or config.device)
    [fitted] = fit_archive(archive, config.encoder.path, config.root, request, progress, pool)
    for warning in fitted.warnings:
        progress.say(f"note: {warning}")
    return fitted


def explain_config(
    config: RunConfig,
    model_dir: Path,
    progress: Progress = SILENT,
    pool: OpenPool = in_process,
    device: str | None = None,
    watch: RunWatch | None = None,
    policy: Policy | None = None,
    guard: Guard | None = None,
) -> ExplainResult:
    """Explain the archive of a configuration with the cluster model in `model_dir`; a guard is always there."""
    return explain_archive(
        Archive.open(config.archive.path),
        model_dir,
        config.root,
        entropy=config.explain.entropy,
        batch=config.batch,
        include_padding=config.include_padding,
        fill_gaps=config.fill_gaps,
        device=device or config.device,
        progress=progress,
        pool=pool,
        watch=watch,
        policy=policy,
        guard=guard or Guard(config.root, limits=config.nightly),
    )


def explain_settings(config: RunConfig, model: ClusterModel) -> ExplainSettings:
    """What `[explain]` and the common keys mean to the explain pass under this model."""
    return ExplainSettings(
        entropy=config.explain.entropy,
        batch=config.batch,
        include_padding=config.include_padding,
        fill_gaps=config.fill_gaps,
        dtype=fitted_precision(model),
    )


def fitted_model(config: RunConfig, device: str | None = None) -> Path:
    """The finished model that `fit_config` made; UsageError when there is none for the archive as it is now."""
    archive, request = Archive.open(config.archive.path), fit_request(config, device or config.device)
    found = fitted_models(archive, config.encoder.path, config.root, request).get(config.fit.clusters)
    if found is None or found.directory is None:
        raise UsageError(
            f"{config.root} holds no finished model of this configuration and the archive as it is now. Fit one first"
            " (jobs/fit_clusters.py, or ecgscale run); to go on with an earlier model, name it with --model"
        )
    return found.directory


def published_model(config: RunConfig) -> Path:
    """The model of what is served of this archive below the configuration's root (`served_manifest`)."""
    return config.root / "models" / served_manifest(config).content.identity.model_id


def served_manifest(config: RunConfig) -> Manifest:
    """The newest manifest of the dataset of this archive that is served below the configuration's root.

    That is the one that somebody decided on (`ecgscale promote`); where nobody did, or it is of another archive, the
    one published last of this archive. UsageError when nothing of it was published, or what is to be served is gone.
    """
    manifest = served_of_archive(config.root, Archive.open(config.archive.path).archive_id)
    if manifest is None:
        raise UsageError(
            f"nothing of {config.archive.path} was published below {config.root} yet, so no model is frozen. Fit and"
            " explain once (jobs/fit_clusters.py, then jobs/explain_archive.py; or ecgscale run), or give --model"
        )
    return manifest


def to_be_made(config: RunConfig) -> tuple[str, ...]:
    """Which inputs are not there and have to be made; UsageError for one that cannot be, or a fit that cannot be."""
    fit_request(config, config.device)
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
        fill_gaps=config.fill_gaps,
        precision=config.precision,
        cache_dtype=fit.cache_dtype,
        allow_nondeterministic=fit.allow_nondeterministic,
        memory=byte_size(config.memory) if config.memory else None,
    )
