"""Sweeps as curves where what was varied has an order, and as tables where it has none.

A sweep as one figure: the elbow of the explained variance, the plateau of the surrogate, stability, and the other
axes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ecgscale.evaluate.written import Evaluation
from ecgscale.report.charts import Series
from ecgscale.tables import Row, Table, number, readable, written

_TITLES = {
    "clusters": "Number of clusters",
    "records": "Training records of K-means",
    "layers": "Tapped layers",
    "depth": "Depth factors",
    "softmax": "Soft assignment",
}
_ORDERED = {"clusters": "clusters K", "records": "training records"}
_SCORES = {
    "agreement": "agreement",
    "r2": "R² to network",
    "auroc": "AUROC",
    "label_r2": "R² by labels",
    "explained_variance": "variance explained",
    "ari_seeds": "ARI over seeds",
    "information": "waves explained",
    "effective_clusters": "effective clusters",
    "mean_entropy": "mean entropy",
}
_ON_CHARTS = ("agreement", "r2", "auroc", "label_r2", "explained_variance", "ari_seeds", "information")
_MOST_LINES = 5

Rows = list[Mapping[str, Any]]


@dataclass(frozen=True)
class SweepChart:
    """One chart: lines over what was varied; `x_names` where that is no number."""

    title: str
    x_axis: str
    y_axis: str
    series: Sequence[Series]
    caption: str
    x_names: Sequence[str] | None = None


def sweep_series(found: Evaluation) -> list[SweepChart]:
    """A chart for numbers of clusters and of records, where at least two were tried."""
    charts = []
    for axis, rows in _summary(found).items():
        ordered = sorted((row for row in rows if row.get("x") is not None), key=lambda row: row["x"])
        if axis in _ORDERED and len(ordered) > 1:
            charts.append(_chart(axis, ordered, found.facts))
    return [chart for chart in charts if chart.series]


def sweep_tables(found: Evaluation) -> list[Table]:
    """The main scores of everything that was varied, mean ± SD over seeds."""
    tables = []
    for axis, rows in _summary(found).items():
        names = [name for name in _SCORES if any(row.get(name) is not None for row in rows)]
        shown = tuple(
            Row(str(row.get("setting", "")), tuple(number(row.get(name), _sd(row, name)) for name in names))
            for row in rows
        )
        caption = f"{_TITLES.get(axis, readable(axis))}, mean ± SD over seeds"
        tables.append(Table(caption, tuple(_SCORES[name] for name in names), shown, "setting"))
    return tables


def _summary(found: Evaluation) -> dict[str, Rows]:
    summary = found.facts.get("summary")
    if not isinstance(summary, Mapping):
        return {}
    kept = {str(axis): [row for row in rows if isinstance(row, Mapping)] for axis, rows in summary.items() if rows}
    return {axis: rows for axis, rows in kept.items() if rows}


def _sd(row: Mapping[str, Any], name: str) -> str:
    return "" if row.get(f"{name}_sd") is None else f"± {written(row[f'{name}_sd'])}"


def _chart(axis: str, rows: Rows, facts: Mapping[str, Any]) -> SweepChart:
    scores = [name for name in _ON_CHARTS if sum(row.get(name) is not None for row in rows) >= 2][:_MOST_LINES]
    # Numbers of records double from one to the next: equal steps, named.
    names = [written(int(row["x"])) for row in rows] if axis == "records" else None
    x = [float(place) for place in range(len(rows))] if names else [float(row["x"]) for row in rows]
    series = [Series(_SCORES[name], x, _values(rows, name), _values(rows, f"{name}_sd")) for name in scores]
    return SweepChart(_TITLES[axis], _ORDERED[axis], "score", series, _caption(axis, facts), names)


def _values(rows: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    return [float("nan") if row.get(name) is None else float(row[name]) for row in rows]


def _caption(axis: str, facts: Mapping[str, Any]) -> str:
    told = f"On {written(facts.get('records'))} records that took no part in the fits; bars: SD over seeds."
    if axis == "clusters":
        elbow, plateau = facts.get("elbow"), facts.get("plateau")
        if elbow is not None:
            told += f" The explained variance bends at K = {elbow:g}."
        if plateau is not None:
            told += f" From K = {plateau:g} on, {_SCORES.get(str(facts.get('plateau_score')), 'the score')} is flat."
    return told


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
