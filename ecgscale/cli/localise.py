"""`ecgscale localise`: do clusters go with P, QRS, T and the rest between beats?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from ecgscale.cli.command import command
from ecgscale.cli.options import PLACE, runtime_options, spread_of
from ecgscale.progress import Progress

if TYPE_CHECKING:
    from ecgscale.evaluate.localise.heartbeat import WaveSource
    from ecgscale.evaluate.localise.physiology import PublishedLocalisation

_LINES = {
    "information": "of the waves' entropy, clusters explain",
    "adjusted": "mutual information adjusted for chance",
    "purity": "timesteps in their cluster's commonest part",
    "boundary_f1_20ms": "changes of cluster at wave edges, 20 ms: F1",
    "boundary_f1_40ms": "                                  40 ms: F1",
    "qrs_f1": "QRS found by a union of clusters: F1",
}


@click.command()
@click.argument("root", type=PLACE)
@click.option("--archive", type=PLACE, help="Where the archive is now, if it moved.")
@click.option("--dataset", metavar="ID", help="Which explanations; by default those that are served.")
@click.option("--records", type=click.IntRange(min=1), default=1000, show_default=True, help="At most so many, drawn.")
@click.option(
    "--waves",
    type=click.Choice(["auto", "fiducials", "delineated"]),
    default="auto",
    show_default=True,
    help="Annotations, or waves found by NeuroKit2; auto takes annotations where there are any.",
)
@click.option("--seed", type=int, default=0, show_default=True)
@runtime_options
@command
def localise(
    progress: Progress,
    root: Path,
    archive: Path | None,
    dataset: str | None,
    records: int,
    waves: WaveSource,
    seed: int,
    runtime: Literal["local", "ray"],
    workers: int | None,
    gpus_per_worker: float | None,
) -> dict[str, Any]:
    """Compare the clusters with P, QRS, T and TP, between the first and the last annotated wave of each recording.

    Every score stands beside its 95 % interval over patients and beside what circular shifts give: each recording's
    clusters moved round by a random amount, 200 times. QRS timesteps are found by a union of clusters that is chosen on
    half of the patients and scored on the other half. Then: the average beat of every cluster, and whether clusters
    change where the network's grid has its lines (checkerboard artefacts).

    Waves are the archive's annotations (LUDB, simulated archives). Without any, NeuroKit2 finds them:
    pip install 'ecgscale[evaluate]'.

    \b
      ecgscale localise results
      ecgscale localise results --waves delineated --records 200 --workers 4
    """
    from ecgscale.evaluate.localise.physiology import localise_published

    with spread_of(runtime, workers, gpus_per_worker, "cpu", progress) as (spread, _):
        done = localise_published(
            root,
            dataset=dataset,
            archive=archive,
            records=records,
            waves=waves,
            seed=seed,
            spread=spread,
            progress=progress,
        )
    click.echo(told(done))
    return {**_flat(done), "evaluation": str(done.path)}


def told(done: PublishedLocalisation) -> str:
    """The scores as lines for people."""
    facts, scores = done.facts, done.result.scores
    lines = [f"{facts['records']} records with waves ({facts['waves_from']}), {facts['without_waves']} without"]
    for name, text in _LINES.items():
        score = scores[name]
        if score.value is None:
            continue
        pair = f"  [{score.interval[0]:.3f}, {score.interval[1]:.3f}]" if score.interval else ""
        shifted = (
            f"   shifted {score.shifted_mean:.3f}, 99 % below {score.shifted_p99:.3f}" if score.shifted_p99 else ""
        )
        lines.append(f"  {text:<44} {score.value:.3f}{pair}{shifted}")
    for union in done.result.unions[:1]:
        clusters = ", ".join(map(str, union.clusters)) or "none"
        lines.append(f"    clusters {clusters}: chosen on {union.chosen_on} records, scored on {union.scored_on}")
    for part, purest in facts["purest"].items():
        if purest:
            lines.append(
                f"  purest in {part:<3}  cluster {purest['cluster']:>2}, {purest['share']:.2f} of its timesteps"
            )
    for test in done.checkerboard:
        if test.uneven is not None:
            verdict = "uneven: see docs/evaluation.md" if test.uneven else "even"
            lines.append(f"  boundaries modulo {test.hop:g} ({test.layer}): {verdict}, V {test.cramers_v:.3f}")
    return "\n".join([*lines, *(f"note: {remark}" for remark in facts["remarks"])])


def _flat(done: PublishedLocalisation) -> dict[str, Any]:
    """For `--json`: scores as numbers first, everything else as the evaluation has it."""
    from ecgscale.evaluate.written import plain

    facts: dict[str, Any] = plain(done.facts)
    values = {name: score["value"] for name, score in facts["scores"].items()}
    return {**values, **{key: value for key, value in facts.items() if key != "clusters_in_beat"}}
