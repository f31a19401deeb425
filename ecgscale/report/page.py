"""The page that a recording is drawn on: its unit is the millimetre, its speed and gain those of ECG paper.

One colour for a cluster id, whatever K and whatever figure.

The first six are those of Okabe & Ito (2008, "Color Universal Design"). Each further one was chosen greedily from the
sRGB gamut as the colour farthest, in Oklab, from all before it, where the distance of two colours is the least of
those that normal, protan, deutan and tritan eyes see (simulated after Machado et al. 2009, IEEE TVCG 15:1291). So the
low ids are well apart for everybody; no fifty colours are, which is why figures also print the ids.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ecgscale.words import printable

MM_PER_S = 25.0
MM_PER_MV = 10.0
MM_PER_INCH = 25.4
INK = "#1a1a1a"


class Band(NamedTuple):
    """A stretch of a recording in one cluster; seconds from the recording's first sample."""

    start_s: float
    stop_s: float
    cluster: int
    entropy: float


@dataclass(frozen=True)
class Page:
    """The paper: everything on `axes` is in millimetres from the bottom left of the trace area's time 0."""

    axes: Axes
    width: float
    """Millimetres from the first to the last moment shown."""
    window: tuple[float, float]

    def x(self, seconds: float) -> float:
        """Where a moment stands on the full-width strips."""
        return (seconds - self.window[0]) * MM_PER_S


def millimetres(left: float, right: float, bottom: float, top: float) -> Axes:
    """Axes over a whole new figure whose unit is the millimetre."""
    figure = Figure(figsize=((right - left) / MM_PER_INCH, (top - bottom) / MM_PER_INCH), facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, top)
    return axes


def write(axes: Axes, x: float, y: float, text: str, size: float, **style: Any) -> None:
    """Text of so many points. Names come from data: a dollar sign in one is no formula."""
    axes.text(x, y, printable(text), fontsize=size, parse_math=False, **{"color": INK, **style})


PALETTE = (
    "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#871e4b", "#a5e1b4", "#8778ff", "#b40f00",
    "#1e3cb4", "#1ee1f0", "#e1d269", "#875a78", "#b4b487", "#5a3c87", "#e1a5c3", "#b44b4b", "#a55ad2", "#87a55a",
    "#7896f0", "#00691e", "#e187d2", "#96c35a", "#693c69", "#b478c3", "#5a4bd2", "#c39696", "#a53c96", "#a56996",
    "#c3e10f", "#4b785a", "#5a963c", "#ffb4e1", "#b4d287", "#87c3ff", "#69d2a5", "#5a5a87", "#b4961e", "#d2c32d",
    "#a54bb4", "#6969f0", "#2d783c", "#e15a78", "#0087e1", "#694bb4", "#2d5a2d", "#698700", "#78a5c3", "#784b5a",
)  # fmt: skip

Rgb = tuple[float, float, float]


def colour_of(cluster: int) -> Rgb:
    """The full colour of a cluster id >= 0 as red, green, blue in 0..1; ids past the palette begin it again."""
    if cluster < 0:
        raise ValueError(f"cluster {cluster}: ids are 0 or more")
    hexadecimal = PALETTE[cluster % len(PALETTE)]
    red, green, blue = (int(hexadecimal[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return red, green, blue


def tint_of(cluster: int, strength: float = 0.38) -> Rgb:
    """The colour mixed with white, for bands behind a trace; `strength` 1 is the full colour."""
    red, green, blue = (1 - strength * (1 - part) for part in colour_of(cluster))
    return red, green, blue


def ink_on(cluster: int) -> str:
    """'black' or 'white', whichever is legible on the cluster's full colour (WCAG 2 relative luminance)."""
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in colour_of(cluster)]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "white" if luminance < 0.18 else "black"
