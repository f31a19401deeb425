"""`ecgscale probe`: what needs the network again, on a sample."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from ecgscale.cli.command import command
from ecgscale.cli.options import PLACE, runtime_options
from ecgscale.progress import Progress
from ecgscale.words import counted

if TYPE_CHECKING:
    from ecgscale.evaluate.localise.shifts import AgainstShifts
    from ecgscale.evaluate.probe import Mean, ProbeSummary

_NAMES = ("gradcam", "dropout", "masking", "randomisation", "waves")


@click.command()
@click.argument("root", type=PLACE)
@click.option("--sample", type=float, default=0.01, show_default=True, help="Share of the records.")
@click.option(
    "--only", type=click.Choice(_NAMES), multiple=True, help="These probes; may be given again. Default: all."
)
@click.option("--dropout-passes", type=click.IntRange(2), default=20, show_default=True)
@click.option("--mask-shifts", type=click.IntRange(1), default=2, show_default=True, help="Moved masks beside each.")
@click.option("--archive", type=PLACE, help="Where the archive is now, if it moved.")
@click.option("--dataset", metavar="ID", help="Which explanations; by default those that are served.")
@click.option("--batch", type=click.IntRange(1), default=16, show_default=True, help="Records in a forward pass.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@runtime_options
@command
def probe(
    progress: Progress,
    root: Path,
    sample: float,
    only: tuple[str, ...],
    dropout_passes: int,
    mask_shifts: int,
    archive: Path | None,
    dataset: str | None,
    batch: int,
    device: str,
    seed: int,
    runtime: Literal["local", "ray"],
    workers: int | None,
    gpus_per_worker: float | None,
) -> dict[str, Any]:
    """Put questions to the network that explanations cannot answer, on a sample of the recordings.

    \b
    gradcam        Grad-CAM of each tapped layer, against entropy over time
    dropout        MC dropout, against entropy (refused where the network has no dropout)
    masking        all segments of a cluster taken out: what does the network say then?
    randomisation  weights put out of order: what is left of Grad-CAM and entropy?
    waves          do waves of one shape lie near each other in the latent space?

    A recording of a CODE-sized network takes about 80 forward passes. What was probed is committed like explanations,
    under ROOT/probes; typed again, the command goes on where it was stopped.

    \b
      ecgscale probe results
      ecgscale probe results --sample 0.1 --only masking --only gradcam
    """
    from ecgscale.cli.options import pool_of
    from ecgscale.evaluate.probe import write_probes
    from ecgscale.evaluate.written import plain
    from ecgscale.passes.probe.probe import probe_explained
    from ecgscale.passes.probe.schema import ProbeSettings

    settings = ProbeSettings(
        probes=tuple(name for name in _NAMES if not only or name in only),
        sample=sample,
        seed=seed,
        batch=batch,
        dropout_passes=dropout_passes,
        mask_shifts=mask_shifts,
    )
    pool, device = pool_of(runtime, workers, gpus_per_worker, device, progress)
    result = probe_explained(
        root, settings, dataset=dataset, archive=archive, device=device, progress=progress, pool=pool
    )
    done = write_probes(root, result, settings)
    click.echo(f"{counted(result.records, 'record')} probed: {result.path}")
    for line in told(done.result):
        click.echo(f"  {line}")
    for remark in done.facts["remarks"]:
        click.echo(f"note: {remark}")
    facts: dict[str, Any] = plain(done.facts)
    return {**result.to_dict(), **facts, "evaluation": str(done.path), "exit_code": result.exit_code}


def told(summary: ProbeSummary) -> list[str]:
    """The scores as lines for people."""
    lines = [
        _shifted(f"entropy and Grad-CAM over time, {layer}", score) for layer, score in summary.gradcam_entropy.items()
    ]
    if summary.votes_entropy is not None:
        lines.append(_shifted("entropy and indecision under MC dropout over time", summary.votes_entropy))
    if summary.dropout_entropy is not None:
        lines.append(_mean("entropy and spread under MC dropout over records", summary.dropout_entropy))
    names = {
        "change": "output changes without a cluster by",
        "change_elsewhere": "  without as much elsewhere by",
        "with_share_of_time": "what a cluster changes, and its share of time",
        "with_entropy": "what a cluster changes, and its entropy",
    }
    for name, mean in summary.faithfulness.items():
        layer = name.partition(":")[2]
        text = names.get(name, f"what a cluster changes, Grad-CAM of {layer}" if layer else "")
        if text:
            lines.append(_mean(text, mean))
    for stage in summary.randomisation:
        lines.append(_mean(f"entropy left with random {stage['stage']}", stage["entropy"]))
    lines += [_shifted(f"latent and DTW distance of {wave} waves", score) for wave, score in summary.waves.items()]
    return [line for line in lines if line]


def _shifted(text: str, score: AgainstShifts) -> str:
    if score.value is None:
        return ""
    pair = f" [{score.interval[0]:.3f}, {score.interval[1]:.3f}]" if score.interval else ""
    null = f"   shifted {score.shifted_mean:.3f}, p {score.p_value:.3f}" if score.shifted_mean is not None else ""
    return f"{text:<52} {score.value:.3f}{pair}{null}"


def _mean(text: str, mean: Mean) -> str:
    if mean.value is None:
        return ""
    pair = f" [{mean.interval[0]:.3f}, {mean.interval[1]:.3f}]" if mean.interval else ""
    return f"{text:<52} {mean.value:.3f}{pair}"
