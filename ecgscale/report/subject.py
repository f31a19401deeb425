"""One published dataset with all that is known about it: what was run, every explained row, what was evaluated.

Signals and segments stay on disk; what is held here is a few hundred bytes a recording.

What people call the clusters: `names.json` in the folder of a model, written by hand or saved from the report.

    {"model_id": "k20-…", "names": {"3": "QRS, upstroke", "7": "T wave"}}

Names are for readers alone: nothing is computed from them, and the model's identity does not know them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from ecgscale.archive import Archive
from ecgscale.clusters.model import ClusterModel
from ecgscale.encoders.spec import EncoderSpec
from ecgscale.errors import EncoderError, UsageError, first_problem
from ecgscale.evaluate.published import USABLE, Published, open_published
from ecgscale.evaluate.questions import Truth, decisions, label_columns, probabilities, read_truth, target_columns
from ecgscale.evaluate.seen import Seen
from ecgscale.evaluate.written import Evaluation, read_evaluations
from ecgscale.io.numbered import read_document
from ecgscale.io.places import is_remote, place
from ecgscale.store.dataset import open_explanations
from ecgscale.store.manifest import Manifest
from ecgscale.words import typed

NAMES_FILE = "names.json"
LONGEST_NAME = 60
LONGEST_NAMES = 2**20
"""Bytes of a names.json that are read at most; 512 names of 60 letters have less than a tenth of that."""


class _Names(BaseModel):
    model_config = ConfigDict(extra="forbid")

    model_id: str
    names: dict[int, str]


def read_names(model_dir: str | Path, n_clusters: int) -> dict[int, str]:
    """Names by cluster id, those that are blank left out; empty when there is no `names.json`.

    Raises `UsageError` for a file of another form, for another model, or naming a cluster that is not there.
    """
    path = place(model_dir) / NAMES_FILE
    try:
        content = _Names.model_validate(read_document(place(model_dir), NAMES_FILE, LONGEST_NAMES))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        why = first_problem(error, "the whole file") if isinstance(error, ValidationError) else str(error)
        raise UsageError(
            f'{path} is not of the form {{"model_id": "…", "names": {{"0": "…"}}}}: {why}. '
            "The report saves such a file; correct it, or move it away."
        ) from error
    if content.model_id != (place(model_dir) if is_remote(model_dir) else Path(model_dir).resolve()).name:
        raise UsageError(f"{path} names the clusters of model {content.model_id}; move it beside that model")
    unknown = sorted(cluster for cluster in content.names if not 0 <= cluster < n_clusters)
    if unknown:
        listed = ", ".join(map(str, unknown))
        raise UsageError(f"{path} names cluster {listed}; the model has clusters 0 to {n_clusters - 1}")
    cleaned = {cluster: " ".join(name.split())[:LONGEST_NAME] for cluster, name in content.names.items()}
    return {cluster: name for cluster, name in sorted(cleaned.items()) if name}


_PLAIN = ("record_id", "patient_id", "source_shard", "prediction", "proportions", "mean_entropy", "distortion", "flags")
_IF_THERE = ("age", "sex", "fold", "site", "device", "rhythm")
_EXAMPLES = 5


@dataclass(frozen=True)
class Rows:
    """The M explained records (quarantined ones are counted elsewhere), in the order of the archive.

    table: record_id, patient_id, source_shard, flags and what of age, sex, fold, … is there; proportions: (M, K);
    raw: (M, n) the network's outputs; outputs: the same as probabilities, or values of a regression; truth: labels as
    the network names them, None without a known target.
    """

    table: pa.Table
    proportions: NDArray[np.float32]
    raw: NDArray[np.float32]
    outputs: NDArray[np.float64]
    mean_entropy: NDArray[np.float32]
    truth: Truth | None

    def __len__(self) -> int:
        return self.table.num_rows

    @cached_property
    def record_ids(self) -> list[str]:
        """(M,) names."""
        return [str(name) for name in self.table.column("record_id").to_pylist()]

    def numbers(self, column: str) -> NDArray[np.float64] | None:
        """A numeric column as (M,), NaN where unknown; None where the column is not there, empty, or no number."""
        if column not in self.table.column_names:
            return None
        kind = self.table.schema.field(column).type
        if not (pa.types.is_floating(kind) or pa.types.is_integer(kind)):
            return None
        values = self.table.column(column).cast(pa.float64()).to_numpy().astype(np.float64)
        return values if np.isfinite(values).any() else None


@dataclass(frozen=True)
class Quarantine:
    """Records without facts: how many by status, and a few of each by name."""

    counts: dict[str, int]
    examples: dict[str, list[str]]
    total: int
    """All rows of the dataset, explained or not."""


@dataclass(frozen=True)
class Subject:
    """A dataset of explanations and what belongs to it; `archive` is None where it cannot be opened, for a reason."""

    root: Path
    dataset_id: str
    manifest: Manifest
    spec: EncoderSpec
    model: ClusterModel
    names: dict[int, str]
    target: str | None
    target_note: str
    rows: Rows
    quarantine: Quarantine
    seen: Seen
    seen_note: str
    evaluations: dict[str, Evaluation]
    archive: Archive | None
    archive_note: str

    @property
    def classes(self) -> tuple[str, ...]:
        """The network's outputs by name."""
        return self.spec.output.names

    @property
    def is_regression(self) -> bool:
        """Whether the network gives a value instead of classes."""
        return self.spec.output.kind == "regression"

    def command(self, words: str) -> str:
        """`ecgscale WORDS` with ROOT and TARGET filled in, as it can be typed."""
        words = words.replace("ROOT", typed(self.root))
        return f"ecgscale {words.replace('TARGET', self.target or 'COLUMN')}"

    def explained(self, record_ids: Iterable[str], columns: Sequence[str]) -> list[dict[str, Any]]:
        """record_id and these columns of the explanations of these records, in any order."""
        wanted = (pc.field("status") == "ok") & pc.field("record_id").isin(pa.array(list(record_ids), pa.string()))
        table = open_explanations(self.root, self.dataset_id).to_table(["record_id", *columns], filter=wanted)
        return table.to_pylist()

    def decided(self) -> NDArray[np.bool_]:
        """(M, n) which classes the network says of each record; all False for a regression."""
        return _as_sets(decisions(self.rows.raw, self.spec.output), self.spec.output.kind, len(self.classes))

    def labelled(self) -> NDArray[np.bool_]:
        """(M, n) which classes the labels say; all False where nothing is known, and for a regression."""
        if self.rows.truth is None or self.is_regression:
            return np.zeros((len(self.rows), len(self.classes)), dtype=bool)
        sets = _as_sets(self.rows.truth.y, self.spec.output.kind, len(self.classes))
        return sets & self.rows.truth.known[:, None]


