"""`ecgscale fit`: cluster what a network's last blocks do, over every timestep of an archive."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import click

from ecgscale.cli.command import command
from ecgscale.cli.options import BYTES, INTEGERS, PLACE, CommandOfK, pool_of, runtime_options
from ecgscale.progress import Progress
from ecgscale.words import counted


@click.command(cls=CommandOfK)
@click.argument("archive", type=PLACE)
@click.option("--encoder", required=True, type=PLACE, help="Encoder directory (encoder.toml).")
@click.option("--out", required=True, type=PLACE, help="ROOT: models and results go below it.")
@click.option("--clusters", default="20", show_default=True, type=INTEGERS, help="K; several (5,10,20) share one pass.")
@click.option("--records", type=click.IntRange(min=1), help="Fit on a seeded draw of at most so many records.")
@click.option("--folds", type=INTEGERS, help="Fit on these folds of the archive only, e.g. 1-8.")
@click.option(
    "--algorithm", type=click.Choice(["minibatch", "lloyd"]), default="minibatch", show_default=True, help="K-means."
)
@click.option("--seed", default=0, show_default=True, help="Of the initialisation, the batches and the draw.")
@click.option("--batch", default=32, show_default=True, type=click.IntRange(min=1), help="Records a forward pass.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--max-epochs", default=30, show_default=True, type=click.IntRange(min=1), help="Of mini-batch K-means.")
@click.option("--max-iterations", default=100, show_default=True, type=click.IntRange(min=1), help="Of Lloyd.")
@click.option("--gamma", type=click.Choice(["1", "2"]), default="2", show_default=True, help="Power of the distance.")
@click.option("--tau", type=float, help="Softmax temperature. Default: the mean margin (gamma 2), 1 (gamma 1).")
@click.option("--include-padding", is_flag=True, help="Let zero padding take part, as the literal method does.")
@click.option("--memory", type=BYTES, help="Stay below this (8GiB); activations that do not fit go to disk.")
@click.option("--scratch", type=click.Path(path_type=Path, exists=True), help="Where they go. Default: $TMPDIR.")
@click.option("--cache-dtype", type=click.Choice(["float32", "float16"]), default="float32", show_default=True)
@click.option(
    "--precision",
    type=click.Choice(["float32", "bfloat16"]),
    default="float32",
    show_default=True,
    help="Of the network; bfloat16 is faster on recent hardware, and recorded.",
)
@click.option("--compare-random", is_flag=True, help="Also tell what the same network with random weights would give.")
@runtime_options
@command
def fit(
    progress: Progress,
    archive: Path,
    encoder: Path,
    out: Path,
    clusters: tuple[int, ...],
    records: int | None,
    folds: tuple[int, ...] | None,
    algorithm: Literal["minibatch", "lloyd"],
    seed: int,
    batch: int,
    device: str,
    max_epochs: int,
    max_iterations: int,
    gamma: str,
    tau: float | None,
    include_padding: bool,
    memory: int | None,
    scratch: Path | None,
    cache_dtype: Literal["float32", "float16"],
    precision: Literal["float32", "bfloat16"],
    compare_random: bool,
    runtime: Literal["local", "ray"],
    workers: int | None,
    gpus_per_worker: float | None,
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
    from ecgscale.passes.fit.activations import random_weights_variance
    from ecgscale.passes.fit.fit import fit_archive
    from ecgscale.passes.fit.request import FitRequest
    from ecgscale.runtime.run_record import run_record

    pool, device = pool_of(runtime, workers, gpus_per_worker, device, progress)
    request = FitRequest(
        clusters=clusters,
        folds=folds,
        records=records,
        settings=FitSettings(algorithm=algorithm, seed=seed, max_epochs=max_epochs, max_iterations=max_iterations),
        gamma=1 if gamma == "1" else 2,
        tau=tau,
        batch=batch,
        device=device,
        include_padding=include_padding,
        precision=precision,
        cache_dtype=cache_dtype,
        memory=memory,
        scratch=scratch,
    )
    opened = Archive.open(archive)
    with run_record(out, "fit", {"name": runtime, "workers": workers or 1, "device": device}, progress) as record:
        fitted = fit_archive(opened, encoder, out, request, progress, pool)
        record.add(fitted=[one.facts() for one in fitted])
    for one in fitted:
        info = one.model.info
        click.echo(
            f"{one.model.model_id}: K = {one.model.n_clusters}, {info['explained_variance']:.1%} of the variance"
            f" explained, largest cluster {info['diagnostics']['largest_share']:.1%}, {counted(one.records, 'record')},"
            f" {info['n_timesteps']:,} timesteps, {info['n_iter']} steps"
            + (" (was there already)" if one.already_there else "")
        )
        for warning in one.warnings:
            click.echo(f"  note: {warning}")
    random = None
    if compare_random:
        random = random_weights_variance(opened, encoder, request, progress)
        for k, value in random.items():
            click.echo(f"  the same network with random weights, K = {k}: {value:.1%} of the variance explained")
    click.echo(f"next: ecgscale explain {archive} --model {fitted[0].directory} --out {out}")
    models = [one.facts() for one in fitted]
    return {**models[0], "models": models, "random_weights_explained_variance": random}
