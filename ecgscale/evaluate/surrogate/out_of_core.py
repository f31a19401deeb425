"""Proportions that never lie in memory at once: forests are fitted on a sample and carried to the data by dask.

One partition a file of the explanations, read when its turn comes; `dask_ml.wrappers.ParallelPostFit` asks the fitted
forest about every partition, on this machine's cores or on whatever scheduler is handed in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ecgscale.evaluate.forests import SurrogateForest


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
            rows = pq.read_table(file, columns=["record_id", "status"])
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
            x[rows] = _read(file, wanted, self.n_clusters).to_numpy(np.float32)
        return x

    def ask(self, forest: SurrogateForest, records: NDArray[np.int64]) -> NDArray[np.float64]:
        """What the forest predicts for these record numbers: dask reads and asks, file by file."""
        import dask
        import dask.dataframe as dd
        from dask_ml.wrappers import ParallelPostFit

        wanted = [np.where(np.isin(at, records), at, -1) for at in self.at]
        pairs = [(file, at) for file, at in zip(self.files, wanted, strict=True) if (at >= 0).any()]
        frame = dd.from_map(
            _read,
            [file for file, _ in pairs],
            [at for _, at in pairs],
            n_clusters=self.n_clusters,
            meta=_frame(np.empty((0, self.n_clusters), np.float32)),
        )
        shape = (1,) if forest.kind == "regression" else (1, forest.n_labels_)
        carried = ParallelPostFit(forest, predict_meta=np.zeros(shape))
        [said] = dask.compute(carried.predict(frame), scheduler=self.scheduler)
        numbers = np.concatenate([at[at >= 0] for _, at in pairs])
        order = np.argsort(numbers)
        return np.asarray(np.asarray(said)[order[np.searchsorted(numbers[order], records)]])


def _read(file: str, at: NDArray[np.int64], n_clusters: int) -> pd.DataFrame:
    """One file's rows with a number in `at`, as a frame with a column a cluster."""
    kept = np.flatnonzero(at >= 0)
    column = pq.read_table(file, columns=["proportions"]).column("proportions").take(kept).combine_chunks()
    x = column.flatten().to_numpy(zero_copy_only=False).astype(np.float32).reshape(len(kept), n_clusters)
    return _frame(x)


def _frame(x: NDArray[np.float32]) -> pd.DataFrame:
    return pd.DataFrame(x, columns=[f"c{k}" for k in range(x.shape[1])])
