"""What is asked of forests: what the network decided about each record, and what its label says, in one form."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ecgscale.encoders.spec import OutputSpec
from ecgscale.errors import UsageError
from ecgscale.evaluate.forests import Kind
from ecgscale.evaluate.metrics import Criterion, fixed_thresholds
from ecgscale.evaluate.truth import Truth, decisions, probabilities


@dataclass(frozen=True)
class Questions:
    """N records, n labels. Classification: `network` (N, n) decisions in 0/1, `says` (N, n) probabilities, `y` (N, n)
    labels in 0/1; regression: (N,) values each (`network` and `says` are the same).

    `known` (N,): which have a label; `y` means nothing elsewhere. `thresholds` (n,) are those of the decisions of a
    multilabel network.
    """

    kind: Kind
    names: tuple[str, ...]
    network: NDArray
    says: NDArray[np.float64]
    known: NDArray[np.bool_]
    y: NDArray
    thresholds: NDArray[np.float64] | None = None
    remarks: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.known)

    def of(self, records: NDArray[np.bool_] | NDArray[np.integer]) -> Questions:
        """The same about some of the records, a mask (N,) or numbers, with the same thresholds."""
        kept = {name: getattr(self, name)[records] for name in ("network", "says", "known", "y")}
        return replace(self, **kept)

    @property
    def can_fit(self) -> NDArray[np.bool_]:
        """(N,) records whose label a forest can learn: known, and of a class that the network knows."""
        return self.known & (self.y.sum(axis=1) > 0) if self.kind == "multiclass" else self.known


def pose(
    prediction: NDArray[np.floating],
    truth: Truth,
    output: OutputSpec,
    validation: NDArray[np.bool_] | None = None,
    criterion: Criterion = "accuracy",
) -> Questions:
    """The questions about raw outputs (N, n_outputs) and labels.

    `validation` (N,): records that the network was stopped on; a multilabel network's thresholds are fixed there by
    `criterion`, and are a half where that is not known. Raises `UsageError` when outputs and names differ in number.
    """
    n = len(output.names)
    if prediction.shape[1] != n:
        raise UsageError(f"predictions have {prediction.shape[1]} values, the encoder names {n} outputs")
    if output.kind == "regression":
        values = np.asarray(decisions(prediction, output), dtype=np.float64)
        return Questions("regression", output.names, values, values, truth.known, truth.y)
    says = probabilities(prediction, output)
    if output.kind == "multiclass":
        network = _as_columns(decisions(prediction, output), n)
        return Questions("multiclass", output.names, network, says, truth.known, _as_columns(truth.y, n))
    known = np.zeros(len(says), dtype=bool) if validation is None else validation & truth.known
    thresholds, remarks = fixed_thresholds(says[known], truth.y[known], output.names, criterion)
    network = (says > thresholds).astype(np.int64)
    return Questions("multilabel", output.names, network, says, truth.known, truth.y, thresholds, tuple(remarks))


def list_matrix(table: pa.Table, column: str) -> NDArray[np.float32]:
    """A list column of equally long lists, none null, as (N, n); `UsageError` when it is not that."""
    flat = table.column(column).combine_chunks().flatten().to_numpy(zero_copy_only=False)
    if not table.num_rows or len(flat) % table.num_rows:
        raise UsageError(f"{column}: {len(flat)} values for {table.num_rows} records; nothing to score")
    return np.asarray(flat, dtype=np.float32).reshape(table.num_rows, -1)


def _as_columns(classes: NDArray, n: int) -> NDArray[np.int64]:
    """Classes (N,) as (N, n) 0/1; an unknown class (−1) as zeros."""
    return (classes[:, None] == np.arange(n)).astype(np.int64)
