"""Check what was published: how much of the network the cluster proportions hold.

ray job submit --working-dir . -- python jobs/evaluate.py --config configs/ptbxl.toml
"""

from __future__ import annotations

from typing import Any

import click

from ecgscale.cli.command import say
from ecgscale.cli.options import Job, config_option, job


@click.command()
@config_option
@job
def evaluate(job: Job) -> dict[str, Any]:
    """Score the surrogate that [surrogate] describes on what was published last; without the section, its defaults.

    \b
      ray job submit --working-dir . -- python jobs/evaluate.py --config configs/ptbxl.toml
    """
    from ecgscale.cli.surrogate import summary
    from ecgscale.evaluate.surrogate.check import check_published
    from ecgscale.passes.spread import Spread

    asked = job.config.surrogate
    with Spread(job.where.pool) as spread:
        checked = check_published(
            job.config.root,
            asked.target if asked else None,
            train_folds=(asked.train_folds if asked else None) or (),
            test_folds=(asked.test_folds if asked else None) or (),
            spread=spread,
            progress=job.progress,
        )
    job.record.add(surrogate=checked.to_dict())
    say(*summary(checked.result))
    return checked.to_dict()


if __name__ == "__main__":
    evaluate()
