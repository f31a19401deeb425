"""What a network is trained to tell: a column of the archive as multi-label, multi-class or regression target.

With the losses a network is trained with, and the scores that say how good it is, by kind of target.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from torch.nn import functional

from ecgscale.archive import Archive
from ecgscale.errors import UsageError, did_you_mean

Kind = Literal["multilabel", "multiclass", "regression"]
KINDS: tuple[Kind, ...] = ("multilabel", "multiclass", "regression")

_TRAINABLE_CORE = ("age", "sex", "site", "device", "fold")


@dataclass(frozen=True)
class Labels:
    """One entry a record of the archive, in its order.

    `values` holds a set of names (multilabel), a name (multiclass) or a number (regression), None where the record
    has no label; `columns` are the columns they come from.
    """

    kind: Kind
    columns: tuple[str, ...]
    values: list[Any]

    def labelled(self) -> NDArray[np.bool_]:
        """(N,) which records have a label at all."""
        return np.array([value is not None for value in self.values], dtype=bool)


@dataclass(frozen=True)
class Target:
    """Labels as numbers: (N, n) float32 in 0/1, (N,) int64 class numbers, or (N, 1) float32; `names` in order."""

    kind: Kind
    names: tuple[str, ...]
    y: NDArray


def trainable_columns(archive: Archive) -> list[str]:
    """Columns a network could be trained on: the labels and metadata of the source, then age, sex and the like."""
    names = archive.schema().names
    return [*archive.label_columns(), *(name for name in _TRAINABLE_CORE if name in names)]


def read_labels(archive: Archive, target: str, kind: str = "auto") -> tuple[Labels, pa.Table]:
    """The labels in column `target` of every record, and the table (record_id, patient_id, fold, shard, row).

    list<string> is multilabel (records with an empty list count as unlabelled), string, integer and bool multiclass,
    float regression; `kind` overrides where it can. Several bool columns with commas between them are one multilabel
    target. Raises UsageError for absent or unsuitable columns, listing those there are.
    """
    known = trainable_columns(archive)
    columns = tuple(name.strip() for name in target.split(",") if name.strip()) if target not in known else (target,)
    for name in columns or (target,):
        if name not in known:
            raise UsageError(
                f"{archive.path} has no column {name!r} to train on.{did_you_mean(name, known)} "
                f"There are: {', '.join(known)}"
            )
    schema = archive.schema()
    types = [schema.field(name).type for name in columns]
    chosen = _kind(columns, types, kind)
    present = [name for name in ("record_id", "patient_id", "fold") if name in schema.names]
    table = archive.metadata([*present, *(name for name in columns if name not in present)])
    raw = [table.column(name).to_pylist() for name in columns]
    return Labels(chosen, columns, _VALUES[chosen](columns, raw)), table


def _kind(columns: tuple[str, ...], types: Sequence[pa.DataType], asked: str) -> Kind:
    possible = _possible_kinds(types)
    if not possible:
        found = ", ".join(f"{name} ({kind})" for name, kind in zip(columns, types, strict=True))
        raise UsageError(
            f"nothing can be trained on {found}: a target is a list of strings, a string, integer, bool or float "
            "column, or several bool columns"
        )
    if asked == "auto":
        return possible[0]
    for kind in possible:
        if kind == asked:
            return kind
    raise UsageError(f"{', '.join(columns)} ({types[0]}) can be trained as {' or '.join(possible)}, not as {asked!r}")


def _possible_kinds(types: Sequence[pa.DataType]) -> list[Kind]:
    first = types[0].value_type if pa.types.is_dictionary(types[0]) else types[0]
    if len(types) > 1:
        return ["multilabel"] if all(pa.types.is_boolean(kind) for kind in types) else []
    if pa.types.is_list(first) or pa.types.is_large_list(first):
        return ["multilabel"] if _is_string(first.value_type) else []
    if _is_string(first):
        return ["multiclass"]
    if pa.types.is_boolean(first):
        return ["multiclass", "multilabel"]
    if pa.types.is_integer(first):
        return ["multiclass", "regression"]
    return ["regression"] if pa.types.is_floating(first) else []


def _is_string(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _label_sets(columns: tuple[str, ...], raw: list[list[Any]]) -> list[Any]:
    first = next((value for value in raw[0] if value is not None), None)
    if not isinstance(first, bool):
        return [frozenset(name for name in value if name) or None if value else None for value in raw[0]]
    return [
        None
        if all(value is None for value in row)
        else frozenset(name for name, value in zip(columns, row, strict=True) if value)
        for row in zip(*raw, strict=True)
    ]


def _names(columns: tuple[str, ...], raw: list[list[Any]]) -> list[Any]:
    return [_class_name(value) for value in raw[0]]


def _class_name(value: Any) -> str | None:
    if value is None or value == "":
        return None
    return str(value).lower() if isinstance(value, bool) else str(value)


def _numbers(columns: tuple[str, ...], raw: list[list[Any]]) -> list[Any]:
    return [float(value) if value is not None and np.isfinite(value) else None for value in raw[0]]


_VALUES: dict[Kind, Any] = {"multilabel": _label_sets, "multiclass": _names, "regression": _numbers}


def encode(labels: Labels, rows: NDArray[np.intp], train: NDArray[np.bool_]) -> tuple[Target, list[str]]:
    """The labels of `rows` as numbers, and remarks for the user; names come from the rows where `train` is true.

    A class that only occurs outside of training cannot be learned: it is left out, with a remark. Raises UsageError for
    a target that is constant, or that looks like an identifier.
    """
    values = [labels.values[row] for row in rows]
    if labels.kind == "regression":
        y = np.array(values, dtype=np.float32)[:, None]
        if not train.any() or np.ptp(y[train]) == 0:
            raise UsageError(f"{labels.columns[0]} is the same for every training record: nothing to learn")
        return Target("regression", labels.columns, y), []
    sets = [value if labels.kind == "multilabel" else {value} for value in values]
    counts = Counter(name for value, used in zip(sets, train, strict=True) if used for name in value)
    names = tuple(sorted(counts, key=_natural))
    unknown = Counter(name for value in sets for name in value if name not in counts)
    remarks = [
        f"{name!r} occurs in {n} record(s), but in none of the training ones: left out" for name, n in unknown.items()
    ]
    _check_names(labels, names, counts, int(train.sum()))
    remarks += [f"{name!r} has a single training record: expect nothing of it" for name in names if counts[name] == 1]
    number = {name: i for i, name in enumerate(names)}
    if labels.kind == "multiclass":
        return Target("multiclass", names, np.array([number.get(value, -1) for value in values], np.int64)), remarks
    y = np.zeros((len(sets), len(names)), np.float32)
    for row, value in enumerate(sets):
        y[row, [number[name] for name in value if name in number]] = 1.0
    constant = [name for name in names if counts[name] == train.sum()]
    remarks += [
        f"{name!r} is there in every training record: the network learns a constant for it" for name in constant
    ]
    return Target("multilabel", names, y), remarks


def _natural(name: str) -> tuple[bool, int, str]:
    return (False, int(name), name) if name.lstrip("-").isdecimal() else (True, 0, name)


def _check_names(labels: Labels, names: tuple[str, ...], counts: Counter[str], n_train: int) -> None:
    column = ", ".join(labels.columns)
    useful = [name for name in names if counts[name] < n_train]
    if not useful:
        found = f"only {names[0]!r}" if names else "nothing"
        raise UsageError(f"{column} holds {found} in the {n_train} training records: nothing to learn")
    if labels.kind == "multiclass" and len(names) > max(10, n_train // 2):
        raise UsageError(
            f"{column} has {len(names)} different values in {n_train} training records; it looks like an identifier "
            "or a number (--kind regression), not a class"
        )


Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

LOSSES: dict[Kind, Loss] = {
    "multilabel": functional.binary_cross_entropy_with_logits,
    "multiclass": partial(functional.cross_entropy, ignore_index=-1),  # a class that training never saw
    "regression": functional.mse_loss,
}

HEADLINE: dict[Kind, str] = {"multilabel": "auroc_macro", "multiclass": "auroc_macro", "regression": "mae"}


def score(kind: Kind, names: Sequence[str], predicted: NDArray, y: NDArray) -> dict[str, float]:
    """Scores of outputs (N, n) against a target as `targets.encode` gives it; keys depend on the kind.

    multilabel: auroc_macro and auroc:NAME. multiclass: those and accuracy. regression: mae, rmse, r2. A class without
    both positives and negatives has no AUROC and is left out of the mean; a class unknown to the network (-1) counts
    as wrong. Outputs that are not finite have no scores at all.
    """
    if not np.isfinite(predicted).all():
        return {}
    if kind == "regression":
        error = predicted.astype(np.float64) - y
        spread = float(np.sum((y - y.mean()) ** 2, dtype=np.float64))
        scores = {"mae": float(np.abs(error).mean()), "rmse": float(np.sqrt((error**2).mean()))}
        return scores | ({"r2": 1 - float((error**2).sum()) / spread} if spread > 0 else {})
    truth = y if kind == "multilabel" else (y[:, None] == np.arange(len(names))).astype(np.float32)
    each = {
        f"auroc:{name}": float(roc_auc_score(truth[:, i], predicted[:, i]))
        for i, name in enumerate(names)
        if 0 < truth[:, i].sum() < len(truth)
    }
    scores = {"auroc_macro": float(np.mean(list(each.values())))} if each else {}
    if kind == "multiclass":
        scores["accuracy"] = float((predicted.argmax(axis=1) == y).mean())
    return scores | each


def headline(kind: Kind, scores: dict[str, float]) -> str:
    """The headline in words: "AUROC 0.887", "mean absolute error 8.10"."""
    value = scores.get(HEADLINE[kind])
    if value is None:
        return f"{HEADLINE[kind]} undefined"
    return f"mean absolute error {value:.2f}" if kind == "regression" else f"macro AUROC {value:.3f}"
