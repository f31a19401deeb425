"""Random forests from a vector a record to what was said about it, and where the vectors come from.

Features come through a seam of two methods, so that the same code fits on a matrix in memory and asks proportions that
never lie in memory at once: there forests are fitted on a sample, and dask carries them to the files of the
explanations, a partition a file, on this machine's cores or on whatever scheduler is handed in.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from joblib import Parallel, delayed
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

from ecgscale.evaluate.questions import Kind
from ecgscale.io.parquet import read_parquet
from ecgscale.io.settings import storage_variables

LEAF_RECORDS = 2
TREES = 200
_ROWS_AT_ONCE = 4096


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
        columns = [np.concatenate(label) for label in zip(*parts, strict=True)]
        shares = np.zeros((len(x), self.n_labels_))
        if self.kind == "multiclass":
            shares[:, self.forest_.classes_] = columns[0]
            return shares
        classes = [self.forest_.classes_] if self.n_labels_ == 1 else self.forest_.classes_
        for i, (column, seen) in enumerate(zip(columns, classes, strict=True)):
            if 1 in seen:
                shares[:, i] = column[:, list(seen).index(1)]
        return shares

    def _asked(self, question: Callable[[NDArray[np.float32]], Any], x: NDArray[np.float32]) -> list[list[NDArray]]:
        """The answers to some thousand rows at a time, each a list of one array a label (of one alone for values)."""
        parts = [x[i : i + _ROWS_AT_ONCE] for i in range(0, len(x), _ROWS_AT_ONCE)]
        found = Parallel(self.settings.n_jobs, require="sharedmem")(delayed(question)(part) for part in parts)
        # Several labels are a list of arrays to scikit-learn, a single one is a plain array.
        return [part if isinstance(part, list) else [part] for part in found]


def decided(says: NDArray[np.floating], kind: Kind) -> NDArray:
    """Probabilities (n, n_labels) as 0/1: above a half, or the largest alone for exclusive classes.

    Values of a regression stay as they are.
    """
    if kind == "regression":
        return says
    if kind == "multiclass":
        return (says.argmax(axis=1)[:, None] == np.arange(says.shape[1])).astype(np.int64)
    return (says > 0.5).astype(np.int64)


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
class OutOfCore:
    """Features of N records in Parquet files: record i lies in file `file_of[i]`; `at` numbers the rows of each file.

    `at[f]` (rows of file f,) holds the record's number, −1 for a row that is not asked about.
    """

    files: tuple[str, ...]
    at: tuple[NDArray[np.int64], ...]
    n_clusters: int
    scheduler: Callable[..., Any] | str | None = None

    @classmethod
    def over(
        cls,
        files: Sequence[str],
        record_ids: Sequence[str],
        n_clusters: int,
        scheduler: Callable[..., Any] | str | None = None,
    ) -> OutOfCore:
        """The proportions of these records; only ids are read here."""
        number = {record: i for i, record in enumerate(record_ids)}
        at = []
        for file in files:
            rows = _columns(file, ["record_id", "status"])
            ok = pc.equal(rows.column("status"), "ok").to_pylist()
            ids = rows.column("record_id").to_pylist()
            at.append(np.array([number.get(r, -1) if k else -1 for r, k in zip(ids, ok, strict=True)], np.int64))
        return cls(tuple(files), tuple(at), n_clusters, scheduler)

    def fitting(self, records: NDArray[np.int64]) -> NDArray[np.float32]:
        """(n, K) proportions of these record numbers, read file by file."""
        x = np.empty((len(records), self.n_clusters), np.float32)
        place = {int(record): i for i, record in enumerate(records)}
        for file, at in zip(self.files, self.at, strict=True):
            wanted = np.where(np.isin(at, records), at, -1)
            rows = [place[int(record)] for record in wanted[wanted >= 0]]
            x[rows] = _proportions(file, wanted, self.n_clusters).to_numpy(np.float32)
        return x

    def ask(self, forest: SurrogateForest, records: NDArray[np.int64]) -> NDArray[np.float64]:
        """What the forest predicts for these record numbers: dask reads and asks, file by file."""
        import dask
        import dask.dataframe as dd
        from dask_ml.wrappers import ParallelPostFit

        wanted = [np.where(np.isin(at, records), at, -1) for at in self.at]
        pairs = [(file, at) for file, at in zip(self.files, wanted, strict=True) if (at >= 0).any()]
        frame = dd.from_map(
            _proportions,
            [file for file, _ in pairs],
            [at for _, at in pairs],
            n_clusters=self.n_clusters,
            storage=storage_variables(),
            meta=_frame(np.empty((0, self.n_clusters), np.float32)),
        )
        shape = (1,) if forest.kind == "regression" else (1, forest.n_labels_)
        carried = ParallelPostFit(forest, predict_meta=np.zeros(shape))
        [said] = dask.compute(carried.predict(frame), scheduler=self.scheduler)
        numbers = np.concatenate([at[at >= 0] for _, at in pairs])
        order = np.argsort(numbers)
        return np.asarray(np.asarray(said)[order[np.searchsorted(numbers[order], records)]])


def _proportions(
    file: str, at: NDArray[np.int64], n_clusters: int, storage: Mapping[str, str] | None = None
) -> pd.DataFrame:
    """One file's rows with a number in `at`, as a frame with a column a cluster; `storage` tells dask's workers on
    other machines how the store is reached."""
    os.environ.update(storage or {})
    kept = np.flatnonzero(at >= 0)
    column = _columns(file, ["proportions"]).column(0).take(kept).combine_chunks()
    x = column.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
    return _frame(x.reshape(len(kept), n_clusters))


def _columns(file: str, names: list[str]) -> pa.Table:
    return read_parquet(file, names)


def _frame(x: NDArray[np.float32]) -> pd.DataFrame:
    return pd.DataFrame(x, columns=[f"c{k}" for k in range(x.shape[1])])
