"""The scores of a surrogate taken apart: by what had seen the records, by label, by part, by record."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ecgscale.evaluate.bootstrap import Scorer, intervals
from ecgscale.evaluate.holdout import FEWEST_TEST
from ecgscale.evaluate.out_of_fold import Answers
from ecgscale.evaluate.questions import Questions
from ecgscale.evaluate.rotation import Rotation
from ecgscale.evaluate.scores import label_scorers, scorers
from ecgscale.evaluate.seen import Seen


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
