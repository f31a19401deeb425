"""The page that a recording is drawn on: its unit is the millimetre, its speed and gain those of ECG paper."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from matplotlib.axes import Axes

MM_PER_S = 25.0
MM_PER_MV = 10.0
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
