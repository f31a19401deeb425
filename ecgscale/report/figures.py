"""Publication figures: the atlas, correlations, surrogates, sweeps and example recordings, as PNG and as SVG."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from ecgscale.progress import SILENT, Progress
from ecgscale.report.atlas import atlas_of, surrogate_of
from ecgscale.report.choice import choose_records
from ecgscale.report.explained import load_explained
from ecgscale.report.plates import draw_atlas, draw_correlations, draw_surrogate, draw_sweep
from ecgscale.report.subject import Subject
from ecgscale.report.sweeps import sweep_series

FORMATS = ("png", "svg")
DPI = 300


def write_figures(
    subject: Subject, out: str | Path, n_recordings: int = 6, progress: Progress = SILENT
) -> tuple[list[Path], list[str]]:
    """(the files written to folder `out`, what could not be drawn and why), each figure in every one of `FORMATS`."""
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    remarks: list[str] = []
    made: list[Path] = []
    figures = list(_figures(subject, n_recordings, remarks, progress))
    with progress.stage("figures", len(figures), "figures") as stage:
        for name, draw in figures:
            figure = draw()
            for suffix in FORMATS:
                made.append(folder / f"{name}.{suffix}")
                save(figure, made[-1])
            stage.advance()
    return made, remarks


def save(figure: Figure, path: Path) -> None:
    """Write a figure; the same figure gives the same bytes."""
    with mpl.rc_context({"svg.hashsalt": "ecgscale"}):
        kept: dict[str, Any] = {"Date": None} if path.suffix == ".svg" else {}
        figure.savefig(path, dpi=DPI, metadata=kept)


Drawing = tuple[str, Callable[[], Figure]]


def _figures(subject: Subject, n_recordings: int, remarks: list[str], progress: Progress) -> Iterator[Drawing]:
    atlas = atlas_of(subject, progress)
    if any(facts.beat is not None for facts in atlas.clusters):
        yield "atlas", partial(draw_atlas, atlas)
    else:
        remarks.append(f"no atlas: {subject.archive_note or 'too few segments of every cluster'}")
    yield "correlations", partial(draw_correlations, subject)
    name = surrogate_of(subject)
    if name is not None:
        yield "surrogate", partial(draw_surrogate, subject.evaluations[name].facts)
    else:
        remarks.append("no figure of surrogates: `ecgscale surrogate` has not been run")
    for name in subject.evaluations:
        if name.startswith("sweep"):
            for place, sweep in enumerate(sweep_series(subject.evaluations[name])):
                yield f"{slug(name)}-{place + 1}", partial(draw_sweep, sweep)
    yield from _recordings(subject, n_recordings, remarks)


def _recordings(subject: Subject, n: int, remarks: list[str]) -> Iterator[Drawing]:
    if subject.archive is None:
        remarks.append(f"no recordings: {subject.archive_note}")
        return
    for place, (row, reasons) in enumerate(choose_records(subject, n).items()):
        record = subject.rows.record_ids[row]
        yield f"recording-{place + 1}-{slug(reasons[0])}", partial(_draw_record, subject, record)


def _draw_record(subject: Subject, record: str) -> Figure:
    where = subject.archive.path if subject.archive else None
    return load_explained(subject.root, record, where, subject.dataset_id).draw()


def slug(text: str) -> str:
    """Text as a part of a file name."""
    return re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-").lower() or "unnamed"
