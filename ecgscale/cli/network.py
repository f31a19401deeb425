"""`ecgscale train` and `ecgscale encoder check`: a reference network, and whether any is ready to be explained."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ecgscale.cli.command import command, say
from ecgscale.cli.options import PLACE, Where, device_option, option_of, options_of, runtime_options
from ecgscale.config import TrainConfig
from ecgscale.errors import EcgscaleError, ExitCode, UsageError
from ecgscale.progress import Progress
from ecgscale.words import typed

if TYPE_CHECKING:
    from ecgscale.encoders.check import EncoderReport


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
@option_of(TrainConfig, "target")
@click.option("--out", required=True, type=PLACE, help="Encoder directory to write.")
@options_of(TrainConfig, "epochs", "train_folds", "validation_folds", "test_folds")
@click.option("--validation-share", default=0.15, show_default=True, help="Share of patients, without folds.")
@option_of(TrainConfig, "seed", type=click.IntRange(0))
@options_of(TrainConfig, "kind")
@option_of(TrainConfig, "rate", type=click.FloatRange(1))
@options_of(TrainConfig, "length")
@click.option("--leads", help="Leads that it sees, as I,II,V1 (default: the twelve).")
@option_of(TrainConfig, "blocks", type=str, default=None, callback=_blocks)
@option_of(TrainConfig, "batch_size", type=click.IntRange(2))
@options_of(TrainConfig, "learning_rate", "dropout")
@click.option("--patience", default=6, show_default=True, type=click.IntRange(1), help="Epochs without a better loss.")
@device_option
@click.option("--threads", type=click.IntRange(1), help="CPU threads (default: all cores).")
@click.option("--overwrite", is_flag=True, help="Replace an encoder that is already there.")
@runtime_options
@command
def train(
    progress: Progress,
    archive: Path,
    out: Path,
    validation_share: float,
    leads: str | None,
    patience: int,
    device: str,
    threads: int | None,
    overwrite: bool,
    where: Where,
    **asked: Any,
) -> dict[str, Any]:
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
    import torch

    from ecgscale.archive.reader import Archive
    from ecgscale.encoders.train import train_encoder
    from ecgscale.leads import CANONICAL_LEADS
    from ecgscale.passes.run.pipeline import train_settings
    from ecgscale.passes.run.train import train_on

    if threads:
        torch.set_num_threads(threads)
    if leads is not None and not all(lead.strip() for lead in leads.split(",")):
        raise UsageError(f"--leads {leads!r} is no list of leads; write them as I,II,V1")
    settings = train_settings(TrainConfig(**asked), device)
    settings = replace(
        settings,
        validation_share=validation_share,
        leads=tuple(leads.split(",")) if leads else CANONICAL_LEADS,
        loop=replace(settings.loop, patience=patience),
    )
    opened = Archive.open(archive)
    if (where.workers or 1) > 1:
        raise UsageError(f"--workers {where.workers}: one worker trains a network; leave it out")
    try:
        if where.runtime == "local":
            facts = train_encoder(opened, out, settings, overwrite=overwrite, progress=progress)
        else:
            with where.spread(device, progress) as (spread, device):
                there = replace(settings, device=device)
                facts = train_on(spread, opened, out, there, threads=threads, overwrite=overwrite, progress=progress)
    except KeyboardInterrupt as error:
        raise TrainingStopped("stopped; no encoder was written, the same command trains from the beginning") from error
    say(*_training(facts))
    return facts


def _training(facts: dict[str, Any]) -> Iterator[str]:
    """What was made, how good it is, and what to type next."""
    yield f"{facts['encoder_id']} in {facts['encoder']}: {facts['kind']} {', '.join(facts['names'])}"
    yield f"  best of {facts['epochs']} epochs: {facts['best_epoch']}"
    for part, scores in facts["metrics"].items():
        numbers = ", ".join(f"{name} {value:.3f}" for name, value in scores.items())
        yield f"  {part} ({facts[f'{part}_records']} records): {numbers}"
    yield f"next: ecgscale encoder check {typed(facts['encoder'])}"


@click.group()
def encoder() -> None:
    """Look at an encoder: a directory with encoder.toml and the weights of a 1D network.

    \b
    Your own network needs no code here, only such a file beside its weights:
      name = "my-network"
      factory = "mypackage.models:MyNet"          # importable from where you run ecgscale
      weights = "weights.pt"                      # state_dict; weights_key = "model" where it sits deeper
      layers = ["block3", "block4", "block5#1"]   # named modules; #1: second element of a tuple
      depth_scales = [1.0, 1.0, 1.0]
      [arguments]                                 # keywords of MyNet
      [input]
      leads = ["I", "II", "V1"]
      sampling_rate = 400.0
      length = 4096
      millivolt = 1.0                             # what 1 mV looks like to the network
      padding = "center"                          # or "end"
      [output]
      kind = "multilabel"                         # or "multiclass", "regression"
      scale = "logit"                             # or "probability"; "value" for a regression
      names = ["AF", "LBBB"]
    """


@encoder.command(short_help="Does this network load, and do its taps keep time?")
@click.argument("directory", type=PLACE)
@click.option("--device", default="cpu", show_default=True, type=click.Choice(["auto", "cpu", "cuda"]))
@click.option("--all-layers", is_flag=True, help="List layers that cannot be tapped too.")
@click.option("--nodes", is_flag=True, help="List values that are no layer's too, by torch.fx node.")
@command
def check(progress: Progress, directory: Path, device: str, all_layers: bool, nodes: bool) -> dict[str, Any]:
    """Load the encoder in DIRECTORY, list its layers with shapes, and measure whether its taps keep time.

    Impulses at known places go in; where the activations change tells how late each tap answers. A lag of more than
    half a hop (the time between two steps of the tap) would paint clusters beside what the network saw: a warning.

    \b
    Example:
      ecgscale encoder check encoder
    """
    from ecgscale.encoders.check import check_encoder
    from ecgscale.encoders.timing import proposed

    report = check_encoder(directory, device, nodes=nodes)
    _tell_contract(report)
    _tell_layers(report, all_layers)
    _tell_taps(report)
    for warning in report.warnings:
        say(f"warning: {warning}")
    if lines := proposed(report.taps):
        say("so that its taps keep time, put into encoder.toml:", *(f"  {line}" for line in lines))
    return report.as_dict()


def _tell_contract(report: EncoderReport) -> None:
    signal, output = report.contract["input"], report.contract["output"]
    seconds = signal["length"] / signal["sampling_rate"]
    say(f"{report.encoder_id}: {report.contract['factory']}, {report.parameters:,} parameters")
    say(
        f"  sees     {len(signal['leads'])} leads ({', '.join(signal['leads'])}), {signal['length']} samples at "
        f"{signal['sampling_rate']:g} Hz ({seconds:.2f} s), 1 mV = {signal['millivolt']:g}, "
        f"padding {signal['padding']}, normalisation {signal['normalisation']}"
    )
    say(f"  predicts {output['kind']} {output['scale']}: {', '.join(output['names'])}")
    training = report.contract.get("training", {})
    if training:
        say(
            f"  learned  {training.get('target', '?')} from {training.get('train_records', '?')} records, stopped on "
            f"{training.get('validation_records', '?')} (archive {training.get('archive_id', '?')})"
        )


def _tell_layers(report: EncoderReport, all_layers: bool) -> None:
    shown = [layer for layer in report.layers if layer.tappable or layer.tapped or all_layers]
    widest = max(len(layer.name) for layer in shown)
    say(f"layers ({len(shown)} of {len(report.layers)}; * tapped; records, channels, steps):")
    for layer in shown:
        shape = ", ".join(map(str, layer.shape))
        say(f"  {'*' if layer.tapped else ' '} {layer.name:<{widest}}  ({shape})  {layer.module}")


def _tell_taps(report: EncoderReport) -> None:
    say("taps, measured with impulses of 1 mV:")
    for tap in report.taps:
        head = (
            f"  {tap.layer}: {tap.channels} channels, {tap.steps} steps, hop {tap.hop:g} samples ({tap.hop_ms:.0f} ms)"
        )
        if tap.lag is None:
            few = "no time" if tap.is_time is False else "too few steps to tell when"
            say(f"{head}; {few if tap.answers else 'no answer'}")
        else:
            say(
                f"{head}; lag {tap.lag:+.1f} samples ({tap.lag_ms:+.1f} ms, {tap.lag_hops:+.2f} hops; "
                f"{tap.lag_from_ms:+.1f} ms at 10 %, {tap.lag_to_ms:+.1f} ms at 90 % of the record); answers spread "
                f"over {tap.width_ms:.0f} ms (rms), reach {tap.field_ms:.0f} ms"
            )
