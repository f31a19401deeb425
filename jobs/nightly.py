"""Every night: explain what is new in the archive, with the model that is published, and nothing else.

ray job submit --working-dir . -- python jobs/nightly.py --config configs/nightly.toml
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ecgscale.cli.job import Job, config_option, job, model_option


@click.command()
@config_option
@model_option
@job
def nightly(job: Job, model: Path | None) -> dict[str, Any]:
    """Explain shards that came or changed since the last time, and publish them with the rest.

    The model stays that of what was published last, however the archive has grown: clusters of tonight mean what those
    of yesterday meant. Nothing is trained or fitted. Where nothing is new, the job takes seconds.

    \b
      ray job submit --working-dir . -- python jobs/nightly.py --config configs/nightly.toml
    """
    from ecgscale.passes.pipeline import explain_config, published_model

    model = model or published_model(job.config)
    job.progress.say(f"model: {model}")
    return job.explained(explain_config(job.config, model, job.progress, job.where.pool, job.where.device, job.record))


if __name__ == "__main__":
    nightly()
