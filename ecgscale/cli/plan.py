"""`ecgscale plan`: what a configuration will do, for how long, with what, before it does it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ecgscale.cli.command import command, say
from ecgscale.cli.options import INTEGERS, PLACE, placement_of
from ecgscale.config import RunConfig, load_config
from ecgscale.progress import Progress
from ecgscale.words import counted, longer_line

if TYPE_CHECKING:
    from ecgscale.encoders.taps import Encoder
    from ecgscale.passes.run.outlook import Outlook
    from ecgscale.passes.run.sizing import Estimate, Rates

TRAINING = 5
"""A training step takes about so many times as long as the forward pass of the same records."""


@click.command()
@click.argument("config", type=PLACE)
@click.option(
    "--rate", type=click.FloatRange(min=0, min_open=True), help="Records a second of a worker, instead of measuring."
)
@click.option("--workers", type=INTEGERS, default=(1, 4, 16, 64), help="Lines of the table. Default: 1,4,16,64.")
@click.option("--records", type=click.IntRange(min=1), help="As if the source had so many; nothing has to be there.")
@click.option("--model", type=PLACE, help="Explain with this model, as jobs/nightly.py does.")
@command
def plan(
    progress: Progress,
    config: Path,
    rate: float | None,
    workers: tuple[int, ...],
    records: int | None,
    model: Path | None,
) -> dict[str, Any]:
    """Say what `ecgscale run CONFIG.toml` would do now, and what it takes. Nothing is written.

    Which inputs are there and which will be made, which shards are committed and which pending, how long that takes at
    the rate of this machine (measured in some seconds, or --rate), memory, bytes; then the same for other numbers of
    workers like this one.

    \b
      ecgscale plan configs/ptbxl.toml
      ecgscale plan configs/code15.toml --records 2300000 --rate 1000 --workers 1,8,32,100
    """
    from ecgscale.passes.run.outlook import look_ahead, memory_summary, outlook_encoder
    from ecgscale.passes.run.pipeline import to_be_made
    from ecgscale.passes.run.sizing import estimate, sizing_table

    loaded = load_config(config)
    if records is None:
        to_be_made(loaded)
    where = placement_of(loaded, progress)
    encoder = outlook_encoder(loaded)
    outlook = look_ahead(loaded, encoder, model, records, where.device)
    _check_surrogate(loaded, outlook)
    on_ray = where.runtime == "ray"
    # Processes share this machine, so together they are as fast as one; Ray actors bring their own.
    here = where.workers if on_ray else 1
    rates = _rates(loaded, outlook, rate, where.device, on_ray)
    memory = memory_summary(loaded, encoder, outlook.sizes, where.workers) if outlook.fit_records else None
    now = estimate(outlook.sizes, rates, here) if rates else None
    train_s = _training(loaded, outlook, encoder, rates)
    place = f"{here} workers" if on_ray else "this machine"
    say(*(*_steps(loaded, outlook, memory), *_duration(outlook, rates, now, train_s, place)))
    if rates and outlook.anything:
        say("", *sizing_table(outlook.sizes, rates, workers))
    return {
        **outlook.to_dict(),
        "memory": memory,
        "rates": vars(rates) if rates else None,
        "train_s": train_s,
        "estimate": now.to_dict() if now else None,
        "table": [estimate(outlook.sizes, rates, n).to_dict() for n in workers] if rates else [],
    }


def _check_surrogate(config: RunConfig, outlook: Outlook) -> None:
    """Refuse what `ecgscale run` would refuse of [surrogate]; without an archive nothing can be said yet."""
    from ecgscale.archive.reader import Archive
    from ecgscale.evaluate.surrogate.check import check_asked

    if config.surrogate is not None and outlook.archive.there:
        check_asked(Archive.open(config.archive.path), encoder=config.encoder.path, asked=config.surrogate)


def _rates(config: RunConfig, outlook: Outlook, rate: float | None, device: str, on_ray: bool) -> Rates | None:
    """Given, measured here, or None when workers have a GPU and this machine has none."""
    import torch

    from ecgscale.archive.reader import Archive
    from ecgscale.passes.run.outlook import outlook_encoder
    from ecgscale.passes.run.sizing import KMEANS_FACTOR, Rates, calibrate

    if rate is not None:
        return Rates(rate, rate, rate * KMEANS_FACTOR, "given")
    if device == "cuda" and not torch.cuda.is_available():
        return None
    if not outlook.anything:
        return None
    archive = Archive.open(config.archive.path) if outlook.archive.there else None
    # Ray gives an actor without a GPU one CPU, and with it one thread.
    threads = 1 if on_ray and device != "cuda" else None
    return calibrate(outlook_encoder(config, device), config.fit.clusters, archive, threads)


def _training(config: RunConfig, outlook: Outlook, encoder: Encoder, rates: Rates | None) -> float | None:
    if outlook.encoder_there or config.train is None or rates is None:
        return None
    return TRAINING * config.train.epochs * outlook.train_records / rates.forward


def _steps(config: RunConfig, outlook: Outlook, memory: str | None) -> list[str]:
    from ecgscale.passes.run.sizing import volume

    archive, explain = outlook.archive, outlook.explain
    size = f"{counted(archive.records, 'record')} in {counted(archive.shards, 'shard')}, {volume(archive.bytes)}"
    state = "there," if archive.there else f"to be made from {archive.source}, about"
    lines = [f"archive    {archive.path}: {state} {size}"]
    lines.append(f"encoder    {outlook.encoder}: {'there' if outlook.encoder_there else _to_train(config, outlook)}")
    if outlook.model:
        lines.append(f"fit        {outlook.model} is there")
    else:
        lines.append(f"fit        K = {config.fit.clusters} on {counted(outlook.fit_records, 'record')}")
    known = [("committed", explain.committed), ("moved", explain.moved), ("set aside", len(explain.set_aside))]
    shards = ", ".join(
        [f"{counted(explain.pending, 'shard')} to do", *(f"{count:,} {name}" for name, count in known if count)]
    )
    records, to_write = counted(explain.pending_records, "record"), volume(outlook.sizes.bytes_out)
    lines.append(f"explain    {records}: {shards}; about {to_write} to write")
    if explain.longer:
        lines.append(f"cropped    {longer_line(explain.longer, archive.records, outlook.network_seconds)}")
    lines += [f"  set aside {key}: {reason}" for key, reason in explain.set_aside.items()]
    if config.surrogate:
        lines.append(f"surrogate  on {config.surrogate.target or 'what the encoder was trained on, if it is there'}")
    if memory:
        lines.append(f"memory     {memory}")
    return lines


def _to_train(config: RunConfig, outlook: Outlook) -> str:
    if config.train is None:
        return "not there"
    records = counted(outlook.train_records, "record")
    return f"to be trained on {config.train.target}, {records} in each of {config.train.epochs} epochs"


def _duration(
    outlook: Outlook, rates: Rates | None, now: Estimate | None, train_s: float | None, place: str
) -> list[str]:
    from ecgscale.passes.run.sizing import duration

    if not outlook.anything:
        return ["time       nothing to compute"]
    if rates is None or now is None:
        return ["time       not known: workers have GPUs, and none is here to measure; give --rate"]
    parts = [("train", train_s or 0.0), ("fit", now.fit_s), ("explain", now.explain_s)]
    steps = ", ".join(f"{name} {duration(seconds)}" for name, seconds in parts if seconds)
    return [
        f"rate       {rates.explain:,.1f} records/s a worker, {rates.source}",
        f"time       about {duration(sum(s for _, s in parts))} on {place}: {steps}",
    ]
