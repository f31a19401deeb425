"""`ecgscale fit` and `ecgscale refit`: clusters of what a network does, and new ones that keep their ids."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ecgscale.cli.command import command, say
from ecgscale.cli.options import (
    BYTES,
    FOLDER,
    INTEGERS,
    PLACE,
    CommandOfK,
    Where,
    job_of,
    option_of,
    options_of,
    runtime_options,
)
from ecgscale.config import FIT, FitConfig, FitOptions, RunConfig, load_config
from ecgscale.errors import ExitCode
from ecgscale.progress import Progress
from ecgscale.words import counted, typed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ecgscale.nightly.models.comparison import Comparison
    from ecgscale.nightly.models.refit import Refit
    from ecgscale.passes.fit.fit import FittedModel


@click.command(cls=CommandOfK)
@click.argument("archive", type=PLACE)
@click.option("--encoder", required=True, type=PLACE, help="Encoder directory (encoder.toml).")
@click.option("--out", required=True, type=PLACE, help="ROOT: models and results go below it.")
@option_of(FitConfig, "clusters", default=str(FIT.clusters), type=INTEGERS)
@options_of(FitConfig, "records", "folds", "algorithm", "seed")
@options_of(RunConfig, "batch", "device")
@options_of(FitOptions, "max_epochs", "max_iterations", "gamma")
@option_of(FitConfig, "tau", type=float)
@options_of(RunConfig, "include_padding")
@option_of(RunConfig, "fill_gaps", metavar="MS")
@option_of(RunConfig, "memory", type=BYTES)
@click.option("--scratch", type=FOLDER, help="Where they go. Default: $TMPDIR.")
@options_of(FitConfig, "cache_dtype", "allow_nondeterministic")
@options_of(RunConfig, "precision")
@click.option("--compare-random", is_flag=True, help="Also tell what the same network with random weights would give.")
@runtime_options
@command
def fit(
    progress: Progress,
    archive: Path,
    encoder: Path,
    out: Path,
    device: str,
    compare_random: bool,
    where: Where,
    **asked: Any,
) -> dict[str, Any]:
    """Fit clusters of what the network in ENCODER sees in the recordings of ARCHIVE.

    The network runs once over the chosen records. K-means then sees every valid timestep, exactly, without its
    feature vectors ever being computed. The model lands in ROOT/models/ID.

    \b
      ecgscale fit ptbxl-archive --encoder my-encoder --out results --folds 1-8
      ecgscale fit ptbxl-archive --encoder my-encoder --out results --clusters 5,10,20,50
      ecgscale fit code15-archive --encoder my-encoder --out results --runtime ray --workers 16 --device cuda

    The centroids are the same to the last bit on any number of workers, killed or not. The same command again
    finds the finished model. Next: ecgscale explain.
    """
    from ecgscale.archive.reader import Archive
    from ecgscale.clusters.kmeans import FitSettings
    from ecgscale.passes.fit.fit import fit_archive
    from ecgscale.passes.fit.request import FitRequest
    from ecgscale.passes.fit.worker import random_weights_variance
    from ecgscale.runtime.run_record import run_record

    place = where.placement(device, progress)
    settings = FitSettings(**{name: asked.pop(name) for name in ("algorithm", "seed", "max_epochs", "max_iterations")})
    request = FitRequest(settings=settings, device=place.device, **asked)
    opened = Archive.open(archive)
    with run_record(out, "fit", place.facts(), progress) as record:
        fitted = fit_archive(opened, encoder, out, request, progress, place.pool)
        record.add(fitted=[one.facts() for one in fitted])
    for one in fitted:
        say(*fit_summary(one))
    random = random_weights_variance(opened, encoder, request, progress) if compare_random else None
    for k, value in (random or {}).items():
        say(f"  the same network with random weights, K = {k}: {value:.1%} of the variance explained")
    if request.folds:
        say(f"split by fold: fitted on {', '.join(map(str, request.folds))}, and on no other")
    say(f"next: ecgscale explain {typed(archive)} --model {typed(fitted[0].directory)} --out {typed(out)}")
    models = [one.facts() for one in fitted]
    split = "fold" if request.folds else None
    return {**models[0], "models": models, "split": split, "random_weights_explained_variance": random}


def fit_summary(fitted: FittedModel) -> list[str]:
    """How well one model fits, and what is odd about it."""
    model, info = fitted.model, fitted.model.info
    line = (
        f"{model.model_id}: K = {model.n_clusters}, {info['explained_variance']:.1%} of the variance explained,"
        f" largest cluster {info['diagnostics']['largest_share']:.1%}, {counted(fitted.records, 'record')},"
        f" {info['n_timesteps']:,} timesteps, {info['n_iter']} steps"
        + (" (was there already)" if fitted.already_there else "")
    )
    return [line, *(f"  note: {warning}" for warning in fitted.warnings)]


@click.command()
@click.argument("config", type=PLACE)
@click.option("--fit-only", is_flag=True, help="Fit and compare; explain nothing yet.")
@click.option("--fresh", is_flag=True, help="Begin K-means anew, not at the served centroids: fewer clusters persist.")
@click.option("--model", "model_id", metavar="ID", help="Go on with this earlier refit; fit nothing.")
@command
def refit(progress: Progress, config: Path, fit_only: bool, fresh: bool, model_id: str | None) -> dict[str, Any]:
    """Fit a new cluster model on the archive as it has grown, and explain all of it beside what is served.

    Fits as [fit] of CONFIG.toml says, beginning at the centroids that are served. Clusters that persist keep their
    ids, and the names that people gave them, so that "cluster 7" means the same next month; a comparison of old and new
    is shown, and kept beside the model. What is served, and what the nights go on with, stays as it is until
    `ecgscale promote`.

    Stopped in the middle, type the same command again. With --fit-only, look at the comparison first, and go on with
    --model. Where the archive has not grown since the fit, nothing is done.

    \b
      ecgscale refit configs/nightly.toml --fit-only
      ecgscale refit configs/nightly.toml --model k20-1a2b3c4d5e6f
      ecgscale promote results DATASET --reason "three months more, two sites more"
    """
    from ecgscale.nightly.models.refit import refit as fit_again

    with job_of(load_config(config), "refit", progress) as job:
        where = job.where
        done = fit_again(job.config, progress, where.pool, where.device, job.record, fit_only, fresh, model_id)
        facts = _refit_facts(done)
        code = done.explained.exit_code if done.explained else ExitCode.DONE
        job.record.add(code, refit=facts)
    say(*refit_summary(done, config, job.config.root))
    return {**facts, "exit_code": int(code)}


def _refit_facts(done: Refit) -> dict[str, Any]:
    """For `--json` and the run record."""
    comparison = done.comparison
    same = list(range(done.model.n_clusters))
    return {
        "model": str(done.model.directory),
        "model_id": done.model.model_id,
        "refit_of": done.old.model_id,
        "changed": done.changed,
        "dataset_id": done.dataset_id,
        "served": done.served_id,
        "persisting": [pair.new for pair in comparison.persisting] if comparison else same,
        "births": [born.id for born in comparison.births] if comparison else [],
        "deaths": [dead.id for dead in comparison.deaths] if comparison else [],
        "ari": comparison.ari if comparison else 1.0,
        "comparison": comparison.model_dump(mode="json") if comparison else None,
        "records": done.explained.records if done.explained else None,
        "explained": done.explained.to_dict() if done.explained else None,
    }


def refit_summary(done: Refit, config: Path, root: Path) -> Iterator[str]:
    """What a person wants to know, a line each, and what to type next."""
    if done.comparison is None:
        yield f"nothing new: {done.old.model_id} is fitted so, on what the archive holds now"
        return
    yield f"{done.model.model_id}, a refit of {done.old.model_id}"
    yield from _comparison(done.comparison, done.names)
    name = typed(config)
    if done.explained is None:
        yield ""
        yield f"next: ecgscale refit {name} --model {done.model.model_id}     (explains the archive with it)"
        return
    explained = done.explained
    yield ""
    yield (
        f"{counted(explained.records, 'record')} in {counted(explained.shards, 'shard')} explained: {explained.path}"
        + (f"; {counted(len(explained.held), 'shard')} held back" if explained.held else "")
    )
    yield from (f"  set aside {aside.key} (why: `ecgscale status`)" for aside in explained.set_aside)
    yield f"{done.served_id} is still what is served."
    yield f"next: ecgscale report {typed(root)} --dataset {done.dataset_id}     (look at it)"
    yield f"      ecgscale promote {typed(root)} {done.dataset_id} --reason TEXT     (serve it)"


def _comparison(comparison: Comparison, names: Mapping[int, str]) -> Iterator[str]:
    """Old and new side by side. Distances in the features' units, and as a share of the way to the old neighbour."""
    old, new, sample = comparison.old, comparison.new, comparison.sample
    yield "  old   new  distance  of spacing  share old  share new   kept  name"
    for pair in comparison.persisting:
        yield (
            f"{pair.old:5d} {pair.new:5d} {pair.distance:9.4f} {_share(pair.relative):>11} "
            f"{_share(pair.share_old):>10} {_share(pair.share_new):>10} {_share(pair.kept):>6}  "
            f"{names.get(pair.new, '')}"
        ).rstrip()
    for born in comparison.births:
        yield (
            f"{'':>5} {born.id:5d} {born.distance:9.4f} {_share(born.relative):>11} {'':>10} {_share(born.share):>10} "
            f"{'':>6}  born; nearest old cluster {born.nearest}"
        )
    for dead in comparison.deaths:
        yield (
            f"{dead.id:5d} {'':>5} {dead.distance:9.4f} {_share(dead.relative):>11} {_share(dead.share):>10} {'':>10} "
            f"{'':>6}  died; nearest new cluster {dead.nearest}"
        )
    yield (
        f"adjusted Rand index {comparison.ari:.3f} on {sample.timesteps:,} timesteps of {sample.records:,} records; "
        f"variance explained there: old {old.explained_variance:.1%}, new {new.explained_variance:.1%}"
    )


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"
