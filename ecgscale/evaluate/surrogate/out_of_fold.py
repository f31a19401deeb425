"""What forests say about records that they never saw: one forest a part and question, each asked about its own part.

Features come through a seam of two methods, so that the same code fits on a matrix in memory and asks data that
never lie in memory at once (`out_of_core`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ecgscale.evaluate.forests import ForestSettings, SurrogateForest, decided
from ecgscale.evaluate.surrogate.questions import Questions
from ecgscale.evaluate.surrogate.rotation import FEWEST_TRAIN, Importance, Rotation, Said
from ecgscale.passes.spread import HERE, Spread
from ecgscale.progress import SILENT, Progress


class Features(Protocol):
    """A vector a record."""

    def fitting(self, records: NDArray[np.int64]) -> NDArray[np.float32]:
        """(n, F) vectors of these record numbers."""

    def ask(self, forest: SurrogateForest, records: NDArray[np.int64]) -> NDArray[np.float64]:
        """What the forest predicts for these record numbers."""


@dataclass(frozen=True)
class InMemory:
    """Features (N, F) as a matrix."""

    x: NDArray[np.float32]

    def fitting(self, records: NDArray[np.int64]) -> NDArray[np.float32]:
        """(n, F) vectors of these record numbers."""
        return self.x[records]

    def ask(self, forest: SurrogateForest, records: NDArray[np.int64]) -> NDArray[np.float64]:
        """What the forest predicts for these record numbers."""
        return forest.predict(self.x[records])


@dataclass(frozen=True)
class Answers:
    """N records, as `Questions`; meaningless where `scored` (or `told_known`) is false.

    `imitated_says`, `imitated`: the forest that learnt the network's outputs; `always`: the network's most frequent
    decision, label by label (mean value); `always_whole`: its most frequent decision as a whole, the set of labels that
    it gives most often. `told_says`, `told`: the forest that learnt the labels; `usual`: the most frequent label
    (mean value). Most frequent among the records that fitted, each time. `said` is for `Importance.result`.
    """

    scored: NDArray[np.bool_]
    imitated_says: NDArray[np.float64]
    imitated: NDArray
    always: NDArray
    always_whole: NDArray
    told_known: NDArray[np.bool_]
    told_says: NDArray[np.float64]
    told: NDArray
    usual: NDArray
    remarks: tuple[str, ...] = ()
    said: tuple[Said, ...] = ()


@dataclass(frozen=True)
class _Asked:
    """What the forests of all parts share."""

    questions: Sequence[Questions]
    features: Features
    settings: ForestSettings
    importance: Importance | None


@dataclass(frozen=True)
class _Part:
    """One part of the records, and who asks: the number of the questions, and of the part for the importance."""

    of: int
    train: NDArray[np.bool_]
    test: NDArray[np.bool_]
    number: int | None


@dataclass(frozen=True)
class _PartAnswers:
    """As `Answers`, of the records of one part; `told_says` None: too few labels for a forest."""

    imitated_says: NDArray[np.float64]
    always: NDArray
    always_whole: NDArray
    told_says: NDArray[np.float64] | None
    usual: NDArray | None
    said: Said | None


def answer(
    questions: Questions,
    features: Features,
    rotation: Rotation,
    settings: ForestSettings,
    *,
    importance: Importance | None = None,
    spread: Spread = HERE,
    progress: Progress = SILENT,
    stage: str = "forests",
) -> Answers:
    """Fit and ask the forests of every part, on the workers of `spread`.

    Forests on labels are left out where a part has fewer than FEWEST_TRAIN labelled records. `importance` asks each
    forest that imitates the network.
    """
    [answers] = answer_each(
        [questions], features, rotation, settings, importance=importance, spread=spread, progress=progress, stage=stage
    )
    return answers


def answer_each(
    questions: Sequence[Questions],
    features: Features,
    rotation: Rotation,
    settings: ForestSettings,
    *,
    importance: Importance | None = None,
    spread: Spread = HERE,
    progress: Progress = SILENT,
    stage: str = "forests",
) -> list[Answers]:
    """`answer` to several questions about the same records."""
    numbers = importance.numbers([part.test for part in rotation.parts]) if importance else [None] * len(rotation.parts)
    asked = _Asked(tuple(questions), features, settings, importance)
    tasks = [
        _Part(i, part.train, part.test, number)
        for i in range(len(questions))
        for part, number in zip(rotation.parts, numbers, strict=True)
    ]
    with progress.stage(stage, 2 * len(tasks), "forests") as bar:
        names = [f"{stage}, {name}" for _ in questions for name in rotation.names]
        found = spread.map(_of_part, asked, tasks, bar, [2] * len(tasks), names)
    answers = []
    for i, own in enumerate(questions):
        pairs = [(task, part) for task, part in zip(tasks, found, strict=True) if task.of == i]
        answers.append(_joined(own, pairs))
    return answers


def _of_part(asked: _Asked, part: _Part) -> _PartAnswers:
    """The forests of one part."""
    questions, features, settings = asked.questions[part.of], asked.features, asked.settings
    rows = np.flatnonzero(part.test)
    forest = _fitted(questions.kind, questions.network, features, drawn(part.train, settings), settings)
    imitated = features.ask(forest, rows)
    said = None
    if asked.importance is not None and part.number is not None:
        said = asked.importance.ask(forest, part.test, part.number)
    always = most_frequent(questions.network[part.train], questions.kind)
    whole = most_frequent_whole(questions.network[part.train], questions.kind)
    labelled = part.train & questions.can_fit
    if labelled.sum() < FEWEST_TRAIN:
        return _PartAnswers(imitated, always, whole, None, None, said)
    forest = _fitted(questions.kind, questions.y, features, drawn(labelled, settings), settings)
    usual = most_frequent(questions.y[labelled], questions.kind)
    return _PartAnswers(imitated, always, whole, features.ask(forest, rows), usual, said)


def _joined(questions: Questions, parts: Sequence[tuple[_Part, _PartAnswers]]) -> Answers:
    out = _empty(questions)
    without = 0
    for part, found in parts:
        rows = np.flatnonzero(part.test)
        out.imitated_says[rows], out.always[rows] = found.imitated_says, found.always
        out.always_whole[rows] = found.always_whole
        if found.told_says is None:
            without += 1
        else:
            out.told_says[rows], out.usual[rows], out.told_known[rows] = found.told_says, found.usual, True
        out.scored[rows] = True
    remarks = [f"too few records have labels in {without} of {len(parts)} parts"] if without else []
    return replace(
        out,
        imitated=decided(out.imitated_says, questions.kind),
        told=decided(out.told_says, questions.kind),
        remarks=tuple(remarks),
        said=tuple(found.said for _, found in parts if found.said is not None),
    )


def drawn(records: NDArray[np.bool_], settings: ForestSettings) -> NDArray[np.int64]:
    """Sorted numbers of the records (N,) that fit one forest: all, or a seeded draw of `fit_records`."""
    rows = np.flatnonzero(records)
    if len(rows) <= settings.fit_records:
        return rows
    return np.sort(np.random.default_rng([settings.seed, 5]).permutation(rows)[: settings.fit_records])


def most_frequent(values: NDArray, kind: str) -> NDArray:
    """(n,) the most frequent answers: label by label, the most frequent class, or the mean of values."""
    if kind == "regression":
        return np.asarray(values.mean())
    if kind == "multiclass":
        return np.eye(values.shape[1], dtype=np.int64)[values.sum(axis=0).argmax()]
    return (values.mean(axis=0) > 0.5).astype(np.int64)


def most_frequent_whole(values: NDArray, kind: str) -> NDArray:
    """(n,) the answer that is given most often as a whole; of several labels the set, on ties the first in order."""
    if kind != "multilabel":
        return most_frequent(values, kind)
    sets, counts = np.unique(values, axis=0, return_counts=True)
    return np.asarray(sets[counts.argmax()])


def _fitted(
    kind: str, y: NDArray, features: Features, rows: NDArray[np.int64], settings: ForestSettings
) -> SurrogateForest:
    return SurrogateForest(kind, settings).fit(features.fitting(rows), y[rows])  # type: ignore[arg-type]


def _empty(questions: Questions) -> Answers:
    shape = questions.network.shape
    whole = questions.kind == "regression"

    def decisions() -> NDArray:
        return np.zeros(shape, np.float64 if whole else np.int64)

    flags = [np.zeros(len(questions), dtype=bool) for _ in range(2)]
    return Answers(
        scored=flags[0],
        imitated_says=np.zeros(shape),
        imitated=decisions(),
        always=decisions(),
        always_whole=decisions(),
        told_known=flags[1],
        told_says=np.zeros(shape),
        told=decisions(),
        usual=decisions(),
    )
