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

They are taken apart by what had seen the records, by label, by part and by record. Baselines are what else a forest
could have been given: how far the scores of cluster proportions are more than chance, and less than everything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ecgscale.evaluate.forests import ForestSettings, InMemory
from ecgscale.evaluate.metrics import (
    Scorer,
    among,
    auroc,
    average_precision,
    cohens_kappa,
    difference,
    intervals,
    mean_of,
    r_squared,
    value_of,
    weighted_mean,
)
from ecgscale.evaluate.questions import Questions
from ecgscale.evaluate.seen import FEWEST_TEST, Seen
from ecgscale.evaluate.surrogate.out_of_fold import Answers, answer
from ecgscale.evaluate.surrogate.rotation import Rotation
from ecgscale.passes.spread import HERE, Spread
from ecgscale.progress import SILENT, Progress

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
"""Pairs whose difference has an interval of its own."""

OF_A_BASELINE = ("agreement", "exact_match", "kappa", "accuracy", "auroc", "average_precision", "r2",
                 "mae_to_network", "label_r2", "mae")  # fmt: skip
"""What is said of forests on other features; the rest has no forest in it."""

OF_A_LABEL = tuple(name for name in CLASSIFICATION if "exact_match" not in name)

Scorers = dict[str, Scorer | None]


def scorers(questions: Questions, answers: Answers, group: NDArray[np.bool_]) -> Scorers:
    """All scores of the records in `group` (N,), macro over labels; weights are those of the group's records."""
    q, a = questions.of(group), answers.of(group)
    if q.kind == "regression":
        return _of_values(q, a)
    columns = [_of_label(q, a, i) for i in range(len(q.names))]
    found: Scorers = {name: mean_of([column[name] for column in columns]) for name in OF_A_LABEL}
    found["exact_match"] = weighted_mean((a.imitated == q.network).all(axis=1))
    found["majority_exact_match"] = weighted_mean((a.majority_whole == q.network).all(axis=1))
    if q.kind == "multiclass":
        found |= _of_classes(q, a)
    return {name: found[name] for name in CLASSIFICATION}


def _of_label(q: Questions, a: Answers, i: int) -> Scorers:
    network, imitated, y, learnt = q.network[:, i], a.imitated[:, i], q.y[:, i], q.known & a.has_learnt
    found: Scorers = {
        "agreement": weighted_mean(imitated == network),
        "majority_agreement": weighted_mean(a.majority[:, i] == network),
        "kappa": cohens_kappa(imitated, network),
        "majority_accuracy": _where(learnt, weighted_mean, a.majority_label[:, i] == y),
    }
    for prefix, there, decided, says in (
        ("", learnt, a.learnt[:, i], a.learnt_says[:, i]),
        ("network_", q.known, network, q.says[:, i]),
    ):
        found[f"{prefix}accuracy"] = _where(there, weighted_mean, decided == y)
        for name, score in (("auroc", auroc), ("average_precision", average_precision)):
            found[f"{prefix}{name}"] = _where(there, score, y, says)
            found[f"{prefix}{name}_thresholded"] = _where(there, score, y, decided)
    return found


def _of_classes(q: Questions, a: Answers) -> Scorers:
    """Exclusive classes agree when the class is the same, not label by label."""
    learnt = q.known & a.has_learnt
    return {
        "agreement": weighted_mean((a.imitated == q.network).all(axis=1)),
        "majority_agreement": weighted_mean((a.majority == q.network).all(axis=1)),
        "kappa": cohens_kappa(a.imitated.argmax(axis=1), q.network.argmax(axis=1)),
        "accuracy": _where(learnt, weighted_mean, (a.learnt == q.y).all(axis=1)),
        "network_accuracy": _where(q.known, weighted_mean, (q.network == q.y).all(axis=1)),
        "majority_accuracy": _where(learnt, weighted_mean, (a.majority_label == q.y).all(axis=1)),
    }


