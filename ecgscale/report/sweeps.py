"""Sweeps as curves where what was varied has an order, as tables, and as one figure of all that was varied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ecgscale.evaluate.written import Evaluation
from ecgscale.report.charts import LINES, SOFT, Series, line_chart, plot_lines
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

    def draw(self, title: str = "") -> Figure:
        """A line a score, with its spread."""
        return line_chart(self.series, self.x_axis, self.y_axis, self.x_names, title=title)


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
    # Numbers of records double from one to the next: equal steps, named.
    names = [written(int(row["x"])) for row in rows] if axis == "records" else None
    x = [float(place) for place in range(len(rows))] if names else None
    series = _series(rows, {name: _SCORES[name] for name in _ON_CHARTS}, 2, x)[:_MOST_LINES]
    return SweepChart(_TITLES[axis], _ORDERED[axis], "score", series, _caption(axis, facts), names)


def _values(rows: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    return [float("nan") if row.get(name) is None else float(row[name]) for row in rows]


def _caption(axis: str, facts: Mapping[str, Any]) -> str:
    text = f"On {written(facts.get('records'))} records that took no part in the fits; bars: SD over seeds."
    if axis == "clusters":
        elbow, plateau = facts.get("elbow"), facts.get("plateau")
        if elbow is not None:
            text += f" The explained variance bends at K = {elbow:g}."
        if plateau is not None:
            text += f" From K = {plateau:g} on, {_SCORES.get(str(facts.get('plateau_score')), 'the score')} is flat."
    return text


def draw_sweep(facts: Mapping[str, Any]) -> Figure:
    """The figure of `SweepResult.to_dict()`: elbow, plateau, stability, and what else was varied."""
    figure = Figure(figsize=(11, 10), layout="constrained")
    panels = figure.subplots(3, 2).flat
    summary, score = facts["summary"], str(facts["plateau_score"])
    name = {"agreement": "agreement with the network", "r2": "R² to the network"}.get(score, score)
    clusters = [row for row in summary.get("clusters", ()) if row["x"] is not None]
    records = [row for row in summary.get("records", ()) if row["x"] is not None]
    stability = {
        "ari_seeds": "ARI, other seeds",
        "ari_parts": "ARI, a third of patients left out",
        "information": "of the waves' entropy explained",
    }
    lines = (
        ("K-means", "clusters K", clusters, {"explained_variance": "explained variance"}),
        ("Surrogate", "clusters K", clusters, {score: name}),
        ("Stability and localisation", "clusters K", clusters, stability),
        ("Training records", "training records of K-means", records, {score: name, "ari_seeds": "ARI, other seeds"}),
    )
    for axes, (title, x_axis, rows, scores) in zip(panels, lines, strict=False):
        plot_lines(axes, _series(rows, scores, 1), x_axis, "".join(scores.values()) if len(scores) == 1 else "")
        axes.set_title(title)
        axes.set_visible(axes.has_data())
    for axes, elbow, label in ((panels[0], facts["elbow"], "elbow"), (panels[1], facts["plateau"], "plateau from")):
        if elbow is not None:
            axes.axvline(elbow, color=SOFT, linestyle=":", label=f"{label} K = {elbow:g}")
    panels[2].set_ylim(0, 1)
    if records:
        panels[3].set_xscale("log")
    for axes, axis, title in (
        (panels[4], "layers", "Tapped layers"),
        (panels[5], "depth", "Depth factors, shallowest block first"),
    ):
        _points(axes, [row for row in summary.get(axis, ()) if row.get(score) is not None], score)
        axes.set(xlabel=name, title=title)
        axes.set_visible(axes.has_data())
    for axes in panels:
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize=8)
    return figure


def _series(rows: Rows, scores: Mapping[str, str], fewest: int, x: Sequence[float] | None = None) -> list[Series]:
    """A line a score that at least so many rows have, with its SD over seeds; over `x`, or what was varied."""
    x = [float(row["x"]) for row in rows] if x is None else x
    return [
        Series(words, x, _values(rows, key), _values(rows, f"{key}_sd"))
        for key, words in scores.items()
        if sum(row.get(key) is not None for row in rows) >= fewest
    ]


def _points(axes: Axes, rows: Rows, score: str) -> None:
    """One score of every setting, settings below one another."""
    if rows:
        places = np.arange(len(rows))
        spread = [row.get(f"{score}_sd") or 0.0 for row in rows]
        axes.errorbar([row[score] for row in rows], places, xerr=spread, fmt="o", color=LINES[0], capsize=2)
        axes.set_yticks(places, [str(row["setting"]) for row in rows], fontsize=7)
        axes.invert_yaxis()
