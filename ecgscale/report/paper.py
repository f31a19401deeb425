"""What stands around the traces of a recording: text above and below, the cluster ribbon, the entropy, the legend.

Paper of 25 mm/s makes short recordings narrow pictures: text that stands in one line above ten seconds takes two or
three above five. Widths are measured with the renderer that draws them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from ecgscale.report.page import INK, MM_PER_INCH, MM_PER_S, Band, Page, colour_of, ink_on, write
from ecgscale.words import printable

SCALE_PT, FOOTER_PT = 7.0, 6.5
_TITLE_PT, _SUBTITLE_PT = 11.0, 8.0
_FIRST_MM = 2.8  # baseline of the lowest line above the traces
_TITLE_ABOVE_MM, _TITLE_PITCH_MM, _SUBTITLE_PITCH_MM, _SCALE_PITCH_MM = 4.7, 5.0, 3.8, 3.6
_GAP_MM = 4.0
_DPI = 300
# Hinting makes text a little wider at low resolutions than where it is measured.
_SLACK = 1.03


@dataclass(frozen=True)
class Line:
    """A line of text: its size in points, its baseline in millimetres above the traces, and at which side it ends."""

    text: str
    size: float
    baseline: float
    bold: bool = False
    right: bool = False


@lru_cache(maxsize=1024)
def width_mm(text: str, size: float, bold: bool = False) -> float:
    """Millimetres that a text of so many points takes."""
    figure = Figure(dpi=_DPI)
    canvas = FigureCanvasAgg(figure)
    drawn = figure.text(0, 0, printable(text), fontsize=size, weight="bold" if bold else "normal", parse_math=False)
    return float(drawn.get_window_extent(canvas.get_renderer()).width) / _DPI * MM_PER_INCH * _SLACK


def lines_within(text: str, size: float, width: float, bold: bool = False) -> tuple[list[str], float]:
    """`text` in lines of at most `width` millimetres, and the size in points that they need for it.

    Broken where two or more spaces stand; within such a piece only where the piece alone is too wide; smaller where a
    single word is. One empty line for an empty text.
    """
    lines = [""]
    for piece in re.split(r"\s{2,}", text.strip()):
        words = [piece] if width_mm(piece, size, bold) <= width else piece.split(" ")
        for at, word in enumerate(words):
            joined = f"{lines[-1]}{' ' if at else '   '}{word}" if lines[-1] else word
            if lines[-1] and width_mm(joined, size, bold) > width:
                lines.append(word)
            else:
                lines[-1] = joined
    widest = max(width_mm(line, size, bold) for line in lines)
    return lines, size * min(1.0, width / widest if widest else 1.0)


def heading(title: str, subtitle: str, scale: str, part: str, width: float) -> tuple[list[Line], float]:
    """The lines above the traces, and the millimetres they need beyond the two lines of a wide page.

    `scale` and `part` (which stretch is shown) stand right of title and subtitle, or above both where there is no room.
    """
    pairs = [(title, _TITLE_PT, True, scale), (subtitle, _SUBTITLE_PT, False, part)]
    wide = all(
        width_mm(left, size, bold) + (_GAP_MM if left and right else 0.0) + width_mm(right, SCALE_PT) <= width
        for left, size, bold, right in pairs
    )
    lines: list[Line] = []
    below, small = lines_within(subtitle, _SUBTITLE_PT, width)
    for at, text in enumerate(reversed(below)):
        lines.append(Line(text, small, _FIRST_MM + at * _SUBTITLE_PITCH_MM))
    first = lines[-1].baseline + _TITLE_ABOVE_MM
    above, large = lines_within(title, _TITLE_PT, width, bold=True)
    for at, text in enumerate(reversed(above)):
        lines.append(Line(text, large, first + at * _TITLE_PITCH_MM, bold=True))
    if wide:
        lines.append(Line(scale, SCALE_PT, first, right=True))
        lines.append(Line(part, SCALE_PT, _FIRST_MM, right=True))
    else:
        top = lines[-1].baseline + _TITLE_PITCH_MM
        both, size = lines_within(f"{part}     {scale}", SCALE_PT, width)
        for at, text in enumerate(reversed(both)):
            lines.append(Line(text, size, top + at * _SCALE_PITCH_MM, right=True))
    lines.sort(key=lambda line: -line.baseline)
    return [line for line in lines if line.text], lines[0].baseline - _FIRST_MM - _TITLE_ABOVE_MM


def draw_heading(axes: Axes, lines: list[Line], width: float, traces_mm: float) -> None:
    """Draw the lines of a heading above traces of so many millimetres."""
    for line in lines:
        x, side = (width, "right") if line.right else (0, "left")
        weight = "bold" if line.bold else "normal"
        write(axes, x, traces_mm + line.baseline, line.text, line.size, weight=weight, ha=side, va="baseline")


Curve = tuple[NDArray[np.floating], NDArray[np.floating]]

_STRIP_GAP_MM = 2.5
_RIBBON_MM = 4.5
_ENTROPY_MM = 15.0
_AXIS_MM = 5.0
_LEGEND_ROW_MM = 4.6
_LEGEND_ENTRY_MM = 21.0
_FOOTER_MM = 5.0
_FOOTER_PITCH_MM = 3.2
_LEGEND_ROWS = 3


def strips_height(segments: Sequence[Band], entropy: Curve | None, width: float, footer: str = "") -> float:
    """Millimetres that the strips of these segments need on a page of `width` millimetres."""
    height = _FOOTER_MM + _AXIS_MM + _FOOTER_PITCH_MM * (len(lines_within(footer, FOOTER_PT, width)[0]) - 1)
    if segments:
        height += _STRIP_GAP_MM + _RIBBON_MM + _STRIP_GAP_MM + _LEGEND_ROW_MM * _legend_rows(_shares(segments), width)
    if segments or entropy is not None:
        height += 1.0 + _ENTROPY_MM
    return height


def draw_strips(
    page: Page, shown: Sequence[Band], segments: Sequence[Band], entropy: Curve | None, footer: str
) -> None:
    """Ribbon, entropy and time axis of the bands `shown`, then the legend of all `segments`, then the footer."""
    y = 0.0
    if segments:
        y -= _STRIP_GAP_MM + _RIBBON_MM
        _draw_ribbon(page, shown, y)
    if segments or entropy is not None:
        y -= 1.0 + _ENTROPY_MM
        _draw_entropy(page, shown, entropy, y)
    y -= _AXIS_MM
    _draw_seconds(page, y)
    if segments:
        y -= _STRIP_GAP_MM
        y = _draw_legend(page, _shares(segments), y)
    lines, size = lines_within(footer, FOOTER_PT, page.width)
    for at, line in enumerate(lines):
        baseline = y - _FOOTER_MM + 1.0 - at * _FOOTER_PITCH_MM
        write(page.axes, 0, baseline, line, size, color="#666666", va="baseline")


def _shares(segments: Sequence[Band]) -> list[tuple[int, float]]:
    """(cluster, share of the time covered), the largest first."""
    clusters = np.array([band[2] for band in segments])
    spans = np.array([band[1] - band[0] for band in segments])
    totals = np.bincount(clusters, weights=spans)
    order = np.lexsort((np.arange(len(totals)), -totals))
    return [(int(cluster), float(totals[cluster] / spans.sum())) for cluster in order if totals[cluster] > 0]


def _label(page: Page, text: str, y: float) -> None:
    write(page.axes, -2.5, y, text, 7, ha="right", va="center")


def _draw_ribbon(page: Page, shown: Sequence[Band], y: float) -> None:
    _label(page, "cluster", y + _RIBBON_MM / 2)
    for band in shown:
        left, right = page.x(max(band.start_s, page.window[0])), page.x(min(band.stop_s, page.window[1]))
        page.axes.add_patch(
            Rectangle((left, y), right - left, _RIBBON_MM, facecolor=colour_of(band.cluster), linewidth=0, zorder=4)
        )
        if right - left >= 1.3 * len(str(band.cluster)) + 0.6:
            _number(page, (left + right) / 2, y + _RIBBON_MM / 2, band.cluster, zorder=5)


def _number(page: Page, x: float, y: float, cluster: int, **style: Any) -> None:
    """The number of a cluster on its colour."""
    centred = {"ha": "center", "va": "center_baseline"}
    write(page.axes, x, y - 0.1, str(cluster), 5.5, color=ink_on(cluster), **centred, **style)


def _draw_entropy(page: Page, shown: Sequence[Band], entropy: Curve | None, y: float) -> None:
    """Entropy 0..1 as a filled curve, or one step a segment where it is not known moment by moment."""
    axes = page.axes
    _label(page, "entropy", y + _ENTROPY_MM / 2)
    for level in (0.0, 0.5, 1.0):
        height = y + level * _ENTROPY_MM
        axes.plot([0, page.width], [height] * 2, color="#bbbbbb", linewidth=0.4, zorder=2)
        write(axes, page.width + 0.8, height, f"{level:g}", 5.5, va="center")
    if entropy is not None:
        times, values = np.asarray(entropy[0], float), np.asarray(entropy[1], float)
        kept = (times >= page.window[0]) & (times <= page.window[1])
        x, curve = (times[kept] - page.window[0]) * MM_PER_S, y + values[kept] * _ENTROPY_MM
        axes.fill_between(x, y, curve, color="#9aa7b5", alpha=0.55, linewidth=0, zorder=3)
        axes.plot(x, curve, color="#34495e", linewidth=0.7, zorder=4)
        return
    edges = [(max(b.start_s, page.window[0]), min(b.stop_s, page.window[1]), b.entropy) for b in shown]
    for start, stop, value in edges:
        left, right, height = page.x(start), page.x(stop), value * _ENTROPY_MM
        axes.add_patch(Rectangle((left, y), right - left, height, color="#9aa7b5", alpha=0.55, linewidth=0, zorder=3))
        axes.plot([left, right], [y + height] * 2, color="#34495e", linewidth=0.8, zorder=4)


def _draw_seconds(page: Page, y: float) -> None:
    top = y + _AXIS_MM
    first, last = page.window
    for second in np.arange(int(np.ceil(first - 1e-9)), last + 1e-9):
        page.axes.plot([page.x(second)] * 2, [top, top - 1.0], color=INK, linewidth=0.4)
        text = f"{second:g} s" if second + 1 > last + 1e-9 else f"{second:g}"
        write(page.axes, page.x(second), top - 1.6, text, 6, ha="center", va="top")


def _per_row(width: float) -> int:
    return max(int(width // _LEGEND_ENTRY_MM), 1)


def _legend_rows(shares: Sequence[tuple[int, float]], width: float) -> int:
    return min(-(-len(shares) // _per_row(width)), _LEGEND_ROWS)


def _draw_legend(page: Page, shares: Sequence[tuple[int, float]], y: float) -> float:
    """Swatches by share of time, the smallest summed up where they do not fit; returns the legend's lower edge."""
    per_row = _per_row(page.width)
    room = per_row * _LEGEND_ROWS
    listed, rest = (shares, []) if len(shares) <= room else (shares[: room - 1], shares[room - 1 :])
    _label(page, "share", y - _LEGEND_ROW_MM / 2)
    for place, (cluster, share) in enumerate(listed):
        row, column = divmod(place, per_row)
        left, middle = column * _LEGEND_ENTRY_MM, y - (row + 0.5) * _LEGEND_ROW_MM
        page.axes.add_patch(Rectangle((left, middle - 1.5), 4.0, 3.0, facecolor=colour_of(cluster), linewidth=0))
        _number(page, left + 2, middle, cluster)
        write(page.axes, left + 5, middle - 0.1, f"{share:.1%}", 7, va="center_baseline")
    if rest:
        left, middle = (per_row - 1) * _LEGEND_ENTRY_MM, y - (_LEGEND_ROWS - 0.5) * _LEGEND_ROW_MM
        text = f"{len(rest)} more {sum(share for _, share in rest):.1%}"
        write(page.axes, left, middle, text, 6.5, va="center_baseline")
    return y - _LEGEND_ROW_MM * _legend_rows(shares, page.width)
