"""`ecgscale plot`: an explained recording on ECG paper."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import click

from ecgscale.cli.command import command
from ecgscale.cli.options import PLACE
from ecgscale.io.places import is_remote
from ecgscale.progress import Progress

SUFFIXES = (".png", ".svg", ".pdf")


@click.command()
@click.argument("root", type=PLACE)
@click.argument("record_id")
@click.option("-o", "--out", type=PLACE, required=True, help="Picture: .png, .svg or .pdf.")
@click.option("--archive", type=PLACE, help="Where the archive is now, if it moved.")
@click.option("--dataset", metavar="ID", help="Which explanations; by default those that are served.")
@click.option("--held", is_flag=True, help="Of a shard that is held back or rejected, so not published.")
@click.option("--layout", type=click.Choice(["3x4", "stacked"]), default="3x4", show_default=True)
@click.option("--from", "start", type=float, metavar="SECONDS", help="Show from here on.")
@click.option("--to", "stop", type=float, metavar="SECONDS", help="Show up to here; long recordings show 10 s.")
@click.option("--dpi", type=click.IntRange(50, 600), default=150, show_default=True, help="Resolution of a .png.")
@command
def plot(
    progress: Progress,
    root: Path,
    record_id: str,
    out: Path,
    archive: Path | None,
    dataset: str | None,
    held: bool,
    layout: str,
    start: float | None,
    stop: float | None,
    dpi: int,
) -> dict[str, Any]:
    """Draw recording RECORD_ID on ECG paper, with the clusters that the network went through.

    25 mm/s and 10 mm/mV, true to scale when printed. Bands behind the traces and the ribbon under them are the
    clusters, named by their ids and coloured the same in every picture; below stands how unsure the assignment is
    (entropy, 0 sure, 1 undecided). ROOT is the folder that `ecgscale explain --out ROOT` wrote to. Recordings of shards
    that the quality gates hold back are drawn with --held; `ecgscale quarantine ROOT --held` lists them.

    \b
      ecgscale plot results 00017_hr -o ecg.png
      ecgscale plot results 00017_hr -o ecg.pdf --layout stacked --from 2 --to 6
      ecgscale plot results 98765_hr --held -o odd.png
    """
    from ecgscale.errors import UsageError
    from ecgscale.report.ecg_paper import LAYOUTS
    from ecgscale.report.explained import load_explained
    from ecgscale.words import counted

    if out.suffix.lower() not in SUFFIXES:
        raise UsageError(f"{out}: a picture ends in {', '.join(SUFFIXES)}, not in {out.suffix!r}")
    if not is_remote(out) and not out.parent.is_dir():
        raise UsageError(f"{out.parent}: no such folder")
    recording = load_explained(root, record_id, archive, dataset, held)
    window = None
    if start is not None or stop is not None:
        begin = start if start is not None else 0.0
        window = (begin, stop if stop is not None else begin + 10.0)
    chosen = next(known for known in LAYOUTS if known == layout)
    picture = BytesIO()
    recording.draw(chosen, window).savefig(picture, dpi=dpi, format=out.suffix[1:].lower())
    out.write_bytes(picture.getvalue())
    clusters = len({band.cluster for band in recording.segments})
    state = f" ({recording.held}, not published)" if recording.held else ""
    segments = counted(len(recording.segments), "segment")
    click.echo(f"{record_id}{state}: {segments} of {counted(clusters, 'cluster')}: {out}")
    return {
        "record_id": record_id,
        "dataset_id": recording.dataset_id,
        "picture": str(out),
        "segments": len(recording.segments),
        "clusters": clusters,
        "outputs": recording.outputs,
        "held": recording.held or None,
    }
