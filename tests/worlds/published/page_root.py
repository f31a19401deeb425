"""A published ROOT made by hand over a simulated archive: what `fit` and `explain` leave, without a network.

The proportions of a record follow its superclasses and its age, and so do the "network's" outputs, so that scores on
them are known to be good; segments are eighths of the recording. `HOSTILE` names look like markup.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from ecgscale.archive import Archive
from ecgscale.archive.synthetic.patients import SUPERCLASSES
from ecgscale.archive.synthetic.simulation import EXTRA_FIELDS, SCHEMA, simulate, simulate_records
from ecgscale.archive.writer import ArchiveWriter
from ecgscale.clusters.features import BlockLayout
from ecgscale.clusters.model import ClusterModel
from ecgscale.encoders.inputs import InputSpec
from ecgscale.encoders.seen import SEEN_FILE, seen_lines
from ecgscale.encoders.spec import EncoderSpec, OutputSpec, write_spec
from ecgscale.explain.schema import output_schema, to_parquet
from ecgscale.explain.segments import SEGMENT_TYPE
from ecgscale.leads import CANONICAL_LEADS
from ecgscale.store.commit import Source, commit_output
from ecgscale.store.dataset import dataset_store
from ecgscale.store.manifest import ArchiveFacts, Content, DatasetFacts, ShardEntry, Totals, publish
from ecgscale.store.provenance import run_facts

K = 6
RATE, LENGTH = 100.0, 512
ENCODER_ID, MODEL_ID = "by-hand-000000000000", "k6-000000000000"
CARRIED = [
    pa.field("age", pa.float32()),
    pa.field("sex", pa.string()),
    pa.field("fold", pa.int16()),
    pa.field("site", pa.string()),
    *EXTRA_FIELDS,
]

SCRIPT = "</script><script>window.hacked = 1</script>"
IMAGE = "<img src=x onerror=window.hacked=2>"
QUOTED = "\" autofocus onfocus=window.hacked=3 x='"
HOSTILE = {
    "sim0-0000000": SCRIPT,
    "sim0-0000002": IMAGE,
    "sim0-0000003": QUOTED,
    "sim0-0000004": "{{ 7 * 7 }} & <!--",
    "north": f"north {IMAGE}",
    "NORM": f"NORM {SCRIPT}",
}
"""What names are changed to in a root made with `renamed=HOSTILE`."""


@dataclass(frozen=True)
class PublishedRoot:
    """Where things are."""

    root: Path
    archive: Path
    dataset_id: str
    quarantined: str


def publish_by_hand(
    folder: Path,
    records: int = 320,
    kind: str = "multilabel",
    entropy: bool = True,
    seen_folds: tuple[int, ...] = (),
    renamed: Mapping[str, str] | None = None,
) -> PublishedRoot:
    """Simulate, "explain" and publish; the second record is quarantined. Encoder and clusters saw `seen_folds`.

    `renamed` changes record ids, sites and superclasses.
    """
    names = dict(renamed or {})
    if names:
        _simulate_renamed(folder / "archive", records, names)
    else:
        simulate(folder / "archive", records, rate=RATE, seconds=5.0)
    classes = tuple(names.get(name, name) for name in SUPERCLASSES)
    archive, root = Archive.open(folder / "archive"), folder / "root"
    facts = archive.metadata(["record_id", "patient_id", *(field.name for field in CARRIED)])
    spec = _write_encoder(root, archive, _output(kind, classes), seen_folds, facts)
    _write_model(root, seen_folds, facts)
    table = _explanations(facts, spec.output, entropy)
    identity = DatasetFacts(
        archive_id=archive.archive_id,
        encoder_id=ENCODER_ID,
        encoder_digest="e",
        model_id=MODEL_ID,
        model_digest="m",
        settings={"entropy": "timestep" if entropy else "none"},
        results_version=1,
    )
    store, run = dataset_store(root, identity.dataset_id), run_facts()
    source = Source(key=archive.shards[0].key, size=1, stamp="s", rows=records, content_digest="c")
    ids = table.column("record_id").to_pylist()
    data = to_parquet(table.to_batches(), table.schema, {})
    commit = commit_output(store, source, data, record_ids=ids, quarantined={"flat_signal": 1}, rows=records, run=run)
    where = ArchiveFacts(archive_id=archive.archive_id, path=str(archive.path))
    content = Content(
        dataset_id=identity.dataset_id,
        archive=where,
        identity=identity,
        plan_digest="p",
        totals=Totals(shards=1, records=records, quarantined={"flat_signal": 1}),
        shards=(ShardEntry.of(commit),),
        set_aside=(),
    )
    assert publish(store, content, 0, run)
    return PublishedRoot(root, archive.path, identity.dataset_id, str(ids[1]))


def _simulate_renamed(path: Path, records: int, names: Mapping[str, str]) -> None:
    table = simulate_records(0, 0, records, rate=RATE, seconds=5.0)
    for column in ("record_id", "site"):
        values = [names.get(value, value) for value in table.column(column).to_pylist()]
        table = table.set_column(
            table.schema.get_field_index(column), SCHEMA.field(column), pa.array(values, pa.string())
        )
    sets = [[names.get(value, value) for value in row] for row in table.column("superclasses").to_pylist()]
    place = table.schema.get_field_index("superclasses")
    table = table.set_column(place, SCHEMA.field("superclasses"), pa.array(sets, pa.list_(pa.string())))
    with ArchiveWriter(path, {"kind": "simulated"}, "int16", EXTRA_FIELDS) as writer:
        writer.append_table(table)


def _output(kind: str, classes: tuple[str, ...]) -> OutputSpec:
    if kind == "regression":
        return OutputSpec(kind="regression", scale="value", names=("age",))
    if kind == "multiclass":
        return OutputSpec(kind="multiclass", scale="logit", names=("female", "male"))
    return OutputSpec(kind="multilabel", scale="logit", names=classes)


def _write_encoder(
    root: Path, archive: Archive, output: OutputSpec, seen_folds: tuple[int, ...], facts: pa.Table
) -> EncoderSpec:
    directory = root / "encoders" / ENCODER_ID
    directory.mkdir(parents=True)
    target = {"multilabel": "superclasses", "regression": "age", "multiclass": "sex"}[output.kind]
    training = {
        "target": target,
        "archive_id": archive.archive_id,
        "source": "simulated",
        "split": "fold" if seen_folds else "patient",
        "train_folds": list(seen_folds),
        "validation_folds": [],
        "seen": SEEN_FILE,
    }
    spec = EncoderSpec(
        name="by-hand",
        factory="ecgscale.encoders.resnet1d:ResNet1d",
        weights="weights.safetensors",
        layers=("block",),
        depth_scales=(1.0,),
        input=InputSpec(leads=CANONICAL_LEADS, sampling_rate=RATE, length=LENGTH),
        output=output,
        training=training,
    )
    (directory / SEEN_FILE).write_text(_seen(facts, seen_folds, "train"))
    write_spec(directory, spec)
    return spec


def _write_model(root: Path, seen_folds: tuple[int, ...], facts: pa.Table) -> None:
    info = {
        "model_id": MODEL_ID,
        "encoder": {"id": ENCODER_ID, "path": f"../../encoders/{ENCODER_ID}", "digest": "e"},
        "fitted_on": {"folds": list(seen_folds) or None},
    }
    centroids = np.eye(K, 8, dtype=np.float32)
    model = ClusterModel(centroids, np.ones(K, np.int64), BlockLayout((8,), (16,), LENGTH, (1.0,)), 2, 1.0, info)
    model.save(root / "models", {SEEN_FILE: _seen(facts, seen_folds, "fit")})


def _seen(facts: pa.Table, folds: tuple[int, ...], part: str) -> str:
    rows = [row for row in facts.to_pylist() if row["fold"] in folds]
    records, patients = [row["record_id"] for row in rows], [row["patient_id"] for row in rows]
    return seen_lines("simulated", records, patients, [part] * len(rows))


def _explanations(facts: pa.Table, output: OutputSpec, entropy: bool) -> pa.Table:
    n, rng = facts.num_rows, np.random.default_rng(0)
    classes = output.names if output.kind == "multilabel" else SUPERCLASSES
    has = np.array([[name in row for name in classes] for row in facts.column("superclasses").to_pylist()])
    age = facts.column("age").to_numpy()
    weights = np.exp(np.column_stack([2.0 * has, age / 40]) + rng.normal(0, 0.3, (n, K)))
    proportions = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    male = np.array([sex == "male" for sex in facts.column("sex").to_pylist()], float)
    prediction = {
        "multilabel": 4.0 * has - 2 + rng.normal(0, 1, has.shape),
        "regression": (age + rng.normal(0, 4, n))[:, None],
        "multiclass": np.column_stack([1 - male, male]) * 3 + rng.normal(0, 1, (n, 2)),
    }[output.kind]
    segments = [
        [{"start": 6 + 62 * i, "stop": 68 + 62 * i, "cluster": i % K, "entropy": 0.1 * i} for i in range(8)]
    ] * n
    known = np.arange(n) != 1
    columns = {
        **{name: facts.column(name) for name in ["record_id", "patient_id", *(field.name for field in CARRIED)]},
        "source_shard": facts.column("shard"),
        "sampling_rate": np.full(n, RATE, np.float32),
        "length": np.full(n, LENGTH, np.int32),
        "valid_start": np.full(n, 6, np.int32),
        "valid_stop": np.full(n, 502, np.int32),
        "source_sampling_rate": np.full(n, RATE, np.float32),
        "start_s": np.full(n, -0.06),
        "cropped": np.zeros(n, np.int32),
        "prediction": list(prediction.astype(np.float32)),
        "proportions": list(proportions),
        "soft_proportions": list(proportions),
        "mean_entropy": np.linspace(0.2, 0.6, n, dtype=np.float32),
        "distortion": np.full(n, 0.3, np.float32),
        "segments": pa.array(segments, pa.list_(SEGMENT_TYPE)),
        "entropy": [np.full(496, 0.25, np.float32)] * n if entropy else [None] * n,
        "status": ["ok" if there else "flat_signal" for there in known],
        "flags": [[]] * n,
    }
    schema = output_schema(K, CARRIED)
    null = {"prediction", "proportions", "soft_proportions", "segments", "entropy", "mean_entropy", "distortion"}
    arrays = []
    for field in schema:
        column = columns[field.name]
        if field.name in null:
            column = [value if there else None for value, there in zip(_listed(column), known, strict=True)]
        arrays.append(column.combine_chunks() if isinstance(column, pa.ChunkedArray) else pa.array(column, field.type))
    return pa.Table.from_arrays(arrays, schema=schema)


def _listed(column: object) -> list:
    return column.to_pylist() if isinstance(column, pa.Array) else list(column)  # type: ignore[call-overload]
