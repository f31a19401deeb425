"""Random forests from a vector a record (cluster proportions, a baseline's features) to what was said about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

LEAF_RECORDS = 2
TREES = 200
_ROWS_AT_ONCE = 4096

Kind = Literal["multilabel", "multiclass", "regression"]


@dataclass(frozen=True)
class ForestSettings:
    """How forests are grown; they depend on the seed, not on how many cores grow them.

    `fit_records`: at most so many records fit one forest, a seeded draw of those there are.
    """

    trees: int = TREES
    leaf_records: int = LEAF_RECORDS
    fit_records: int = 20_000
    seed: int = 0
    n_jobs: int = -1


class SurrogateForest(BaseEstimator):
    """One forest for all labels of a record: `predict` gives (n, n_labels) probabilities, or (n,) values.

    `kind` "multilabel": each label for itself; "multiclass": exactly one a record; "regression": a number. A label
    that never occurred while fitting gets 0. It speaks scikit-learn, so that dask-ml can carry it to the data.
    """

    def __init__(self, kind: Kind, settings: ForestSettings) -> None:
        self.kind = kind
        self.settings = settings

    def fit(self, x: NDArray[np.floating], y: NDArray) -> SurrogateForest:
        """Grow on features x (n, F) and labels y: (n, n_labels) 0/1, or (n,) values."""
        asked = self.settings
        grown = RandomForestRegressor if self.kind == "regression" else RandomForestClassifier
        forest = grown(asked.trees, min_samples_leaf=asked.leaf_records, random_state=asked.seed, n_jobs=asked.n_jobs)
        self.n_labels_ = y.shape[1] if y.ndim == 2 else 1
        if self.kind == "multiclass":
            y = y.argmax(axis=1)
        elif y.ndim == 2 and y.shape[1] == 1:
            y = y[:, 0]
        # Asked by several threads, scikit-learn adds trees up in the order in which they answer, which changes the last
        # bits. Here the threads share the records (see `_asked`), and the trees keep their order.
        self.forest_ = forest.fit(x, y).set_params(n_jobs=1)
        return self

    def predict(self, x: NDArray[np.floating]) -> NDArray[np.float64]:
        """(n, n_labels) probabilities, or (n,) values of a regression; `x` (n, F), an array or a frame."""
        x = np.asarray(x, dtype=np.float32)
        if not len(x):
            return np.zeros((0,) if self.kind == "regression" else (0, self.n_labels_))
        if self.kind == "regression":
            values = [part for [part] in self._asked(self.forest_.predict, x)]
            return np.asarray(np.concatenate(values), dtype=np.float64)
        parts = self._asked(self.forest_.predict_proba, x)
        told = [np.concatenate(label) for label in zip(*parts, strict=True)]
        shares = np.zeros((len(x), self.n_labels_))
        if self.kind == "multiclass":
            shares[:, self.forest_.classes_] = told[0]
            return shares
        classes = [self.forest_.classes_] if self.n_labels_ == 1 else self.forest_.classes_
        for i, (column, seen) in enumerate(zip(told, classes, strict=True)):
            if 1 in seen:
                shares[:, i] = column[:, list(seen).index(1)]
        return shares

    def _asked(self, question: Callable[[NDArray[np.float32]], Any], x: NDArray[np.float32]) -> list[list[NDArray]]:
        """The answers to some thousand rows at a time, each a list of one array a label (of one alone for values)."""
        parts = [x[i : i + _ROWS_AT_ONCE] for i in range(0, len(x), _ROWS_AT_ONCE)]
        found = Parallel(self.settings.n_jobs, require="sharedmem")(delayed(question)(part) for part in parts)
        # Several labels are a list of arrays to scikit-learn, a single one is a plain array.
        return [part if isinstance(part, list) else [part] for part in found]


def decided(says: NDArray[np.floating], kind: Kind, thresholds: NDArray[np.floating] | None = None) -> NDArray:
    """Probabilities (n, n_labels) as 0/1: above the thresholds (0.5), or the largest alone for exclusive classes.

    Values of a regression stay as they are.
    """
    if kind == "regression":
        return says
    if kind == "multiclass":
        return (says.argmax(axis=1)[:, None] == np.arange(says.shape[1])).astype(np.int64)
    return (says > (0.5 if thresholds is None else thresholds)).astype(np.int64)
