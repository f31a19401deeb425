"""The scores that set forests, network, labels and the most frequent answer side by side.

Every score is a `Scorer` over the records of a group: it takes weights, so that the same code gives the value and its
bootstrap distribution. A score that cannot be computed is None.

Which one compares what:

    agreement, exact_match, kappa               forest ↔ the network's decisions
    accuracy, auroc, average_precision          forest that learnt labels ↔ labels
    network_…                                   network ↔ labels
    majority_…                                  most frequent answer ↔ the network's decisions, or labels
    …_thresholded                               the same from decisions in 0/1 instead of probabilities
    r2, mae_to_network                          forest ↔ the network's values
    label_r2, mae, network_r2, network_mae      forest that learnt labels, and network ↔ labels
    mean_mae                                    mean label ↔ labels

The scores of a surrogate taken apart: by what had seen the records, by label, by part, by record.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ecgscale.evaluate.bootstrap import Scorer, auroc, intervals, r_squared, weighted_mean
from ecgscale.evaluate.metrics import among, average_precision, cohens_kappa, mean_of
from ecgscale.evaluate.seen import FEWEST_TEST, Seen
from ecgscale.evaluate.surrogate.out_of_fold import Answers
from ecgscale.evaluate.surrogate.questions import Questions
from ecgscale.evaluate.surrogate.rotation import Rotation

CLASSIFICATION = (
    "agreement",
    "majority_agreement",
    "exact_match",
    "majority_exact_match",
    "kappa",
    "accuracy",
    "network_accuracy",
    "majority_accuracy",
    "auroc",
    "network_auroc",
    "auroc_thresholded",
    "network_auroc_thresholded",
    "average_precision",
    "network_average_precision",
    "average_precision_thresholded",
    "network_average_precision_thresholded",
)
REGRESSION = ("r2", "mae_to_network", "label_r2", "network_r2", "mae", "network_mae", "mean_mae")
SCORES = (*CLASSIFICATION, *REGRESSION)

DIFFERENCES = (
    ("agreement", "majority_agreement"),
    ("exact_match", "majority_exact_match"),
    ("accuracy", "network_accuracy"),
    ("accuracy", "majority_accuracy"),
    ("auroc", "network_auroc"),
    ("auroc_thresholded", "network_auroc_thresholded"),
    ("average_precision", "network_average_precision"),
    ("mae", "network_mae"),
    ("mae", "mean_mae"),
    ("label_r2", "network_r2"),
)
"""Pairs whose difference is told with an interval of its own."""

OF_A_BASELINE = ("agreement", "exact_match", "kappa", "accuracy", "auroc", "average_precision", "r2",
                 "mae_to_network", "label_r2", "mae")  # fmt: skip
"""What is said of forests on other features; the rest has no forest in it."""

OF_A_LABEL = tuple(name for name in CLASSIFICATION if "exact_match" not in name)

Scorers = dict[str, Scorer | None]


def scorers(questions: Questions, answers: Answers, group: NDArray[np.bool_]) -> Scorers:
    """All scores of the records in `group` (N,), macro over labels; weights are those of the group's records."""
    if questions.kind == "regression":
        return _of_values(questions, answers, group)
    columns = [_of_label(questions, answers, group, i) for i in range(len(questions.names))]
    found: Scorers = {name: mean_of([column[name] for column in columns]) for name in OF_A_LABEL}
    network, imitated, whole = (a[group] for a in (questions.network, answers.imitated, answers.always_whole))
    found["exact_match"] = weighted_mean((imitated == network).all(axis=1))
    found["majority_exact_match"] = weighted_mean((whole == network).all(axis=1))
    if questions.kind == "multiclass":
        found |= _of_classes(questions, answers, group)
    return {name: found[name] for name in CLASSIFICATION}


def label_scorers(questions: Questions, answers: Answers, group: NDArray[np.bool_]) -> dict[str, Scorers]:
    """The scores of every label by itself, by its name; empty for a regression."""
    if questions.kind == "regression":
        return {}
    return {name: _of_label(questions, answers, group, i) for i, name in enumerate(questions.names)}


def _of_label(questions: Questions, answers: Answers, group: NDArray[np.bool_], i: int) -> Scorers:
    network, imitated, always = (a[group, i] for a in (questions.network, answers.imitated, answers.always))
    found: Scorers = {
        "agreement": weighted_mean(imitated == network),
        "majority_agreement": weighted_mean(always == network),
        "kappa": cohens_kappa(imitated, network),
    }
    labelled, told = questions.known[group], (questions.known & answers.told_known)[group]
    y = questions.y[group, i]
    for prefix, there, decided, says in (
        ("", told, answers.told[group, i], answers.told_says[group, i]),
        ("network_", labelled, network, questions.says[group, i]),
    ):
        found[f"{prefix}accuracy"] = _mean(there, decided == y)
        for name, score in (("auroc", auroc), ("average_precision", average_precision)):
            found[f"{prefix}{name}"] = _ranked(there, score, y, says)
            found[f"{prefix}{name}_thresholded"] = _ranked(there, score, y, decided)
    found["majority_accuracy"] = _mean(told, answers.usual[group, i] == y)
    return found


