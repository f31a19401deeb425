"""The published experiment, from the released recordings to a table of published against obtained figures.

ray job submit --working-dir . -- python jobs/reproduce.py --ptbxl /data/ptb-xl --out /results --runtime ray --workers 8
"""

from __future__ import annotations

import json
from typing import Any

import click

from ecgscale.cli.command import command
from ecgscale.cli.options import INTEGERS, PLACE, runtime_options
from ecgscale.progress import Progress


@click.command()
@click.option("--ptbxl", type=PLACE, help="PTB-XL as PhysioNet releases it.")
@click.option("--code15", type=PLACE, help="CODE-15 % as Zenodo releases it.")
@click.option("--out", type=PLACE, default="reproduction", show_default=True)
@click.option("--protocol", "protocols", multiple=True, type=click.Choice(["A", "B"]), default=("A", "B"))
@click.option("--folds", type=INTEGERS, default="1-10", show_default=True, help="Folds of PTB-XL that score.")
@click.option("--encoder", type=PLACE, help="Use this network instead of training any.")
@click.option("--train", metavar="JSON", default="{}", help='Keys of [train], as {"epochs": 30}.')
@click.option("--fit-records", type=int, default=20_000, show_default=True, help="CODE-15 %: exams that K-means sees.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto")
@runtime_options
@command
def reproduce(progress: Progress, **asked: Any) -> dict[str, Any]:
    """Repeat the published experiment on PTB-XL, CODE-15 % or both; typed again, it goes on where it was stopped.

    \b
      python jobs/reproduce.py --ptbxl path/to/ptb-xl --out reproduction
    """
    from ecgscale.cli.reproduction import run_reproduction

    return run_reproduction(progress, json.loads(asked.pop("train")), **asked)


if __name__ == "__main__":
    reproduce()
