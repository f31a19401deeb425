"""SVG as text: elements whose attributes and contents are escaped, so that data stays data."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray


def tag(name: str, *children: object, **attributes: object) -> Markup:
    """`<name a="…">…</name>`; `_` in an attribute's name becomes `-` (a trailing one is dropped), None leaves it out.

    Children that are no `Markup` are escaped; numbers are written with as few digits as a screen can show.
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_short(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    inner = Markup("").join(escape(child) for child in children)
    return Markup(f"<{name}{written}>{inner}</{name}>")


def joined(parts: Iterable[Markup]) -> Markup:
    """Elements one after the other."""
    return Markup("").join(parts)


def polyline(x: NDArray[np.floating], y: NDArray[np.floating], digits: int = 2) -> str:
    """The `d` of a path through these points; where y is not finite the line is broken."""
    commands, pen_down = [], False
    for px, py in zip(np.round(x, digits).tolist(), np.round(y, digits).tolist(), strict=True):
        if py != py:
            pen_down = False
            continue
        commands.append(f"{'L' if pen_down else 'M'}{px:g} {py:g}")
        pen_down = True
    return "".join(commands)


def _short(value: object) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
