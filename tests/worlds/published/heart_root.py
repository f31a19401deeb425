"""A published ROOT whose clusters follow the simulator's heartbeat, more or less: localisation of it is known.

Recordings of 6 s at 250 Hz; the "network" works at 100 Hz over 640 timesteps, so its axis begins 0.2 s before the
recording. Cluster k is part k of the heartbeat (P, QRS, T, TP, PQ, ST), but for a share of timesteps that are in a
cluster of noise, the last one.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from ecgscale.archive import Archive, ArchiveWriter
from ecgscale.archive.schema import carried_columns
from ecgscale.archive.synthetic.simulation import EXTRA_FIELDS, simulate_records
from ecgscale.archive.waves import merge_leads
from ecgscale.clusters.features import BlockLayout
from ecgscale.clusters.model import ClusterModel
from ecgscale.encoders.inputs import InputSpec
from ecgscale.encoders.spec import EncoderSpec, OutputSpec, write_spec
from ecgscale.evaluate.localise.timelines import PARTS, timelines
from ecgscale.explain.schema import output_schema, to_parquet
from ecgscale.explain.segments import find_segments, segment_array
from ecgscale.leads import CANONICAL_LEADS
from ecgscale.store.commit import Source, commit_output
from ecgscale.store.dataset import dataset_store
from ecgscale.store.manifest import ArchiveFacts, Content, DatasetFacts, ShardEntry, Totals, publish
from ecgscale.store.provenance import run_facts

K = len(PARTS) + 1
NOISE = len(PARTS)
SOURCE_RATE, SECONDS = 250.0, 6.0
RATE, LENGTH, PADDED = 100.0, 640, 20
START_S = -PADDED / RATE
OUTPUTS = ("CD", "HYP", "MI", "NORM", "STTC")
ENCODER_ID, MODEL_ID = "heart-000000000000", "k7-000000000000"


@dataclass(frozen=True)
class HeartRoot:
    """Where things are; `labels` (N, D) are the clusters that were published, `records` the archive's rows."""

    root: Path
    archive: Path
    dataset_id: str
    labels: np.ndarray
    records: pa.Table


def publish_heart(
    folder: Path,
    records: int = 16,
    *,
    annotated: bool = True,
    noise: float = 0.2,
    quarantined: int = 0,
    change: dict[str, list] | None = None,
) -> HeartRoot:
    """Simulate and publish; the first `quarantined` records have no facts. `change` replaces columns of the rows."""
    table = simulate_records(0, 0, records, rate=SOURCE_RATE, seconds=SECONDS)
    labels = _labels(table, noise)
    kept = table
    if not annotated:
        at = table.schema.get_field_index("fiducials")
        kept = table.set_column(at, table.schema.field(at), pa.nulls(records, table.schema.field(at).type))
    with ArchiveWriter(folder / "archive", {"kind": "simulated"}, "int16", EXTRA_FIELDS) as writer:
        writer.append_table(kept)
    archive, root = Archive.open(folder / "archive"), folder / "root"
    _write_encoder(root / "encoders" / ENCODER_ID, archive)
    _write_model(root / "models")
    rows = _rows(kept, labels, quarantined, archive, change or {})
    return HeartRoot(root, archive.path, _publish(root, archive, rows, quarantined), labels, table)


