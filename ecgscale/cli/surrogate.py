"""`ecgscale surrogate`: how much of the network the cluster proportions carry."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ecgscale.cli.command import command
from ecgscale.cli.options import INTEGERS
from ecgscale.progress import Progress

if TYPE_CHECKING:
    from ecgscale.evaluate.surrogate import SurrogateResult

_LINES = {
    "agreement": "agrees with the network",
    "majority_agreement": "  always the most frequent answer",
    "exact_match": "agrees in every label",
    "majority_exact_match": "  always the most frequent answer",
    "accuracy": "right by the labels: forest",
    "network_accuracy": "                     network",
    "auroc": "AUROC by the labels: forest",
    "network_auroc": "                     network",
    "r2": "R2 to the network's values",
    "mae_to_network": "mean absolute error to them",
    "mae": "mean absolute error by the labels: forest",
    "network_mae": "                                   network",
    "mean_mae": "                                   always the mean",
}


@click.command()
@click.argument("root", type=click.Path(path_type=Path))
@click.option("--target", metavar="COLUMN", help="Label column; by default the one the encoder was trained on.")
@click.option("--train-folds", type=INTEGERS, default=(), help="Folds that fit the forests, e.g. 1-8.")
@click.option("--test-folds", type=INTEGERS, default=(), help="Folds that score them.")
@click.option("--dataset", metavar="ID", help="Which explanations; by default those published last.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--bootstrap", type=click.IntRange(10), default=1000, show_default=True, help="Resamples of patients.")
@command
def surrogate(
    progress: Progress,
    root: Path,
    target: str | None,
    train_folds: tuple[int, ...],
    test_folds: tuple[int, ...],
    dataset: str | None,
    seed: int,
    bootstrap: int,
) -> dict[str, Any]:
    """Score random forests that know nothing of a recording but its cluster proportions.

    One forest imitates the network; its agreement with the network, beside that of always giving the most frequent
    answer, says how much of the network's decisions the clusters carry. Another learns the true labels and stands
    beside the network there. Brackets hold 95 % intervals from resampled patients.

    Without folds, the records score that neither encoder nor K-means has seen, if both kept a list and there are
    enough; otherwise 30 % of the patients.

    \b
      ecgscale surrogate results
      ecgscale surrogate results --target superclasses --train-folds 1-8 --test-folds 9
    """
    from ecgscale.evaluate.published import check_published

    checked = check_published(
        root,
        target,
        train_folds=train_folds,
        test_folds=test_folds,
        dataset=dataset,
        seed=seed,
        n_bootstrap=bootstrap,
        progress=progress,
    )
    click.echo(told(checked.result))
    for line in checked.seen_by():
        click.echo(f"seen before by the {line}")
    return checked.to_dict()


def told(result: SurrogateResult) -> str:
    """The scores as lines for people."""
    lines = [
        f"{result.target} ({result.kind}): {result.split}",
        f"{result.train_records} records fitted the forests, {result.records} score them",
    ]
    for name, text in _LINES.items():
        value, pair = result.scores[name], result.intervals.get(name)
        if value is not None:
            lines.append(f"  {text:<43} {value:.3f}" + (f"  [{pair[0]:.3f}, {pair[1]:.3f}]" if pair else ""))
    return "\n".join([*lines, *(f"note: {remark}" for remark in result.remarks)])
