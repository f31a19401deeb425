"""What forests say about records that they never saw: one forest a part and question, each asked about its own part.

Features come through a seam of two methods, so that the same code fits on a matrix in memory and asks data that
never lie in memory at once (`out_of_core`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ecgscale.evaluate.forests import ForestSettings, SurrogateForest, decided
from ecgscale.evaluate.holdout import FEWEST_TRAIN
from ecgscale.evaluate.questions import Questions
from ecgscale.evaluate.rotation import Rotation
from ecgscale.progress import SILENT, Progress

OnForest = Callable[[SurrogateForest, NDArray[np.bool_]], None]


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
    decision (mean value). `told_says`, `told`: the forest that learnt the labels; `usual`: the most frequent label
    (mean value). Most frequent among the records that fitted, each time.
    """

    scored: NDArray[np.bool_]
    imitated_says: NDArray[np.float64]
    imitated: NDArray
    always: NDArray
    told_known: NDArray[np.bool_]
    told_says: NDArray[np.float64]
    told: NDArray
    usual: NDArray
    remarks: tuple[str, ...] = ()


def answer(
    questions: Questions,
    features: Features,
    rotation: Rotation,
    settings: ForestSettings,
    *,
    on_forest: OnForest | None = None,
    progress: Progress = SILENT,
    stage: str = "forests",
) -> Answers:
    """Fit and ask the forests of every part.

    Forests on labels are left out where a part has fewer than FEWEST_TRAIN labelled records. `on_forest` is called
    with each forest that imitates the network and the records (N,) of its part.
    """
    out = _empty(questions)
    without = 0
    with progress.stage(stage, 2 * len(rotation.parts), "forests") as bar:
        for part in rotation.parts:
            rows = np.flatnonzero(part.test)
            fitting = drawn(part.train, settings)
            forest = _fitted(questions.kind, questions.network, features, fitting, settings)
            out.imitated_says[rows] = features.ask(forest, rows)
            out.always[rows] = most_frequent(questions.network[part.train], questions.kind)
            if on_forest:
                on_forest(forest, part.test)
            bar.advance()
            labelled = part.train & questions.can_fit
            if labelled.sum() >= FEWEST_TRAIN:
                forest = _fitted(questions.kind, questions.y, features, drawn(labelled, settings), settings)
                out.told_says[rows] = features.ask(forest, rows)
                out.usual[rows] = most_frequent(questions.y[labelled], questions.kind)
                out.told_known[rows] = True
            else:
                without += 1
            bar.advance()
            out.scored[rows] = True
    remarks = [f"too few records have labels in {without} of {len(rotation.parts)} parts"] if without else []
    return Answers(
        scored=out.scored,
        imitated_says=out.imitated_says,
        imitated=decided(out.imitated_says, questions.kind),
        always=out.always,
        told_known=out.told_known,
        told_says=out.told_says,
        told=decided(out.told_says, questions.kind),
        usual=out.usual,
        remarks=tuple(remarks),
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
        told_known=flags[1],
        told_says=np.zeros(shape),
        told=decisions(),
        usual=decisions(),
    )
