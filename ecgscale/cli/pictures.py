"""What people look at: `plot`, `report` and `figures`."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import click

from ecgscale.cli.command import command, say
from ecgscale.cli.options import PLACE, archive_option, dataset_option
from ecgscale.errors import UsageError
from ecgscale.io.places import is_remote, local_folder
from ecgscale.progress import Progress
from ecgscale.words import counted

if TYPE_CHECKING:
    from ecgscale.report.subject import Subject

SUFFIXES = (".png", ".svg", ".pdf")


@click.command()
@click.argument("root", type=PLACE)
@click.argument("record_id")
@click.option("-o", "--out", type=PLACE, required=True, help="Picture: .png, .svg or .pdf.")
@archive_option
@dataset_option
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
    from ecgscale.report.ecg_paper import LAYOUTS
    from ecgscale.report.explained import load_explained

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
    say(f"{record_id}{state}: {segments} of {counted(clusters, 'cluster')}: {out}")
    return {
        "record_id": record_id,
        "dataset_id": recording.dataset_id,
        "picture": str(out),
        "segments": len(recording.segments),
        "clusters": clusters,
        "outputs": recording.outputs,
        "held": recording.held or None,
    }


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
@dataset_option
@archive_option
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
        say(f"note: {remark}", err=True)
    mib = written.size / 2**20
    say(f"{written.path}: {written.recordings} of {len(subject.rows):,} recordings, {mib:.1f} MiB")
    return {
        "page": str(written.path),
        "bytes": written.size,
        "recordings": written.recordings,
        "records": len(subject.rows),
        "dataset_id": subject.dataset_id,
        "evaluations": sorted(subject.evaluations),
        "remarks": written.remarks,
    }


@click.command()
@click.argument("root", type=PLACE)
@click.option("-o", "--out", type=PLACE, required=True, help="Folder for the pictures.")
@click.option(
    "--records", type=click.IntRange(0, 200), default=6, show_default=True, help="Example recordings to draw."
)
@click.option(
    "--reader-study", "cases", type=click.IntRange(2), metavar="CASES", help="Instead, export so many cases, blinded."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the reader study's draws.")
@dataset_option
@archive_option
@command
def figures(
    progress: Progress,
    root: Path,
    out: Path,
    records: int,
    cases: int | None,
    seed: int,
    dataset: str | None,
    archive: Path | None,
) -> dict[str, Any]:
    """Draw the figures of a publication as PNG (300 dpi) and SVG.

    The atlas of clusters, correlations of proportions with labels and outputs, surrogates and sweeps where those were
    evaluated, and example recordings on ECG paper. Names that were given to clusters (see `ecgscale report`) stand in
    the atlas.

    --reader-study draws cases for a blinded crossover instead: in every session each case once, over the sessions with
    clusters, with Grad-CAM (if the network was probed) and with neither, in drawn order, with sheets for answers. The
    key is written beside the folder, as FOLDER.key.csv: keep it from the readers.

    \b
      ecgscale figures results -o figures
      ecgscale figures results -o study --reader-study 40
    """
    from ecgscale.report.subject import open_subject

    subject = open_subject(root, dataset, archive)
    if cases is not None:
        return _study(subject, out, cases, seed, progress)
    from ecgscale.report.figures import write_figures

    with TemporaryDirectory() as scratch, local_folder(out, Path(scratch)) as folder:
        made, remarks = write_figures(subject, folder, records, progress)
        made = [out / path.relative_to(folder) for path in made]
    for remark in remarks:
        say(f"note: {remark}", err=True)
    say(f"{len(made)} files in {out}")
    return {"files": [str(path) for path in made], "dataset_id": subject.dataset_id, "remarks": remarks}


def _study(subject: Subject, out: Path, cases: int, seed: int, progress: Progress) -> dict[str, Any]:
    from ecgscale.report.reader_study import write_study

    # The key lies beside the folder that the readers get.
    with TemporaryDirectory() as scratch, local_folder(out.parent, Path(scratch)) as parent:
        study = write_study(subject, parent / out.name, cases, seed, progress)
        study = replace(study, folder=out, key=out.parent / study.key.name)
    for remark in study.remarks:
        say(f"note: {remark}", err=True)
    say(f"{study.pictures} pictures of {study.cases} cases ({', '.join(study.kinds)}) in {study.folder}")
    say(f"the key is {study.key}: keep it from the readers")
    return {
        "folder": str(study.folder),
        "key": str(study.key),
        "cases": study.cases,
        "kinds": list(study.kinds),
        "pictures": study.pictures,
        "dataset_id": subject.dataset_id,
        "remarks": study.remarks,
    }
