"""Explain the archive of a configuration with the model that was fitted for it.

ray job submit --working-dir . -- python jobs/explain_archive.py --config configs/ptbxl.toml
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ecgscale.cli.job import config_option, job, model_option
from ecgscale.cli.options import Job


@click.command()
@config_option
@model_option
@job
def explain_archive(job: Job, model: Path | None) -> dict[str, Any]:
    """Explain every record; stopped or failed, the same job goes on where it was.

    The model is that of jobs/fit_clusters.py with the same file, unless --model names another.

    \b
      ray job submit --working-dir . -- python jobs/explain_archive.py --config configs/ptbxl.toml
    """
    from ecgscale.passes.run.pipeline import explain_config, fitted_model

    model = model or fitted_model(job.config, job.where.device)
    return job.explained(explain_config(job.config, model, job.progress, job.where.pool, job.where.device, job.record))


if __name__ == "__main__":
    explain_archive()