def _labels(table: pa.Table, noise: float) -> np.ndarray:
    n = table.num_rows
    blank = np.full((n, LENGTH), -1, np.int16)
    blank[:, PADDED : PADDED + round(SECONDS * RATE)] = 0
    waves = merge_leads(table.column("fiducials"))
    parts = timelines(blank, waves, RATE, np.full(n, START_S), np.full(n, SOURCE_RATE)).parts
    labels = np.where(parts >= 0, parts, PARTS.index("TP")).astype(np.int16)
    rng = np.random.default_rng(0)
    noisy = np.repeat(rng.random((n, LENGTH // 20)) < noise, 20, axis=1)
    return np.where(blank < 0, -1, np.where(noisy, NOISE, labels)).astype(np.int16)


def _write_encoder(directory: Path, archive: Archive) -> None:
    directory.mkdir(parents=True)
    spec = EncoderSpec(
        name="heart",
        factory="ecgscale.encoders.resnet1d:ResNet1d",
        weights="weights.safetensors",
        layers=("block",),
        depth_scales=(1.0,),
        input=InputSpec(leads=CANONICAL_LEADS, sampling_rate=RATE, length=LENGTH),
        output=OutputSpec(kind="multilabel", scale="logit", names=OUTPUTS),
        training={"target": "superclasses", "archive_id": archive.archive_id, "source": "simulated"},
    )
    write_spec(directory, spec)


def _write_model(models: Path) -> None:
    info = {"model_id": MODEL_ID, "encoder": {"id": ENCODER_ID, "path": f"../../encoders/{ENCODER_ID}", "digest": "e"}}
    layout = BlockLayout((8,), (LENGTH // 10,), LENGTH, (1.0,))
    ClusterModel(np.eye(K, 8, dtype=np.float32), np.ones(K, np.int64), layout, 2, 1.0, info).save(models)


def _rows(table: pa.Table, labels: np.ndarray, quarantined: int, archive: Archive, change: dict[str, list]) -> pa.Table:
    n, rng = table.num_rows, np.random.default_rng(1)
    known = np.arange(n) >= quarantined
    entropy = np.where(labels == NOISE, 0.9, 0.1).astype(np.float32)
    shares = (labels[:, :, None] == np.arange(K)).sum(1) / (labels >= 0).sum(1, keepdims=True)
    says = np.array([[name in row for name in OUTPUTS] for row in table.column("superclasses").to_pylist()])
    columns = {
        "source_shard": [archive.shards[0].key] * n,
        "sampling_rate": [RATE] * n,
        "length": [LENGTH] * n,
        "valid_start": [PADDED] * n,
        "valid_stop": [PADDED + round(SECONDS * RATE)] * n,
        "source_sampling_rate": [SOURCE_RATE] * n,
        "start_s": [START_S] * n,
        "cropped": [0] * n,
        "prediction": (6.0 * says - 3 + rng.normal(0, 2, says.shape)).astype(np.float32).tolist(),
        "proportions": shares.astype(np.float32).tolist(),
        "soft_proportions": shares.astype(np.float32).tolist(),
        "mean_entropy": (entropy * (labels >= 0)).sum(1) / (labels >= 0).sum(1),
        "distortion": [0.3] * n,
        "segments": segment_array(find_segments(labels[known], entropy[known]), known),
        "entropy": [None] * n,
        "status": np.where(known, "ok", "flat_signal").tolist(),
        "flags": [[]] * n,
        **change,
    }
    facts = ("prediction", "proportions", "soft_proportions", "mean_entropy", "distortion", "valid_start", "valid_stop")
    schema = output_schema(K, carried_columns(archive.schema()))
    arrays = []
    for field in schema:
        column = columns.get(field.name, table.column(field.name) if field.name in table.column_names else None)
        if field.name in (*facts, "start_s", "cropped"):
            column = [value if there else None for value, there in zip(column, known, strict=True)]  # type: ignore[call-overload]
        whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        arrays.append(whole if isinstance(whole, pa.Array) else pa.array(whole, field.type))
    return pa.Table.from_arrays(
        [array.cast(field.type) for array, field in zip(arrays, schema, strict=True)], schema=schema
    )


def _publish(root: Path, archive: Archive, rows: pa.Table, quarantined: int) -> str:
    identity = DatasetFacts(
        archive_id=archive.archive_id,
        encoder_id=ENCODER_ID,
        encoder_digest="e",
        model_id=MODEL_ID,
        model_digest="m",
        settings={"entropy": "none"},
        results_version=1,
    )
    store, run = dataset_store(root, identity.dataset_id), run_facts()
    source = Source(key=archive.shards[0].key, size=1, stamp="s", rows=rows.num_rows, content_digest="c")
    commit = commit_output(
        store,
        source,
        to_parquet(rows.to_batches(), rows.schema, {}),
        record_ids=rows.column("record_id").to_pylist(),
        quarantined={},
        rows=rows.num_rows,
        run=run,
    )
    content = Content(
        dataset_id=identity.dataset_id,
        archive=ArchiveFacts(archive_id=archive.archive_id, path=str(archive.path)),
        identity=identity,
        plan_digest="p",
        totals=Totals(shards=1, records=rows.num_rows, quarantined={"flat_signal": quarantined}),
        shards=(ShardEntry.of(commit),),
        set_aside=(),
    )
    assert publish(store, content, 0, run)
    return identity.dataset_id
