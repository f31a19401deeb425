"""`ecgscale train` and `ecgscale encoder`: a reference network, one of your own, and whether it can be explained."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Sequence
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
    from ecgscale.encoders.timing import TapFact


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
    """Make an encoder of your network, or look at one: a directory with encoder.toml and the weights.

    \b
    Your own network needs no code here, only such a file beside its weights, which `ecgscale encoder init` writes:
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


@encoder.command(short_help="An encoder from a class and a checkpoint.")
@click.argument("directory", type=PLACE)
@click.option("--factory", required=True, metavar="PKG.MODULE:CLASS", help="The network's class, or what makes one.")
@click.option("--weights", required=True, type=PLACE, help="Its checkpoint; the whole of it is copied.")
@click.option("--weights-key", help="Where in the checkpoint the weights are, if several would fit.")
@click.option("--argument", "arguments", multiple=True, metavar="NAME=VALUE", help="Of the class; may be repeated.")
@click.option("--like", type=PLACE, help="An archive: for leads and rate, and to try units and outputs on recordings.")
@click.option("--leads", help="Leads in the order in which it sees them, as I,II,V1.")
@click.option("--rate", type=click.FloatRange(0, min_open=True), help="Sampling rate that it was trained at, Hz.")
@click.option("--length", type=click.IntRange(1), help="Samples that it sees.")
@click.option("--millivolt", type=click.FloatRange(0, min_open=True), help="What 1 mV looks like to it.")
@click.option("--normalisation", help="As [input] of encoder.toml has it, for instance zscore-lead.")
@click.option(
    "--layout", help='Of the tensor that it takes, as [input] has it: "bct" by default, "btc", "b1ct", "b(ct)".'
)
@click.option("--names", help="Of its outputs, as AF,LBBB.")
@click.option("--kind", type=click.Choice(["multilabel", "multiclass", "regression"]), help="Of its outputs.")
@click.option("--scale", type=click.Choice(["logit", "probability", "value"]), help="Of its outputs.")
@click.option("--element", help="Which of several that it returns is the prediction: its number or key.")
@click.option("--layers", help="Layers to tap, as block2,block3; by default they are found.")
@click.option("--name", help="Of the encoder; by default the folder's.")
@click.option("--overwrite", is_flag=True, help="Replace an encoder that is already there.")
@command
def init(
    progress: Progress,
    directory: Path,
    factory: str,
    weights: Path,
    weights_key: str | None,
    arguments: tuple[str, ...],
    like: Path | None,
    overwrite: bool,
    **known: Any,
) -> dict[str, Any]:
    """Make the encoder DIRECTORY of a network from its class and its checkpoint.

    Builds the network, loads its weights without running what their file says, and finds what it can by running it: how
    long its input is, what it predicts, which layers follow time and end a stage. encoder.toml holds each guess with
    the reason for it: read it. --like tries recordings: whether units and outputs are what they should be.

    \b
    Example:
      ecgscale encoder init my-encoder --factory net:Net --weights best.pt --like archive
      ecgscale encoder init my-encoder --factory net:Net --weights best.pt --argument classes=5 --rate 400 --length 4096
    """
    from ecgscale.archive.reader import Archive
    from ecgscale.encoders.contract import Asked, init_encoder

    signal = {key: known.pop(key) for key in ("millivolt", "normalisation", "layout")}
    known["sampling_rate"] = known.pop("rate")
    for key in ("leads", "names", "layers"):
        known[key] = [part.strip() for part in known[key].split(",")] if known[key] else None
    given = {key: value for key, value in signal.items() if value is not None}
    asked = Asked(**{**known, "names": known["names"] or ()}, input=given)
    opened = Archive.open(like) if like else None
    with progress.stage("encoder", None, "steps"):
        made = init_encoder(directory, factory, weights, _arguments(arguments), asked, opened, weights_key, overwrite)
    _tell(made.encoder_id, made.spec.model_dump(mode="json", exclude_none=True), None, made.taps)
    for key, why in made.guesses.items():
        say(f"guessed: {key}: {why}")
    for warning in made.warnings:
        say(f"warning: {warning}")
    archive = typed(like) if like else "ARCHIVE"
    say(f"read {typed(directory / 'encoder.toml')}, then:")
    say(f"  ecgscale encoder check {typed(directory)}" + (f" --like {archive}" if like else ""))
    say(f"  ecgscale fit {archive} --encoder {typed(directory)} --out ROOT")
    say(f"  ecgscale explain {archive} --model ROOT/models/MODEL --out ROOT")
    say("  ecgscale plot ROOT RECORD -o ecg.png")
    return made.as_dict()


