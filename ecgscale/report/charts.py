"""The charts of the page, as SVG that follows the page's colours (light, dark, print) through CSS classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from ecgscale.report.page import MM_PER_MV, MM_PER_S, joined, polyline
from ecgscale.report.relations import Group
from ecgscale.tables import tag

_PANEL_GAP_MM = 2.0
_ROW, _LABEL, _AXIS, _COUNT = 22.0, 150.0, 42.0, 64.0
_WIDTH = 640.0
_MOST_MARKED = 10
_MARKS = ("circle", "square", "diamond", "triangle", "plus")


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
        clipped = np.clip(y, 0, height)
        parts.append(tag("path", d=polyline(left + (beat.times - beat.times[0]) * MM_PER_S, clipped), class_="trace"))
    else:
        parts.append(tag("text", "not recorded", x=left + width / 2, y=height / 2, class_="absent"))
    parts.append(tag("text", lead, x=left + 1.2, y=4.2, class_="lead"))
    return joined(parts)


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


def box_chart(groups: Sequence[Group], label: str, axis: str) -> Markup:
    """One box a group: whiskers 5 to 95 %, box 25 to 75 %, line at the median; counts at the right."""
    low = min(group.quantiles[0] for group in groups)
    high = max(group.quantiles[4] for group in groups)
    ticks = _ticks(low, high)
    low, high = min(low, ticks[0]), max(high, ticks[-1])
    plot = _WIDTH - _LABEL - _COUNT

    def x_of(value: float) -> float:
        return _LABEL + (value - low) / max(high - low, 1e-9) * plot

    bottom = len(groups) * _ROW
    parts = [tag("line", x1=x_of(at), x2=x_of(at), y1=0, y2=bottom, class_="rule") for at in ticks]
    parts += [tag("text", f"{at:g}", x=x_of(at), y=bottom + 15, class_="tick mid") for at in ticks]
    parts.append(tag("text", axis, x=_LABEL + plot / 2, y=bottom + 33, class_="name mid"))
    parts.append(tag("text", "records", x=_WIDTH, y=bottom + 33, class_="tick end"))
    for place, group in enumerate(groups):
        middle = (place + 0.5) * _ROW
        q5, q25, q50, q75, q95 = (x_of(value) for value in group.quantiles)
        parts += [
            tag("text", group.name, x=_LABEL - 10, y=middle + 4, class_="name end"),
            tag("line", x1=q5, x2=q25, y1=middle, y2=middle, class_="whisker"),
            tag("line", x1=q75, x2=q95, y1=middle, y2=middle, class_="whisker"),
            tag("rect", x=q25, y=middle - 6, width=max(q75 - q25, 1.0), height=12, class_="box"),
            tag("line", x1=q50, x2=q50, y1=middle - 6, y2=middle + 6, class_="median"),
            tag("text", f"{group.records:,}", x=_WIDTH, y=middle + 4, class_="tick end"),
        ]
    height = bottom + _AXIS
    return tag("svg", *parts, viewBox=f"0 0 {_WIDTH:g} {height:g}", class_="chart", role="img", aria_label=label)


@dataclass(frozen=True)
class Series:
    """A line of a chart; `spread` (n,) is drawn as bars up and down where known."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    spread: Sequence[float] | None = None


def line_chart(
    series: Sequence[Series],
    label: str,
    x_axis: str,
    y_axis: str,
    x_names: Sequence[str] | None = None,
    from_zero: bool = False,
) -> Markup:
    """Lines over a common x; each has its own colour, mark and dash. `x_names` stand under 0, 1, … if given."""
    frame = _Frame.of(series, from_zero)
    left, right, bottom = frame.LEFT, frame.right, frame.BOTTOM
    parts = [tag("line", x1=left, x2=right, y1=frame.y(at), y2=frame.y(at), class_="rule") for at in frame.y_ticks]
    parts += [tag("text", f"{at:g}", x=left - 6, y=frame.y(at) + 4, class_="tick end") for at in frame.y_ticks]
    xs = sorted({float(at) for one in series for at in one.x})
    marked = xs if len(xs) <= _MOST_MARKED else _ticks(xs[0], xs[-1])
    named = list(zip(range(len(x_names)), x_names, strict=True)) if x_names else [(at, f"{at:g}") for at in marked]
    parts += [tag("text", text, x=frame.x(at), y=bottom + 16, class_="tick mid") for at, text in named]
    parts.append(tag("text", x_axis, x=(left + right) / 2, y=frame.HEIGHT - 6, class_="name mid"))
    parts.append(tag("text", y_axis, x=-bottom / 2, y=13, transform="rotate(-90)", class_="name mid"))
    parts += [_drawn(one, place, frame) for place, one in enumerate(series)]
    if len(series) > 1:
        parts += [_legend_entry(one.name, place, frame.right + 12) for place, one in enumerate(series)]
    size = f"0 0 {_WIDTH:g} {frame.HEIGHT:g}"
    return tag("svg", *parts, viewBox=size, class_="chart", role="img", aria_label=label)


