"""Charts: lines and boxes by matplotlib, for files and for the page, and the beats of the atlas on ECG paper.

On the page all of them follow its colours (light, dark, print).
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from typing import Any

import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ecgscale.report.page import INK, MM_PER_MV, MM_PER_S
from ecgscale.report.relations import Group
from ecgscale.tables import tag

_PANEL_GAP_MM = 2.0
SOFT, RULE = "#565d66", "#dfe3e7"
LINES = ("#0072b2", "#b45f00", "#007a5a", "#a04a80", "#4a4f57")
THEME = {"ink": INK, "soft": SOFT, "line": RULE} | {f"s{place}": colour for place, colour in enumerate(LINES)}
"""The page's name of each colour of a chart (report.css); on a dark page the names stand for light ones."""


@dataclass(frozen=True)
class Beat:
    """What an atlas card draws: (n_leads, T) mV, and how often the cluster is on at each of the times, 0 … 1."""

    times: NDArray[np.float64]
    signal_mv: NDArray[np.float64]
    leads: tuple[str, ...]
    inside: NDArray[np.float64]


def beat_chart(beat: Beat, leads: Sequence[str], reach: tuple[float, float], colour: str, label: str) -> Markup:
    """Panels of some leads side by side on ECG paper; the unit is the millimetre. `reach` is (lowest, highest) mV."""
    width = (beat.times[-1] - beat.times[0]) * MM_PER_S
    height, panels = (reach[1] - reach[0]) * MM_PER_MV, []
    for place, lead in enumerate(leads):
        left = place * (width + _PANEL_GAP_MM)
        panels.append(_panel(beat, lead, left, width, height, reach, colour))
    whole = len(leads) * (width + _PANEL_GAP_MM) - _PANEL_GAP_MM
    return tag("svg", *panels, viewBox=f"0 0 {whole:.2f} {height:.2f}", class_="beat", role="img", aria_label=label)


def _panel(
    beat: Beat, lead: str, left: float, width: float, height: float, reach: tuple[float, float], colour: str
) -> Markup:
    def x_of(seconds: float) -> float:
        return left + (seconds - beat.times[0]) * MM_PER_S

    parts = [tag("rect", x=left, y=0, width=width, height=height, class_="paper")]
    for step, kind in ((1.0, "fine"), (5.0, "coarse")):
        across = [f"M{left + x:.2f} 0v{height:.2f}" for x in np.arange(0, width + 1e-6, step)]
        down = [f"M{left:.2f} {y:.2f}h{width:.2f}" for y in np.arange(0, height + 1e-6, step)]
        parts.append(tag("path", d="".join(across + down), class_=kind))
    for start, stop, strength in _stretches(beat):
        wide, deep = (stop - start) * MM_PER_S, f"{0.55 * strength:.2f}"
        parts.append(tag("rect", x=x_of(start), y=0, width=wide, height=height, fill=colour, fill_opacity=deep))
    y = (reach[1] - beat.signal_mv[beat.leads.index(lead)]) * MM_PER_MV
    if np.isfinite(y).any():
        x, line, pen = left + (beat.times - beat.times[0]) * MM_PER_S, "", "M"
        for px, py in zip(x.tolist(), np.clip(y, 0, height).tolist(), strict=True):
            line, pen = (line, "M") if py != py else (f"{line}{pen}{round(px, 2):g} {round(py, 2):g}", "L")
        parts.append(tag("path", d=line, class_="trace"))
    else:
        parts.append(tag("text", "not recorded", x=left + width / 2, y=height / 2, class_="absent"))
    parts.append(tag("text", lead, x=left + 1.2, y=4.2, class_="lead"))
    return Markup("").join(parts)


def _stretches(beat: Beat) -> list[tuple[float, float, float]]:
    """(from, to, strength): stretches of time over which the cluster is about equally often on."""
    step = float(beat.times[1] - beat.times[0])
    tenths = np.round(beat.inside * 10).astype(int)
    edges = np.flatnonzero(np.diff(tenths)) + 1
    parts = zip(np.concatenate([[0], edges]), np.concatenate([edges, [len(tenths)]]), strict=True)
    return [
        (float(beat.times[a]), float(beat.times[b - 1]) + step * (b < len(tenths)), tenths[a] / 10)
        for a, b in parts
        if tenths[a] > 0
    ]


def reach_of(beats: Mapping[int, Beat], leads: Sequence[str]) -> tuple[float, float]:
    """(lowest, highest) mV that holds these leads of all beats, in steps of 0.5 mV, −1 … 1 at least, −3 … 3 at most."""
    low, high = -1.0, 1.0
    for beat in beats.values():
        shown = beat.signal_mv[[beat.leads.index(lead) for lead in leads]]
        if np.isfinite(shown).any():
            low, high = min(low, float(np.nanmin(shown))), max(high, float(np.nanmax(shown)))
    return max(np.floor(low * 2) / 2, -3.0), min(np.ceil(high * 2) / 2, 3.0)


