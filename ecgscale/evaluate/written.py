"""Results of evaluations, next to the explanations they are about: ROOT/evaluations/<dataset_id>/<name>.json.

Facts are JSON, tables are Parquet (`<name>.<table>.parquet`). Each file is put in place whole, the JSON last; a later
evaluation of the same name takes the place of the earlier one. Numbers that could not be computed are null.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import pyarrow as pa

from ecgscale.errors import EcgscaleError, UsageError
from ecgscale.io.numbered import read_document
from ecgscale.io.objects import put_whole
from ecgscale.io.parquet import read_parquet, to_parquet_bytes
from ecgscale.io.places import place
from ecgscale.store.provenance import utc_now, versions

EVALUATIONS = "evaluations"
CREATED_KEY = b"ecgscale.created_at"

_NAME = re.compile(r"[\w%+=-][\w%+=.-]*")


@dataclass(frozen=True)
class Evaluation:
    """One evaluation as it was written: what was found (`facts`), and what decided it (`settings`, `versions`)."""

    name: str
    dataset_id: str
    created_at: str
    facts: dict[str, Any]
    settings: dict[str, Any]
    versions: dict[str, str]
    table_names: tuple[str, ...]
    folder: Path = field(repr=False)

    def table(self, name: str) -> pa.Table:
        """One of its tables; `EcgscaleError` when there is none, or when it is of another run than the facts."""
        if name not in self.table_names:
            there = ", ".join(self.table_names) or "none"
            raise EcgscaleError(f"evaluation {self.name} has no table {name!r}; it has: {there}")
        path = self.folder / f"{self.name}.{name}.parquet"
        table = read_parquet(str(path))
        if (table.schema.metadata or {}).get(CREATED_KEY) != self.created_at.encode():
            raise EcgscaleError(f"{path} is of another run than {self.name}.json; run the evaluation again")
        return table


Result = TypeVar("Result")


@dataclass(frozen=True)
class Written(Generic[Result]):
    """What an evaluation of something published found, the facts of it that were written, and where."""

    result: Result
    facts: dict[str, Any]
    path: Path


def evaluation_name(kind: str, target: str | None = None) -> str:
    """ "surrogate", "superclasses" → "surrogate-superclasses"; what no file name should hold becomes "_"."""
    return kind if target is None else f"{kind}-" + re.sub(r"[^\w%+=.-]", "_", target)


def evaluations_folder(root: str | Path, dataset_id: str) -> Path:
    """Where the evaluations of a dataset lie."""
    return place(root) / EVALUATIONS / dataset_id


def write_evaluation(
    root: str | Path,
    dataset_id: str,
    name: str,
    facts: Mapping[str, Any],
    tables: Mapping[str, pa.Table] | None = None,
    *,
    settings: Mapping[str, Any] | None = None,
) -> Path:
    """Write one evaluation of a dataset and return the path of its JSON.

    `facts` may hold NumPy values, tuples, sets, dataclasses and paths; NaN and infinities become null. `settings` is
    what the evaluation was asked to do. Raises `UsageError` for a name that is no plain file name.
    """
    tables = tables or {}
    for word in (name, *tables):
        if not _NAME.fullmatch(word):
            raise UsageError(f"{word!r} cannot name an evaluation: letters, digits, - _ . % + = only")
    folder = evaluations_folder(root, dataset_id)
    created = utc_now()
    for table_name, table in tables.items():
        stamped = table.replace_schema_metadata({**(table.schema.metadata or {}), CREATED_KEY: created.encode()})
        put_whole(folder / f"{name}.{table_name}.parquet", to_parquet_bytes(stamped))
    content = {
        "name": name,
        "dataset_id": dataset_id,
        "created_at": created,
        "versions": versions(),
        "settings": plain(settings or {}),
        "tables": sorted(tables),
        "facts": plain(facts),
    }
    path = folder / f"{name}.json"
    put_whole(path, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())
    return path


def read_evaluations(root: str | Path, dataset_id: str) -> dict[str, Evaluation]:
    """All evaluations of a dataset by name, sorted; empty when there are none. `EcgscaleError` for a broken file."""
    folder = evaluations_folder(root, dataset_id)
    paths = sorted(folder.glob("*.json")) if folder.is_dir() else []
    return {evaluation.name: evaluation for evaluation in map(_read, paths)}


def plain(value: Any) -> Any:
    """`value` as JSON has it: NumPy as lists and numbers, what is not finite as None, mapping keys as text."""
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, set | frozenset):
        return [plain(inner) for inner in sorted(value)]
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"an evaluation cannot hold {type(value).__name__}")


def _read(path: Path) -> Evaluation:
    try:
        content = read_document(path.parent, path.name)
        kept = {key: content[key] for key in ("name", "dataset_id", "created_at", "facts", "settings", "versions")}
        return Evaluation(**kept, table_names=tuple(content["tables"]), folder=path.parent)
    except (ValueError, KeyError, TypeError) as error:
        raise EcgscaleError(f"{path} is no evaluation that this version reads ({error!r}); run it again") from error
