"""What forests say about records that they never saw: one forest a part and question, each asked about its own part.

Permutation importance (Breiman 2001) asks them once more: what the surrogate loses in agreement with the network (R² of
a regression) when one cluster's proportion is shuffled across records. It says what the network's decisions rest on, as
far as proportions carry them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecgscale.evaluate.forests import Features, ForestSettings, SurrogateForest, decided
from ecgscale.evaluate.questions import Questions
from ecgscale.evaluate.surrogate.rotation import FEWEST_TRAIN, Rotation
from ecgscale.passes.spread import HERE, Spread
from ecgscale.progress import SILENT, Progress

REPEATS = 5
_ROWS_AT_ONCE = 200_000


@dataclass(frozen=True)
class Said:
    """How right one forest is about its records (their numbers are `rows`): a row of figures a copy of them.

    The first copy is as they are, then come REPEATS with each cluster shuffled. `right` (copies,): decisions equal to
    the network's (records, where classes exclude each other), or minus the squared error of a regression; `by_label`
    (copies, n_labels): the same by label, None for a regression.
    """

    rows: NDArray[np.int64]
    right: NDArray
    by_label: NDArray[np.int64] | None


@dataclass(frozen=True)
class Importance:
    """Shuffles cluster k of x (N, K) among the records of `group` that one forest is asked about."""

    questions: Questions
    x: NDArray[np.float32]
    group: NDArray[np.bool_]
    seed: int = 0

    def numbers(self, parts: Sequence[NDArray[np.bool_]]) -> list[int | None]:
        """For records (N,) of every part, its number for `ask`; None where too few of them are of the group."""
        enough = [int((part & self.group).sum()) >= 2 for part in parts]
        return [sum(enough[:i]) if there else None for i, there in enumerate(enough)]

    def ask(self, forest: SurrogateForest, part: NDArray[np.bool_], number: int) -> Said:
        """How right the forest is about the records of its part, a few copies of them in memory at a time."""
        rows = np.flatnonzero(part & self.group)
        copies = self._copies(self.x[rows], np.random.default_rng([self.seed, 6, number]))
        at_once = max(_ROWS_AT_ONCE // len(rows), 1)
        right: list[Any] = []
        by_label: list[NDArray[np.int64]] = []
        while some := list(islice(copies, at_once)):
            for says in np.split(forest.predict(np.concatenate(some)), len(some)):
                if self.questions.kind == "regression":
                    right.append(-((says - self.questions.network[rows]) ** 2).sum())
                    continue
                equal = decided(says, self.questions.kind) == self.questions.network[rows]
                right.append(equal.all(axis=1).sum() if self.questions.kind == "multiclass" else equal.sum())
                by_label.append(equal.sum(axis=0))
        return Said(rows, np.array(right), np.array(by_label) if by_label else None)

    def _copies(self, x: NDArray[np.float32], rng: np.random.Generator) -> Iterator[NDArray[np.float32]]:
        yield x
        for k in range(x.shape[1]):
            for _ in range(REPEATS):
                shuffled = x.copy()
                shuffled[:, k] = rng.permutation(x[:, k])
                yield shuffled

    def result(self, said: Sequence[Said]) -> list[dict[str, Any]]:
        """One entry a cluster: its number, mean and SD over repeats of what was lost, and by label; [] without records.

        Agreement lost (0.02: two of a hundred decisions), or R² lost.
        """
        if not said:
            return []
        network = self.questions.network[np.concatenate([one.rows for one in said])]
        kind, right = self.questions.kind, np.sum([one.right for one in said], axis=0)
        if kind == "regression":
            score = right / max(((network - network.mean()) ** 2).sum(), 1e-12)
        else:
            score = right / (len(network) if kind == "multiclass" else network.size)
        lost = (score[0] - score[1:]).reshape(-1, REPEATS)
        entries: list[dict[str, Any]] = [
            {"cluster": k, "lost": float(row.mean()), "sd": float(row.std(ddof=1))} for k, row in enumerate(lost)
        ]
        if kind != "regression":
            by_label = np.sum([one.by_label for one in said if one.by_label is not None], axis=0) / len(network)
            each = (by_label[0] - by_label[1:]).reshape(len(lost), REPEATS, -1).mean(axis=1)
            for entry, row in zip(entries, each, strict=True):
                entry["by_label"] = dict(zip(self.questions.names, map(float, row), strict=True))
        return entries


@dataclass(frozen=True)
class Answers:
    """N records, as `Questions`; meaningless where `scored` (or `has_learnt`) is false.

    `imitated_says`, `imitated`: the forest that learnt the network's outputs; `majority`: the network's most frequent
    decision, label by label (mean value); `majority_whole`: its most frequent decision as a whole, the set of labels
    that it gives most often. `learnt_says`, `learnt`: the forest that learnt the labels; `majority_label`: the most
    frequent label (mean value). Most frequent among the records that fitted, each time. `said` is for
    `Importance.result`.
    """

    scored: NDArray[np.bool_]
    imitated_says: NDArray[np.float64]
    imitated: NDArray
    majority: NDArray
    majority_whole: NDArray
    has_learnt: NDArray[np.bool_]
    learnt_says: NDArray[np.float64]
    learnt: NDArray
    majority_label: NDArray
    remarks: tuple[str, ...] = ()
    said: tuple[Said, ...] = ()

    def of(self, records: NDArray[np.bool_]) -> Answers:
        """The same about some of the records (N,)."""
        arrays = {name: values[records] for name, values in vars(self).items() if isinstance(values, np.ndarray)}
        return replace(self, **arrays)  # type: ignore[arg-type]


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


def answer(
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
    """The answers to each of several questions about the same records, by forests on the workers of `spread`.

    Forests on labels are left out where a part has fewer than FEWEST_TRAIN labelled records. `importance` asks each
    forest that imitates the network.
    """
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
    pairs = list(zip(tasks, found, strict=True))
    return [_joined(own, [pair for pair in pairs if pair[0].of == i]) for i, own in enumerate(questions)]


_OfPart = tuple[dict[str, Any], Said | None]
"""Fields of `Answers` by name, of the records of one part; those of the forest on labels where there is one."""


def _of_part(asked: _Asked, part: _Part) -> _OfPart:
    """The forests of one part."""
    questions, settings, kind = asked.questions[part.of], asked.settings, asked.questions[part.of].kind
    rows = np.flatnonzero(part.test)

    def grown(records: NDArray[np.bool_], y: NDArray) -> SurrogateForest:
        own = drawn(records, settings)
        return SurrogateForest(kind, settings).fit(asked.features.fitting(own), y[own])

    forest = grown(part.train, questions.network)
    found: dict[str, Any] = {
        "scored": True,
        "imitated_says": asked.features.ask(forest, rows),
        "majority": most_frequent(questions.network[part.train], kind),
        "majority_whole": most_frequent_whole(questions.network[part.train], kind),
    }
    said = None
    if asked.importance is not None and part.number is not None:
        said = asked.importance.ask(forest, part.test, part.number)
    labelled = part.train & questions.can_fit
    if labelled.sum() >= FEWEST_TRAIN:
        found["has_learnt"] = True
        found["learnt_says"] = asked.features.ask(grown(labelled, questions.y), rows)
        found["majority_label"] = most_frequent(questions.y[labelled], kind)
    return found, said


def _joined(questions: Questions, parts: Sequence[tuple[_Part, _OfPart]]) -> Answers:
    kind, shape = questions.kind, questions.network.shape
    out = {name: np.zeros(len(questions), dtype=bool) for name in ("scored", "has_learnt")}
    out |= {name: np.zeros(shape) for name in ("imitated_says", "learnt_says")}
    decision = np.float64 if kind == "regression" else np.int64
    out |= {name: np.zeros(shape, decision) for name in ("majority", "majority_whole", "majority_label")}
    for part, (found, _) in parts:
        for name, values in found.items():
            out[name][part.test] = values
    without = sum("has_learnt" not in found for _, (found, _) in parts)
    return Answers(
        **out,
        imitated=decided(out["imitated_says"], kind),
        learnt=decided(out["learnt_says"], kind),
        remarks=(f"too few records have labels in {without} of {len(parts)} parts",) if without else (),
        said=tuple(said for _, (_, said) in parts if said is not None),
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
