"""The output table, schema 1: one row a record, explained or not, and one Parquet file a shard.

A file's bytes depend on the input shard, the encoder, the model, the settings and `RESULTS_VERSION`; its metadata
names those. `docs/data-format.md` describes the columns for readers.
`ExplainSettings` and `RESULTS_VERSION` are, with archive, encoder and cluster model, what a dataset is identified by.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ecgscale.archive.reader import RawBatch
from ecgscale.config import BATCH
from ecgscale.encoders.inputs import InputSpec
from ecgscale.encoders.preprocess import Prepared
from ecgscale.errors import UsageError
from ecgscale.explain.segments import SEGMENT_TYPE, find_segments, list_array, segment_array, summarise
from ecgscale.io.parquet import to_parquet_bytes

if TYPE_CHECKING:
    from ecgscale.explain.facts import Facts

OUTPUT_SCHEMA_VERSION = 1
ROW_GROUP_RECORDS = 4096
_ZSTD_LEVEL = 3
_OURS = "ecgscale."
_ASSIGNED = ("prediction", "proportions", "soft_proportions", "mean_entropy", "distortion", "segments", "entropy")
FACT_COLUMNS = ("valid_start", "valid_stop", "start_s", "cropped", *_ASSIGNED)
"""Null in rows whose status is not ok."""


def output_schema(n_clusters: int, carried: Sequence[pa.Field] = ()) -> pa.Schema:
    """The schema of the explanations under K = `n_clusters`, with the archive's `carried` columns at the end."""
    shares = pa.list_(pa.float32(), n_clusters)
    types: dict[str, pa.DataType] = {
        "record_id": pa.string(),
        "patient_id": pa.string(),
        "source_shard": pa.string(),
        "sampling_rate": pa.float32(),
        "length": pa.int32(),
        "valid_start": pa.int32(),
        "valid_stop": pa.int32(),
        "source_sampling_rate": pa.float32(),
        "start_s": pa.float64(),
        "cropped": pa.int32(),
        "prediction": pa.list_(pa.float32()),
        "proportions": shares,
        "soft_proportions": shares,
        "mean_entropy": pa.float32(),
        "distortion": pa.float32(),
        "segments": pa.list_(SEGMENT_TYPE),
        "entropy": pa.list_(pa.float32()),
        "status": pa.string(),
        "flags": pa.list_(pa.string()),
    }
    return pa.schema([pa.field(name, kind) for name, kind in types.items()] + [f.remove_metadata() for f in carried])


def output_rows(
    raw: RawBatch, prepared: Prepared, facts: Facts, spec: InputSpec, schema: pa.Schema, with_entropy: bool
) -> pa.RecordBatch:
    """The rows of one batch, in its order; facts are null where there are none. Raises pa.ArrowInvalid when a carried
    column does not fit the schema."""
    n, known = len(raw), facts.explained
    columns: dict[str, pa.Array] = {
        "record_id": pa.array(raw.record_ids, pa.string()),
        "patient_id": _patient_ids(raw),
        "source_shard": pa.array([raw.shard] * n, pa.string()),
        "sampling_rate": pa.array(np.full(n, spec.sampling_rate, np.float32)),
        "length": pa.array(np.full(n, spec.length, np.int32)),
        "valid_start": _scattered(facts.valid_start, known),
        "valid_stop": _scattered(facts.valid_stop, known),
        "source_sampling_rate": pa.array(raw.sampling_rate, from_pandas=True),
        "start_s": _scattered(prepared.start_s[known], known),
        "cropped": _scattered(prepared.cropped[known], known),
        "status": pa.array(facts.status, pa.string()),
        "flags": pa.array(facts.flags, pa.list_(pa.string())),
        **_fact_columns(facts, schema, with_entropy),
    }
    for field in schema:
        if field.name not in columns:
            columns[field.name] = raw.table.column(field.name).cast(field.type)
    return pa.RecordBatch.from_arrays([columns[name] for name in schema.names], schema=schema)