def _arguments(given: tuple[str, ...]) -> dict[str, Any]:
    """NAME=VALUE, the value as TOML has it; what is none is a text."""
    found: dict[str, Any] = {}
    for argument in given:
        name, separator, value = argument.partition("=")
        if not separator or not name.isidentifier():
            raise UsageError(f"--argument {argument!r}: expected NAME=VALUE, as classes=5 or blocks=[2,2]")
        try:
            found[name] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            found[name] = {"True": True, "False": False}.get(value, value)
    return found


@encoder.command(short_help="Does this network load, and do its taps keep time?")
@click.argument("directory", type=PLACE)
@click.option("--device", default="cpu", show_default=True, type=click.Choice(["auto", "cpu", "cuda"]))
@click.option("--like", type=PLACE, help="An archive whose recordings tell whether units and outputs fit.")
@click.option("--all", "--all-layers", "all_layers", is_flag=True, help="List every layer with its shape.")
@click.option("--nodes", is_flag=True, help="List values that are no layer's too, by torch.fx node.")
@command
def check(
    progress: Progress, directory: Path, device: str, like: Path | None, all_layers: bool, nodes: bool
) -> dict[str, Any]:
    """Load the encoder in DIRECTORY and tell in ten lines what is tapped, how it keeps time, and what is odd.

    Impulses at known places go in; where the activations change tells how late each tap answers, from one end of a
    record to the other. What `ecgscale fit` would refuse is told with the lines that settle it. Where encoder.toml
    names no layers, some are proposed.

    \b
    Example:
      ecgscale encoder check encoder
      ecgscale encoder check encoder --like archive --all
    """
    from ecgscale.archive.reader import Archive
    from ecgscale.encoders.check import check_encoder
    from ecgscale.encoders.timing import proposed

    report = check_encoder(directory, device, nodes=nodes, like=Archive.open(like) if like else None)
    _tell(report.encoder_id, report.contract, report.parameters, report.taps)
    if report.proposed:
        say(f"encoder.toml names no layers. Proposed, {report.proposed}; put these lines into it:")
        for line in report.proposed_lines:
            say(f"  {line}")
    for warning in report.warnings:
        say(f"warning: {warning}")
    if lines := proposed(report.taps):
        say("so that its taps keep time, put into encoder.toml:", *(f"  {line}" for line in lines))
    if not report.warnings:
        say("nothing odd was found")
    if all_layers or nodes:
        _tell_layers(report)
    else:
        tappable = sum(layer.tappable for layer in report.layers)
        say(f"{tappable} of {len(report.layers)} layers could be tapped: --all lists them")
    return report.as_dict()


def _tell(encoder_id: str, contract: dict[str, Any], parameters: int | None, taps: Sequence[TapFact]) -> None:
    signal, output = contract["input"], contract["output"]
    seconds = signal["length"] / signal["sampling_rate"]
    say(f"{encoder_id}: {contract['factory']}" + (f", {parameters:,} parameters" if parameters else ""))
    say(
        f"  sees     {len(signal['leads'])} leads ({', '.join(signal['leads'])}), {signal['length']} samples at "
        f"{signal['sampling_rate']:g} Hz ({seconds:.2f} s), 1 mV = {signal['millivolt']:g}, "
        f"padding {signal['padding']}, normalisation {signal['normalisation']}"
    )
    names = output["names"]
    more = f" and {len(names) - 12} more" if len(names) > 12 else ""
    say(f"  predicts {output['kind']} {output['scale']}: {', '.join(names[:12])}{more}")
    training = contract.get("training", {})
    if training:
        say(
            f"  learned  {training.get('target', '?')} from {training.get('train_records', '?')} records, stopped on "
            f"{training.get('validation_records', '?')} (archive {training.get('archive_id', '?')})"
        )
    _tell_taps(taps)


def _tell_layers(report: EncoderReport) -> None:
    widest = max(len(layer.name) for layer in report.layers)
    say(f"layers ({len(report.layers)}; * tapped, - cannot be; records, channels, steps, or as [taps] says):")
    for layer in report.layers:
        shape = ", ".join(map(str, layer.shape))
        mark = "*" if layer.tapped else " " if layer.tappable else "-"
        say(f"  {mark} {layer.name:<{widest}}  ({shape})  {layer.module}")


def _tell_taps(taps: Sequence[TapFact]) -> None:
    say("taps, measured with impulses of 1 mV:")
    for tap in taps:
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
