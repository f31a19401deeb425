"""`ecgscale sweep`: how much rests on K, the training records, the layers, their weights, γ and τ."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from ecgscale.cli.command import command
from ecgscale.cli.options import INTEGERS, PLACE, CommandOfK, runtime_options, spread_of
from ecgscale.progress import Progress

if TYPE_CHECKING:
    from ecgscale.evaluate.sweep.result import SweepResult

_COLUMNS = (
    ("agreement", "agreement"),
    ("r2", "R2"),
    ("auroc", "AUROC"),
    ("mae", "MAE"),
    ("explained_variance", "variance"),
    ("effective_clusters", "clusters"),
    ("ari_seeds", "ARI seeds"),
    ("ari_parts", "ARI parts"),
    ("centroid_distance_seeds", "distance"),
    ("information", "waves"),
    ("mean_entropy", "entropy"),
    ("entropy_1_percent", "1 %"),
    ("entropy_99_percent", "99 %"),
)
_HEADS = {
    "clusters": "K",
    "records": "training records of K-means",
    "layers": "tapped layers",
    "depth": "depth factors",
    "softmax": "soft assignment",
}


@click.command(cls=CommandOfK)
@click.argument("source", metavar="ROOT|ARCHIVE", type=PLACE)
@click.option("--target", metavar="COLUMN", help="Label column; by default the one the encoder was trained on.")
@click.option("--encoder", type=PLACE, help="Of an ARCHIVE: the network's directory.")
@click.option("--out", type=PLACE, help="Of an ARCHIVE: the ROOT to write below.")
@click.option("--archive", type=PLACE, help="Of a ROOT: where its archive is now, if it moved.")
@click.option(
    "--only", type=click.Choice(list(_HEADS)), multiple=True, help="Vary this alone; repeatable. Default: all."
)
@click.option("--clusters", type=INTEGERS, default="5,10,20,30,50", show_default=True, help="Values of K.")
@click.option("--base", type=click.IntRange(2), default=20, show_default=True, help="K of all other sweeps.")
@click.option("--train-records", type=INTEGERS, default="50,100,200,500,1000,2198", show_default=True)
@click.option("--layers", multiple=True, metavar="N,N", help="A subset of tapped layers, by number from 0; repeatable.")
@click.option("--depth", multiple=True, metavar="W,W,…", help="Depth factors, one a layer; repeatable.")
@click.option("--seeds", type=click.IntRange(1), default=3, show_default=True, help="Fits of every setting.")
@click.option("--records", type=click.IntRange(60), default=400, show_default=True, help="That go through the network.")
@click.option("--trees", type=click.IntRange(1), default=100, show_default=True, help="Of each forest.")
@click.option("--max-epochs", type=click.IntRange(1), default=30, show_default=True, help="Of each K-means.")
@click.option("--dataset", metavar="ID", help="Which explanations; by default those that are served.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the draw of records and of the first fit.")
@click.option("-o", "--output", type=PLACE, help="The figure, .png, .svg or .pdf.")
@runtime_options
@command
def sweep(
    progress: Progress,
    source: Path,
    target: str | None,
    encoder: Path | None,
    out: Path | None,
    archive: Path | None,
    only: tuple[str, ...],
    clusters: tuple[int, ...],
    base: int,
    train_records: tuple[int, ...],
    layers: tuple[str, ...],
    depth: tuple[str, ...],
    seeds: int,
    records: int,
    trees: int,
    max_epochs: int,
    dataset: str | None,
    device: str,
    seed: int,
    output: Path | None,
    runtime: Literal["local", "ray"],
    workers: int | None,
    gpus_per_worker: float | None,
) -> dict[str, Any]:
    """Vary one choice at a time: K, training records, tapped layers, depth factors, γ and τ.

    The network runs once over --records records; everything after that is K-means and forests on what it did, a fit
    a task for whichever of the --workers is free. Three
    quarters of the records fit, the others score: records that the encoder has not seen, where there are enough.

    Told for each setting: agreement of the surrogate with the network, explained variance, effective number of
    clusters, whether other seeds and other patients give the same clusters (adjusted Rand index; distance of matched
    centroids), and how much of P, QRS, T and TP the clusters tell. The elbow is named, and the K from which on nothing
    larger that was tried is better.

    \b
      ecgscale sweep results
      ecgscale sweep results --only clusters --clusters 5,10,20,40 --seeds 5 -o sweep.svg
      ecgscale sweep results --runtime ray --workers 8
      ecgscale sweep archive --encoder encoder --out results --target superclasses
    """
    from functools import partial

    from ecgscale.clusters.kmeans import FitSettings
    from ecgscale.evaluate.forests import ForestSettings
    from ecgscale.evaluate.sweep.result import sweep_archive, sweep_root
    from ecgscale.evaluate.sweep.sweep import AXES, SweepRequest
    from ecgscale.report.sweeps import draw_sweep

    request = SweepRequest(
        axes=only or AXES,
        clusters=tuple(sorted(clusters)),
        base=base,
        train_records=train_records,
        layers=tuple(_numbers(text, int, "--layers") for text in layers),
        depths=tuple(_numbers(text, float, "--depth") for text in depth),
        seeds=tuple(range(seed, seed + seeds)),
        records=records,
        forests=ForestSettings(trees=trees, seed=seed),
        fit=FitSettings(max_epochs=max_epochs),
    )
    if (source / "_archive.json").exists():
        if encoder is None or out is None:
            raise click.UsageError(f"{source} is an archive: give --encoder and --out as well")
        where = partial(sweep_archive, source, encoder, out, target, request)
    else:
        where = partial(sweep_root, source, target, request, dataset=dataset, archive=archive)
    with spread_of(runtime, workers, gpus_per_worker, device, progress) as (spread, device):
        result = where(device=device, spread=spread, progress=progress)
    click.echo(told(result))
    assert result.path is not None
    picture = output or result.path.with_suffix(".svg")
    drawn = BytesIO()
    draw_sweep(result.to_dict()).savefig(drawn, format=picture.suffix[1:].lower())
    picture.write_bytes(drawn.getvalue())
    click.echo(f"written: {result.path}")
    click.echo(f"drawn: {picture}")
    return {**result.to_dict(), "path": str(result.path), "picture": str(picture)}


def told(result: SweepResult) -> str:
    """The settings as lines for people."""
    from ecgscale.cli.surrogate import table_lines

    lines = [f"{result.target}: {result.train_records} records fit, {result.records} score ({result.told})"]
    usual = _usual(result)
    if usual is not None:
        lines.append(f"always the most frequent answer agrees in {usual:.3f}")
    for axis, head in _HEADS.items():
        rows = result.summary.get(axis)
        if not rows:
            continue
        columns = [(key, name) for key, name in _COLUMNS if any(row.get(key) is not None for row in rows)]
        cells = [[row["setting"], *(_cell(row, key) for key, _ in columns)] for row in rows]
        lines += ["", *table_lines([head, *(name for _, name in columns)], cells)]
    if result.elbow is not None:
        lines.append(f"\nelbow of the explained variance: K = {result.elbow:g}")
    if result.plateau is not None:
        lines.append(f"plateau of the surrogate ({result.plateau_score}): from K = {result.plateau:g} on")
    return "\n".join([*lines, *(f"note: {remark}" for remark in result.remarks)])


def _usual(result: SweepResult) -> float | None:
    """How often the most frequent answer is the network's: the same whatever is varied."""
    found = (row.get("majority_agreement") for rows in result.summary.values() for row in rows)
    return next((value for value in found if value is not None), None)


def _cell(row: dict[str, Any], key: str) -> str:
    value, sd = row.get(key), row.get(f"{key}_sd")
    if value is None:
        return ""
    return f"{value:.3f} ± {sd:.3f}" if sd is not None and key in ("agreement", "r2") else f"{value:.3f}"


def _numbers(text: str, kind: type, option: str) -> tuple[Any, ...]:
    try:
        return tuple(kind(part) for part in text.split(","))
    except ValueError:
        raise click.BadParameter(f"{text!r} is not a list such as 0,2 or 1,0.5,0.25", param_hint=option) from None
