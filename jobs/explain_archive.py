"""Explain the archive of a configuration with the model that was fitted for it.

ray job submit --working-dir . -- python jobs/explain_archive.py --config configs/ptbxl.toml
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ecgscale.cli.options import Job, config_option, job, model_option, recompute_option, withdrawal_option


@click.command()
@config_option
@model_option
@recompute_option
@withdrawal_option
@job
def explain_archive(job: Job, model: Path | None, allow_recompute: bool, allow_withdrawal: bool) -> dict[str, Any]:
    """Explain every record; stopped or failed, the same job goes on where it was.

    The model is that of jobs/fit_clusters.py with the same file, unless --model names another.

    \b
      ray job submit --working-dir . -- python jobs/explain_archive.py --config configs/ptbxl.toml
    """
    from ecgscale.passes.explain.guard import Guard
    from ecgscale.passes.run.pipeline import explain_config, fitted_model

    config, where = job.config, job.where
    model = model or fitted_model(config, where.device)
    guard = Guard(config.root, allow_recompute, allow_withdrawal, config.nightly)
    return job.explained(explain_config(config, model, job.progress, where.pool, where.device, job.record, guard=guard))


if __name__ == "__main__":
    explain_archive()
