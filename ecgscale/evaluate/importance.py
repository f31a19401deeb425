"""Permutation importance of every cluster: what the surrogate loses when one proportion is shuffled across records.

Breiman 2001, on records that the forest never saw; the loss is in the agreement with the network (in R² for a
regression), so it says what the network's decisions rest on as far as proportions carry them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecgscale.evaluate.forests import SurrogateForest, decided
from ecgscale.evaluate.questions import Questions

REPEATS = 5
_ROWS_AT_ONCE = 200_000


@dataclass(frozen=True)
class Said:
    """What one forest says of n records: as they are, and REPEATS times with each cluster shuffled among them."""

    rows: NDArray[np.int64]
    says: NDArray[np.float64]


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
        """What the forest says about the records of its part, the first row as they are."""
        rows = np.flatnonzero(part & self.group)
        x, n_clusters = self.x[rows], self.x.shape[1]
        rng = np.random.default_rng([self.seed, 6, number])
        copies = [x]
        for k in range(n_clusters):
            for _ in range(REPEATS):
                shuffled = x.copy()
                shuffled[:, k] = rng.permutation(x[:, k])
                copies.append(shuffled)
        at_once = max(_ROWS_AT_ONCE // len(rows), 1)
        says = np.concatenate(
            [forest.predict(np.concatenate(copies[i : i + at_once])) for i in range(0, len(copies), at_once)]
        )
        return Said(rows, says.reshape(len(copies), len(rows), *says.shape[1:]))

    def result(self, said: Sequence[Said]) -> list[dict[str, Any]]:
        """One entry a cluster: its number, mean and SD over repeats of what was lost, and by label; [] without records.

        Agreement lost (0.02: two of a hundred decisions), or R² lost.
        """
        if not said:
            return []
        says = np.concatenate([one.says for one in said], axis=1)
        network = self.questions.network[np.concatenate([one.rows for one in said])]
        if self.questions.kind == "regression":
            return self._entries(
                -((says - network) ** 2).sum(axis=1) / max(((network - network.mean()) ** 2).sum(), 1e-12)
            )
        decisions = np.stack([decided(one, self.questions.kind) for one in says])
        equal = decisions == network
        whole = equal.all(axis=2) if self.questions.kind == "multiclass" else equal.mean(axis=2)
        return self._entries(whole.mean(axis=1), equal.mean(axis=1))

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
