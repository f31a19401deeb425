"""What the targets of `ray job submit` in jobs/ share: one configuration in, exit codes and a run record out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ecgscale.cli.command import command
from ecgscale.cli.options import PLACE, job_of
from ecgscale.config import RunConfig, load_config
from ecgscale.errors import UsageError
from ecgscale.io.places import is_remote
from ecgscale.progress import Progress

if TYPE_CHECKING:
    pass

RAY_COPIES = "working_dir_files"
"""The folder of a node in which Ray unpacks what `--working-dir` sent."""

config_option = click.option(
    "--config",
    "config_path",
    required=True,
    type=PLACE,
    help="The file that `ecgscale run` takes. Relative paths in it are relative to the file.",
)
model_option = click.option("--model", type=PLACE, help="Explain with this model: ROOT/models/ID.")


def job(function: Callable[..., dict[str, Any]]) -> Callable[..., None]:
    """Make a job of a function that takes a `Job` (and its own options) and returns facts.

    Put it below `config_option`. Exit codes, SIGTERM and `--json` are those of any command.
    """

    @command
    def body(progress: Progress, config_path: Path, **options: Any) -> dict[str, Any]:
        config = load_config(config_path)
        _require_lasting(config, config_path)
        with job_of(config, f"jobs/{function.__name__}", progress) as job:
            facts = function(job, **options)
        return {**facts, "run": str(config.root / job.record.key)}

    body.__name__, body.__doc__ = function.__name__, function.__doc__
    return body


def _require_lasting(config: RunConfig, config_path: Path) -> None:
    """Raise UsageError for a path within the copy of the working directory that Ray makes for a job and throws away."""
    for name, path in (("root", config.root), ("archive", config.archive.path), ("encoder", config.encoder.path)):
        if not is_remote(path) and RAY_COPIES in path.resolve().parts:
            raise UsageError(
                f"{config_path}: {name} would lie in {path.resolve()}, which Ray throws away. In a submitted job, give"
                " absolute paths on storage that all nodes share, or name a configuration that lies there"
            )
