"""`ecgscale uncertainty`: does entropy say when the network errs?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from ecgscale.cli.command import command
from ecgscale.cli.options import PLACE, runtime_options, spread_of
from ecgscale.progress import Progress

if TYPE_CHECKING:
    from ecgscale.evaluate.uncertainty import Stratum

_LINES = {
    "error": "the network's error",
    "rho": "rank correlation of entropy and error",
    "rho_within_age": "  within decades of age",
    "rho_own": "  the same of the network's own entropy",
    "rho_difference": "  difference",
    "rho_given_own": "  what entropy adds to it (partial)",
    "auroc": "entropy finds records with a wrong label: AUROC",
    "auroc_own": "  the network's own entropy",
    "ece": "expected calibration error",
    "ece_high_less_low": "  high third of entropy less low third",
    "brier": "Brier score",
    "brier_high_less_low": "  high third of entropy less low third",
}


@click.command()
@click.argument("root", type=PLACE)
@click.option("--target", metavar="COLUMN", help="Label column; by default the one the encoder was trained on.")
@click.option("--everyone", is_flag=True, help="Take records that encoder or K-means had seen, too.")
@click.option("--dataset", metavar="ID", help="Which explanations; by default those that are served.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--bootstrap", type=click.IntRange(10), default=1000, show_default=True, help="Resamples of patients.")
@runtime_options
@command
def uncertainty(
    progress: Progress,
    root: Path,
    target: str | None,
    everyone: bool,
    dataset: str | None,
    seed: int,
    bootstrap: int,
    runtime: Literal["local", "ray"],
    workers: int | None,
    gpus_per_worker: float | None,
) -> dict[str, Any]:
    """Set the entropy of recordings beside the network's errors and the truth of its probabilities.

    For all records, by decade of age, by class, and by third of entropy; beside it what the entropy of the network's
    own probabilities says, which costs nothing. Brackets hold 95 % intervals from resampled patients.

    \b
      ecgscale uncertainty results
      ecgscale uncertainty results --target superclasses --everyone
    """
    from ecgscale.evaluate.uncertainty import uncertainty_published
    from ecgscale.evaluate.written import plain

    with spread_of(runtime, workers, gpus_per_worker, "cpu", progress) as (spread, _):
        done = uncertainty_published(
            root,
            target,
            dataset=dataset,
            everyone=everyone,
            n_bootstrap=bootstrap,
            seed=seed,
            spread=spread,
            progress=progress,
        )
    everything, *strata = done.result.strata
    click.echo(f"{done.facts['target']}: {everything.records} records of {everything.patients} patients")
    for name, text in _LINES.items():
        if (told := _score(everything, name)) is not None:
            click.echo(f"  {text:<48} {told}")
    for stratum in strata:
        told = " ".join(f"{name} {value}" for name in ("error", "rho", "ece") if (value := _score(stratum, name)))
        label = f"{stratum.kind} {stratum.name}"
        click.echo(f"  {label:<24} {stratum.records:>6} records   {told or 'too few for scores'}")
    for remark in done.facts["remarks"]:
        click.echo(f"note: {remark}")
    facts: dict[str, Any] = plain(done.facts)
    return {**facts, "evaluation": str(done.path)}


def _score(stratum: Stratum, name: str) -> str | None:
    value, pair = stratum.scores.get(name), stratum.intervals.get(name)
    if value is None:
        return None
    return f"{value:.3f}" + (f" [{pair[0]:.3f}, {pair[1]:.3f}]" if pair else "")