def to_parquet(batches: Sequence[pa.RecordBatch], schema: pa.Schema, metadata: Mapping[str, Any]) -> bytes:
    """A whole Parquet file in memory: the same rows give the same bytes. `metadata` goes in under `ecgscale.…`."""
    named = {f"{_OURS}{key}": _text(value) for key, value in sorted(metadata.items())}
    table = pa.Table.from_batches(batches, schema=schema).combine_chunks().replace_schema_metadata(named)
    return to_parquet_bytes(
        table,
        compression="zstd",
        compression_level=_ZSTD_LEVEL,
        row_group_size=ROW_GROUP_RECORDS,
        version="2.6",
        data_page_version="1.0",
    )


def metadata_of(schema: pa.Schema) -> dict[str, str]:
    """What `to_parquet` was given as `metadata` of a file, from the schema that it was read with."""
    ours = {key: value for key, value in (schema.metadata or {}).items() if key.startswith(_OURS.encode())}
    return {key.decode().removeprefix(_OURS): value.decode() for key, value in ours.items()}


def _fact_columns(facts: Facts, schema: pa.Schema, with_entropy: bool) -> dict[str, pa.Array]:
    known, assignment = facts.explained, facts.assignment
    nulls = {name: pa.nulls(len(known), schema.field(name).type) for name in _ASSIGNED}
    if assignment is None:
        return nulls
    summary = summarise(assignment)
    columns = {
        "prediction": list_array(
            pa.array(facts.prediction.ravel()), np.full(known.sum(), facts.prediction.shape[1]), known
        ),
        "proportions": _scattered(summary.proportions, known),
        "soft_proportions": _scattered(summary.soft_proportions, known),
        "mean_entropy": _scattered(summary.mean_entropy, known),
        "distortion": _scattered(summary.distortion, known),
        "segments": segment_array(find_segments(assignment.labels, assignment.entropy), known),
    }
    if with_entropy:
        valid = assignment.labels >= 0
        columns["entropy"] = list_array(pa.array(assignment.entropy[valid]), valid.sum(axis=1), known)
    return {**nulls, **columns}


def _scattered(values: NDArray[np.generic], known: NDArray[np.bool_]) -> pa.Array:
    """`values` (n,) or (n, K), a row for every True of `known`, as a column of len(known) rows, null elsewhere."""
    full = np.zeros((len(known), *values.shape[1:]), dtype=values.dtype)
    full[known] = values
    if values.ndim == 1:
        return pa.array(full, mask=~known)
    return pa.FixedSizeListArray.from_arrays(pa.array(full.ravel()), values.shape[1], mask=pa.array(~known))


def _patient_ids(raw: RawBatch) -> pa.Array:
    if "patient_id" not in raw.table.schema.names:
        return pa.nulls(len(raw), pa.string())
    return raw.table.column("patient_id").cast(pa.string())


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


RESULTS_VERSION = 2
"""Raised whenever the facts computed from the same input change; a golden test guards it."""

EntropyDetail = Literal["none", "timestep"]


@dataclass(frozen=True)
class ExplainSettings:
    """Choices that change the bytes of an output file.

    entropy: "timestep" writes the entropy of every valid timestep beside the means of the segments
    batch: records in a forward pass; part of the identity since convolutions choose their arithmetic by shape
    include_padding: explain zero padding too, as the published method does literally
    fill_gaps: milliseconds; a record with a longer gap in a lead that is needed is quarantined
    dtype: arithmetic of the forward pass, as the cluster model was fitted
    """

    entropy: EntropyDetail = "none"
    batch: int = BATCH
    include_padding: bool = False
    fill_gaps: float = 0.0
    dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        if self.entropy not in ("none", "timestep"):
            raise UsageError(f"entropy {self.entropy!r} is neither 'none' nor 'timestep'")
        if self.batch < 1:
            raise UsageError(f"batch is {self.batch}; at least one record has to go through at a time")

    def to_dict(self) -> dict[str, Any]:
        """Plain facts, for identities and metadata."""
        return asdict(self)
