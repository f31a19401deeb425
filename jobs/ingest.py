"""Make the archive of a configuration, if it is not there: from its source, or simulated, on all workers.

ray job submit --working-dir . -- python jobs/ingest.py --config configs/ptbxl.toml
"""

from __future__ import annotations

from typing import Any

import click

from ecgscale.cli.command import say
from ecgscale.cli.options import Job, config_option, job


@click.command()
@config_option
@job
def ingest(job: Job) -> dict[str, Any]:
    """Make the archive that [archive] describes; one that is there is left alone.

    All workers do it if [archive] says how many shard_records there are (source = "code15" comes in parts anyway).

    \b
      ray job submit --working-dir . -- python jobs/ingest.py --config configs/ptbxl.toml
    """
    from ecgscale.passes.run.pipeline import make_archive, to_be_made

    made = "archive" in to_be_made(job.config)
    archive = make_archive(job.config, job.progress, job.where.pool)
    info = archive.info
    facts = {
        "archive": str(archive.path),
        "archive_id": archive.archive_id,
        "records": info["records"],
        "shards": info["shards"],
        "made": made,
    }
    job.record.add(archive=facts)
    there = "" if made else " (was there)"
    say(f"{info['records']} records in {info['shards']} shards: {archive.path}{there}")
    return facts


if __name__ == "__main__":
    ingest()
