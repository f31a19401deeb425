"""A sweep as one figure: the elbow of the explained variance, the plateau of the surrogate, stability, and the other
axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

_SCORE_NAMES = {"agreement": "agreement with the network", "r2": "R² to the network"}
_INK, _SECOND, _THIRD = "#1b4f72", "#b9770e", "#5d6d7e"


def draw_sweep(facts: Mapping[str, Any]) -> Figure:
    """The figure of `sweep_result.SweepResult.to_dict()`."""
    figure = Figure(figsize=(11, 10), layout="constrained")
    axes = figure.subplots(3, 2)
    summary, score = facts["summary"], str(facts["plateau_score"])
    name = _SCORE_NAMES.get(score, score)
    clusters = [row for row in summary.get("clusters", ()) if row["x"] is not None]
    x = [row["x"] for row in clusters]
    _line(axes[0, 0], x, clusters, "explained_variance", "explained variance", _INK)
    _mark(axes[0, 0], facts["elbow"], "elbow")
    axes[0, 0].set(xlabel="clusters K", ylabel="explained variance", title="K-means")
    _line(axes[0, 1], x, clusters, score, name, _INK)
    _mark(axes[0, 1], facts["plateau"], "plateau from")
    axes[0, 1].set(xlabel="clusters K", ylabel=name, title="Surrogate")
    for key, told, colour in (
        ("ari_seeds", "ARI, other seeds", _INK),
        ("ari_parts", "ARI, a third of patients left out", _SECOND),
        ("information", "of the waves' entropy explained", _THIRD),
    ):
        _line(axes[1, 0], x, clusters, key, told, colour)
    axes[1, 0].set(xlabel="clusters K", ylim=(0, 1), title="Stability and localisation")
    records = [row for row in summary.get("records", ()) if row["x"] is not None]
    sizes = [row["x"] for row in records]
    _line(axes[1, 1], sizes, records, score, name, _INK)
    _line(axes[1, 1], sizes, records, "ari_seeds", "ARI, other seeds", _SECOND)
    axes[1, 1].set(xlabel="training records of K-means", title="Training records")
    if sizes:
        axes[1, 1].set_xscale("log")
    _bars(axes[2, 0], summary.get("layers", ()), score, name, "Tapped layers")
    _bars(axes[2, 1], summary.get("depth", ()), score, name, "Depth factors, shallowest block first")
    for axis in axes.flat:
        # What was not varied has no panel.
        axis.set_visible(axis.has_data())
        if axis.get_legend_handles_labels()[0]:
            axis.legend(frameon=False, fontsize=8)
    return figure


def _line(axis: Axes, x: Sequence[float], rows: Sequence[Mapping[str, Any]], key: str, told: str, colour: str) -> None:
    """One score over x with its SD over seeds as bars; nothing where no row has it."""
    points = [
        (at, row[key], row.get(f"{key}_sd") or 0.0) for at, row in zip(x, rows, strict=True) if row.get(key) is not None
    ]
    if points:
        at, value, sd = np.array(points, float).T
        axis.errorbar(at, value, sd, marker="o", markersize=4, capsize=2, color=colour, label=told)


def _mark(axis: Axes, x: float | None, told: str) -> None:
    if x is not None:
        axis.axvline(x, color=_THIRD, linestyle=":", label=f"{told} K = {x:g}")


def _bars(axis: Axes, rows: Sequence[Mapping[str, Any]], key: str, name: str, title: str) -> None:
    known = [row for row in rows if row.get(key) is not None]
    if not known:
        return
    places = np.arange(len(known))
    values = [row[key] for row in known]
    axis.errorbar(values, places, xerr=[row.get(f"{key}_sd") or 0.0 for row in known], fmt="o", color=_INK, capsize=2)
    axis.set_yticks(places, [str(row["setting"]) for row in known], fontsize=7)
    axis.invert_yaxis()
    axis.set(xlabel=name, title=title)
