"""Records whose label, network and surrogate disagree, the most suspicious first.

What judges a label never learnt from it: the forest on proportions that was fitted without the record's patient, and,
where the network has not seen the record, the network. (What the network has learnt by heart would agree with a wrong
label. Proportions come from that network too, so among records that it has seen wrong labels are found less well.)

How likely the label is by these probabilities are cleanlab's scores (Northcutt et al. 2021; Thyagarajan et al. 2023 for
several labels a record, of which the worst decides, by a soft minimum: one wrong label among five has to be found).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ecgscale.errors import UsageError
from ecgscale.evaluate.forests import ForestSettings, InMemory
from ecgscale.evaluate.questions import Kind, Questions
from ecgscale.evaluate.surrogate.out_of_fold import Answers, answer
from ecgscale.evaluate.surrogate.rotation import Rotation, rotate
from ecgscale.evaluate.surrogate.surrogate import ExplainedRecords
from ecgscale.passes.spread import HERE, Spread
from ecgscale.progress import SILENT, Progress

_TEMPERATURE = 0.1
_LEAST = 1e-6


def require_cleanlab() -> None:
    """Raise UsageError where cleanlab is not installed."""
    try:
        import cleanlab  # noqa: F401
    except ImportError as error:
        raise UsageError("ranking labels takes cleanlab: pip install 'ecgscale[evaluate]'") from error


def label_quality(y: NDArray, says: NDArray[np.floating], kind: Kind) -> NDArray[np.float64]:
    """(N,) in 0…1, the lower the more suspicious: labels y and out-of-sample probabilities `says`, both (N, n) (0/1; of
    exclusive classes one a record), or (N,) values of a regression."""
    if not len(y):
        return np.empty(0)
    if kind == "regression":
        from cleanlab.regression.rank import get_label_quality_scores as of_values

        return np.asarray(of_values(y.astype(np.float64), says.astype(np.float64), method="residual"))
    sure = np.clip(says.astype(np.float64), _LEAST, 1 - _LEAST)
    if kind == "multiclass":
        # cleanlab wants every class among the labels; self-confidence is the probability of the class given.
        return np.asarray((sure * y).sum(axis=1) / np.maximum(sure.sum(axis=1), _LEAST))
    from cleanlab.multilabel_classification import get_label_quality_scores as of_sets

    names = [np.flatnonzero(row).tolist() for row in y]
    aggregate = {"method": "softmin", "temperature": _TEMPERATURE}
    return np.asarray(of_sets(names, sure, aggregator_kwargs=aggregate))


LABEL, NETWORK, SURROGATE, NOTHING = "label", "network", "surrogate", "nothing"
FAR = 2.0
"""Of a regression: further from the label than so many times the median error is a disagreement."""

FEWEST_LABELLED = 20


@dataclass(frozen=True)
class AuditRequest:
    """What a user asks of `ecgscale audit`; `folds` as in `rotation.rotate`. `flips` repeats of the test in which a
    share of the labels is flipped."""

    folds: str | None = None
    forests: ForestSettings = field(default_factory=ForestSettings)
    flip_share: float = 0.05
    flips: int = 3


@dataclass(frozen=True)
class AuditResult:
    """`table` has a row for every labelled record, the most suspicious first; `stands_alone` counts whose word stands
    against that of the other two; `flipped` is the test, None where it was not asked for."""

    target: str
    kind: str
    records: int
    unlabelled: int
    judged_by_network: int
    stands_alone: dict[str, int]
    flipped: dict[str, Any] | None
    split: str
    remarks: tuple[str, ...]
    table: pa.Table = field(repr=False)

    def to_dict(self, top: int = 50) -> dict[str, Any]:
        """For `--json` and the evaluation's facts, with the first `top` rows."""
        facts = {each.name: getattr(self, each.name) for each in fields(self) if each.repr}
        return {**facts, "top": self.table.slice(0, top).to_pylist()}


