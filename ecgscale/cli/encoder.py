"""`ecgscale encoder check`: is this network ready to be explained?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ecgscale.cli.command import command
from ecgscale.cli.options import PLACE
from ecgscale.progress import Progress

if TYPE_CHECKING:
    from ecgscale.encoders.check import EncoderReport


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
@command
def check(progress: Progress, directory: Path, device: str, all_layers: bool) -> dict[str, Any]:
    """Load the encoder in DIRECTORY, list its layers with shapes, and measure whether its taps keep time.

    Impulses at known places go in; where the activations change tells how late each tap answers. A lag of more than
    half a hop (the time between two steps of the tap) would paint clusters beside what the network saw: a warning.

    \b
    Example:
      ecgscale encoder check encoder
    """
    from ecgscale.encoders.check import check_encoder

    report = check_encoder(directory, device)
    _tell_contract(report)
    _tell_layers(report, all_layers)
    _tell_taps(report)
    for warning in report.warnings:
        click.echo(f"warning: {warning}")
    return report.as_dict()


def _tell_contract(report: EncoderReport) -> None:
    signal, output = report.contract["input"], report.contract["output"]
    seconds = signal["length"] / signal["sampling_rate"]
    click.echo(f"{report.encoder_id}: {report.contract['factory']}, {report.parameters:,} parameters")
    click.echo(
        f"  sees     {len(signal['leads'])} leads ({', '.join(signal['leads'])}), {signal['length']} samples at "
        f"{signal['sampling_rate']:g} Hz ({seconds:.2f} s), 1 mV = {signal['millivolt']:g}, "
        f"padding {signal['padding']}, normalisation {signal['normalisation']}"
    )
    click.echo(f"  predicts {output['kind']} {output['scale']}: {', '.join(output['names'])}")
    training = report.contract.get("training", {})
    if training:
        click.echo(
            f"  learned  {training.get('target', '?')} from {training.get('train_records', '?')} records, stopped on "
            f"{training.get('validation_records', '?')} (archive {training.get('archive_id', '?')})"
        )


def _tell_layers(report: EncoderReport, all_layers: bool) -> None:
    shown = [layer for layer in report.layers if layer.tappable or layer.tapped or all_layers]
    widest = max(len(layer.name) for layer in shown)
    click.echo(f"layers ({len(shown)} of {len(report.layers)}; * tapped; records, channels, steps):")
    for layer in shown:
        shape = ", ".join(map(str, layer.shape))
        click.echo(f"  {'*' if layer.tapped else ' '} {layer.name:<{widest}}  ({shape})  {layer.module}")


def _tell_taps(report: EncoderReport) -> None:
    click.echo("taps, measured with impulses of 1 mV:")
    for tap in report.taps:
        head = (
            f"  {tap.layer}: {tap.channels} channels, {tap.steps} steps, hop {tap.hop:g} samples ({tap.hop_ms:.0f} ms)"
        )
        if tap.lag is None:
            click.echo(f"{head}; no answer")
        else:
            click.echo(
                f"{head}; lag {tap.lag:+.1f} samples ({tap.lag_ms:+.1f} ms, {tap.lag_hops:+.2f} hops); answers spread "
                f"over {tap.width_ms:.0f} ms (rms), reach {tap.field_ms:.0f} ms"
            )
