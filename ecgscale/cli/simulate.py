"""`ecgscale simulate`: a synthetic archive with known truth."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import click

from ecgscale.cli.command import command
from ecgscale.cli.options import PLACE, pool_of, runtime_options
from ecgscale.progress import Progress
from ecgscale.words import counted


@click.command()
@click.argument("archive", type=PLACE)
@click.option("--records", type=int, required=True, metavar="N", help="How many recordings to make.")
@click.option("--seed", type=int, default=0, show_default=True, help="Same seed, same recordings.")
@click.option("--shard-records", type=int, metavar="N", help="Records a shard; by default shards of about 128 MB.")
@click.option("--rate", type=float, default=500.0, show_default=True, help="Sampling rate in Hz.")
@click.option("--seconds", type=float, default=10.0, show_default=True, help="Length of each recording.")
@click.option("--overwrite", is_flag=True, help="Replace the archive that is there.")
@runtime_options
@command
def simulate(
    progress: Progress,
    archive: Path,
    records: int,
    seed: int,
    shard_records: int | None,
    rate: float,
    seconds: float,
    overwrite: bool,
    runtime: Literal["local", "ray"],
    workers: int | None,
    gpus_per_worker: float | None,
) -> dict[str, Any]:
    """Write a synthetic 12-lead archive to ARCHIVE: no data needed, and the truth is known.

    Patients with one of five diagnostic superclasses (or several), five rhythms, noise, and the onset, peak and
    offset of every P, QRS and T. A record depends on the seed and its number alone.

    \b
    Try it:
      ecgscale simulate demo.archive --records 400
      ecgscale inspect demo.archive
      ecgscale train demo.archive --target superclasses --out demo.encoder

    A large one, for measurements of scale; on any number of workers the same bytes:

    \b
      ecgscale simulate big.archive --records 100000 --seed 7 --shard-records 2000 --workers 8
    """
    from ecgscale.passes.ingest.simulate import simulate_archive

    pool, _ = pool_of(runtime, workers, gpus_per_worker, "cpu", progress)
    facts = simulate_archive(
        archive,
        records,
        seed,
        shard_records,
        progress,
        pool,
        rate=rate,
        seconds=seconds,
        overwrite=overwrite,
    )
    click.echo(
        f"{counted(facts['records'], 'recording')} of {counted(facts['patients'], 'patient')} in "
        f"{counted(facts['shards'], 'shard')}: {archive}"
    )
    click.echo(f"next: ecgscale inspect {archive}")
    return facts
