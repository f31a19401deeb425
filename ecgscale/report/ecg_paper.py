"""A recording on ECG paper: 25 mm/s, 10 mm/mV, true to scale when printed, with its clusters behind the traces.

The page is one matplotlib axes whose unit is the millimetre. `3x4` is the usual clinical layout (four columns of
three leads, one lead in full below them), `stacked` draws every lead in full. Under the traces stand a ribbon with
the cluster ids, the entropy, and a legend (`paper_strips`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from ecgscale.errors import UsageError
from ecgscale.leads import CANONICAL_LEADS, MissingLeads, derive_limb_leads
from ecgscale.report.page import INK, MM_PER_MV, MM_PER_S, Band, Page, millimetres, tint_of, write
from ecgscale.report.paper import Curve, draw_heading, draw_strips, heading, strips_height

Layout = Literal["3x4", "stacked"]
LAYOUTS: tuple[Layout, ...] = ("3x4", "stacked")

LONGEST_S = 12.0
"""A longer recording shows its first ten seconds unless a window is given."""

_MARGIN_MM = 6.0
_LEFT_MM = 14.0  # room for the calibration pulse
_TITLE_MM = 13.0
_FINE, _COARSE = "#f3cfcf", "#e6a5a5"
_HEAT = "#e06a00"


class _Cell(NamedTuple):
    lead: str
    left: float
    baseline: float
    start_s: float
    stop_s: float


def draw_recording(
    signal_mv: NDArray[np.floating],
    leads: Sequence[str],
    rate: float,
    segments: Sequence[Band] = (),
    entropy: Curve | None = None,
    *,
    heat: Curve | None = None,
    title: str = "",
    subtitle: str = "",
    layout: Layout = "3x4",
    window: tuple[float, float] | None = None,
    footer: str = "",
) -> Figure:
    """Draw a recording (n_leads, n_samples) in millivolts at `rate` Hz; returns a figure to save or show.

    `segments` colour the paper and make the ribbon and the legend; `entropy` is (seconds, values in 0..1) for a curve,
    None for the steps of the segments; `heat` (the same: seconds, 0..1) tints the paper where something mattered.
    Missing limb leads are derived; each trace is centred on its median. `window`
    is the stretch to show in seconds. Raises `UsageError` for a signal, layout or window that cannot be drawn.
    """
    _check(signal_mv, leads, rate, layout)
    shown = _window(signal_mv.shape[1] / rate, window)
    bands = [Band(*band) for band in segments]
    bands = [band for band in bands if band.stop_s > shown[0] and band.start_s < shown[1]]
    names = _rows_of_leads(leads, layout)
    row_mm = 30.0 if layout == "3x4" else 20.0
    width, traces_mm = (shown[1] - shown[0]) * MM_PER_S, row_mm * len(names)
    below = strips_height(segments, entropy, width, footer)
    duration = signal_mv.shape[1] / rate
    part = f"{shown[0]:g} to {shown[1]:g} s of {duration:g} s" if shown != (0.0, duration) else ""
    lines, more_mm = heading(title, subtitle, f"25 mm/s   10 mm/mV   {rate:g} Hz", part, width)
    top = traces_mm + _TITLE_MM + more_mm + _MARGIN_MM / 2
    axes = millimetres(-_LEFT_MM - _MARGIN_MM, width + _MARGIN_MM, -below - _MARGIN_MM, top)
    draw_heading(axes, lines, width, traces_mm)
    axes.add_patch(Rectangle((-_LEFT_MM, 0), width + _LEFT_MM, traces_mm, facecolor="#fffafa", linewidth=0, zorder=0))
    for number, row in enumerate(names):
        bottom = traces_mm - (number + 1) * row_mm
        cells = _cells(row, bottom + row_mm * 0.42, shown)
        for cell in cells:
            _draw_bands(axes, cell, bands, bottom, row_mm)
            if heat is not None:
                _draw_heat(axes, cell, heat, bottom, row_mm)
            _draw_trace(axes, cell, signal_mv, leads, rate, row_mm)
        _draw_calibration(axes, cells[0].baseline)
    _draw_grid(axes, width, traces_mm)
    draw_strips(Page(axes, width, shown), bands, segments, entropy, footer)
    return axes.get_figure(root=True)  # type: ignore[return-value]


def _check(signal_mv: NDArray[np.floating], leads: Sequence[str], rate: float, layout: str) -> None:
    if layout not in LAYOUTS:
        raise UsageError(f"layout {layout!r} is not known; there are {', '.join(LAYOUTS)}")
    if signal_mv.ndim != 2 or len(signal_mv) != len(leads) or not signal_mv.size:
        raise UsageError(
            f"a signal of shape {signal_mv.shape} does not fit {len(leads)} leads; expected (leads, samples)"
        )
    if not rate > 0:
        raise UsageError(f"a sampling rate of {rate:g} Hz cannot be drawn")


def _window(duration: float, window: tuple[float, float] | None) -> tuple[float, float]:
    if window is None:
        return (0.0, duration if duration <= LONGEST_S else 10.0)
    start, stop = max(window[0], 0.0), min(window[1], duration)
    if not stop - start >= 0.2:
        raise UsageError(f"nothing to draw from {window[0]:g} to {window[1]:g} s: the recording lasts {duration:g} s")
    if stop - start > 120:
        raise UsageError(f"{stop - start:g} s are more than a page holds; show at most 120 s")
    return (start, stop)


def _rows_of_leads(leads: Sequence[str], layout: Layout) -> list[tuple[str, ...]]:
    """The leads of each row, from the top; the last row of 3x4 is the rhythm strip."""
    others = [lead for lead in leads if lead not in CANONICAL_LEADS]
    if layout == "stacked":
        there = [lead for lead in CANONICAL_LEADS if _can_draw(leads, lead)]
        return [(lead,) for lead in [*there, *others]]
    rows: list[tuple[str, ...]] = [CANONICAL_LEADS[i::3] for i in range(3)]
    rhythm = next((lead for lead in ("II", "V1") if _can_draw(leads, lead)), leads[0])
    return [*rows, (rhythm,)]


def _can_draw(leads: Sequence[str], wanted: str) -> bool:
    try:
        derive_limb_leads(np.zeros((len(leads), 1)), leads, [wanted])
    except MissingLeads:
        return False
    return True


def _cells(row: Sequence[str], baseline: float, shown: tuple[float, float]) -> list[_Cell]:
    """A row's leads one after another, each with its share of the time shown."""
    edges = np.linspace(shown[0], shown[1], len(row) + 1)
    return [
        _Cell(lead, (start - shown[0]) * MM_PER_S, baseline, float(start), float(stop))
        for lead, start, stop in zip(row, edges[:-1], edges[1:], strict=True)
    ]