_STYLE: dict[Any, Any] = {
    "text.parse_math": False,
    "font.size": 8,
    "axes.titlesize": 9,
    "legend.fontsize": 8,
    "text.color": INK,
    "axes.labelcolor": INK,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
}
"""Of figures for the page and for files; text is text, whatever signs it holds."""


@dataclass(frozen=True)
class Series:
    """A line of a chart; `spread` (n,) is drawn as bars up and down where known."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    spread: Sequence[float] | None = None


def plot_lines(
    axes: Axes, series: Sequence[Series], x_axis: str, y_axis: str, x_names: Sequence[str] | None = None
) -> None:
    """Lines over a common x; colours, marks and dashes keep them apart for all eyes and in grey.

    `x_names` stand under 0, 1, … if given.
    """
    for place, one in enumerate(series):
        colour, mark, dash = (of[place % len(of)] for of in (LINES, "osD^P", ("-", "--", ":", "-.", (0, (5, 5)))))
        style: dict[str, Any] = {"color": colour, "marker": mark, "linestyle": dash, "markersize": 4, "linewidth": 1.4}
        axes.errorbar(one.x, one.y, yerr=one.spread, label=one.name, capsize=2, **style)
    axes.set(xlabel=x_axis, ylabel=y_axis)
    if x_names:
        axes.set_xticks(range(len(x_names)), x_names)
    axes.grid(axis="y", color=RULE, linewidth=0.6)


@mpl.rc_context(_STYLE)
def line_chart(
    series: Sequence[Series],
    x_axis: str,
    y_axis: str,
    x_names: Sequence[str] | None = None,
    *,
    title: str = "",
    from_zero: bool = False,
) -> Figure:
    """One chart of lines, with a legend where there are several."""
    figure, axes = _plain(260)
    plot_lines(axes, series, x_axis, y_axis, x_names)
    if from_zero:
        axes.set_ylim(bottom=0)
    if len(series) > 1:
        axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    axes.set_title(title, loc="left")
    return figure


@mpl.rc_context(_STYLE)
def box_chart(groups: Sequence[Group], axis: str) -> Figure:
    """One box a group: whiskers 5 to 95 %, box 25 to 75 %, line at the median; counts at the right."""
    figure, axes = _plain(22 * len(groups) + 46)
    places = np.arange(len(groups))
    low, first, middle, third, high = np.array([group.quantiles for group in groups]).T
    axes.hlines([places, places], [low, third], [first, high], color=SOFT, linewidth=0.8)
    axes.barh(places, third - first, 0.55, first, color=f"{LINES[0]}4d", edgecolor=LINES[0], linewidth=0.8)
    axes.vlines(middle, places - 0.275, places + 0.275, color=INK, linewidth=1.6)
    axes.set_yticks(places, [group.name for group in groups])
    axes.invert_yaxis()
    axes.set_xlabel(axis)
    axes.grid(axis="x", color=RULE, linewidth=0.6)
    for place, group in enumerate(groups):
        axes.text(1.08, place, f"{group.records:,}", transform=axes.get_yaxis_transform(), ha="right", va="center")
    below: dict[str, Any] = {
        "xytext": (0, -14),
        "textcoords": "offset points",
        "ha": "right",
        "va": "top",
        "color": SOFT,
    }
    axes.annotate("records", (1.08, 0), xycoords="axes fraction", **below)
    return figure


def _plain(height: float) -> tuple[Figure, Axes]:
    """A figure of 640 pixels' width on the page, without a frame."""
    figure = Figure(figsize=(6.4, height / 100), layout="constrained")
    axes = figure.subplots()
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.set_axisbelow(True)
    return figure, axes


def inline(figure: Figure, label: str) -> Markup:
    """A figure as SVG within the page: its text alternative, its colours from the page, its words as text.

    What is of use in a file of its own alone goes: the declaration, metadata, styles for whole documents, and names of
    elements, which several figures on one page would share.
    """
    stream = StringIO()
    with mpl.rc_context({"svg.hashsalt": label, "svg.fonttype": "none"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")
        figure.savefig(stream, format="svg", transparent=True)
    svg = stream.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r' id="[\w.]+_\d+"', "", svg[svg.index("<svg") + 4 :])
    svg = re.sub(r" font-family: [^;\"]*;| transform=\"rotate\(-0 [^\"]*\"|\n *(?=<)|<g/>", "", svg)
    for name, colour in THEME.items():
        svg = svg.replace(f": {colour}", f": var(--{name})")
    return Markup('<svg class="chart" role="img" aria-label="{}"').format(label) + Markup(svg)
