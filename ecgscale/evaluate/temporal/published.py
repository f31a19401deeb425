"""Temporal order of what was published below a ROOT, against any label column."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ecgscale.clusters.model import ClusterModel
from ecgscale.errors import UsageError
from ecgscale.evaluate.published import draw_records, left_out
from ecgscale.evaluate.seen import patients_of
from ecgscale.evaluate.temporal.order import sequences_of
from ecgscale.evaluate.temporal.temporal import TREES, Labels, Temporal, measure_order
from ecgscale.evaluate.truth import label_columns, target_columns
from ecgscale.evaluate.written import evaluation_name, write_evaluation
from ecgscale.io.places import place
from ecgscale.passes.spread import HERE, Spread
from ecgscale.progress import SILENT, Progress
from ecgscale.store.dataset import find_dataset, open_explanations
from ecgscale.store.presence import announced

MOST_CLASSES = 30
RECORDS = 20_000


@dataclass(frozen=True)
class PublishedTemporal:
    """What was measured, and where it was written."""

    result: Temporal
    facts: dict[str, Any]
    path: Path


@announced("ecgscale temporal", existing=True)
def temporal_published(
    root: str | Path,
    target: str,
    *,
    dataset: str | None = None,
    records: int | None = RECORDS,
    trees: int = TREES,
    n_bootstrap: int = 1000,
    seed: int = 0,
    spread: Spread = HERE,
    progress: Progress = SILENT,
) -> PublishedTemporal:
    """Measure what the order of clusters tells of the column `target`, on a seeded choice of labelled records.

    `target` holds a class (string, bool, integer) or a list of them. Writes ROOT/evaluations/<dataset>/
    temporal-<target>.json with the table by_class. Raises `UsageError` when nothing is published, and for a column that
    is not there (listing those there are), holds no classes, or holds one only.
    """
    found = find_dataset(root, dataset)
    assert found.manifest is not None
    identity = found.manifest.content.identity
    model = ClusterModel.load(place(root) / "models" / identity.model_id)
    explanations = open_explanations(root, found.dataset_id)
    asked = target_columns(explanations.schema, target)
    columns = ["record_id", "patient_id", "segments", "sampling_rate", *asked]
    wanted = pc.field("status") == "ok"
    for column in asked:
        wanted &= ~pc.field(column).is_null()
    table = explanations.to_table(columns=columns, filter=wanted)
    table = table.take(pa.array(draw_records(table.num_rows, records, seed)))
    labels = labels_of(table, asked, [name for name in label_columns(explanations.schema) if name not in asked])
    result = measure_order(
        sequences_of(table, model.n_clusters),
        labels,
        patients_of(table).tolist(),
        trees=trees,
        n_bootstrap=n_bootstrap,
        seed=seed,
        spread=spread,
        progress=progress,
    )
    facts = {"target": target, **result.to_dict(), "remarks": [*left_out(explanations), *result.remarks]}
    rows = [
        {"features": features, "class": name, "auroc": value}
        for features, values in result.by_class.items()
        for name, value in values.items()
    ]
    settings = {"target": target, "records": records, "trees": trees, "n_bootstrap": n_bootstrap, "seed": seed}
    path = write_evaluation(
        root,
        found.dataset_id,
        evaluation_name("temporal", target),
        facts,
        {"by_class": pa.Table.from_pylist(rows)},
        settings=settings,
    )
    return PublishedTemporal(result, facts, path)


def labels_of(table: pa.Table, columns: list[str], others: list[str]) -> Labels:
    """The classes that N records are in: the values of a column, the names in its lists, or several bool columns.

    Raises `UsageError`, naming the `others`, for columns that hold no classes, one only, or too many.
    """
    there, kinds = ", ".join(others) or "none", [table.schema.field(column).type for column in columns]
    if len(columns) > 1 and all(pa.types.is_boolean(kind) for kind in kinds):
        flags = [table.column(column).to_numpy(zero_copy_only=False).astype(np.int64) for column in columns]
        return Labels(tuple(columns), np.stack(flags, axis=1), exclusive=False)
    is_list = pa.types.is_list(kinds[0]) or pa.types.is_large_list(kinds[0])
    value = kinds[0].value_type if is_list else kinds[0]
    if len(columns) > 1 or not any(
        is_kind(value)
        for is_kind in (pa.types.is_string, pa.types.is_large_string, pa.types.is_integer, pa.types.is_boolean)
    ):
        told = ", ".join(f"{name} ({kind})" for name, kind in zip(columns, kinds, strict=True))
        raise UsageError(f"{told} holds no classes; other label columns are: {there}")
    values = table.column(columns[0]).to_pylist()
    sets = [{str(name) for name in (names if is_list else [names]) if name is not None} for names in values]
    counts = Counter(name for own in sets for name in own)
    if len(counts) > MOST_CLASSES and not is_list:
        raise UsageError(f"{columns[0]} holds {len(counts)} different values; {MOST_CLASSES} classes are the most")
    # Lists of statement codes have a long tail; the commonest are those that can be learnt.
    names = tuple(sorted(sorted(counts, key=lambda name: (-counts[name], name))[:MOST_CLASSES]))
    if len(names) < 2:
        raise UsageError(f"{columns[0]} holds {names[0] if names else 'nothing'} throughout; others are: {there}")
    y = np.array([[name in own for name in names] for own in sets], dtype=np.int64)
    return Labels(names, y, exclusive=not is_list)