def open_subject(root: str | Path, dataset: str | None = None, archive: str | Path | None = None) -> Subject:
    """Read a dataset below `root` (the one that is served, unless `dataset` names one).

    `archive` says where the archive is now, if it moved. Raises `UsageError` when nothing is published, when
    `archive` is another one than was explained, and when no recording was explained.
    """
    published = open_published(root, dataset)
    spec, model = published.spec, published.model
    target, columns, note = _target(spec, published.schema)
    rows, truth_note = _read_rows(published, target, columns)
    if not len(rows):
        raise UsageError(
            f"dataset {published.dataset_id} below {root} holds no explained recording: all of them are quarantined. "
            "`ecgscale inspect ARCHIVE` tells why."
        )
    opened, archive_note = published.archive(archive)
    seen_note = ""
    try:
        seen = published.seen(rows.table)
    except EncoderError as error:
        seen, seen_note = Seen(None, None, None, None), str(error)
    return Subject(
        root=place(root),
        dataset_id=published.dataset_id,
        manifest=published.manifest,
        spec=spec,
        model=model,
        names=read_names(place(root) / "models" / model.model_id, model.n_clusters),
        target=target,
        target_note=note or truth_note,
        rows=rows,
        quarantine=_quarantine(published),
        seen=seen,
        seen_note=seen_note,
        evaluations=read_evaluations(root, published.dataset_id),
        archive=opened,
        archive_note=archive_note,
    )


def _target(spec: EncoderSpec, schema: pa.Schema) -> tuple[str | None, list[str], str]:
    """(target, its columns, a remark): what the encoder was trained on, or columns of the names of its outputs."""
    known = label_columns(schema)
    target = spec.training.get("target")
    asked = str(target) if target else ",".join(spec.output.names)
    try:
        return asked, target_columns(schema, asked), ""
    except UsageError:
        there = ", ".join(known) or "none"
        what = f"{target!r}, on which the network was trained" if target else "what the network tells"
        return None, [], f"no label column holds {what}; label columns are: {there}"


def _read_rows(published: Published, target: str | None, columns: list[str]) -> tuple[Rows, str]:
    table, output = published.table([*_PLAIN, *columns], _IF_THERE), published.spec.output
    truth, note = None, ""
    if target is not None and table.num_rows:
        try:
            truth = read_truth(table, target, output)
        except UsageError as error:
            note = str(error)
    raw = matrix(table, "prediction")
    rows = Rows(
        table=table.drop_columns(["prediction", "proportions", "mean_entropy"]),
        proportions=matrix(table, "proportions"),
        raw=raw,
        outputs=probabilities(raw, output),
        mean_entropy=table.column("mean_entropy").to_numpy(),
        truth=truth,
    )
    return rows, note


def matrix(table: pa.Table, column: str) -> NDArray[np.float32]:
    """A list column of equally long lists without nulls as (N, n)."""
    flat = pc.list_flatten(table.column(column)).to_numpy()
    return np.asarray(flat, dtype=np.float32).reshape(table.num_rows, -1 if table.num_rows else 0)


def _quarantine(published: Published) -> Quarantine:
    aside = published.table(["record_id", "status"], wanted=~USABLE)
    statuses = aside.column("status").to_pylist()
    examples: dict[str, list[str]] = {status: [] for status in sorted(set(statuses))}
    for record, status in zip(aside.column("record_id").to_pylist(), statuses, strict=True):
        if len(examples[status]) < _EXAMPLES:
            examples[status].append("(without a name)" if not record else str(record))
    return Quarantine(dict(Counter(statuses).most_common()), examples, published.manifest.content.totals.records)


def _as_sets(values: NDArray, kind: str, n: int) -> NDArray[np.bool_]:
    if kind == "regression":
        return np.zeros((len(values), n), dtype=bool)
    return values == 1 if values.ndim == 2 else values[:, None] == np.arange(n)
