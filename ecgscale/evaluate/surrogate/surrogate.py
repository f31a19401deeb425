"""Does the share of time spent in each cluster reproduce the network?

Two random forests see nothing of a record but its cluster proportions. One is fitted on the network's own decisions:
its agreement with the network says how much of what the network decides on is in the proportions. The other is fitted
on the true labels; its scores stand next to the network's. After Boubekki et al. (arXiv 2509.15198, section on cluster
proportions). Every record is scored by forests that never saw its patient, and records that encoder or K-means had
seen stand apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ecgscale.encoders.spec import OutputSpec
from ecgscale.errors import UsageError
from ecgscale.evaluate.forests import Features, ForestSettings, InMemory
from ecgscale.evaluate.metrics import difference, intervals
from ecgscale.evaluate.questions import Criterion, Questions, list_matrix, no_truth, pose, read_truth
from ecgscale.evaluate.seen import Seen, groups_of, headline_of, patients_of
from ecgscale.evaluate.surrogate.out_of_fold import Answers, Importance, answer
from ecgscale.evaluate.surrogate.rotation import Rotation, folds_of, rotate
from ecgscale.evaluate.surrogate.scores import (
    DIFFERENCES,
    SCORES,
    Baseline,
    Comparison,
    by_group,
    by_label,
    by_part,
    by_record,
    compare,
    permuted,
    scorers,
    values_of,
)
from ecgscale.passes.spread import HERE, Spread
from ecgscale.progress import SILENT, Progress
from ecgscale.words import named


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


NO_TARGET = "the network's own decisions"


@dataclass(frozen=True)
class ExplainedRecords:
    """N explained records with labels of `target`: who they are (record_id, patient_id, fold), the questions, the
    proportions (N, K) where they lie in memory, and what had been seen. Without a target no record has a label, and
    `without` says why."""

    target: str | None
    table: pa.Table
    questions: Questions
    proportions: NDArray[np.float32] | None
    seen: Seen | None
    quarantined: int
    without: str = ""

    @property
    def about(self) -> str:
        """The target, or what is asked about instead."""
        return self.target or NO_TARGET

    @property
    def patients(self) -> NDArray[np.str_]:
        """(N,)"""
        return patients_of(self.table)


def explained_records(
    explanations: pa.Table,
    target: str | None,
    output: OutputSpec,
    request: SurrogateRequest,
    seen: Seen | None = None,
    *,
    without: str = "",
) -> ExplainedRecords:
    """The records to score, from columns record_id, patient_id, status, prediction, `target` and, where they are to lie
    in memory, proportions; for folds, fold. Quarantined ones and those of folds that are not `within` are left out.
    Without a target (`without` says why) the network's yes is above a half: there is nothing to fix thresholds on.

    Raises `UsageError` for labels that the network does not tell, and for folds that are not there.
    """
    ok = np.array([status == "ok" for status in explanations.column("status").to_pylist()], dtype=bool)
    if not ok.any():
        raise UsageError(f"no record can be scored: all {len(ok)} are quarantined")
    table, seen = explanations.filter(pa.array(ok)), seen.of(ok) if seen else None
    truth = no_truth(table.num_rows, output) if target is None else read_truth(table, target, output)
    criterion: Criterion = "half" if target is None else request.thresholds
    # Before any record is left out: thresholds come from the validation records, wherever scores do.
    questions = pose(list_matrix(table, "prediction"), truth, output, seen.validation if seen else None, criterion)
    within = _within(table, request.within)
    table = table.filter(pa.array(within))
    proportions = list_matrix(table, "proportions") if "proportions" in table.column_names else None
    return ExplainedRecords(
        target, table, questions.of(within), proportions, seen.of(within) if seen else None, int((~ok).sum()), without
    )


@dataclass(frozen=True)
class SurrogateResult:
    """Scores of the headline group (`scores`, `intervals`), and everything else, None where it cannot be computed.

    `seen_by_encoder`, `seen_by_clusters`: how many of the headline's records, None where not known; `per_label`: the
    scores of each label; `groups`: for each group of records by what had seen them; `folds`: mean, SD and number over
    the parts; `differences`: paired, with intervals; `baselines` as `scores.compare` gives them; `importance` as
    `Importance.result`. `out_of_fold` has a row for every record scored. Without labels `target` is None.
    """

    target: str | None
    kind: str
    scores: dict[str, float | None]
    records: int
    train_records: int
    labelled_records: int
    quarantined: int
    split: str
    headline: str
    seen_by_encoder: int | None
    seen_by_clusters: int | None
    names: tuple[str, ...]
    thresholds: dict[str, float]
    intervals: dict[str, tuple[float, float] | None]
    per_label: dict[str, dict[str, float | None]]
    groups: dict[str, dict[str, Any]]
    folds: dict[str, Any]
    differences: dict[str, dict[str, Any]]
    baselines: dict[str, dict[str, Any]]
    importance: list[dict[str, Any]]
    remarks: tuple[str, ...]
    out_of_fold: pa.Table = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """For `--json`: every score by its name, and the rest but for the rows."""
        facts = {each.name: getattr(self, each.name) for each in fields(self) if each.repr}
        first = {name: facts.pop(name) for name in ("target", "kind")}
        return {**first, **facts.pop("scores"), **facts}


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

    `features` are the proportions in memory unless they come from elsewhere; `baselines` are compared as the permuted
    proportions are when the request asks for baselines; `spread` is where forests grow.

    Raises `UsageError` for splits that make no score.
    """
    questions, seen, patients, seed = data.questions, data.seen, data.patients, request.forests.seed
    rotation = rotate(data.table, request.folds, request.train_folds, request.test_folds, seed)
    groups = groups_of(rotation.scored, seen)
    headline, remark = headline_of(groups)
    group = groups[headline]
    importance = None
    if request.importance and data.proportions is not None:
        importance = Importance(questions, data.proportions, group, seed)
    if features is None:
        assert data.proportions is not None
        features = InMemory(data.proportions)
    [answers] = answer(
        [questions], features, rotation, request.forests, importance=importance, spread=spread, progress=progress
    )
    found = scorers(questions, answers, group)
    pairs = {f"{a} - {b}": difference(found.get(a), found.get(b)) for a, b in DIFFERENCES}
    differences = {name: scorer for name, scorer in pairs.items() if scorer}
    ranges = intervals({**found, **differences}, patients[group].tolist(), request.n_bootstrap, seed)
    n = int(group.sum())
    compared: dict[str, dict[str, Any]] = {}
    if request.baselines and data.proportions is not None:
        against = Comparison(
            questions, data.proportions, rotation, answers, group, patients, request.forests, request.n_bootstrap
        )
        given = {"permuted": permuted(data.proportions, seed), **(baselines or {})}
        compared = compare(against, given, spread, progress)
    thresholds = [] if questions.thresholds is None else questions.thresholds.tolist()
    return SurrogateResult(
        target=data.target,
        kind=questions.kind,
        scores=dict.fromkeys(SCORES) | values_of(found, n),
        records=n,
        train_records=round(float(np.mean([part.train.sum() for part in rotation.parts]))),
        labelled_records=int((group & questions.known).sum()),
        quarantined=data.quarantined,
        split=rotation.split,
        headline=headline,
        seen_by_encoder=None if seen is None or seen.encoder is None else int(seen.encoder[group].sum()),
        seen_by_clusters=None if seen is None or seen.clusters is None else int(seen.clusters[group].sum()),
        names=questions.names,
        thresholds=dict(zip(questions.names, thresholds, strict=False)),
        intervals={name: ranges[name] for name in found},
        per_label=by_label(questions, answers, group),
        groups={
            name: by_group(questions, answers, mask, patients, request.n_bootstrap, seed)
            for name, mask in groups.items()
        },
        folds=by_part(questions, answers, rotation, group),
        differences={
            name: {"value": value, "interval": ranges[name]} for name, value in values_of(differences, n).items()
        },
        baselines=compared,
        importance=importance.result(answers.said) if importance else [],
        remarks=tuple(_remarks(data, answers, rotation, group, remark)),
        out_of_fold=by_record(data.table, questions, answers, rotation, seen),
    )


