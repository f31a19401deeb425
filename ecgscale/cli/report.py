"""`ecgscale report`: everything about a dataset of explanations on one page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ecgscale.cli.command import command
from ecgscale.cli.options import PLACE
from ecgscale.progress import Progress


@click.command()
@click.argument("root", type=PLACE)
@click.option(
    "-o",
    "--out",
    type=PLACE,
    default=Path("report"),
    show_default=True,
    help="Folder for index.html, or a file ending in .html.",
)
@click.option(
    "--records",
    type=click.IntRange(0, 1000),
    default=60,
    show_default=True,
    help="Recordings to hold; each adds about 55 KB.",
)
@click.option("--dataset", metavar="ID", help="Which explanations; by default those that are served.")
@click.option("--archive", type=PLACE, help="Where the archive is now, if it moved.")
@command
def report(
    progress: Progress, root: Path, out: Path, records: int, dataset: str | None, archive: Path | None
) -> dict[str, Any]:
    """Write one HTML page with all that is known about the explanations below ROOT. It opens without a network.

    On it: a browser of recordings on ECG paper with their clusters, an atlas of the clusters (with names that you can
    give them), whether the clusters hold what the network decides on, how they go with labels, age and the heartbeat,
    how uncertain they are, what was quarantined, and what was run. Evaluations that were made (`ecgscale surrogate`,
    `localise`, …) are shown; for the others the page says how to make them.

    The page holds recordings with their names, ages and labels: treat it as patient data.

    \b
      ecgscale report results
      ecgscale report results -o report.html --records 200
    """
    from ecgscale.report.html import write_report
    from ecgscale.report.subject import open_subject

    subject = open_subject(root, dataset, archive)
    written = write_report(subject, out, records, progress)
    for remark in written.remarks:
        click.echo(f"note: {remark}", err=True)
    size = written.size / 2**20
    click.echo(f"{written.path}: {written.recordings} of {len(subject.rows):,} recordings, {size:.1f} MiB")
    return {
        "page": str(written.path),
        "bytes": written.size,
        "recordings": written.recordings,
        "records": len(subject.rows),
        "dataset_id": subject.dataset_id,
        "evaluations": sorted(subject.evaluations),
        "remarks": written.remarks,
    }