def _of_classes(questions: Questions, answers: Answers, group: NDArray[np.bool_]) -> Scorers:
    """Exclusive classes agree when the class is the same, not label by label."""
    network, imitated, always, y, told, usual = (
        a[group]
        for a in (
            questions.network,
            answers.imitated,
            answers.always,
            questions.y,
            answers.told,
            answers.usual,
        )
    )
    labelled, has_told = questions.known[group], (questions.known & answers.told_known)[group]
    return {
        "agreement": weighted_mean((imitated == network).all(axis=1)),
        "majority_agreement": weighted_mean((always == network).all(axis=1)),
        "kappa": cohens_kappa(imitated.argmax(axis=1), network.argmax(axis=1)),
        "accuracy": _mean(has_told, (told == y).all(axis=1)),
        "network_accuracy": _mean(labelled, (network == y).all(axis=1)),
        "majority_accuracy": _mean(has_told, (usual == y).all(axis=1)),
    }


def _of_values(questions: Questions, answers: Answers, group: NDArray[np.bool_]) -> Scorers:
    network, imitated = questions.network[group], answers.imitated[group]
    labelled, told = questions.known[group], (questions.known & answers.told_known)[group]
    y = np.where(labelled, questions.y[group], 0.0)
    said, usual = answers.told[group], answers.usual[group]
    return {
        "r2": r_squared(network, imitated) if np.ptp(network) > 0 else None,
        "mae_to_network": weighted_mean(np.abs(imitated - network)),
        "label_r2": _explained(told, y, said),
        "network_r2": _explained(labelled, y, network),
        "mae": _mean(told, np.abs(said - y)),
        "network_mae": _mean(labelled, np.abs(network - y)),
        "mean_mae": _mean(told, np.abs(usual - y)),
    }


def _mean(there: NDArray[np.bool_], values: NDArray) -> Scorer | None:
    return among(there, weighted_mean(values[there])) if there.any() else None


def _explained(there: NDArray[np.bool_], y: NDArray, said: NDArray) -> Scorer | None:
    if there.sum() < 2 or np.ptp(y[there]) == 0:
        return None
    return among(there, r_squared(y[there], said[there]))


def _ranked(
    there: NDArray[np.bool_], score: Callable[[NDArray, NDArray], Scorer | None], y: NDArray, says: NDArray
) -> Scorer | None:
    return among(there, score(y[there], says[there])) if there.any() else None


def value_of(scorer: Scorer | None, group: NDArray[np.bool_]) -> float | None:
    """A score with all records of the group counting once; None when there is none."""
    value = float(scorer(np.ones((1, int(group.sum()))))[0]) if scorer else float("nan")
    return value if np.isfinite(value) else None


def by_group(
    questions: Questions,
    answers: Answers,
    group: NDArray[np.bool_],
    patients: NDArray[np.str_],
    n_bootstrap: int,
    seed: int,
) -> dict[str, Any]:
    """Number of records, scores and intervals of one group; one of fewer than FEWEST_TEST records has no scores."""
    facts: dict[str, Any] = {"records": int(group.sum())}
    if group.sum() < FEWEST_TEST:
        return facts
    found = scorers(questions, answers, group)
    spread = intervals(found, patients[group].tolist(), n_bootstrap, seed)
    return {**facts, "scores": {name: value_of(scorer, group) for name, scorer in found.items()}, "intervals": spread}


def by_label(questions: Questions, answers: Answers, group: NDArray[np.bool_]) -> dict[str, dict[str, float | None]]:
    """The scores of each label, and how many of the group's records have it and are said to have it."""
    labelled = group & questions.known
    found = {}
    for i, (name, each) in enumerate(label_scorers(questions, answers, group).items()):
        counts = {
            "records_with": int(questions.y[labelled, i].sum()),
            "decided": int(questions.network[group, i].sum()),
        }
        found[name] = {**counts, **{score: value_of(scorer, group) for score, scorer in each.items()}}
    return found


def by_part(questions: Questions, answers: Answers, rotation: Rotation, group: NDArray[np.bool_]) -> dict[str, Any]:
    """Every score by part, and mean and SD over the parts that have it."""
    parts: list[dict[str, Any]] = []
    for name, part in zip(rotation.names, rotation.parts, strict=True):
        mask = part.test & group
        if mask.any():
            found = scorers(questions, answers, mask)
            values = {score: value_of(scorer, mask) for score, scorer in found.items()}
            parts.append({"name": name, "records": int(mask.sum()), "scores": values})
    summary = {}
    for score in parts[0]["scores"] if parts else ():
        known = [part["scores"][score] for part in parts if part["scores"][score] is not None]
        if known:
            sd = float(np.std(known, ddof=1)) if len(known) > 1 else None
            summary[score] = {"mean": float(np.mean(known)), "sd": sd, "parts": len(known)}
    return {"summary": summary, "parts": parts}


def by_record(
    table: pa.Table, questions: Questions, answers: Answers, rotation: Rotation, seen: Seen | None
) -> pa.Table:
    """What every scored record got: ids, part, and what network, both forests and label say."""
    scored = np.flatnonzero(answers.scored)
    part_of = rotation.part_of[scored]

    def column(values: NDArray, there: NDArray[np.bool_]) -> pa.Array:
        told = [row if has else None for row, has in zip(values[scored].tolist(), there[scored].tolist(), strict=True)]
        return pa.array(told)

    everywhere = np.ones(len(questions), dtype=bool)
    columns = {
        "record_id": table.column("record_id").take(scored),
        "patient_id": table.column("patient_id").take(scored),
        "part": pa.array([rotation.names[i] for i in part_of]),
        "network": column(questions.says, everywhere),
        "imitated": column(answers.imitated_says, everywhere),
        "learnt": column(answers.told_says, answers.told_known),
        "label": column(questions.y, questions.known),
    }
    for name in ("encoder", "clusters"):
        flags = getattr(seen, name) if seen else None
        columns[f"seen_by_{name}"] = pa.array([None] * len(scored) if flags is None else flags[scored], pa.bool_())
    return pa.table(columns)
