"""Does the share of time spent in each cluster reproduce the network?

Two random forests see nothing of a record but its cluster proportions. One is fitted on the network's own decisions:
its agreement with the network says how much of what the network decides on is in the proportions. The other is fitted
on the true labels; its scores stand beside the network's. After Boubekki et al. (arXiv 2509.15198, section on cluster
proportions). Every record is scored by forests that never saw its patient, and records that encoder or K-means had
seen stand apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ecgscale.encoders.spec import OutputSpec
from ecgscale.errors import UsageError
from ecgscale.evaluate.bootstrap import intervals
from ecgscale.evaluate.forests import ForestSettings
from ecgscale.evaluate.metrics import Criterion, difference
from ecgscale.evaluate.seen import Seen, groups_of, headline_of, patients_of
from ecgscale.evaluate.surrogate.baselines import Baseline, Comparison, compare, permuted
from ecgscale.evaluate.surrogate.out_of_fold import Answers, Features, InMemory, answer
from ecgscale.evaluate.surrogate.questions import Questions, list_matrix, pose
from ecgscale.evaluate.surrogate.rotation import Importance, Rotation, rotate
from ecgscale.evaluate.surrogate.scores import (
    DIFFERENCES,
    SCORES,
    Scorers,
    by_group,
    by_label,
    by_part,
    by_record,
    scorers,
    value_of,
)
from ecgscale.evaluate.truth import read_truth
from ecgscale.evaluate.written import SurrogateResult
from ecgscale.passes.spread import HERE, Spread
from ecgscale.progress import SILENT, Progress


@dataclass(frozen=True)
class SurrogateRequest:
    """What a user asks of `ecgscale surrogate`; `folds` as in `rotation.rotate`, `within` keeps these folds alone."""

    folds: str | None = None
    train_folds: tuple[int, ...] = ()
    test_folds: tuple[int, ...] = ()
    within: tuple[int, ...] = ()
    thresholds: Criterion = "accuracy"
    forests: ForestSettings = field(default_factory=ForestSettings)
    n_bootstrap: int = 1000
    baselines: bool = False
    network_baselines: bool = False
    baseline_records: int = 2000
    importance: bool = False
    out_of_core: bool = False


@dataclass(frozen=True)
class ExplainedRecords:
    """N explained records with labels of `target`: who they are (record_id, patient_id, fold), the questions, the
    proportions (N, K) where they lie in memory, and what had been seen."""

    target: str
    table: pa.Table
    questions: Questions
    proportions: NDArray[np.float32] | None
    seen: Seen | None
    quarantined: int

    @property
    def patients(self) -> NDArray[np.str_]:
        """(N,)"""
        return patients_of(self.table)


def explained_records(
    explanations: pa.Table,
    target: str,
    output: OutputSpec,
    request: SurrogateRequest,
    seen: Seen | None = None,
) -> ExplainedRecords:
    """The records to score, from columns record_id, patient_id, status, prediction, `target` and, where they are to lie
    in memory, proportions; for folds, fold. Quarantined ones and those of folds that are not `within` are left out.

    Raises `UsageError` for labels that the network does not tell, and for folds that are not there.
    """
    ok = np.array([status == "ok" for status in explanations.column("status").to_pylist()], dtype=bool)
    if not ok.any():
        raise UsageError(f"no record can be scored: all {len(ok)} are quarantined")
    table, seen = explanations.filter(pa.array(ok)), seen.of(ok) if seen else None
    truth = read_truth(table, target, output)
    # Before any record is left out: thresholds come from the validation records, wherever scores do.
    questions = pose(
        list_matrix(table, "prediction"), truth, output, seen.validation if seen else None, request.thresholds
    )
    within = _within(table, request.within)
    table = table.filter(pa.array(within))
    proportions = list_matrix(table, "proportions") if "proportions" in table.column_names else None
    return ExplainedRecords(
        target, table, questions.of(within), proportions, seen.of(within) if seen else None, int((~ok).sum())
    )


def score_surrogate(
    data: ExplainedRecords,
    request: SurrogateRequest,
    *,
    features: Features | None = None,
    baselines: Mapping[str, Baseline] | None = None,
    spread: Spread = HERE,
    progress: Progress = SILENT,
) -> SurrogateResult:
    """Fit the forests, part by part, and score what they say about records they never saw.

    `features` are the proportions in memory unless they come from elsewhere; `baselines` are compared beside the
    permuted proportions when the request asks for baselines; `spread` is where forests grow.

    Raises `UsageError` for splits that make no score.
    """
    rotation = rotate(data.table, request.folds, request.train_folds, request.test_folds, request.forests.seed)
    groups = groups_of(rotation.scored, data.seen)
    headline, remark = headline_of(groups)
    group = groups[headline]
    importance = None
    if request.importance and data.proportions is not None:
        importance = Importance(data.questions, data.proportions, group, request.forests.seed)
    if features is None:
        assert data.proportions is not None
        features = InMemory(data.proportions)
    answers = answer(
        data.questions,
        features,
        rotation,
        request.forests,
        importance=importance,
        spread=spread,
        progress=progress,
    )
    found = scorers(data.questions, answers, group)
    differences: Scorers = {}
    for pair in DIFFERENCES:
        first, second = (found.get(name) for name in pair)
        if first and second:
            differences[" - ".join(pair)] = difference(first, second)
    ranges = intervals(
        {**found, **differences}, data.patients[group].tolist(), request.n_bootstrap, request.forests.seed
    )
    compared: dict[str, dict[str, Any]] = {}
    if request.baselines and data.proportions is not None:
        settings = request.forests
        held = Comparison(
            data.questions, data.proportions, rotation, answers, group, data.patients, settings, request.n_bootstrap
        )
        given = {"permuted": permuted(data.proportions, settings.seed), **(baselines or {})}
        compared = compare(held, given, spread, progress)
    seen = data.seen
    return SurrogateResult(
        target=data.target,
        kind=data.questions.kind,
        names=data.questions.names,
        scores={name: value_of(found.get(name), group) for name in SCORES},
        intervals={name: ranges[name] for name in found},
        per_label=by_label(data.questions, answers, group),
        groups={
            name: by_group(data.questions, answers, mask, data.patients, request.n_bootstrap, request.forests.seed)
            for name, mask in groups.items()
        },
        headline=headline,
        folds=by_part(data.questions, answers, rotation, group),
        differences={
            name: {"value": value_of(scorer, group), "interval": ranges[name]} for name, scorer in differences.items()
        },
        baselines=compared,
        importance=importance.result(answers.said) if importance else [],
        thresholds=_thresholds(data.questions),
        records=int(group.sum()),
        train_records=round(float(np.mean([part.train.sum() for part in rotation.parts]))),
        labelled_records=int((group & data.questions.known).sum()),
        quarantined=data.quarantined,
        split=rotation.split,
        seen_by_encoder=None if seen is None or seen.encoder is None else int(seen.encoder[group].sum()),
        seen_by_clusters=None if seen is None or seen.clusters is None else int(seen.clusters[group].sum()),
        remarks=tuple(_remarks(data, answers, rotation, group, remark)),
        out_of_fold=by_record(data.table, data.questions, answers, rotation, seen),
    )


def _within(table: pa.Table, within: tuple[int, ...]) -> NDArray[np.bool_]:
    if not within:
        return np.ones(table.num_rows, dtype=bool)
    own = (
        [-1 if fold is None else fold for fold in table.column("fold").to_pylist()]
        if "fold" in table.column_names
        else []
    )
    if absent := sorted(set(within) - set(own)):
        there = ", ".join(map(str, sorted(set(own) - {-1}))) or "none"
        raise UsageError(f"no record is in fold {', '.join(map(str, absent))}; there are: {there}")
    return np.isin(own, within)


def _thresholds(questions: Questions) -> dict[str, float]:
    if questions.thresholds is None:
        return {}
    return dict(zip(questions.names, map(float, questions.thresholds), strict=True))


def _remarks(
    data: ExplainedRecords,
    answers: Answers,
    rotation: Rotation,
    group: NDArray[np.bool_],
    headline: str | None,
) -> list[str]:
    questions = data.questions
    told = [*([headline] if headline else []), *rotation.remarks, *questions.remarks, *answers.remarks]
    if data.quarantined:
        told.append(f"{data.quarantined} quarantined records are left out")
    if unlabelled := int((group & ~questions.known).sum()):
        told.append(f"{unlabelled} records scored have no label: they count for the agreement with the network alone")
    labelled = group & questions.known
    if questions.kind != "regression" and labelled.any():
        counts = questions.y[labelled].sum(axis=0)
        for name, n in zip(questions.names, counts.tolist(), strict=True):
            if n in (0, labelled.sum()):
                told.append(f"no AUROC for {name}: {n} of the {labelled.sum()} labelled records scored have it")
            elif n == 1:
                told.append(f"one record alone of those scored has {name}: its scores hang on it")
    if data.proportions is not None and len(questions) < data.proportions.shape[1]:
        told.append(f"{len(questions)} records are fewer than the {data.proportions.shape[1]} clusters")
    return told