def _of_values(q: Questions, a: Answers) -> Scorers:
    learnt, y = q.known & a.has_learnt, np.where(q.known, q.y, 0.0)
    return {
        "r2": r_squared(q.network, a.imitated),
        "mae_to_network": weighted_mean(np.abs(a.imitated - q.network)),
        "label_r2": _where(learnt, r_squared, y, a.learnt),
        "network_r2": _where(q.known, r_squared, y, q.network),
        "mae": _where(learnt, weighted_mean, np.abs(a.learnt - y)),
        "network_mae": _where(q.known, weighted_mean, np.abs(q.network - y)),
        "mean_mae": _where(learnt, weighted_mean, np.abs(a.majority_label - y)),
    }


def _where(there: NDArray[np.bool_], score: Callable[..., Scorer | None], *values: NDArray) -> Scorer | None:
    """The score of the records that are `there`; None without any."""
    return among(there, score(*(each[there] for each in values))) if there.any() else None


def values_of(found: Mapping[str, Scorer | None], n_records: int) -> dict[str, float | None]:
    """Every score with all records counting once."""
    return {name: value_of(scorer, n_records) for name, scorer in found.items()}


def by_group(
    questions: Questions,
    answers: Answers,
    group: NDArray[np.bool_],
    patients: NDArray[np.str_],
    n_bootstrap: int,
    seed: int,
) -> dict[str, Any]:
    """Number of records, scores and intervals of one group; one of fewer than FEWEST_TEST records has no scores."""
    n = int(group.sum())
    if n < FEWEST_TEST:
        return {"records": n}
    found = scorers(questions, answers, group)
    spread = intervals(found, patients[group].tolist(), n_bootstrap, seed)
    return {"records": n, "scores": values_of(found, n), "intervals": spread}


def by_label(questions: Questions, answers: Answers, group: NDArray[np.bool_]) -> dict[str, dict[str, float | None]]:
    """The scores of each label, and how many of the group's records have it and are said to have it; empty for a
    regression."""
    if questions.kind == "regression":
        return {}
    q, a = questions.of(group), answers.of(group)
    return {
        name: {
            "records_with": int(q.y[q.known, i].sum()) if q.known.any() else None,
            "decided": int(q.network[:, i].sum()),
            **values_of(_of_label(q, a, i), len(q)),
        }
        for i, name in enumerate(q.names)
    }


def by_part(questions: Questions, answers: Answers, rotation: Rotation, group: NDArray[np.bool_]) -> dict[str, Any]:
    """Every score by part, and mean and SD over the parts that have it."""
    parts: list[dict[str, Any]] = []
    for name, part in zip(rotation.names, rotation.parts, strict=True):
        mask = part.test & group
        if n := int(mask.sum()):
            parts.append({"name": name, "records": n, "scores": values_of(scorers(questions, answers, mask), n)})
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

    def column(values: NDArray, there: NDArray[np.bool_]) -> pa.Array:
        pairs = zip(values[scored].tolist(), there[scored].tolist(), strict=True)
        kind = pa.from_numpy_dtype(values.dtype)
        return pa.array([row if has else None for row, has in pairs], kind if values.ndim == 1 else pa.list_(kind))

    columns = {
        "record_id": table.column("record_id").take(scored),
        "patient_id": table.column("patient_id").take(scored),
        "part": pa.array([rotation.names[i] for i in rotation.part_of[scored]]),
        "network": column(questions.says, answers.scored),
        "imitated": column(answers.imitated_says, answers.scored),
        "learnt": column(answers.learnt_says, answers.has_learnt),
        "label": column(questions.y, questions.known),
    }
    for name in ("encoder", "clusters"):
        flags = getattr(seen, name) if seen else None
        columns[f"seen_by_{name}"] = pa.array([None] * len(scored) if flags is None else flags[scored], pa.bool_())
    return pa.table(columns)


