"""Publication figures: the atlas, correlations, surrogates, sweeps and example recordings, as PNG and as SVG."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle

from ecgscale.progress import SILENT, Progress
from ecgscale.report.atlas import Atlas, ClusterFacts, atlas_of
from ecgscale.report.blocks import hundredths
from ecgscale.report.charts import LINES, RULE, SOFT, reach_of
from ecgscale.report.explained import load_explained
from ecgscale.report.page import INK, MM_PER_MV, MM_PER_S, PALETTE, colour_of, millimetres, write
from ecgscale.report.recordings import choose_records
from ecgscale.report.relations import Correlations, correlations, label_variables, output_variables
from ecgscale.report.subject import Subject
from ecgscale.report.surrogate import figure_rows, surrogate_of
from ecgscale.report.sweeps import sweep_series
from ecgscale.tables import percent

_ATLAS_COLUMNS = 4


def draw_atlas(atlas: Atlas) -> Figure:
    """All clusters with a beat, on paper of 25 mm/s and 10 mm/mV, true to scale."""
    shown = [facts for facts in atlas.clusters if facts.beat is not None]
    beats = {facts.cluster: facts.beat for facts in shown if facts.beat is not None}
    low, high = reach_of(beats, atlas.leads)
    first = next(iter(beats.values()))
    panel = float(first.times[-1] - first.times[0]) * MM_PER_S
    wide, tall = len(atlas.leads) * (panel + 2) + 4, (high - low) * MM_PER_MV + 11
    rows = -(-len(shown) // _ATLAS_COLUMNS)
    axes = millimetres(0, wide * _ATLAS_COLUMNS + 4, 0, tall * rows + 10)
    for place, facts in enumerate(shown):
        row, column = divmod(place, _ATLAS_COLUMNS)
        corner = (4 + column * wide, (rows - row - 1) * tall + 8)
        _draw_card(axes, facts, atlas.leads, corner, (low, high), panel)
    aligned = "aligned at the R peak, tinted by how often the cluster is on"
    where = aligned if atlas.aligned else "around segments' middle"
    axes.text(4, 3, f"25 mm/s, 10 mm/mV; mean signal {where}", fontsize=7, color=SOFT)
    return axes.get_figure(root=True)  # type: ignore[return-value]


def _draw_card(
    axes: Axes,
    facts: ClusterFacts,
    leads: Sequence[str],
    corner: tuple[float, float],
    reach: tuple[float, float],
    panel: float,
) -> None:
    assert facts.beat is not None
    (left, bottom), (low, high), colour = corner, reach, PALETTE[facts.cluster % len(PALETTE)]
    top = bottom + (high - low) * MM_PER_MV
    write(axes, left, top + 1.6, str(facts.cluster), 9, weight="bold")
    write(axes, left + 6, top + 1.6, f"{facts.name or ''}  {percent(facts.share, 1)}", 7)
    for place, lead in enumerate(leads):
        start = left + place * (panel + 2)
        x = start + (facts.beat.times - facts.beat.times[0]) * MM_PER_S
        for step, shade, weight in ((1.0, "#f3dcdc", 0.2), (5.0, "#e6b5b5", 0.4)):
            axes.vlines(np.arange(start, start + panel + 1e-6, step), bottom, top, colors=shade, linewidths=weight)
            axes.hlines(np.arange(bottom, top + 1e-6, step), start, start + panel, colors=shade, linewidths=weight)
        strength = np.repeat(facts.beat.inside[None, :] * 0.55, 2, axis=0)
        tint = np.ones((*strength.shape, 4))
        tint[..., :3], tint[..., 3] = colour_of(facts.cluster), strength
        axes.imshow(tint, extent=(x[0], x[-1], bottom, top), aspect="auto", interpolation="nearest", zorder=2)
        signal = np.clip(facts.beat.signal_mv[facts.beat.leads.index(lead)], low, high)
        axes.plot(x, bottom + (signal - low) * MM_PER_MV, color=INK, linewidth=0.8, zorder=3)
        write(axes, start + 0.8, top - 3.4, lead, 6.5, weight="bold", zorder=4)
    axes.add_patch(Rectangle((left, top + 0.6), 4.6, 0.7, facecolor=colour, linewidth=0))


def draw_correlations(subject: Subject) -> Figure:
    """Pearson's r of proportions with true labels (above) and with the network's outputs (below)."""
    x, panels = subject.rows.proportions, []
    labels = label_variables(subject)
    if labels:
        panels.append(("true labels", correlations(x, labels)))
    panels.append(("the network's outputs", correlations(x, output_variables(subject))))
    tall = [0.32 * len(found.variables) + 0.9 for _, found in panels]
    figure = Figure(figsize=(0.36 * x.shape[1] + 2.4, sum(tall) + 0.3), layout="constrained")
    grid = figure.add_gridspec(len(panels), 1, height_ratios=tall)
    axes = [figure.add_subplot(grid[i, 0]) for i in range(len(panels))]
    images = [_draw_matrix(ax, found, title) for ax, (title, found) in zip(axes, panels, strict=True)]
    axes[-1].set_xlabel("cluster", fontsize=8)
    bar = figure.colorbar(images[0], ax=axes, shrink=0.6, pad=0.01)
    bar.set_label("Pearson's r", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    return figure


def _draw_matrix(ax: Axes, found: Correlations, title: str) -> AxesImage:
    colours = LinearSegmentedColormap.from_list("r", ["#a84300", "#ffffff", "#0062a0"])
    image = ax.imshow(np.ma.masked_invalid(found.r), cmap=colours, vmin=-1, vmax=1, aspect="auto")
    ax.set_title(title, fontsize=9, loc="left")
    ax.set_xticks(range(found.r.shape[1]))
    ax.set_yticks(range(len(found.variables)))
    for label in ax.set_yticklabels(found.variables, fontsize=8):
        label.set_parse_math(False)
    ax.tick_params(length=0, labelsize=7)
    ax.spines[:].set_visible(False)
    for (row, column), r in np.ndenumerate(found.r):
        if np.isfinite(r):
            ink = "white" if abs(r) > 0.6 else INK
            ax.text(column, row, hundredths(r), fontsize=5.5, ha="center", va="center", color=ink)
    return image


def draw_surrogate(facts: Mapping[str, Any]) -> Figure:
    """Forests, network, most frequent answer and baselines side by side, with 95 % intervals."""
    panels = figure_rows(facts)
    rows = max(len(entries) for _, entries in panels)
    figure = Figure(figsize=(3.6 * len(panels) + 1.6, 0.3 * rows + 1.2), layout="constrained")
    for ax, (title, entries) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for place, (_, value, interval) in enumerate(reversed(entries)):
            own = place == len(entries) - 1
            ax.plot([value], [place], "o", color=LINES[0] if own else SOFT, markersize=5 if own else 4)
            if interval:
                ax.plot(interval, [place, place], color=LINES[0] if own else SOFT, linewidth=1.2)
        ax.set_yticks(range(len(entries)))
        for label in ax.set_yticklabels([name for name, _, _ in reversed(entries)], fontsize=7):
            label.set_parse_math(False)
        ax.set_title(title, fontsize=9, loc="left")
        ax.grid(axis="x", color=RULE, linewidth=0.6)
        ax.tick_params(labelsize=7)
        ax.spines[["top", "right", "left"]].set_visible(False)
    return figure


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
                yield f"{slug(name)}-{place + 1}", partial(sweep.draw, sweep.title)
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
