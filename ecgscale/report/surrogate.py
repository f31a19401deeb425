"""The surrogate check: forests on proportions alongside the network, the most frequent answer, and other features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ecgscale.report.blocks import Section, boxed, folded, heading, missing, remarks_of
from ecgscale.report.subject import Subject
from ecgscale.tables import Cell, Row, Table, number, readable, scored

COMMAND = "surrogate ROOT --target TARGET"
CLASSES = {
    "agreement": "agrees with the network",
    "exact_match": "… in every label",
    "kappa": "Cohen's κ",
    "accuracy": "accuracy by the labels",
    "auroc": "AUROC",
    "average_precision": "average precision",
}
VALUES = {
    "r2": "R² to the network",
    "mae_to_network": "mean error to the network",
    "label_r2": "R² by the labels",
    "mae": "mean error by the labels",
}
_OF_THE_NETWORK = frozenset({"agreement", "exact_match", "kappa", "r2", "mae_to_network"})
"""What needs no labels."""
_NETWORK = {name: f"network_{name}" for name in ("accuracy", "auroc", "average_precision", "mae")}
_NETWORK["label_r2"] = "network_r2"
_MAJORITY = {name: f"majority_{name}" for name in ("agreement", "exact_match", "accuracy")} | {"mae": "mean_mae"}
_BASELINES = {
    "permuted": "proportions of another record",
    "random_centroids": "proportions of random centroids",
    "random_encoder": "the network with random weights",
    "signal": "the raw signal",
    "simple": "heart rate and amplitudes",
    "pooled": "pooled activations (the ceiling)",
}
_PER_LABEL = {
    "records_with": "records with it",
    "decided": "called by the network",
    "agreement": "agreement",
    "majority_agreement": "usual answer",
    "kappa": "Cohen's κ",
    "accuracy": "accuracy",
    "network_accuracy": "network's",
    "auroc": "AUROC",
    "network_auroc": "network's",
    "average_precision": "average precision",
    "network_average_precision": "network's",
}
_GROUPS = {
    "neither": "seen by neither",
    "clusters": "seen by K-means alone",
    "encoder": "seen by the network",
    "all": "all that were scored",
}


def surrogate_of(subject: Subject) -> str | None:
    """Name of the surrogate evaluation to show: that of the encoder's target, else the first."""
    names = [name for name in subject.evaluations if name.split("-")[0] == "surrogate"]
    own = [name for name in names if subject.evaluations[name].facts.get("target") == subject.target]
    return next(iter([*own, *names]), None)


def surrogate_section(subject: Subject) -> Section:
    """The surrogate check with its baselines, or how to make it."""
    section = Section(
        "surrogate",
        "Surrogate forests",
        "A random forest that sees nothing of a recording but the share of time in each cluster tries to say what the "
        "network says. Another learns the true labels. If both come near the network, the clusters hold what it "
        "decides on; other features stand beside them to compare with.",
    )
    shown = surrogate_of(subject)
    if shown is None:
        section.blocks = [missing("Not measured yet. The table is made by", subject.command(COMMAND))]
        return section
    names = [name for name in subject.evaluations if name.split("-")[0] == "surrogate" and name != shown]
    for name in (shown, *names):
        facts = subject.evaluations[name].facts
        main, *others = surrogate_tables(facts, subject.model.n_clusters)
        if names:
            section.blocks.append(heading(str(facts.get("target") or "without labels")))
        section.blocks += [boxed(main), *remarks_of(facts)]
        if others:
            section.blocks.append(
                folded("By class, by fold, by what had been seen; differences", [*map(boxed, others)])
            )
    return section


