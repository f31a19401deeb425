"""Where a curve over K bends, and from where on it is flat."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def elbow(x: Sequence[float], y: Sequence[float]) -> float | None:
    """The x whose point lies furthest above the chord from first to last point, both axes scaled to 0…1.

    The rule of Satopää et al. 2011 ("Kneedle") for a concave rising curve, without smoothing. None for fewer than three
    points, or a curve that does not rise.
    """
    if len(x) < 3 or y[-1] <= y[0]:
        return None
    u = (np.asarray(x, float) - x[0]) / (x[-1] - x[0])
    v = (np.asarray(y, float) - y[0]) / (y[-1] - y[0])
    above = v - u
    best = int(above.argmax())
    return float(x[best]) if above[best] > 0 else None


def plateau(
    x: Sequence[float], mean: Sequence[float], sd: Sequence[float], least: float = 0.005, rising: bool = True
) -> float | None:
    """The smallest x from which on nothing beyond it is better than it by more than the SD of the better one, `least`
    at the least. None where there is none: of the last x nobody knows whether more would be better.

    `rising`: higher is better, else lower.
    """
    sign = 1.0 if rising else -1.0
    value, spread = sign * np.asarray(mean, float), np.maximum(np.asarray(sd, float), least)
    for i in range(len(x) - 1):
        if (value[i + 1 :] - spread[i + 1 :] <= value[i]).all():
            return float(x[i])
    return None
