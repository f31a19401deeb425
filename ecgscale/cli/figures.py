"""`ecgscale figures`: pictures for a paper, or for a reader study."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import click

from ecgscale.cli.command import command
from ecgscale.cli.options import PLACE
from ecgscale.io.places import local_folder
from ecgscale.progress import Progress

if TYPE_CHECKING:
    from ecgscale.report.subject import Subject


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
@click.option("--dataset", metavar="ID", help="Which explanations; by default those that are served.")
@click.option("--archive", type=PLACE, help="Where the archive is now, if it moved.")
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
        click.echo(f"note: {remark}", err=True)
    click.echo(f"{len(made)} files in {out}")
    return {"files": [str(path) for path in made], "dataset_id": subject.dataset_id, "remarks": remarks}


def _study(subject: Subject, out: Path, cases: int, seed: int, progress: Progress) -> dict[str, Any]:
    from ecgscale.report.reader_study import write_study

    # The key lies beside the folder that the readers get.
    with TemporaryDirectory() as scratch, local_folder(out.parent, Path(scratch)) as beside:
        study = write_study(subject, beside / out.name, cases, seed, progress)
        study = replace(study, folder=out, key=out.parent / study.key.name)
    for remark in study.remarks:
        click.echo(f"note: {remark}", err=True)
    click.echo(f"{study.pictures} pictures of {study.cases} cases ({', '.join(study.kinds)}) in {study.folder}")
    click.echo(f"the key is {study.key}: keep it from the readers")
    return {
        "folder": str(study.folder),
        "key": str(study.key),
        "cases": study.cases,
        "kinds": list(study.kinds),
        "pictures": study.pictures,
        "dataset_id": subject.dataset_id,
        "remarks": study.remarks,
    }
