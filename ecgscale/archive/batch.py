"""A batch of raw recordings: flat samples, and where each record's begin and end."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ecgscale.leads import canonical_lead

BATCH_COLUMNS = (
    "record_id",
    "patient_id",
    "signal",
    "leads",
    "sampling_rate",
    "units_per_mv",
    "valid_start",
    "valid_stop",
)
"""Columns a batch always reads."""


@dataclass(frozen=True)
class RawBatch:
    """N records as they stand in the archive, unchecked (`archive.validate` checks them).

    values: flat samples of all records, int16 or float32, sharing memory with the decoded Parquet page
    offsets: int64 (N + 1,), record i has values[offsets[i]:offsets[i + 1]], lead after lead
    table: the other columns that were asked for; record_id, patient_id, leads and the like included
    leads: canonical names, in the order of the samples
    sampling_rate, units_per_mv: float32 (N,), NaN where null
    valid_start, valid_stop: int32 (N,), the whole record where null
    """

    shard: str
    first_row: int
    table: pa.RecordBatch
    record_ids: list[str | None]
    values: NDArray[np.int16] | NDArray[np.float32]
    offsets: NDArray[np.int64]
    leads: list[tuple[str, ...]]
    sampling_rate: NDArray[np.float32]
    units_per_mv: NDArray[np.float32]
    valid_start: NDArray[np.int32]
    valid_stop: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.record_ids)

    @cached_property
    def n_samples(self) -> NDArray[np.int64]:
        """int64 (N,): samples per lead, rounded down where the samples are no multiple of the leads."""
        return np.diff(self.offsets) // np.array([max(len(leads), 1) for leads in self.leads], dtype=np.int64)

    def signal(self, i: int) -> NDArray[np.int16] | NDArray[np.float32]:
        """(n_leads, n_samples) view of record i; only for records that passed the check."""
        return self.values[self.offsets[i] : self.offsets[i + 1]].reshape(len(self.leads[i]), -1)


def raw_batch(shard: str, first_row: int, table: pa.Table) -> RawBatch:
    """The batch of a slice of a shard; `table` has `BATCH_COLUMNS` (patient_id may be absent) and others."""
    record = table.combine_chunks().to_batches()[0] if table.num_rows else pa.RecordBatch.from_pylist([], table.schema)
    values, offsets = _samples(record.column("signal"))
    others = record.select([name for name in record.schema.names if name != "signal"])
    leads = [_canonical(tuple(names or ())) for names in record.column("leads").to_pylist()]
    whole = np.diff(offsets) // np.array([max(len(names), 1) for names in leads], dtype=np.int64)
    return RawBatch(
        shard=shard,
        first_row=first_row,
        table=others,
        record_ids=record.column("record_id").cast(pa.string()).to_pylist(),
        values=values,
        offsets=offsets,
        leads=leads,
        sampling_rate=_numbers(record.column("sampling_rate"), np.nan, np.float32),
        units_per_mv=_numbers(record.column("units_per_mv"), np.nan, np.float32),
        valid_start=_numbers(record.column("valid_start"), 0, np.int32),
        valid_stop=_numbers(record.column("valid_stop"), whole, np.int32),
    )


@lru_cache(maxsize=1024)
def _canonical(leads: tuple[str | None, ...]) -> tuple[str, ...]:
    return tuple(canonical_lead(lead or "") for lead in leads)


def _numbers(array: pa.Array, missing: float | NDArray, dtype: type[np.generic]) -> NDArray:
    values = array.to_numpy(zero_copy_only=False)
    if array.null_count:
        values = np.where(array.is_null().to_numpy(zero_copy_only=False), missing, values)
    return values.astype(dtype)


def _samples(signal: pa.Array) -> tuple[NDArray, NDArray[np.int64]]:
    """Flat samples and record boundaries of a list column; a null list is an empty one, a null sample is NaN."""
    offsets = np.zeros(len(signal) + 1, dtype=np.int64)
    np.cumsum(pc.list_value_length(signal).fill_null(0).to_numpy(zero_copy_only=False), out=offsets[1:])
    flat = signal.flatten()
    if flat.null_count:
        # int16 has no NaN; float32 holds every int16 exactly.
        flat = flat.cast(pa.float32()).fill_null(float("nan"))
    return flat.to_numpy(zero_copy_only=True), offsets
