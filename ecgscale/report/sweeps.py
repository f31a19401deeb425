"""Sweeps as curves: whatever a sweep varied against the scores that it measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ecgscale.evaluate.written import Evaluation
from ecgscale.report.charts import Series
from ecgscale.report.tables import readable, written

_TITLES = {
    "clusters": ("Number of clusters", "clusters K"),
    "records": ("Training records of K-means", "records"),
    "layers": ("Tapped layers", "layers"),
    "depth": ("Depth factors", "factors"),
    "softmax": ("Softmax", "γ and τ"),
}
_SCORES = {
    "agreement": "agreement",
    "r2": "R² to the network",
    "auroc": "AUROC",
    "label_r2": "R² by the labels",
    "explained_variance": "explained variance",
    "ari_seeds": "ARI across seeds",
    "information": "information on waves",
}
_MOST_LINES = 5


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
    """The charts of one sweep evaluation: one for everything that was varied in at least two settings."""
    summary = found.facts.get("summary")
    if not isinstance(summary, Mapping):
        return []
    charts = [_chart(str(axis), rows, found.facts) for axis, rows in summary.items() if isinstance(rows, list)]
    return [chart for chart in charts if chart is not None]


def _chart(axis: str, rows: list[dict[str, Any]], facts: Mapping[str, Any]) -> SweepChart | None:
    rows = [row for row in rows if isinstance(row, Mapping)]
    if axis in ("clusters", "records") and all(row.get("x") is not None for row in rows):
        rows = sorted(rows, key=lambda row: row["x"])
    scores = [name for name in _SCORES if sum(row.get(name) is not None for row in rows) >= 2][:_MOST_LINES]
    if not scores:
        return None
    numeric = axis == "clusters" and all(row.get("x") is not None for row in rows)
    x = [float(row["x"]) for row in rows] if numeric else [float(place) for place in range(len(rows))]
    series = [Series(_SCORES[name], x, _values(rows, name), _values(rows, f"{name}_sd")) for name in scores]
    title, x_axis = _TITLES.get(axis, (readable(axis), readable(axis)))
    names = None if numeric else [str(row.get("setting", place)) for place, row in enumerate(rows)]
    return SweepChart(title, x_axis, "score", series, _caption(axis, facts), names)


def _values(rows: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    return [float("nan") if row.get(name) is None else float(row[name]) for row in rows]


def _caption(axis: str, facts: Mapping[str, Any]) -> str:
    told = f"On {written(facts.get('records'))} records that took no part in the fits; bars: SD over seeds."
    if axis == "clusters":
        elbow, plateau = facts.get("elbow"), facts.get("plateau")
        if elbow is not None:
            told += f" Explained variance bends at K = {elbow:g}."
        if plateau is not None:
            told += f" {_SCORES.get(str(facts.get('plateau_score')), 'The score')} is flat from K = {plateau:g}."
    return told
