"""`ecgscale surrogate`: how much of the network the cluster proportions carry."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ecgscale.cli.command import command, say
from ecgscale.cli.options import (
    INTEGERS,
    PLACE,
    Where,
    archive_option,
    bootstrap_option,
    dataset_option,
    option_of,
    rotation_option,
    runtime_options,
    seed_option,
    target_option,
    trees_option,
)
from ecgscale.config import RunConfig
from ecgscale.progress import Progress
from ecgscale.tables import aligned, bracketed

if TYPE_CHECKING:
    from ecgscale.evaluate.surrogate.surrogate import SurrogateResult

_LINES = {
    "agreement": "agrees with the network",
    "majority_agreement": "  always the most frequent answer",
    "exact_match": "agrees in every label",
    "majority_exact_match": "  always the most frequent set of labels",
    "kappa": "Cohen's kappa with the network",
    "accuracy": "right by the labels: forest",
    "network_accuracy": "                     network",
    "majority_accuracy": "                     most frequent label",
    "auroc": "AUROC by the labels: forest",
    "network_auroc": "                     network",
    "auroc_thresholded": "  from 0/1 decisions: forest",
    "network_auroc_thresholded": "                     network",
    "average_precision": "average precision: forest",
    "network_average_precision": "                     network",
    "average_precision_thresholded": "  from 0/1 decisions: forest",
    "network_average_precision_thresholded": "                     network",
    "r2": "R2 to the network's values",
    "mae_to_network": "mean absolute error to them",
    "label_r2": "R2 by the labels: forest",
    "network_r2": "                  network",
    "mae": "mean absolute error by the labels: forest",
    "network_mae": "                                   network",
    "mean_mae": "                                   always the mean",
}

_SHORT = {
    "agreement": "agreement",
    "kappa": "kappa",
    "accuracy": "accuracy",
    "auroc": "AUROC",
    "average_precision": "AP",
    "r2": "R2",
    "mae_to_network": "MAE to net",
    "label_r2": "R2 labels",
    "mae": "MAE",
}


@click.command()
@click.argument("root", type=PLACE)
@target_option
@rotation_option
@click.option("--train-folds", type=INTEGERS, default=(), help="No rotation: folds that fit the forests, e.g. 1-8 …")
@click.option("--test-folds", type=INTEGERS, default=(), help="… and folds that score them.")
@click.option("--within", type=INTEGERS, default=(), help="Use the records of these folds alone.")
@click.option(
    "--thresholds",
    type=click.Choice(["accuracy", "f1", "half"]),
    default="accuracy",
    show_default=True,
    help="When a network says yes: what is best for its validation records, or 0.5.",
)
@click.option("--baselines/--no-baselines", default=True, show_default=True, help="Permuted proportions, raw signals.")
@click.option("--with-network-baselines", is_flag=True, help="Also what needs the network again, on a sample.")
@click.option(
    "--baseline-records", type=click.IntRange(30), default=2000, show_default=True, help="Size of the sample."
)
@archive_option
@trees_option(200)
@click.option("--fit-records", type=click.IntRange(20), default=20_000, show_default=True, help="At most, a forest.")
@click.option("--out-of-core", is_flag=True, help="Never hold all proportions in memory; no baselines then.")
@option_of(RunConfig, "device", help="Of network baselines.", show_default=False)
@dataset_option
@seed_option
@bootstrap_option
@runtime_options
@command
def surrogate(
    progress: Progress,
    root: Path,
    target: str | None,
    dataset: str | None,
    archive: Path | None,
    baselines: bool,
    with_network_baselines: bool,
    baseline_records: int,
    trees: int,
    fit_records: int,
    device: str,
    seed: int,
    where: Where,
    **asked: Any,
) -> dict[str, Any]:
    """Score random forests that know nothing of a recording but its cluster proportions.

    One forest imitates the network; its agreement with the network, beside that of always giving the most frequent
    answer, says how much of the network's decisions the clusters carry. Another learns the true labels and stands
    beside the network there. Brackets hold 95 % intervals from resampled patients. Without --target, and where the
    column that the encoder was trained on is not there, the agreement is scored alone.

    Every record is scored by forests that never saw its patient: one forest for each of the archive's folds, unless
    --folds patients:10 or --train-folds and --test-folds say otherwise. What comes first are the records that neither
    encoder nor K-means has seen; those they have seen stand apart. Results go to ROOT/evaluations.

    With --workers or --runtime ray each fold's forests grow on a worker of their own; with --out-of-core it is the
    questions to them that are spread, on Ray's workers.

    \b
      ecgscale surrogate results
      ecgscale surrogate results --target superclasses --train-folds 1-8 --test-folds 9
      ecgscale surrogate results --folds patients:10 --with-network-baselines
    """
    from functools import partial

    from ecgscale.evaluate.forests import ForestSettings
    from ecgscale.evaluate.surrogate.archive_baselines import archive_baselines
    from ecgscale.evaluate.surrogate.check import check_published
    from ecgscale.evaluate.surrogate.surrogate import SurrogateRequest
    from ecgscale.runtime.ray_pool import dask_on_ray

    out_of_core = asked["out_of_core"]
    request = SurrogateRequest(
        forests=ForestSettings(trees=trees, fit_records=fit_records, seed=seed),
        baselines=baselines and not out_of_core,
        importance=not out_of_core,
        **asked,
    )
    more = partial(
        archive_baselines,
        archive=archive,
        with_network=with_network_baselines,
        records=baseline_records,
        seed=seed,
        device=device,
        progress=progress,
    )
    dask = out_of_core and where.runtime == "ray"
    with (
        dask_on_ray(where.workers or 1) if dask else nullcontext() as scheduler,
        where.spread("cpu", progress) as (spread, _),
    ):
        checked = check_published(
            root,
            target,
            request,
            dataset=dataset,
            baselines=more,
            scheduler=scheduler,
            spread=spread,
            progress=progress,
        )
    say(*summary(checked.result))
    for line in checked.seen_by():
        say(f"seen before by the {line}")
    say(f"written: {checked.path}")
    return checked.to_dict()


def summary(result: SurrogateResult) -> list[str]:
    """The scores as lines for people."""
    from ecgscale.evaluate.seen import GROUPS

    lines = [
        f"{result.target or 'no labels'} ({result.kind}): {result.split}",
        f"{result.train_records} records fitted a forest, {result.records} score ({GROUPS[result.headline]})",
    ]
    for name, text in _LINES.items():
        value, pair = result.scores[name], result.intervals.get(name)
        if value is not None:
            spread = _over_parts(result, name)
            lines.append(f"  {text:<43} {value:.3f}" + bracketed(pair, "  ") + spread)
    lines += [*_labels(result), *_groups(result), *_baselines(result), *_importance(result)]
    return [*lines, *(f"note: {remark}" for remark in result.remarks)]


def _over_parts(result: SurrogateResult, name: str) -> str:
    part = result.folds["summary"].get(name)
    return f"  parts: {part['mean']:.3f} ± {part['sd']:.3f}" if part and part["sd"] is not None else ""


def _labels(result: SurrogateResult) -> list[str]:
    if not result.per_label:
        return []
    columns = ["agreement", "kappa", "accuracy", "network_accuracy", "auroc", "network_auroc", "average_precision"]
    heads = ["records", "agreement", "kappa", "accuracy", "network", "AUROC", "network", "AP"]
    count = "records_with"
    if result.target is None:
        columns, heads, count = columns[:2], ["decided", *heads[1:3]], "decided"
    rows = [
        [name, "" if scores[count] is None else str(scores[count]), *(_number(scores[column]) for column in columns)]
        for name, scores in result.per_label.items()
    ]
    return ["", *aligned(["label", *heads], rows)]


def _groups(result: SurrogateResult) -> list[str]:
    from ecgscale.evaluate.seen import GROUPS

    if len(result.groups) < 2:
        return []
    columns = ["r2", "mae", "network_mae"] if result.kind == "regression" else [
        "agreement", "majority_agreement", "accuracy", "network_accuracy", "auroc", "network_auroc"
    ]  # fmt: skip
    if result.target is None:
        columns = columns[:1] if result.kind == "regression" else columns[:2]
    rows = [
        [GROUPS[name], str(facts["records"]), *(_number(facts.get("scores", {}).get(column)) for column in columns)]
        for name, facts in result.groups.items()
    ]
    return ["", *aligned(["records", "", *(column.replace("_", " ") for column in columns)], rows)]


def _baselines(result: SurrogateResult) -> list[str]:
    if not result.baselines:
        return []
    columns = [name for name in _SHORT if result.scores.get(name) is not None]
    rows = []
    for name, facts in result.baselines.items():
        if "scores" in facts:
            rows.append([name, *(_number(facts["scores"].get(column)) for column in columns), f"{facts['records']}"])
            rows.append(["  proportions have", *(_signed(facts, column) for column in columns), ""])
        else:
            rows.append([f"{name}: {facts['remark']}", *("" for _ in columns), ""])
    table = aligned(["instead of proportions", *(_SHORT[column] for column in columns), "records"], rows)
    return ["", *table, "  * the 95 % interval of the difference leaves out 0"]


def _importance(result: SurrogateResult) -> list[str]:
    best = sorted(result.importance, key=lambda entry: -entry["lost"])[:5]
    if not best:
        return []
    what = "R2" if result.kind == "regression" else "agreement"
    return ["", f"{what} lost when a cluster's share is shuffled: " + ", ".join(
        f"{entry['cluster']}: {entry['lost']:.3f}" for entry in best
    )]  # fmt: skip


def _signed(facts: dict[str, Any], name: str) -> str:
    value, pair = facts["difference"].get(name), facts["difference_intervals"].get(name)
    sure = pair is not None and not pair[0] <= 0 <= pair[1]
    return "" if value is None else f"{value:+.3f}{'*' if sure else ' '}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
