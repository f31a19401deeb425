"""Fit the cluster model of a configuration on all workers.

ray job submit --working-dir . -- python jobs/fit_clusters.py --config configs/ptbxl.toml
"""

from __future__ import annotations

from typing import Any

import click

from ecgscale.cli.command import say
from ecgscale.cli.options import Job, config_option, job


@click.command()
@config_option
@job
def fit_clusters(job: Job) -> dict[str, Any]:
    """Fit what [fit] asks for; a finished model of the same request is found again.

    An encoder that is not there is trained first, by the driver alone, if there is a [train] section.

    \b
      ray job submit --working-dir . -- python jobs/fit_clusters.py --config configs/ptbxl.toml
    """
    from ecgscale.passes.run.pipeline import fit_config

    fitted = fit_config(job.config, job.progress, job.where.pool, job.where.device)
    facts = {**fitted.facts(), "already_there": fitted.already_there}
    job.record.add(fitted=[facts])
    say(f"{facts['model_id']}: {facts['explained_variance']:.1%} of the variance explained: {fitted.directory}")
    return facts


if __name__ == "__main__":
    fit_clusters()
