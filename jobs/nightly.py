"""Every night: explain what is new in the archive, with the model that is published, and nothing else.

ray job submit --working-dir . -- python jobs/nightly.py --config configs/nightly.toml
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ecgscale.cli.explain import night_facts
from ecgscale.cli.options import Job, config_option, job, model_option, recompute_option, withdrawal_option


@click.command()
@config_option
@model_option
@recompute_option
@withdrawal_option
@job
def nightly(job: Job, model: Path | None, allow_recompute: bool, allow_withdrawal: bool) -> dict[str, Any]:
    """Ingest, explain, judge and publish what is new since the last time: `ecgscale nightly` on a cluster.

    The model stays that of what is served, however the archive has grown: clusters of tonight mean what those of
    yesterday meant. Nothing is trained or fitted. Where nothing is new, the job takes seconds.

    \b
      ray job submit --working-dir . -- python jobs/nightly.py --config configs/nightly.toml
    """
    return night_facts(job, model, allow_recompute, allow_withdrawal)


if __name__ == "__main__":
    nightly()
