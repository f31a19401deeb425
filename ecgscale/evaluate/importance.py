"""Permutation importance of every cluster: what the surrogate loses when one proportion is shuffled across records.

Breiman 2001, on records that the forest never saw; the loss is in the agreement with the network (in R² for a
regression), so it says what the network's decisions rest on as far as proportions carry them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecgscale.evaluate.forests import SurrogateForest, decided
from ecgscale.evaluate.questions import Questions

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
        right = np.sum([one.right for one in said], axis=0)
        if self.questions.kind == "regression":
            return self._entries(right / max(((network - network.mean()) ** 2).sum(), 1e-12))
        by_label = np.sum([one.by_label for one in said if one.by_label is not None], axis=0)
        decisions = len(network) if self.questions.kind == "multiclass" else network.size
        return self._entries(right / decisions, by_label / len(network))

    def _entries(self, score: NDArray[np.float64], by_label: NDArray[np.float64] | None = None) -> list[dict[str, Any]]:
        """`score` (1 + K · REPEATS,), the first as the records are."""
        lost = (score[0] - score[1:]).reshape(-1, REPEATS)
        entries: list[dict[str, Any]] = [
            {"cluster": k, "lost": float(row.mean()), "sd": float(row.std(ddof=1))} for k, row in enumerate(lost)
        ]
        if by_label is not None:
            each = (by_label[0] - by_label[1:]).reshape(len(lost), REPEATS, -1).mean(axis=1)
            for entry, row in zip(entries, each, strict=True):
                entry["by_label"] = dict(zip(self.questions.names, map(float, row), strict=True))
        return entries