def surrogate_tables(facts: Mapping[str, Any], n_clusters: int) -> list[Table]:
    """The tables that these facts hold, the main one first."""
    scores = VALUES if facts.get("kind") == "regression" else CLASSES
    if facts.get("target", "") is None:
        scores = {name: words for name, words in scores.items() if name in _OF_THE_NETWORK}
    heads, same = tuple(scores.values()), {name: name for name in scores}
    main = [
        Row(f"forest on {n_clusters} proportions", _scores(facts, same, scores), "own"),
        Row("the network itself", _scores(facts, _NETWORK, scores)),
        Row("always the usual answer", _scores(facts, _MAJORITY, scores)),
    ]
    for name, baseline in (facts.get("baselines") or {}).items():
        if own := baseline.get("scores"):
            cells = _scores({**own, "intervals": baseline.get("intervals")}, same, scores)
        else:
            cells = (Cell(str(baseline.get("remark", "not computed"))), *(Cell("") for _ in heads[1:]))
        called = baseline.get("told") or _BASELINES.get(name, readable(name))
        main.append(Row(f"forest on {called}", cells, "ceiling" if name == "pooled" else ""))
    by_seen = [
        Row(
            _GROUPS.get(name, readable(name)),
            (
                number(group.get("records")),
                *_scores({**(group.get("scores") or {}), "intervals": group.get("intervals")}, same, scores),
            ),
        )
        for name, group in (facts.get("groups") or {}).items()
    ]
    thresholds = facts.get("thresholds") or {}
    by_class = [
        Row(name, (*(number(of.get(key)) for key in _PER_LABEL), number(thresholds.get(name))))
        for name, of in (facts.get("per_label") or {}).items()
    ]
    folds = [
        Row(readable(name), (number(over["mean"]), number(over["sd"]), number(over.get("parts"))))
        for name, over in ((facts.get("folds") or {}).get("summary") or {}).items()
        if over.get("sd") is not None
    ]
    differences = [
        Row(readable(name).replace(" - ", " − "), (scored(one.get("value"), one.get("interval")),))
        for name, one in (facts.get("differences") or {}).items()
    ]
    tables = [
        Table(_caption(facts), heads, tuple(main)),
        # One group alone is all of them: the main table again.
        Table("By what had seen the records before", ("records", *heads), tuple(by_seen if len(by_seen) > 1 else ())),
        Table("Class by class", (*_PER_LABEL.values(), "threshold"), tuple(by_class)),
        Table("Over the parts of the rotation", ("mean", "SD", "parts"), tuple(folds)),
        Table("Paired differences", ("difference",), tuple(differences)),
    ]
    return [table for table in tables if table.rows]


def _caption(facts: Mapping[str, Any]) -> str:
    group = _GROUPS.get(str(facts.get("headline")), "")
    scored_on = (
        f"{facts.get('target') or 'Without labels'}: {facts.get('records')} recordings{f' {group}' if group else ''}"
    )
    return f"{scored_on}; {facts.get('split')}. In brackets 95 % intervals from resampled patients."


def _scores(values: Mapping[str, Any], keys: Mapping[str, str], scores: Mapping[str, str]) -> tuple[Cell, ...]:
    """A cell a score, empty for one that `keys` does not have."""
    intervals = values.get("intervals") or {}
    return tuple(
        scored(values.get(keys[name]), intervals.get(keys[name])) if name in keys else Cell("", number=True)
        for name in scores
    )


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
    regression = facts.get("kind") == "regression"
    panels = []
    for key in ("r2", "mae") if regression else ("agreement", "auroc"):
        entries = [_entry("proportions", facts, key)]
        if key in _NETWORK:
            entries.append(_entry("the network", facts, _NETWORK[key]))
        if key in _MAJORITY:
            entries.append(_entry("usual answer", facts, _MAJORITY[key]))
        for name, baseline in (facts.get("baselines") or {}).items():
            entries.append(_entry(readable(name), baseline.get("scores") or {}, key, baseline.get("intervals")))
        known = [entry for entry in entries if entry is not None]
        if known:
            panels.append(((VALUES if regression else CLASSES)[key], known))
    return panels


def _entry(name: str, scores: Mapping[str, Any], key: str, intervals: Mapping[str, Any] | None = None) -> Entry | None:
    value = scores.get(key)
    if value is None:
        return None
    pair = (intervals if intervals is not None else scores.get("intervals") or {}).get(key)
    return name, float(value), (float(pair[0]), float(pair[1])) if pair and None not in pair else None
