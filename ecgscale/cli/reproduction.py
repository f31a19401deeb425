"""`python jobs/reproduce.py`: the published experiment on the released recordings, and its table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ecgscale.cli.command import command, say
from ecgscale.cli.options import INTEGERS, PLACE, Where, option_of, placement_of, runtime_options
from ecgscale.config import RunConfig, RuntimeConfig
from ecgscale.errors import UsageError
from ecgscale.progress import Progress

if TYPE_CHECKING:
    from ecgscale.evaluate.reproduction import Outcome
    from ecgscale.passes.workers import OpenPool


@click.command()
@click.option("--ptbxl", type=PLACE, help="PTB-XL as PhysioNet releases it.")
@click.option("--code15", type=PLACE, help="CODE-15 % as Zenodo releases it.")
@click.option("--out", type=PLACE, default="reproduction", show_default=True)
@click.option("--protocol", "protocols", multiple=True, type=click.Choice(["A", "B"]), default=("A", "B"))
@click.option("--folds", type=INTEGERS, default="1-10", show_default=True, help="Folds of PTB-XL that score.")
@click.option("--encoder", type=PLACE, help="Use this network instead of training any.")
@click.option("--train", metavar="JSON", default="{}", help='Keys of [train], as {"epochs": 30}.')
@click.option("--fit-records", type=int, default=20_000, show_default=True, help="CODE-15 %: exams that K-means sees.")
@option_of(RunConfig, "device", show_default=False)
@runtime_options
@command
def reproduce(
    progress: Progress,
    ptbxl: Path | None,
    code15: Path | None,
    out: Path,
    protocols: tuple[str, ...],
    folds: tuple[int, ...],
    train: str,
    where: Where,
    **asked: Any,
) -> dict[str, Any]:
    """Repeat the published experiment on PTB-XL, CODE-15 % or both; typed again, it goes on where it was stopped.

    \b
      python jobs/reproduce.py --ptbxl path/to/ptb-xl --out reproduction
    """
    from ecgscale.evaluate.reproduction import ReproductionOptions, reproduce_code15, reproduce_ptbxl

    if ptbxl is None and code15 is None:
        raise UsageError("nothing to reproduce: give --ptbxl FOLDER or --code15 FOLDER")
    runtime = RuntimeConfig(name=where.runtime, workers=where.workers or 1, gpus_per_worker=where.gpus_per_worker)
    options = ReproductionOptions(train=json.loads(train), runtime=runtime, **asked)

    def place(config: RunConfig) -> tuple[OpenPool, str]:
        there = placement_of(config, progress)
        return there.pool, there.device

    facts: dict[str, Any] = {}
    if ptbxl is not None:
        outcomes = reproduce_ptbxl(ptbxl, out / "ptbxl", protocols, folds, options, place, progress)
        facts["ptbxl"] = _written(out / "ptbxl", outcomes, "PTB-XL superclasses: published against obtained")
    if code15 is not None:
        outcomes = reproduce_code15(code15, out / "code15", options, place, progress)
        facts["code15"] = _written(out / "code15", outcomes, "CODE-15 % age")
    return facts


def _written(out: Path, outcomes: list[Outcome], title: str) -> dict[str, Any]:
    from ecgscale.evaluate.reproduction import facts_of, table_lines, write_table

    say(*table_lines(outcomes, title))
    path = write_table(out, outcomes, title)
    say(f"written: {path}")
    facts = {**facts_of(outcomes), "path": str(path)}
    path.with_suffix(".json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    return facts