def _draw_bands(axes: Axes, cell: _Cell, bands: Sequence[Band], bottom: float, height: float) -> None:
    for band in bands:
        start, stop = max(band.start_s, cell.start_s), min(band.stop_s, cell.stop_s)
        if stop > start:
            corner = (cell.left + (start - cell.start_s) * MM_PER_S, bottom + 0.6)
            size = ((stop - start) * MM_PER_S, height - 1.2)
            axes.add_patch(Rectangle(corner, *size, facecolor=tint_of(band.cluster), linewidth=0, zorder=1))


def _draw_heat(axes: Axes, cell: _Cell, heat: Curve, bottom: float, height: float) -> None:
    """A strip of one colour behind the trace, the stronger the more it mattered; a sixtieth of a second fine."""
    times = np.linspace(cell.start_s, cell.stop_s, max(int((cell.stop_s - cell.start_s) * 60), 2))
    strength = np.clip(np.interp(times, heat[0], heat[1], left=0.0, right=0.0), 0, 1)
    tint = np.ones((1, len(times), 4))
    tint[..., :3], tint[..., 3] = to_rgb(_HEAT), 0.7 * strength
    left, right = cell.left, cell.left + (cell.stop_s - cell.start_s) * MM_PER_S
    extent = (left, right, bottom + 0.6, bottom + height - 0.6)
    limits = (axes.get_xlim(), axes.get_ylim())
    axes.imshow(tint, extent=extent, aspect="auto", interpolation="bilinear", zorder=1)
    axes.set_xlim(limits[0])
    axes.set_ylim(limits[1])


def _draw_trace(
    axes: Axes, cell: _Cell, signal_mv: NDArray[np.floating], leads: Sequence[str], rate: float, row_mm: float
) -> None:
    write(axes, cell.left + 1, cell.baseline + 0.36 * row_mm, cell.lead, 8.5, weight="bold", zorder=6)
    if cell.left > 0:
        axes.plot([cell.left] * 2, [cell.baseline - 3, cell.baseline + 3], color=INK, linewidth=0.5, zorder=5)
    if not _can_draw(leads, cell.lead):
        write(axes, cell.left + 8, cell.baseline, "not recorded", 7, color="#666666", zorder=6)
        return
    trace = derive_limb_leads(signal_mv, leads, [cell.lead])[0]
    finite = trace[np.isfinite(trace)]
    middle = float(np.median(finite)) if len(finite) else 0.0
    first, last = max(int(np.ceil(cell.start_s * rate)), 0), min(int(cell.stop_s * rate) + 1, len(trace))
    times = np.arange(first, last) / rate
    x = cell.left + (times - cell.start_s) * MM_PER_S
    y = cell.baseline + (trace[first:last] - middle) * MM_PER_MV
    axes.plot(x, y, color=INK, linewidth=0.7, solid_joinstyle="round", zorder=5)


def _draw_calibration(axes: Axes, baseline: float) -> None:
    """One millivolt for a fifth of a second, left of the row."""
    x = np.array([-10.0, -8.5, -8.5, -3.5, -3.5, -2.0])
    y = baseline + np.array([0, 0, MM_PER_MV, MM_PER_MV, 0, 0])
    axes.plot(x, y, color=INK, linewidth=0.7, zorder=5)


def _draw_grid(axes: Axes, width: float, height: float) -> None:
    """Millimetre lines, every fifth one stronger, over the bands and under the traces."""
    left = -np.floor(_LEFT_MM / 5) * 5 - 5
    columns = np.arange(max(left, -_LEFT_MM), width + 1e-6)
    rows = np.arange(0, height + 1e-6)
    vertical = [((x, 0.0), (x, height)) for x in columns]
    horizontal = [((-_LEFT_MM, y), (width, y)) for y in rows]
    for lines, at in ((vertical, columns), (horizontal, rows)):
        coarse = np.isclose(np.mod(at, 5), 0)
        for chosen, colour, weight, order in ((~coarse, _FINE, 0.2, 2), (coarse, _COARSE, 0.45, 3)):
            kept = [line for line, keep in zip(lines, chosen, strict=True) if keep]
            axes.add_collection(LineCollection(kept, colors=colour, linewidths=weight, zorder=order), autolim=False)