def _within(table: pa.Table, within: tuple[int, ...]) -> NDArray[np.bool_]:
    own = folds_of(table)
    have = set(own.tolist()) - {-1}
    if absent := sorted(set(within) - have):
        there = ", ".join(map(str, sorted(have))) or "none"
        raise UsageError(f"no record is in fold {', '.join(map(str, absent))}; there are: {there}")
    return np.isin(own, within) if within else np.ones(table.num_rows, dtype=bool)


def _remarks(
    data: ExplainedRecords,
    answers: Answers,
    rotation: Rotation,
    group: NDArray[np.bool_],
    headline: str | None,
) -> list[str]:
    questions = data.questions
    remarks = [*([headline] if headline else []), *rotation.remarks, *questions.remarks]
    if data.target is None:
        cut = "" if questions.thresholds is None else "; it says yes above 0.5, having no labels to fix thresholds on"
        remarks.insert(0, f"no labels: the agreement with the network is scored alone{cut} ({data.without})")
        if questions.kind != "regression":
            decided = questions.network[group].mean(axis=0)
            for share, what in ((0, "no record scored"), (1, "every record scored")):
                if names := [name for name, one in zip(questions.names, decided, strict=True) if one == share]:
                    remarks.append(f"the network says {named(names)} of {what}: agreement there says nothing")
    else:
        remarks += answers.remarks
    if data.quarantined:
        remarks.append(f"{data.quarantined} quarantined records are left out")
    if data.target is not None and (unlabelled := int((group & ~questions.known).sum())):
        remarks.append(
            f"{unlabelled} records scored have no label: they count for the agreement with the network alone"
        )
    labelled = group & questions.known
    if questions.kind != "regression" and labelled.any():
        counts = questions.y[labelled].sum(axis=0)
        for name, n in zip(questions.names, counts.tolist(), strict=True):
            if n in (0, labelled.sum()):
                remarks.append(f"no AUROC for {name}: {n} of the {labelled.sum()} labelled records scored have it")
            elif n == 1:
                remarks.append(f"one record alone of those scored has {name}: its scores hang on it")
    if data.proportions is not None and len(questions) < data.proportions.shape[1]:
        remarks.append(f"{len(questions)} records are fewer than the {data.proportions.shape[1]} clusters")
    return remarks