def audit_labels(
    data: ExplainedRecords,
    request: AuditRequest | None = None,
    progress: Progress = SILENT,
    spread: Spread = HERE,
) -> AuditResult:
    """Rank the labelled records of `data` by how little forests and network believe their label; forests grow on the
    workers of `spread`.

    Raises UsageError where too few records have one, where folds cannot be had, and where cleanlab is not installed.
    """
    require_cleanlab()
    assert data.target is not None
    request = request or AuditRequest()
    questions, known = data.questions, data.questions.can_fit
    if known.sum() < FEWEST_LABELLED:
        raise UsageError(f"{known.sum()} explained records have a label: too few to judge any; {FEWEST_LABELLED} do")
    assert data.proportions is not None
    rotation = rotate(data.table, request.folds, seed=request.forests.seed)
    flips = _flips(questions, request)
    asked, features = [questions, *(changed for _, changed in flips)], InMemory(data.proportions)
    answers, *of_flips = answer(
        asked, features, rotation, request.forests, spread=spread, progress=progress, stage="audit"
    )
    judged = known & answers.has_learnt
    unseen = np.ones(len(questions), bool) if data.seen is None or data.seen.encoder is None else ~data.seen.encoder
    quality = np.full(len(questions), np.nan)
    quality[judged] = label_quality(questions.y[judged], judgement(questions, answers, unseen)[judged], questions.kind)
    alone = stands_alone(questions, answers)
    order = np.flatnonzero(judged)[np.argsort(quality[judged], kind="stable")]
    return AuditResult(
        target=data.target,
        kind=questions.kind,
        records=int(judged.sum()),
        unlabelled=int((~questions.known).sum()),
        judged_by_network=int((judged & unseen).sum()),
        stands_alone=dict(Counter(alone[judged].tolist())),
        flipped=_flip_test(questions, flips, of_flips, unseen, request) if flips else None,
        split=rotation.split,
        remarks=tuple(_remarks(data, questions, judged, unseen, rotation)),
        table=_table(data, answers, quality, alone, unseen, order),
    )


def judgement(questions: Questions, answers: Answers, unseen: NDArray[np.bool_]) -> NDArray[np.float64]:
    """What is believed of every record: the forest on labels, and its mean with the network where that is `unseen`
    (N,)."""
    mixed = (answers.learnt_says + questions.says) / 2
    rows = unseen if mixed.ndim == 1 else unseen[:, None]
    return np.where(rows, mixed, answers.learnt_says)


def stands_alone(questions: Questions, answers: Answers) -> NDArray[np.str_]:
    """(N,) whose word stands against that of the other two in some label: "label", else "network", else "surrogate",
    else "nothing"."""
    y, network, learnt = questions.y, questions.network, answers.learnt
    if questions.kind == "regression":
        known = questions.known & answers.has_learnt
        errors = np.where(known, network - y, 0.0), np.where(known, learnt - y, 0.0)
        far = [
            np.abs(e) > FAR * max(float(np.median(np.abs(e[known]))), 1e-9) if known.any() else known for e in errors
        ]
        alone = far[0] & far[1] & (np.sign(errors[0]) == np.sign(errors[1])), far[0] & ~far[1], far[1] & ~far[0]
    else:
        parts = (network == learnt) & (learnt != y), (learnt == y) & (network != y), (network == y) & (learnt != y)
        alone = tuple(part.any(axis=1) for part in parts)
    return np.select(list(alone), [LABEL, NETWORK, SURROGATE], NOTHING)


Flips = list[tuple[NDArray[np.int64], Questions]]


def _flips(questions: Questions, request: AuditRequest) -> Flips:
    """For each repeat of the test: the records one of whose labels was flipped, and the questions with those labels.

    Of a regression, a label becomes that of another record.
    """
    rows = np.flatnonzero(questions.can_fit)
    found = []
    for repeat in range(request.flips):
        rng = np.random.default_rng([request.forests.seed, 13, repeat])
        chosen = rng.permutation(rows)[: max(round(request.flip_share * len(rows)), 1)]
        found.append((chosen, replace(questions, y=_flipped(questions, chosen, rows, rng))))
    return found


