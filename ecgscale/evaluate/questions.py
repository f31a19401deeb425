"""What the network decided about each record, and what its label says, in one form.

A label column of the explanations becomes numbers in the order in which the network names its outputs; raw outputs
become probabilities and decisions, by the kind and scale that the network's contract states. From which probability on
a network says yes is fixed on the records that it was stopped on, never on those scored.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ecgscale.archive.schema import CORE_COLUMNS, RESERVED_COLUMNS
from ecgscale.encoders.spec import EncoderSpec, OutputSpec
from ecgscale.errors import UsageError, did_you_mean

Kind = Literal["multilabel", "multiclass", "regression"]

_MAY_BE_LABELS = frozenset({"age", "sex", "site", "device"})
_NO_LABELS = RESERVED_COLUMNS | (frozenset(CORE_COLUMNS) - _MAY_BE_LABELS)


@dataclass(frozen=True)
class Truth:
    """Labels of N records: `known` (N,) says which have any.

    `y` is (N, n) 0/1 for multilabel, (N,) numbers of `names` for multiclass (-1: a class the network does not know),
    (N,) floats for regression; meaningless where not known.
    """

    known: NDArray[np.bool_]
    y: NDArray


def no_truth(n: int, output: OutputSpec) -> Truth:
    """Of n records none of which has a label."""
    shape = (n, len(output.names)) if output.kind == "multilabel" else (n,)
    return Truth(np.zeros(n, dtype=bool), np.zeros(shape, np.float64 if output.kind == "regression" else np.int64))


def label_columns(schema: pa.Schema) -> list[str]:
    """Columns of explanations that may hold labels."""
    return [name for name in schema.names if name not in _NO_LABELS]


def target_columns(schema: pa.Schema, target: str) -> list[str]:
    """The columns that `target` names, one or several with commas; `UsageError` listing those there are."""
    known = label_columns(schema)
    columns = [target] if target in known else [name.strip() for name in target.split(",")]
    for name in columns:
        if name not in known:
            raise UsageError(
                f"the explanations have no label column {name!r}.{did_you_mean(name, known)} "
                f"There are: {', '.join(known) or 'none'}"
            )
    return columns


def suitable_columns(schema: pa.Schema, target: str, spec: EncoderSpec) -> list[str]:
    """`target_columns`, when their types can hold what the network tells; nothing is read for it.

    `schema` has every column of the explanations or the archive. Raises `UsageError` as `read_truth`, naming the column
    that the encoder was trained on, if it says so.
    """
    columns = target_columns(schema, target)
    read_truth(schema.empty_table(), target, spec.output, str(spec.training.get("target") or ""))
    return columns


def read_truth(table: pa.Table, target: str, output: OutputSpec, trained_on: str = "") -> Truth:
    """The labels in column `target`, matched by name with the network's outputs.

    multilabel: a list of names, or several bool columns with commas between them, named as the outputs are;
    multiclass: a string, bool or integer; regression: a number. Raises `UsageError` for an absent column (listing
    those there are) and for one that holds something else than the network tells; the latter names `trained_on`.
    """
    columns = target_columns(table.schema, target)
    read = {"multilabel": _label_sets, "multiclass": _classes, "regression": _numbers}[output.kind]
    truth = read(table, columns, output)
    if truth is None:
        given = ", ".join(f"{name} ({table.schema.field(name).type})" for name in columns)
        raise UsageError(
            f"{given} does not hold what the network tells: it is a {output.kind} network of "
            f"{', '.join(output.names)}. "
            f"{_advice(label_columns(table.schema), columns, trained_on)}"
        )
    return truth


def _advice(known: list[str], asked: list[str], trained_on: str) -> str:
    if trained_on and trained_on not in (",".join(asked), *asked):
        return f"It was trained on {trained_on}"
    # Whoever read no other columns cannot say which there are.
    others = f"; label columns are: {', '.join(known)}" if set(known) - set(asked) else ""
    return f"Give the column that it was trained on{others}"


def _label_sets(table: pa.Table, columns: list[str], output: OutputSpec) -> Truth | None:
    kind = table.schema.field(columns[0]).type
    if len(columns) == 1 and (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        if not _is_text(kind.value_type):
            return None
        sets = table.column(columns[0]).to_pylist()
        known = np.array([bool(names) for names in sets], dtype=bool)
        y = np.array([[name in (names or ()) for name in output.names] for names in sets], dtype=np.int64)
        return Truth(known, y) if y[known].any() or not known.any() else None
    if set(columns) != set(output.names) or any(
        not pa.types.is_boolean(table.schema.field(name).type) for name in columns
    ):
        return None
    values = [table.column(name).to_pylist() for name in output.names]
    known = np.array([any(value is not None for value in row) for row in zip(*values, strict=True)], dtype=bool)
    return Truth(known, np.array(values, dtype=object).T.astype(bool).astype(np.int64))


def _classes(table: pa.Table, columns: list[str], output: OutputSpec) -> Truth | None:
    kind = table.schema.field(columns[0]).type
    if len(columns) > 1 or not (_is_text(kind) or pa.types.is_boolean(kind) or pa.types.is_integer(kind)):
        return None
    values = table.column(columns[0]).to_pylist()
    number = {name: i for i, name in enumerate(output.names)}
    names = [str(value).lower() if isinstance(value, bool) else str(value) for value in values]
    known = np.array([value is not None and value != "" for value in values], dtype=bool)
    y = np.array([number.get(name, -1) for name in names], dtype=np.int64)
    return Truth(known, y) if (y[known] >= 0).any() or not known.any() else None


def _numbers(table: pa.Table, columns: list[str], output: OutputSpec) -> Truth | None:
    kind = table.schema.field(columns[0]).type
    if len(columns) > 1 or not (pa.types.is_floating(kind) or pa.types.is_integer(kind)):
        return None
    y = table.column(columns[0]).cast(pa.float64()).to_numpy(zero_copy_only=False).astype(np.float64)
    return Truth(np.isfinite(y), y)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def probabilities(prediction: NDArray[np.floating], output: OutputSpec) -> NDArray[np.float64]:
    """(..., n_outputs) raw outputs as probabilities; values of a regression as they are."""
    raw = prediction.astype(np.float64)
    if output.scale != "logit":
        return raw
    if output.kind == "multiclass":
        shifted = np.exp(raw - raw.max(axis=-1, keepdims=True))
        return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True))
    return np.asarray(0.5 * (1 + np.tanh(raw / 2)))  # the logistic function, without overflow


def decisions(prediction: NDArray[np.floating], output: OutputSpec) -> NDArray[np.int64] | NDArray[np.float64]:
    """What the network says about (N, n_outputs) raw outputs.

    multilabel: (N, n) 0/1, 1 where the probability exceeds a half; multiclass: (N,) the largest output; regression:
    (N,) the first value.
    """
    if output.kind == "regression":
        return prediction[:, 0].astype(np.float64)
    if output.kind == "multiclass":
        return prediction.argmax(axis=1).astype(np.int64)
    return (prediction > (0.0 if output.scale == "logit" else 0.5)).astype(np.int64)


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


Criterion = Literal["accuracy", "f1", "half"]

FEWEST_RECORDS, FEWEST_OF_A_KIND = 20, 3
SIGNIFICANT = 1.96
"""Standard errors by which a threshold has to be better than a half."""


def fixed_thresholds(
    says: NDArray[np.floating], y: NDArray[np.integer], names: tuple[str, ...], criterion: Criterion
) -> tuple[NDArray[np.float64], list[str]]:
    """One threshold a label (n,), and remarks, from validation probabilities (N, n) and labels y (N, n) in 0/1.

    "accuracy" makes most labels right there, but stays at a half unless that is better by more than chance (sign test
    on the records whose answer changes); "f1" makes the harmonic mean of precision and recall largest (the rule of the
    published CODE networks). Among equally good thresholds the one nearest to a half. A half where there are fewer
    than 20 records, or 3 of either kind, and with "half".
    """
    thresholds, kept = np.full(len(names), 0.5), []
    if criterion == "half":
        return thresholds, []
    for i, name in enumerate(names):
        n_yes = int(y[:, i].sum())
        if len(y) < FEWEST_RECORDS or min(n_yes, len(y) - n_yes) < FEWEST_OF_A_KIND:
            kept.append(name)
        else:
            thresholds[i] = _best(says[:, i].astype(np.float64), y[:, i] > 0, criterion)
    if not kept:
        return thresholds, []
    few = f"too few of {len(y)} validation records with and without"
    return thresholds, [f"threshold 0.5 for {', '.join(kept)}: {few}"]


def _best(says: NDArray[np.float64], yes: NDArray[np.bool_], criterion: Criterion) -> float:
    """The best place to cut, midway between neighbouring probabilities or at a half."""
    values = np.unique(says)
    cuts = np.unique(np.concatenate([[0.0, 0.5], (values[1:] + values[:-1]) / 2, values[-1:]]))
    order = np.argsort(says)
    above = len(says) - np.searchsorted(says[order], cuts, side="right")
    hits_before = np.concatenate([[0], np.cumsum(yes[order])])
    hits = yes.sum() - hits_before[len(says) - above]
    if criterion == "f1":
        score = 2 * hits / np.maximum(above + yes.sum(), 1)
    else:
        score = (len(says) - (above - hits) - (yes.sum() - hits)) / len(says)
    best = cuts[score >= score.max() - 1e-12]
    cut = float(best[np.argmin(np.abs(best - 0.5))])
    if criterion == "accuracy":
        changed = (says > cut) != (says > 0.5)
        fixed = int((changed & ((says > cut) == yes)).sum())
        if 2 * fixed - changed.sum() <= SIGNIFICANT * np.sqrt(changed.sum()):
            return 0.5
    return cut
