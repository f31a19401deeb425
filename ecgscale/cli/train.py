"""`ecgscale train`: a reference network from an archive."""

from __future__ import annotations

from typing import Any

import click

from ecgscale.cli.command import command
from ecgscale.cli.options import INTEGERS, PLACE, runtime_options, spread_of
from ecgscale.errors import EcgscaleError, ExitCode, UsageError
from ecgscale.progress import Progress


class TrainingStopped(EcgscaleError):
    """Ctrl-C during training: there is nothing to resume from."""

    exit_code = ExitCode.STOPPED


def _blocks(_context: click.Context, _parameter: click.Parameter, value: str | None) -> tuple[tuple[int, int], ...]:
    try:
        pairs = [block.lower().split("x") for block in value.split(",")] if value else []
        return tuple((int(channels), int(samples)) for channels, samples in pairs)
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is no list of blocks; write them as 64x4096,128x1024,…") from error


@click.command()
@click.argument("archive", type=PLACE)
@click.option("--target", required=True, help="Column to learn: superclasses, age, sex, … or bool columns a,b,c.")
@click.option("--out", required=True, type=PLACE, help="Encoder directory to write.")
@click.option("--epochs", default=18, show_default=True, type=click.IntRange(1), help="Passes over the records.")
@click.option(
    "--train-folds", type=INTEGERS, default=(), help="Folds to learn from, as 1-7 or 1,2,3 (default: all not named)."
)
@click.option(
    "--validation-folds", type=INTEGERS, default=(), help="Folds that pick the best epoch (default: by patient)."
)
@click.option("--test-folds", type=INTEGERS, default=(), help="Folds that are only scored, once, at the end.")
@click.option("--validation-share", default=0.15, show_default=True, help="Share of patients, without folds.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Of weights, order and split.")
@click.option(
    "--kind",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", "multilabel", "multiclass", "regression"]),
    help="Auto: list of strings → multilabel; string, integer, bool → multiclass; float → regression.",
)
@click.option("--rate", default=400.0, show_default=True, type=click.FloatRange(1), help="Hz that the network sees.")
@click.option("--length", default=4096, show_default=True, type=click.IntRange(1), help="Samples that it sees.")
@click.option("--leads", default=None, help="Leads that it sees, as I,II,V1 (default: the twelve).")
@click.option("--blocks", callback=_blocks, help="Residual blocks as CHANNELSxSAMPLES,… (default: the CODE shapes).")
@click.option("--batch-size", default=16, show_default=True, type=click.IntRange(2), help="Records a step.")
@click.option("--learning-rate", default=1e-3, show_default=True, type=click.FloatRange(0, min_open=True))
@click.option("--dropout", default=0.5, show_default=True, type=click.FloatRange(0, 1, max_open=True))
@click.option("--patience", default=6, show_default=True, type=click.IntRange(1), help="Epochs without a better loss.")
@click.option("--device", default="auto", show_default=True, type=click.Choice(["auto", "cpu", "cuda"]))
@click.option("--threads", default=None, type=click.IntRange(1), help="CPU threads (default: all cores).")
@click.option("--overwrite", is_flag=True, help="Replace an encoder that is already there.")
@runtime_options
@command
def train(progress: Progress, **options: Any) -> dict[str, Any]:
    """Train the reference network (a 1D ResNet of the CODE shapes) on a column of ARCHIVE.

    Several labels a record (superclasses), one class (sex) or a number (age): the column's type decides. Folds keep
    patients apart where the archive has them; otherwise patients are split by a seeded draw. The epoch with the
    best validation loss is kept, and the encoder records what it was trained on.

    \b
    Examples:
      ecgscale train ptbxl --target superclasses --train-folds 1-7 --validation-folds 8 --out encoder
      ecgscale train code15 --target age --out age-encoder --epochs 30
      ecgscale train code15 --target AF,LBBB,RBBB --kind multilabel --out rhythm-encoder

    About half a minute an epoch for 350 records on two cores. With --runtime ray --gpus-per-worker 1, a worker of the
    cluster trains on its GPU and this command writes what it made.

    \b
    Afterwards:
      ecgscale encoder check encoder
      ecgscale fit ptbxl --encoder encoder --out ROOT
    """
    from dataclasses import replace

    import torch

    from ecgscale.archive import Archive
    from ecgscale.encoders.optimise import LoopSettings
    from ecgscale.encoders.splits import Folds
    from ecgscale.encoders.train import TrainSettings, train_encoder
    from ecgscale.leads import CANONICAL_LEADS
    from ecgscale.passes.run.train import train_on

    if options["threads"]:
        torch.set_num_threads(options["threads"])
    leads = options["leads"]
    if leads is not None and not all(lead.strip() for lead in leads.split(",")):
        raise UsageError(f"--leads {leads!r} is no list of leads; write them as I,II,V1")
    settings = TrainSettings(
        target=options["target"],
        kind=options["kind"],
        folds=Folds(options["train_folds"], options["validation_folds"], options["test_folds"]),
        validation_share=options["validation_share"],
        leads=tuple(leads.split(",")) if leads else CANONICAL_LEADS,
        sampling_rate=options["rate"],
        length=options["length"],
        blocks=options["blocks"],
        dropout=options["dropout"],
        loop=LoopSettings(
            epochs=options["epochs"],
            batch_size=options["batch_size"],
            learning_rate=options["learning_rate"],
            patience=options["patience"],
            seed=options["seed"],
        ),
        device=options["device"],
    )
    archive = Archive.open(options["archive"])
    runtime, workers, gpus = options["runtime"], options["workers"], options["gpus_per_worker"]
    if (workers or 1) > 1:
        raise UsageError(f"--workers {workers}: one worker trains a network; leave it out")
    out, overwrite = options["out"], options["overwrite"]
    try:
        if runtime == "local":
            facts = train_encoder(archive, out, settings, overwrite=overwrite, progress=progress)
        else:
            with spread_of(runtime, workers, gpus, settings.device, progress) as (spread, device):
                there = replace(settings, device=device)
                facts = train_on(
                    spread, archive, out, there, threads=options["threads"], overwrite=overwrite, progress=progress
                )
    except KeyboardInterrupt as error:
        raise TrainingStopped("stopped; no encoder was written, the same command trains from the beginning") from error
    _tell(facts)
    return facts


def _tell(facts: dict[str, Any]) -> None:
    click.echo(f"{facts['encoder_id']} in {facts['encoder']}: {facts['kind']} {', '.join(facts['names'])}")
    click.echo(f"  best of {facts['epochs']} epochs: {facts['best_epoch']}")
    for part, scores in facts["metrics"].items():
        told = ", ".join(f"{name} {value:.3f}" for name, value in scores.items())
        click.echo(f"  {part} ({facts[f'{part}_records']} records): {told}")
    click.echo(f"next: ecgscale encoder check {facts['encoder']}")
