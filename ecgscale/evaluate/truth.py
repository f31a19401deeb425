"""A label column of the explanations as numbers, in the order in which the network names its outputs.

A network's raw outputs as probabilities and decisions, by the kind and scale that its contract states.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ecgscale.archive.schema import CORE_COLUMNS, RESERVED_COLUMNS
from ecgscale.encoders.spec import EncoderSpec, OutputSpec
from ecgscale.errors import UsageError, did_you_mean

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
        told = ", ".join(f"{name} ({table.schema.field(name).type})" for name in columns)
        raise UsageError(
            f"{told} does not hold what the network tells: it is a {output.kind} network of {', '.join(output.names)}. "
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
