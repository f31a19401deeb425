"""What else a forest could have been given: how far the scores of cluster proportions are more than chance, and less
than everything.

Each baseline is a vector a record for the same forests, the same parts and the same records; its scores stand beside
those of the proportions with the paired difference. Features that are costly are of a sample of records; proportions
are then fitted on that sample again, so that both had equally many records.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecgscale.evaluate.bootstrap import intervals
from ecgscale.evaluate.forests import ForestSettings
from ecgscale.evaluate.metrics import difference
from ecgscale.evaluate.surrogate.out_of_fold import Answers, InMemory, answer
from ecgscale.evaluate.surrogate.questions import Questions
from ecgscale.evaluate.surrogate.rotation import Rotation
from ecgscale.evaluate.surrogate.scores import OF_A_BASELINE, Scorers, scorers
from ecgscale.passes.spread import HERE, Spread
from ecgscale.progress import SILENT, Progress

FEWEST_SCORED = 5


@dataclass(frozen=True)
class Baseline:
    """`x` (N, F) features of the records that `has` (N,) any, and what they are in words."""

    told: str
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
    facts: dict[str, Any] = {"told": baseline.told, "features": baseline.x.shape[1]}
    if not rotation.parts:
        return {**facts, "records": 0, "remark": "too few records have these features"}
    answers = _answers(against, baseline.x, rotation, spread, progress, name)
    group = against.group & answers.scored
    facts["records"] = int(group.sum())
    if group.sum() < FEWEST_SCORED:
        return {**facts, "remark": f"{group.sum()} records with these features score: too few"}
    own, main = (_kept(scorers(against.questions, given, group)) for given in (answers, reference))
    less: Scorers = {k: difference(main[k], own[k]) if main[k] and own[k] else None for k in own}  # type: ignore[arg-type]
    patients = against.patients[group].tolist()
    ranges = intervals(
        {**own, **{f"-{k}": v for k, v in less.items()}}, patients, against.n_bootstrap, against.settings.seed
    )
    alike = np.ones((1, int(group.sum())))
    return {
        **facts,
        "scores": {k: _value(v, alike) for k, v in own.items()},
        "intervals": {k: ranges[k] for k in own},
        "proportions": {k: _value(v, alike) for k, v in main.items()},
        "difference": {k: _value(v, alike) for k, v in less.items()},
        "difference_intervals": {k: ranges[f"-{k}"] for k in less},
    }


def _answers(
    against: Comparison, x: NDArray[np.float32], rotation: Rotation, spread: Spread, progress: Progress, stage: str
) -> Answers:
    # Of a sample, forests are quick, and features of the others are zeros that nobody needs to be sent.
    if not rotation.scored.all():
        spread = HERE
    features = InMemory(x)
    return answer(
        against.questions, features, rotation, against.settings, spread=spread, progress=progress, stage=stage
    )


def _kept(found: Scorers) -> Scorers:
    return {name: found[name] for name in OF_A_BASELINE if name in found}


def _value(scorer: Any, alike: NDArray[np.float64]) -> float | None:
    value = float(scorer(alike)[0]) if scorer else float("nan")
    return value if np.isfinite(value) else None
