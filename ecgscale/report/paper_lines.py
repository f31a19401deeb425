"""Text above and below a recording, broken into lines that fit the width of its page.

Paper of 25 mm/s makes short recordings narrow pictures: what stands in one line above ten seconds takes two or three
above five. Widths are measured with the renderer that draws them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ecgscale.report.page import INK

SCALE_PT, FOOTER_PT = 7.0, 6.5
_TITLE_PT, _SUBTITLE_PT = 11.0, 8.0
_FIRST_MM = 2.8  # baseline of the lowest line above the traces
_TITLE_ABOVE_MM, _TITLE_PITCH_MM, _SUBTITLE_PITCH_MM, _SCALE_PITCH_MM = 4.7, 5.0, 3.8, 3.6
_GAP_MM = 4.0
_DPI = 300
_MM_PER_INCH = 25.4
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
    drawn = figure.text(0, 0, text, fontsize=size, weight="bold" if bold else "normal", parse_math=False)
    return float(drawn.get_window_extent(canvas.get_renderer()).width) / _DPI * _MM_PER_INCH * _SLACK


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
    beside = [(title, _TITLE_PT, True, scale), (subtitle, _SUBTITLE_PT, False, part)]
    wide = all(
        width_mm(left, size, bold) + (_GAP_MM if left and right else 0.0) + width_mm(right, SCALE_PT) <= width
        for left, size, bold, right in beside
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
        told, size = lines_within(f"{part}     {scale}", SCALE_PT, width)
        for at, text in enumerate(reversed(told)):
            lines.append(Line(text, size, top + at * _SCALE_PITCH_MM, right=True))
    lines.sort(key=lambda line: -line.baseline)
    return [line for line in lines if line.text], lines[0].baseline - _FIRST_MM - _TITLE_ABOVE_MM


def draw_heading(axes: Axes, lines: list[Line], width: float, traces_mm: float) -> None:
    """Draw the lines of a heading above traces of so many millimetres."""
    for line in lines:
        # Names come from data: a dollar sign in one is no formula.
        axes.text(
            width if line.right else 0,
            traces_mm + line.baseline,
            line.text,
            fontsize=line.size,
            weight="bold" if line.bold else "normal",
            color=INK,
            ha="right" if line.right else "left",
            va="baseline",
            parse_math=False,
        )
