"""`ecgscale probe` and `ecgscale sweep`: what needs the network again, on a sample."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ecgscale.cli.command import command, say
from ecgscale.cli.options import (
    INTEGERS,
    PLACE,
    CommandOfK,
    Where,
    archive_option,
    dataset_option,
    device_option,
    option_of,
    runtime_options,
    seed_option,
    target_option,
    trees_option,
)
from ecgscale.config import FitConfig
from ecgscale.progress import Progress
from ecgscale.tables import aligned, bracketed
from ecgscale.words import counted

if TYPE_CHECKING:
    from ecgscale.evaluate.localise.shifts import AgainstShifts
    from ecgscale.evaluate.probe import Mean, ProbeSummary
    from ecgscale.evaluate.sweep.result import SweepResult


_NAMES = ("gradcam", "dropout", "masking", "occlusion", "randomisation", "waves")


@click.command()
@click.argument("root", type=PLACE)
@click.option("--sample", type=float, default=0.01, show_default=True, help="Share of the records.")
@click.option(
    "--only", type=click.Choice(_NAMES), multiple=True, help="These probes; may be given again. Default: all."
)
@click.option("--dropout-passes", type=click.IntRange(2), default=20, show_default=True)
@click.option("--mask-shifts", type=click.IntRange(1), default=2, show_default=True, help="Moved masks beside each.")
@click.option(
    "--silence", type=click.Choice(["mean", "zeros"]), default="mean", show_default=True, help="In an occluded lead."
)
@archive_option
@dataset_option
@click.option("--batch", type=click.IntRange(1), default=16, show_default=True, help="Records in a forward pass.")
@device_option
@seed_option
@runtime_options
@command
def probe(
    progress: Progress,
    root: Path,
    only: tuple[str, ...],
    archive: Path | None,
    dataset: str | None,
    device: str,
    where: Where,
    **asked: Any,
) -> dict[str, Any]:
    """Put questions to the network that explanations cannot answer, on a sample of the recordings.

    \b
    gradcam        Grad-CAM of each tapped layer, against entropy over time
    dropout        MC dropout, against entropy (refused where the network has no dropout)
    masking        all segments of a cluster taken out: what does the network say then?
    occlusion      one lead silenced: what do the prediction and the clusters lose?
    randomisation  weights put out of order: what is left of Grad-CAM and entropy?
    waves          do waves of one shape lie near each other in the latent space?

    A recording of a CODE-sized network takes about 90 forward passes. What was probed is committed like explanations,
    under ROOT/probes; typed again, the command goes on where it was stopped.

    \b
      ecgscale probe results
      ecgscale probe results --sample 0.1 --only masking --only gradcam
    """
    from ecgscale.evaluate.probe import write_probes
    from ecgscale.evaluate.written import plain
    from ecgscale.passes.probe.probe import probe_explained
    from ecgscale.passes.probe.schema import ProbeSettings

    settings = ProbeSettings(probes=tuple(name for name in _NAMES if not only or name in only), **asked)
    place = where.placement(device, progress)
    result = probe_explained(
        root, settings, dataset=dataset, archive=archive, device=place.device, progress=progress, pool=place.pool
    )
    done = write_probes(root, result, settings)
    say(f"{counted(result.records, 'record')} probed: {result.path}")
    for line in probe_summary(done.result):
        say(f"  {line}")
    for remark in done.facts["remarks"]:
        say(f"note: {remark}")
    facts: dict[str, Any] = plain(done.facts)
    return {**result.to_dict(), **facts, "evaluation": str(done.path), "exit_code": result.exit_code}


def probe_summary(probed: ProbeSummary) -> list[str]:
    """The scores as lines for people."""
    lines = [
        _shifted(f"entropy and Grad-CAM over time, {layer}", score) for layer, score in probed.gradcam_entropy.items()
    ]
    if probed.votes_entropy is not None:
        lines.append(_shifted("entropy and indecision under MC dropout over time", probed.votes_entropy))
    if probed.dropout_entropy is not None:
        lines.append(_mean("entropy and spread under MC dropout over records", probed.dropout_entropy))
    names = {
        "change": "output changes without a cluster by",
        "change_elsewhere": "  without as much elsewhere by",
        "with_share_of_time": "what a cluster changes, and its share of time",
        "with_entropy": "what a cluster changes, and its entropy",
    }
    for name, mean in probed.faithfulness.items():
        layer = name.partition(":")[2]
        text = names.get(name, f"what a cluster changes, Grad-CAM of {layer}" if layer else "")
        if text:
            lines.append(_mean(text, mean))
    for part in probed.occlusion:
        lines.append(_mean(f"output falls without lead {part['lead']} by", part["output_loss"]))
        lines.append(_mean("  time in another cluster", part["time_changed"]))
    for stage in probed.randomisation:
        lines.append(_mean(f"entropy left with random {stage['stage']}", stage["entropy"]))
    lines += [_shifted(f"latent and DTW distance of {wave} waves", score) for wave, score in probed.waves.items()]
    return [line for line in lines if line]


def _shifted(text: str, score: AgainstShifts) -> str:
    if score.value is None:
        return ""
    pair = bracketed(score.interval)
    null = f"   shifted {score.shifted_mean:.3f}, p {score.p_value:.3f}" if score.shifted_mean is not None else ""
    return f"{text:<52} {score.value:.3f}{pair}{null}"


def _mean(text: str, mean: Mean) -> str:
    if mean.value is None:
        return ""
    pair = bracketed(mean.interval)
    return f"{text:<52} {mean.value:.3f}{pair}"


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
@target_option
@click.option("--encoder", type=PLACE, help="Of an ARCHIVE: the network's directory.")
@click.option("--out", type=PLACE, help="Of an ARCHIVE: the ROOT to write below.")
@click.option("--archive", type=PLACE, help="Of a ROOT: where its archive is now, if it moved.")
@click.option(
    "--only", type=click.Choice(list(_HEADS)), multiple=True, help="Vary this alone; repeatable. Default: all."
)
@click.option("--clusters", type=INTEGERS, default="5,10,20,30,50", show_default=True, help="Values of K.")
@option_of(FitConfig, "clusters", "--base", type=click.IntRange(2), help="K of all other sweeps.")
@click.option("--train-records", type=INTEGERS, default="50,100,200,500,1000,2198", show_default=True)
@click.option("--layers", multiple=True, metavar="N,N", help="A subset of tapped layers, by number from 0; repeatable.")
@click.option("--depth", multiple=True, metavar="W,W,…", help="Depth factors, one a layer; repeatable.")
@click.option("--seeds", type=click.IntRange(1), default=3, show_default=True, help="Fits of every setting.")
@click.option("--records", type=click.IntRange(60), default=400, show_default=True, help="That go through the network.")
@trees_option(100)
@option_of(FitConfig, "max_epochs", help="Of each K-means.")
@dataset_option
@device_option
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
    where: Where,
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
        swept = partial(sweep_archive, source, encoder, out, target, request)
    else:
        swept = partial(sweep_root, source, target, request, dataset=dataset, archive=archive)
    with where.spread(device, progress) as (spread, device):
        result = swept(device=device, spread=spread, progress=progress)
    say(*sweep_summary(result))
    assert result.path is not None
    picture = output or result.path.with_suffix(".svg")
    drawn = BytesIO()
    draw_sweep(result.to_dict()).savefig(drawn, format=picture.suffix[1:].lower())
    picture.write_bytes(drawn.getvalue())
    say(f"written: {result.path}")
    say(f"drawn: {picture}")
    return {**result.to_dict(), "path": str(result.path), "picture": str(picture)}


def sweep_summary(result: SweepResult) -> list[str]:
    """The settings as lines for people."""
    lines = [f"{result.target}: {result.train_records} records fit, {result.records} score ({result.split})"]
    majority = _majority(result)
    if majority is not None:
        lines.append(f"always the most frequent answer agrees in {majority:.3f}")
    for axis, head in _HEADS.items():
        rows = result.summary.get(axis)
        if not rows:
            continue
        columns = [(key, name) for key, name in _COLUMNS if any(row.get(key) is not None for row in rows)]
        cells = [[row["setting"], *(_cell(row, key) for key, _ in columns)] for row in rows]
        lines += ["", *aligned([head, *(name for _, name in columns)], cells)]
    if result.elbow is not None:
        lines += ["", f"elbow of the explained variance: K = {result.elbow:g}"]
    if result.plateau is not None:
        lines.append(f"plateau of the surrogate ({result.plateau_score}): from K = {result.plateau:g} on")
    return [*lines, *(f"note: {remark}" for remark in result.remarks)]


def _majority(result: SweepResult) -> float | None:
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