@dataclass(frozen=True)
class _Frame:
    """Where values stand on a line chart."""

    LEFT, BOTTOM, HEIGHT = 56.0, 216.0, 260.0

    x_range: tuple[float, float]
    y_range: tuple[float, float]
    y_ticks: list[float]
    right: float

    @classmethod
    def of(cls, series: Sequence[Series], from_zero: bool) -> _Frame:
        xs = np.array([at for one in series for at in one.x], dtype=float)
        ys = np.array([at for one in series for at in _with_spread(one)] + [0.0] * from_zero, dtype=float)
        ticks = _ticks(float(ys.min()), float(ys.max()))
        y_range = (min(ticks[0], float(ys.min())), max(ticks[-1], float(ys.max())))
        # A legend takes its room at the right.
        right = _WIDTH - (178.0 if len(series) > 1 else 10.0)
        return cls((float(xs.min()), float(xs.max())), y_range, ticks, right)

    def x(self, value: float) -> float:
        low, high = self.x_range
        return self.LEFT + 8 + (value - low) / max(high - low, 1e-9) * (self.right - self.LEFT - 16)

    def y(self, value: float) -> float:
        low, high = self.y_range
        return 10 + (high - value) / max(high - low, 1e-9) * (self.BOTTOM - 10)


def _drawn(one: Series, place: int, frame: _Frame) -> Markup:
    """One line with its marks and its bars."""
    kind, mark = f"s{place % 5}", _MARKS[place % 5]
    points = [(frame.x(x), frame.y(y)) for x, y in zip(one.x, one.y, strict=True) if np.isfinite(y)]
    path = polyline(np.array([x for x, _ in points]), np.array([y for _, y in points]))
    parts = [tag("path", d=path, class_=f"line {kind}")]
    for x, y, spread in zip(one.x, one.y, one.spread or [float("nan")] * len(one.x), strict=True):
        if np.isfinite(y) and np.isfinite(spread) and spread > 0:
            ends = (frame.y(y - spread), frame.y(y + spread))
            parts.append(tag("line", x1=frame.x(x), x2=frame.x(x), y1=ends[0], y2=ends[1], class_=f"line {kind}"))
    parts += [_mark(mark, x, y, kind) for x, y in points]
    return joined(parts)


def _legend_entry(name: str, place: int, left: float) -> Markup:
    kind, at = f"s{place % 5}", 16.0 + place * 18
    line = tag("line", x1=left, x2=left + 22, y1=at, y2=at, class_=f"line {kind}")
    told = tag("text", name, x=left + 28, y=at + 4, class_="name")
    return joined([line, _mark(_MARKS[place % 5], left + 11, at, kind), told])


def _with_spread(one: Series) -> list[float]:
    known = [y for y in one.y if np.isfinite(y)]
    if one.spread is None:
        return known
    pairs = [(y, s) for y, s in zip(one.y, one.spread, strict=True) if np.isfinite(y) and np.isfinite(s)]
    return known + [y + s for y, s in pairs] + [y - s for y, s in pairs]


def _mark(shape: str, x: float, y: float, kind: str) -> Markup:
    """Shapes beside colours: lines stay apart for all eyes and in grey."""
    if shape == "circle":
        return tag("circle", cx=x, cy=y, r=3.5, class_=f"mark {kind}")
    corners: dict[str, list[tuple[float, float]]] = {
        "square": [(-3, -3), (3, -3), (3, 3), (-3, 3)],
        "diamond": [(0, -4.5), (4.5, 0), (0, 4.5), (-4.5, 0)],
        "triangle": [(0, -4), (4, 3.5), (-4, 3.5)],
        "plus": [(-4, -1), (-1, -1), (-1, -4), (1, -4), (1, -1), (4, -1), (4, 1), (1, 1), (1, 4), (-1, 4), (-1, 1),
                 (-4, 1)],
    }  # fmt: skip
    points = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in corners[shape])
    return tag("polygon", points=points, class_=f"mark {kind}")


def _ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers inside [low, high], about `wanted` of them; at least two."""
    span = max(high - low, 1e-9)
    rough = span / wanted
    power = 10.0 ** np.floor(np.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough)
    ticks = np.arange(np.floor(low / step), np.ceil(high / step) + 1) * step
    inside = [round(float(at), 10) for at in ticks if low - step / 2 <= at <= high + step / 2]
    return inside if len(inside) > 1 else [low, high]
