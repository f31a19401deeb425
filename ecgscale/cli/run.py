"""`ecgscale run`: the whole job from one configuration file."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ecgscale.cli.command import command
from ecgscale.cli.options import PLACE, placement_of
from ecgscale.progress import Progress
from ecgscale.words import counted

if TYPE_CHECKING:
    from ecgscale.config import RunConfig
    from ecgscale.passes.run.pipeline import PipelineResult


@click.command()
@click.argument("config", type=PLACE)
@command
def run(progress: Progress, config: Path) -> dict[str, Any]:
    """Do the whole job that CONFIG.toml describes: archive, encoder, clusters, explanations.

    What is there already is left alone, so the same command resumes a run that was stopped, and does only what is new
    when the archive has grown. The file is checked whole before any work starts.

    \b
      root = "results"

    \b
      [archive]
      path = "ptbxl-archive"
      source = "ptbxl"            # made from src if it is not there: ptbxl, code15, wfdb, simulate
      src = "physionet/ptb-xl"

    \b
      [encoder]
      path = "encoder"

    \b
      [train]                     # only if the encoder is not there
      target = "superclasses"
      train_folds = [1, 2, 3, 4, 5, 6, 7]
      validation_folds = [8]

    \b
      [fit]
      clusters = 20
      folds = [1, 2, 3, 4, 5, 6, 7, 8]

    \b
      [surrogate]
      target = "superclasses"
      test_folds = [9]

    Ready-made files lie in configs/.  Example:  ecgscale run configs/ptbxl.toml
    """
    from ecgscale.cli.surrogate import told
    from ecgscale.config import load_config
    from ecgscale.evaluate.surrogate.check import check_published

    loaded = load_config(config)
    result = run_recorded(loaded, "run", progress)
    facts = result.explained.to_dict()
    click.echo(f"{counted(facts['records'], 'record')} explained, {facts['quarantined']} quarantined: {facts['path']}")
    surrogate = None
    if loaded.surrogate is not None:
        checked = check_published(
            loaded.root,
            loaded.surrogate.target,
            train_folds=loaded.surrogate.train_folds or (),
            test_folds=loaded.surrogate.test_folds or (),
            dataset=result.explained.dataset_id,
            progress=progress,
        )
        click.echo(told(checked.result))
        surrogate = checked.to_dict()
    click.echo(f"next: ecgscale plot {loaded.root} RECORD_ID -o ecg.png")
    return {
        **facts,
        "root": str(loaded.root),
        "model_id": result.fitted.model.model_id,
        "made": list(result.made),
        "surrogate": surrogate,
        "exit_code": result.explained.exit_code,
    }


def run_recorded(config: RunConfig, command: str, progress: Progress) -> PipelineResult:
    """Run the pipeline where its [runtime] says, and leave a record of it below ROOT."""
    from ecgscale.evaluate.surrogate.check import check_asked
    from ecgscale.passes.run.pipeline import run_pipeline
    from ecgscale.runtime.run_record import run_record

    asked = config.surrogate
    check = partial(check_asked, encoder=config.encoder.path, asked=asked) if asked else None
    where = placement_of(config, progress)
    with run_record(config.root, command, where.facts(), progress) as record:
        result = run_pipeline(config, progress, where.pool, where.device, record, check)
        explained, fitted = result.explained, result.fitted
        record.add(explained.exit_code, made=result.made, fitted=[fitted.facts()], explained=explained.to_dict())
    return result
