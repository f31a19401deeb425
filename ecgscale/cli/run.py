"""`ecgscale run` and `ecgscale demo`: the whole job from one configuration file."""

from __future__ import annotations

from functools import partial
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ecgscale.cli.command import command, say
from ecgscale.cli.options import PLACE, job_of, recompute_option, say_explained, withdrawal_option
from ecgscale.config import RunConfig, load_config
from ecgscale.errors import UsageError
from ecgscale.progress import Progress
from ecgscale.words import typed

if TYPE_CHECKING:
    from ecgscale.passes.run.pipeline import PipelineResult


CONFIG = """\
# What `ecgscale demo` ran; `ecgscale run` with this file runs it again. Change it for your own recordings.
root = "results"

[archive]
path = "archive"
source = "simulate"
records = {records}
seed = {seed}
shard_records = 200

[encoder]
path = "encoder"

[train]                     # a small network at 100 Hz, so that this takes seconds
target = "superclasses"
epochs = {epochs}
train_folds = [1, 2, 3, 4, 5, 6, 7]
validation_folds = [8]
rate = 100
length = 1024
blocks = [[24, 1024], [32, 256], [48, 128], [64, 64], [80, 16]]
learning_rate = 0.004
dropout = 0.2

[fit]
clusters = 20
folds = [1, 2, 3, 4, 5, 6, 7, 8]

[explain]
entropy = "timestep"

[surrogate]
target = "superclasses"
train_folds = [1, 2, 3, 4, 5, 6, 7, 8]
test_folds = [9, 10]
"""


