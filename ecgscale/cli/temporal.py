"""`ecgscale temporal`: does the order of the clusters tell more than how long each lasts?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from ecgscale.cli.command import command
from ecgscale.cli.options import PLACE, runtime_options, spread_of
from ecgscale.progress import Progress

if TYPE_CHECKING:
    from ecgscale.evaluate.temporal import Temporal

_LINES = {
    "bag": "share of time in each cluster (the bag)",
    "dwell": "  with lengths and numbers of segments",
    "ngrams": "  with pairs and triples of segments",
    "ngrams_shuffled": "    of shuffled segments (control)",
    "markov": "Markov chains, likelihood alone",
    "markov_shuffled": "    of shuffled segments (control)",
    "hmm": "hidden Markov models, likelihood alone",
    "hmm_shuffled": "    of shuffled segments (control)",
}


@click.command()
@click.argument("root", type=PLACE)
@click.option("--target", metavar="COLUMN", required=True, help="Label column with classes, such as rhythm.")
@click.option(
    "--records", type=click.IntRange(min=1), default=20_000, show_default=True, help="At most so many, drawn."
)
@click.option("--trees", type=click.IntRange(min=1), default=300, show_default=True, help="Of each forest.")
@click.option("--dataset", metavar="ID", help="Which explanations; by default those that are served.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--bootstrap", type=click.IntRange(10), default=1000, show_default=True, help="Resamples of patients.")
@runtime_options
@command
def temporal(
    progress: Progress,
    root: Path,
    target: str,
    records: int,
    trees: int,
    dataset: str | None,
    seed: int,
    bootstrap: int,
    runtime: Literal["local", "ray"],
    workers: int | None,
    gpus_per_worker: float | None,
) -> dict[str, Any]:
    """Tell a label from the order of clusters, and from their shares of time alone: is there more in the order?

    Scores are cross-validated by patient. Beside each stands the same on recordings whose segments were put into a
    random order. Bits a segment say how predictable the next cluster is to a model that remembers, and to one that
    does not.

    \b
      ecgscale temporal results --target rhythm
      ecgscale temporal results --target superclasses --records 2000
    """
    from ecgscale.evaluate.temporal import temporal_published
    from ecgscale.evaluate.written import plain

    with spread_of(runtime, workers, gpus_per_worker, "cpu", progress) as (spread, _):
        done = temporal_published(
            root,
            target,
            dataset=dataset,
            records=records,
            trees=trees,
            n_bootstrap=bootstrap,
            seed=seed,
            spread=spread,
            progress=progress,
        )
    click.echo(f"{target}: {done.result.records} records of {done.result.patients} patients; AUROC, gain over the bag")
    for name, text in _LINES.items():
        if (told := _score(done.result, f"auroc_{name}")) is not None:
            gain = _score(done.result, f"gain_{name}")
            click.echo(f"  {text:<42} {told}" + (f"   {gain}" if gain else ""))
    for name in ("ngrams", "markov", "hmm"):
        if (told := _score(done.result, f"order_{name}")) is not None:
            label = f"what order alone gives: {name}"
            click.echo(f"  {label:<42} {told}")
    for name in ("bag", "markov", "hmm", "markov_shuffled", "hmm_shuffled"):
        if (told := _score(done.result, f"bits_{name}")) is not None:
            label = f"bits a segment, {name.replace('_', ', ')}"
            click.echo(f"  {label:<42} {told}")
    for remark in done.facts["remarks"]:
        click.echo(f"note: {remark}")
    facts: dict[str, Any] = plain(done.facts)
    return {**facts, "evaluation": str(done.path)}


def _score(result: Temporal, name: str) -> str | None:
    value, pair = result.scores.get(name), result.intervals.get(name)
    if value is None:
        return None
    return f"{value:.3f}" + (f" [{pair[0]:.3f}, {pair[1]:.3f}]" if pair else "")
