"""The surrogate check as tables: forests on proportions beside the network, the usual answer, and other features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ecgscale.tables import Cell, Row, Table, number, readable, scored

Columns = tuple[tuple[str, str], ...]
"""Score and its heading."""

CLASSES: Columns = (
    ("agreement", "agrees with the network"),
    ("exact_match", "… in every label"),
    ("kappa", "Cohen's κ"),
    ("accuracy", "accuracy by the labels"),
    ("auroc", "AUROC"),
    ("average_precision", "average precision"),
)
VALUES: Columns = (
    ("r2", "R² to the network"),
    ("mae_to_network", "mean error to the network"),
    ("label_r2", "R² by the labels"),
    ("mae", "mean error by the labels"),
)
_NETWORK = {name: f"network_{name}" for name in ("accuracy", "auroc", "average_precision", "mae")}
_NETWORK["label_r2"] = "network_r2"
_USUAL = {name: f"majority_{name}" for name in ("agreement", "exact_match", "accuracy")} | {"mae": "mean_mae"}
_BASELINES = {
    "permuted": "proportions of another record",
    "random_centroids": "proportions of random centroids",
    "random_encoder": "the network with random weights",
    "signal": "the raw signal",
    "simple": "heart rate and amplitudes",
    "pooled": "pooled activations (the ceiling)",
}
_GROUPS = {
    "neither": "seen by neither",
    "clusters": "seen by K-means alone",
    "encoder": "seen by the network",
    "all": "all that were scored",
}


def surrogate_tables(facts: Mapping[str, Any], n_clusters: int) -> list[Table]:
    """The tables that these facts hold, the main one first."""
    columns = VALUES if facts.get("kind") == "regression" else CLASSES
    tables = [_main(facts, columns, n_clusters)]
    for maker in (_groups, _per_label, _over_folds, _differences):
        table = maker(facts, columns)
        if table is not None:
            tables.append(table)
    return tables


def _main(facts: Mapping[str, Any], columns: Columns, n_clusters: int) -> Table:
    intervals, same = facts.get("intervals") or {}, {name: name for name, _ in columns}
    rows = [
        Row(f"forest on {n_clusters} proportions", _scores(facts, intervals, same, columns), "own"),
        Row("the network itself", _scores(facts, intervals, _NETWORK, columns)),
        Row("always the usual answer", _scores(facts, intervals, _USUAL, columns)),
    ]
    for name, baseline in (facts.get("baselines") or {}).items():
        own, spread = baseline.get("scores") or {}, baseline.get("intervals") or {}
        told = f"forest on {baseline.get('told') or _BASELINES.get(name, readable(name))}"
        cells = _scores(own, spread, same, columns)
        if not own:
            cells = (Cell(str(baseline.get("remark", "not computed"))), *(Cell("") for _ in columns[1:]))
        rows.append(Row(told, cells, "ceiling" if name == "pooled" else ""))
    return Table(_caption(facts), tuple(told for _, told in columns), tuple(rows))


def _caption(facts: Mapping[str, Any]) -> str:
    group = _GROUPS.get(str(facts.get("headline")), "")
    told = f"{facts.get('target')}: {facts.get('records')} recordings{f' {group}' if group else ''}"
    return f"{told}; {facts.get('split')}. In brackets 95 % intervals from resampled patients."


def _scores(
    values: Mapping[str, Any],
    intervals: Mapping[str, Any],
    keys: Mapping[str, str],
    columns: Columns,
) -> tuple[Cell, ...]:
    return tuple(
        scored(values.get(keys[name]), intervals.get(keys[name])) if name in keys else Cell("", number=True)
        for name, _ in columns
    )


def _groups(facts: Mapping[str, Any], columns: Columns) -> Table | None:
    """The same by what had seen the records: what was seen before is easier."""
    groups = facts.get("groups") or {}
    if len(groups) < 2:
        return None
    rows = []
    for name, group in groups.items():
        keys = {k: k for k, _ in columns}
        cells = _scores(group.get("scores") or {}, group.get("intervals") or {}, keys, columns)
        rows.append(Row(_GROUPS.get(name, readable(name)), (number(group.get("records")), *cells)))
    named = ("records", *(told for _, told in columns))
    return Table("By what had seen the records before", named, tuple(rows))


def _per_label(facts: Mapping[str, Any], columns: Columns) -> Table | None:
    labels = facts.get("per_label") or {}
    if not labels:
        return None
    keys = [("records_with", "records with it"), ("decided", "called by the network"), ("agreement", "agreement"),
            ("majority_agreement", "usual answer"), ("kappa", "Cohen's κ"), ("accuracy", "accuracy"),
            ("network_accuracy", "network's"), ("auroc", "AUROC"), ("network_auroc", "network's"),
            ("average_precision", "average precision"), ("network_average_precision", "network's")]  # fmt: skip
    thresholds = facts.get("thresholds") or {}
    rows = tuple(
        Row(name, (*(number(scores.get(key)) for key, _ in keys), number(thresholds.get(name))))
        for name, scores in labels.items()
    )
    return Table("Class by class", (*(told for _, told in keys), "threshold"), rows)


def _over_folds(facts: Mapping[str, Any], columns: Columns) -> Table | None:
    summary = (facts.get("folds") or {}).get("summary") or {}
    rows = []
    for name, over in summary.items():
        if over.get("sd") is not None:
            rows.append(Row(readable(name), (number(over["mean"]), number(over["sd"]), number(over.get("parts")))))
    return Table("Over the parts of the rotation", ("mean", "SD", "parts"), tuple(rows)) if rows else None


def _differences(facts: Mapping[str, Any], columns: Columns) -> Table | None:
    found = facts.get("differences") or {}
    rows = tuple(
        Row(readable(name).replace(" - ", " − "), (scored(one.get("value"), one.get("interval")),))
        for name, one in found.items()
    )
    return Table("Paired differences", ("difference",), rows) if rows else None


def importance_of(facts: Mapping[str, Any]) -> dict[int, float]:
    """Cluster → agreement (or R²) that is lost when its proportion is shuffled; empty where it was not measured."""
    found = {}
    for entry in facts.get("importance") or []:
        if isinstance(entry, Mapping) and entry.get("lost") is not None and entry.get("cluster") is not None:
            found[int(entry["cluster"])] = float(entry["lost"])
    return found


Entry = tuple[str, float, tuple[float, float] | None]


def figure_rows(facts: Mapping[str, Any]) -> list[tuple[str, list[Entry]]]:
    """What a figure shows: (score, its entries: name, value, interval), the forest on proportions first."""
    values = facts.get("kind") == "regression"
    chosen = [VALUES[0], VALUES[3]] if values else [CLASSES[0], CLASSES[4]]
    panels = []
    for key, told in chosen:
        entries = [_entry("proportions", facts, key)]
        if key in _NETWORK:
            entries.append(_entry("the network", facts, _NETWORK[key]))
        if key in _USUAL:
            entries.append(_entry("usual answer", facts, _USUAL[key]))
        for name, baseline in (facts.get("baselines") or {}).items():
            entries.append(_entry(readable(name), baseline.get("scores") or {}, key, baseline.get("intervals")))
        known = [entry for entry in entries if entry is not None]
        if known:
            panels.append((told, known))
    return panels


def _entry(name: str, scores: Mapping[str, Any], key: str, intervals: Mapping[str, Any] | None = None) -> Entry | None:
    value = scores.get(key)
    if value is None:
        return None
    pair = (intervals if intervals is not None else scores.get("intervals") or {}).get(key)
    return name, float(value), (float(pair[0]), float(pair[1])) if pair and None not in pair else None