def _flip_test(
    questions: Questions, flips: Flips, said: Sequence[Answers], unseen: NDArray[np.bool_], request: AuditRequest
) -> dict[str, Any]:
    """How many of as many records at the top of the list as were flipped are flipped ones; the mean over repeats, for
    the ranking and for forest and network alone. Chance is `flip_share`.

    A label that was wrong before counts against the ranking.
    """
    found: dict[str, list[float]] = {"precision": [], "precision_surrogate_alone": [], "precision_network_alone": []}
    for (chosen, changed), answers in zip(flips, said, strict=True):
        judged = np.flatnonzero(changed.can_fit & answers.has_learnt)
        believed = judgement(changed, answers, unseen), answers.learnt_says, questions.says
        for values, says in zip(found.values(), believed, strict=True):
            quality = label_quality(changed.y[judged], says[judged], questions.kind)
            top = judged[np.argsort(quality, kind="stable")[: len(chosen)]]
            values.append(float(np.isin(top, chosen).mean()))
    return {
        "share": request.flip_share,
        "records": len(flips[0][0]),
        "repeats": request.flips,
        **{
            name: {"mean": float(np.mean(values)), "sd": float(np.std(values, ddof=1)) if len(values) > 1 else None}
            for name, values in found.items()
        },
        "chance": len(flips[0][0]) / int(questions.can_fit.sum()),
    }


def _flipped(
    questions: Questions, chosen: NDArray[np.int64], rows: NDArray[np.int64], rng: np.random.Generator
) -> NDArray:
    y = questions.y.copy()
    if questions.kind == "regression":
        y[chosen] = questions.y[rng.choice(rows, len(chosen))]
    elif questions.kind == "multiclass":
        n = y.shape[1]
        other = (y[chosen].argmax(axis=1) + rng.integers(1, n, len(chosen))) % n
        y[chosen] = np.eye(n, dtype=y.dtype)[other]
    else:
        y[chosen, rng.integers(0, y.shape[1], len(chosen))] ^= 1
    return y


def _remarks(
    data: ExplainedRecords,
    questions: Questions,
    judged: NDArray[np.bool_],
    unseen: NDArray[np.bool_],
    rotation: Rotation,
) -> list[str]:
    remarks = list(rotation.remarks)
    if data.quarantined:
        remarks.append(f"{data.quarantined} quarantined records are left out")
    if n := int((questions.known & ~judged).sum()):
        remarks.append(f"{n} records with a label are not judged: no forest could learn it without them")
    if seen := int((judged & ~unseen).sum()):
        remarks.append(
            f"{seen} of the {judged.sum()} records were seen by the encoder: the forest alone judges them, on "
            "proportions of a network that may have learnt a wrong label by heart"
        )
    if data.seen is None or data.seen.encoder is None:
        remarks.append("what the encoder had seen is not known: its word counts for every record")
    return remarks


def _table(
    data: ExplainedRecords,
    answers: Answers,
    quality: NDArray[np.float64],
    alone: NDArray[np.str_],
    unseen: NDArray[np.bool_],
    order: NDArray[np.int64],
) -> pa.Table:
    """A row a record in the given order: ids, quality, who stands alone, and what all three say."""
    questions, known = data.questions, data.seen is not None and data.seen.encoder is not None
    columns: dict[str, Any] = {
        "record_id": data.table.column("record_id").take(order),
        "patient_id": data.table.column("patient_id").take(order),
        "quality": quality[order],
        "stands_alone": alone[order].tolist(),
        "seen_by_encoder": ~unseen[order] if known else pa.nulls(len(order), pa.bool_()),
    }
    said = {"label": questions.y, "network": questions.network, "surrogate": answers.learnt}
    if questions.kind == "regression":
        return pa.table(columns | {name: values[order].astype(np.float64) for name, values in said.items()})
    said["doubted"] = (questions.network == answers.learnt) & (answers.learnt != questions.y)
    for name, decided in said.items():
        columns[name] = [[questions.names[i] for i in np.flatnonzero(row)] for row in decided[order]]
    columns |= {
        "network_says": questions.says[order].tolist(),
        "surrogate_says": answers.learnt_says[order].tolist(),
    }
    return pa.table(columns)