@click.command()
@click.argument("config", type=PLACE)
@recompute_option
@withdrawal_option
@command
def run(progress: Progress, config: Path, allow_recompute: bool, allow_withdrawal: bool) -> dict[str, Any]:
    """Do the whole job that CONFIG.toml describes: archive, encoder, clusters, explanations.

    What is there already is left alone, so the same command resumes a run that was stopped, and does only what is new
    when the archive has grown. The file is checked whole before any work starts. What would withdraw much of what is
    published, or compute it again, is stopped as a night would be ([nightly] withdraw_share, recompute_share).

    \b
      root = "results"

    \b
      [archive]
      path = "ptbxl-archive"
      source = "ptbxl"            # made from src if it is not there: ptbxl, code15, wfdb, formats, table, simulate
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
    from ecgscale.cli.surrogate import summary
    from ecgscale.evaluate.surrogate.check import check_published

    loaded = load_config(config)
    result = run_recorded(loaded, "run", progress, allow_recompute, allow_withdrawal)
    facts = say_explained(result.explained)
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
        say(*summary(checked.result))
        surrogate = checked.to_dict()
    say(f"next: ecgscale plot {typed(loaded.root)} RECORD_ID -o ecg.png")
    return {
        **facts,
        "root": str(loaded.root),
        "model_id": result.fitted.model.model_id,
        "made": list(result.made),
        "surrogate": surrogate,
        "exit_code": result.explained.exit_code,
    }


def run_recorded(
    config: RunConfig,
    command: str,
    progress: Progress,
    allow_recompute: bool = False,
    allow_withdrawal: bool = False,
) -> PipelineResult:
    """Run the pipeline where its [runtime] says, and leave a record of it below ROOT."""
    from ecgscale.evaluate.surrogate.check import check_asked
    from ecgscale.passes.explain.guard import Guard
    from ecgscale.passes.run.pipeline import run_pipeline

    asked = config.surrogate
    check = partial(check_asked, encoder=config.encoder.path, asked=asked) if asked else None
    with job_of(config, command, progress) as job:
        guard = Guard(config.root, allow_recompute, allow_withdrawal, config.nightly)
        result = run_pipeline(config, progress, job.where.pool, job.where.device, job.record, check, guard)
        explained, fitted = result.explained, result.fitted
        job.record.add(explained.exit_code, made=result.made, fitted=[fitted.facts()], explained=explained.to_dict())
    return result


@click.command()
@click.argument("directory", type=PLACE, default="ecgscale-demo")
@click.option(
    "--records", default=1000, show_default=True, type=click.IntRange(min=200), help="Recordings to simulate."
)
@click.option("--epochs", default=8, show_default=True, type=click.IntRange(min=1), help="Of the little network.")
@click.option("--seed", default=0, show_default=True, help="Other recordings, other noise.")
@command
def demo(progress: Progress, directory: Path, records: int, epochs: int, seed: int) -> dict[str, Any]:
    """See the whole of ecgscale on simulated recordings: about two minutes, nothing needed.

    Simulates an archive, trains a small network to tell five diagnoses apart, clusters what its last three blocks
    do, explains every recording, draws the one the network was least sure about of those it was not trained on, and
    checks how well 20 cluster proportions alone reproduce the network's decisions. Everything stays in DIRECTORY.

    \b
      ecgscale demo
      ecgscale demo /tmp/try --records 4000
    """
    from ecgscale.cli.surrogate import summary
    from ecgscale.evaluate.surrogate.check import check_published
    from ecgscale.io.objects import put_whole
    from ecgscale.report.explained import load_explained
    from ecgscale.store.dataset import open_explanations

    config_path = directory / "demo.toml"
    content = CONFIG.format(records=records, seed=seed, epochs=epochs)
    if config_path.exists() and config_path.read_text(encoding="utf-8") != content:
        raise UsageError(f"{config_path} is there with other settings; remove {directory} or name another folder")
    put_whole(config_path, content.encode())
    config = load_config(config_path)
    result = run_recorded(config, "demo", progress)
    checked = check_published(
        config.root,
        "superclasses",
        train_folds=(1, 2, 3, 4, 5, 6, 7, 8),
        test_folds=(9, 10),
        dataset=result.explained.dataset_id,
        progress=progress,
    )
    table = open_explanations(config.root).to_table(columns=["record_id", "mean_entropy", "status", "fold"])
    unsure = table.to_pandas().query("status == 'ok' and fold > 8").sort_values("mean_entropy").iloc[-1]
    record_id = str(unsure["record_id"])
    picture, drawn = directory / "ecg.png", BytesIO()
    load_explained(config.root, record_id).draw("3x4", None).savefig(drawn, dpi=150)
    put_whole(picture, drawn.getvalue())
    scores = "\n".join(f"  {line}" for line in summary(checked.result))
    model_id = result.fitted.model.model_id
    say(*_demonstrated(directory, result.explained.path, model_id, record_id, picture, scores).split("\n"))
    return {
        **result.explained.to_dict(),
        "model_id": model_id,
        "explained_variance": result.fitted.model.info["explained_variance"],
        "picture": str(picture),
        "surrogate": checked.to_dict(),
        "exit_code": result.explained.exit_code,
    }


def _demonstrated(directory: Path, dataset: str, model_id: str, record_id: str, picture: Path, scores: str) -> str:
    root = directory / "results"
    return f"""
What was written
  {directory}/archive             the recordings, as Parquet
  {directory}/encoder             the network: encoder.toml and its weights
  {root}/models/{model_id}   20 centroids of what its last three blocks do
  {dataset}/data
                                  for each recording when the network is in which state (segments), how unsure
                                  (entropy), the share of time in each (proportions), and what it predicts
  {picture}         recording {record_id}, the one it was least sure about
                                  of those it was not trained on: look at it

Do 20 proportions hold what the network decides on? (recordings that neither the network nor K-means has seen)
{scores}

What to type next
  ecgscale plot {typed(root)} {record_id} -o another.png --layout stacked
  ecgscale report {typed(root)} -o {typed(directory)}/report          (one page with everything: open it in a browser)
  python -c "import duckdb, ecgscale; facts = ecgscale.open_explanations({str(root)!r}); \\
             duckdb.sql('SELECT record_id, mean_entropy, superclasses FROM facts ORDER BY 2 DESC LIMIT 5').show()"
  ecgscale ingest ptbxl PATH/TO/PTB-XL my-archive      (or code15, or wfdb: see ecgscale ingest --help)
"""
