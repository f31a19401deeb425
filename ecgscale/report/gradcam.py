"""Grad-CAM of recordings, where the network was probed: what a reader study shows beside clusters."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ecgscale.report.published import Published

Heat = tuple[NDArray[np.floating], NDArray[np.floating]]
"""Seconds of the recording, and how much it mattered there, 0 to 1."""


def heat_of(published: Published) -> dict[str, Heat]:
    """Record id → Grad-CAM of the deepest tapped layer; empty where the network was not probed."""
    return {}