@dataclass(frozen=True)
class Baseline:
    """`x` (N, F) features of the records that `has` (N,) any, and what they are in `words`."""

    words: str
    x: NDArray[np.float32]
    has: NDArray[np.bool_]


@dataclass(frozen=True)
class Comparison:
    """What baselines are held against: the proportions, their answers, and the group whose scores count."""

    questions: Questions
    proportions: NDArray[np.float32]
    rotation: Rotation
    answers: Answers
    group: NDArray[np.bool_]
    patients: NDArray[np.str_]
    settings: ForestSettings
    n_bootstrap: int


def permuted(proportions: NDArray[np.float32], seed: int) -> Baseline:
    """Every record has the proportions of another: what forests make of the labels' frequencies alone."""
    order = np.random.default_rng([seed, 7]).permutation(len(proportions))
    return Baseline("proportions of another record", proportions[order], np.ones(len(proportions), dtype=bool))


def compare(
    against: Comparison, baselines: Mapping[str, Baseline], spread: Spread = HERE, progress: Progress = SILENT
) -> dict[str, dict[str, Any]]:
    """Scores of every baseline, and proportions minus baseline, each with its interval; or why there are none.

    All forests have the same parts and records; features that are costly are of a sample, and proportions are fitted on
    that sample again, so that both had equally many.

    Facts of one baseline: `told`, `features`, `records` (scored), `scores`, `intervals`, `proportions` (the scores of
    the proportions on the same records), `difference` and `difference_intervals`; instead of scores a `remark`.
    """
    found = {}
    samples: dict[bytes, tuple[Rotation, Answers]] = {}
    for name, baseline in baselines.items():
        rotation, reference = against.rotation, against.answers
        if not baseline.has.all():
            key = baseline.has.tobytes()
            if key not in samples:
                rotation = against.rotation.restricted(baseline.has)
                samples[key] = (
                    rotation,
                    _answers(against, against.proportions, rotation, spread, progress, "proportions"),
                )
            rotation, reference = samples[key]
        found[name] = _facts(against, baseline, rotation, reference, spread, progress, name)
    return found


def _facts(
    against: Comparison,
    baseline: Baseline,
    rotation: Rotation,
    reference: Answers,
    spread: Spread,
    progress: Progress,
    name: str,
) -> dict[str, Any]:
    facts: dict[str, Any] = {"told": baseline.words, "features": baseline.x.shape[1]}
    if not rotation.parts:
        return {**facts, "records": 0, "remark": "too few records have these features"}
    answers = _answers(against, baseline.x, rotation, spread, progress, name)
    group = against.group & answers.scored
    n = facts["records"] = int(group.sum())
    if n < FEWEST_TEST:
        return {**facts, "remark": f"{n} records with these features score: too few"}
    own, main = (
        {score: found[score] for score in OF_A_BASELINE if score in found}
        for found in (scorers(against.questions, given, group) for given in (answers, reference))
    )
    less = {score: difference(main[score], own[score]) for score in own}
    named = {**own, **{f"-{score}": scorer for score, scorer in less.items()}}
    ranges = intervals(named, against.patients[group].tolist(), against.n_bootstrap, against.settings.seed)
    return {
        **facts,
        "scores": values_of(own, n),
        "intervals": {score: ranges[score] for score in own},
        "proportions": values_of(main, n),
        "difference": values_of(less, n),
        "difference_intervals": {score: ranges[f"-{score}"] for score in less},
    }


def _answers(
    against: Comparison, x: NDArray[np.float32], rotation: Rotation, spread: Spread, progress: Progress, stage: str
) -> Answers:
    # Of a sample, forests are quick, and features of the others are zeros that nobody needs to be sent.
    if not rotation.scored.all():
        spread = HERE
    questions, settings = [against.questions], against.settings
    return answer(questions, InMemory(x), rotation, settings, spread=spread, progress=progress, stage=stage)[0]
