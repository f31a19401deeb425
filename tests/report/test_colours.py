"""Cluster colours: stable, legible, and apart for all eyes where few clusters allow it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from ecgscale.report.page import PALETTE, colour_of, ink_on, tint_of

# Machado et al. 2009, severity 1: what protan and deutan eyes see, on linear RGB.
SIGHT = {
    "normal": np.eye(3),
    "protan": np.array([[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]]),
    "deutan": np.array([[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]]),
}
TO_LMS = np.array([[0.41222, 0.53633, 0.05145], [0.21190, 0.68070, 0.10740], [0.08830, 0.28172, 0.62998]])
TO_OKLAB = np.array([[0.21045, 0.79362, -0.00407], [1.97800, -2.42859, 0.45059], [0.02590, 0.78277, -0.80868]])


def oklab(colour: tuple[float, float, float], sight: str) -> np.ndarray:
    rgb = np.array(colour)
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return TO_OKLAB @ np.cbrt(TO_LMS @ np.clip(SIGHT[sight] @ linear, 0, 1))


def least_distance(n: int, sight: str) -> float:
    seen = [oklab(colour_of(k), sight) for k in range(n)]
    return min(float(np.linalg.norm(a - b)) for a, b in itertools.combinations(seen, 2))


@pytest.mark.parametrize("sight", list(SIGHT))
def test_colours_are_apart_for_all_eyes(sight: str) -> None:
    assert least_distance(8, sight) > 0.07
    assert least_distance(20, sight) > 0.04
    assert least_distance(50, sight) > 0.02


def test_fifty_different_colours_that_do_not_depend_on_k() -> None:
    assert len(set(PALETTE)) == len(PALETTE) == 50
    assert colour_of(3) == colour_of(53)
    with pytest.raises(ValueError, match="-1"):
        colour_of(-1)


def test_tints_are_light_and_ink_is_legible() -> None:
    for k in range(50):
        assert sum(tint_of(k)) > sum(colour_of(k))
        # WCAG 2: (lighter + 0.05) / (darker + 0.05) of at least 4.5 for text
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in colour_of(k)]
        luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
        contrast = 1.05 / (luminance + 0.05) if ink_on(k) == "white" else (luminance + 0.05) / 0.05
        assert contrast > 4.5
