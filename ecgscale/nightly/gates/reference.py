"""The reference period: a sample of sound records, one a patient, that later nights are compared with.

The sample does not depend on how the records are divided into tables or in which order they come: each patient has a
number that follows from the seed and the patient's id alone, and those with the smallest numbers are taken.

Traits of the signals of a shard, for the gates: computed from the archive once, then kept beside the dataset.

    ROOT/explanations/<dataset_id>/_traits/<shard>-<content>.parquet    four numbers a record, no ids

What a network makes of a signal hardly shows that arm leads are reversed or that the mains hum; the signal itself does.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ecgscale.archive.reader import Archive
from ecgscale.archive.traits import TRAITS, traits_of_shard, with_traits
from ecgscale.errors import EcgscaleError, ShardError
from ecgscale.io.objects import ObjectStore
from ecgscale.nightly.gates.evidence import COLUMNS, texts, usable
from ecgscale.store.commit import stem_of_key

REFERENCE_ROWS = 20_000
"""Records of a reference at most: a Cliff's delta against 20,000 is known to 0.004."""

_KEPT = tuple(name for name in COLUMNS if name not in ("record_id", "patient_id", "status", "acquired_at"))
_METADATA = b"ecgscale.reference"
_VERSION = 1


@dataclass(frozen=True)
class Reference:
    """What sound records look like under one cluster model. It holds numbers, sites and devices, and no ids.

    rows: `COLUMNS` of the explanations but ids, status and times, those that are there
    records: explained records that it was drawn from
    """

    rows: pa.Table
    model_id: str
    output_names: tuple[str, ...]
    seed: int
    records: int

    @classmethod
    def of(
        cls,
        rows: Iterable[pa.Table],
        model_id: str,
        output_names: Sequence[str],
        seed: int = 0,
        most: int = REFERENCE_ROWS,
    ) -> Reference:
        """A sample of at most `most` explained records, one a patient, of tables of explanations (a shard each, say).

        Of each patient, and of all patients, those with the smallest seeded digest of their ids are taken. Raises
        EcgscaleError when there is no explained record.
        """
        sample: _Sample | None = None
        records = 0
        for table in rows:
            kept = table.filter(pa.array(usable(table)))
            records += kept.num_rows
            fresh = _Sample.of(kept, seed)
            sample = (sample.join(fresh) if sample else fresh).smallest(most)
        if sample is None or not records:
            raise EcgscaleError("no explained record to make a reference of; explain the archive first")
        return cls(sample.rows, model_id, tuple(output_names), seed, records)

    def __len__(self) -> int:
        return int(self.rows.num_rows)

    def to_parquet_bytes(self) -> bytes:
        """A Parquet file that `from_bytes` reads; the same reference gives the same bytes."""
        facts = {
            "version": _VERSION,
            "model_id": self.model_id,
            "output_names": list(self.output_names),
            "seed": self.seed,
            "records": self.records,
        }
        table = self.rows.combine_chunks().replace_schema_metadata({_METADATA: json.dumps(facts, sort_keys=True)})
        sink = io.BytesIO()
        pq.write_table(table, sink, compression="zstd")
        return sink.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Reference:
        """The reference that `to_parquet_bytes` wrote; EcgscaleError for anything else."""
        try:
            table = pq.read_table(pa.BufferReader(data))
            facts = json.loads((table.schema.metadata or {})[_METADATA])
        except (pa.ArrowException, KeyError, ValueError) as error:
            raise EcgscaleError(
                f"{len(data)} bytes are no drift reference ({type(error).__name__}); make it again from the dataset"
            ) from error
        if facts["version"] != _VERSION:
            raise EcgscaleError(
                f"the drift reference has version {facts['version']}, this program knows {_VERSION}; make it again"
            )
        return cls(
            table.replace_schema_metadata(None),
            facts["model_id"],
            tuple(facts["output_names"]),
            facts["seed"],
            facts["records"],
        )


@dataclass(frozen=True)
class _Sample:
    """Rows with the numbers of their patients and of themselves, ascending by patient, each patient once."""

    rows: pa.Table
    patient: NDArray[np.uint64]
    record: NDArray[np.uint64]

    @classmethod
    def of(cls, table: pa.Table, seed: int) -> _Sample:
        records = texts(table, "record_id")
        patients = [
            f"patient {patient}" if patient else f"record {record}"
            for record, patient in zip(records, texts(table, "patient_id"), strict=True)
        ]
        kept = table.select([name for name in _KEPT if name in table.column_names])
        return cls(kept, _numbers(seed, patients), _numbers(seed, [f"record {record}" for record in records]))

    def join(self, other: _Sample) -> _Sample:
        return _Sample(
            pa.concat_tables([self.rows, other.rows], promote_options="default"),
            np.concatenate([self.patient, other.patient]),
            np.concatenate([self.record, other.record]),
        )

    def smallest(self, most: int) -> _Sample:
        order = np.lexsort([self.record, self.patient])
        patient = self.patient[order]
        first = np.append(True, patient[1:] != patient[:-1])[: len(order)]
        kept = order[first][:most]
        return _Sample(self.rows.take(pa.array(kept)), self.patient[kept], self.record[kept])


def _numbers(seed: int, names: Sequence[str]) -> NDArray[np.uint64]:
    """A number for each name, evenly spread over 64 bits, that the seed and the name decide."""
    digests = (hashlib.blake2b(f"{seed} {name}".encode(), digest_size=8).digest() for name in names)
    return np.frombuffer(b"".join(digests), dtype="<u8")


FOLDER = "_traits"


class ShardTraits:
    """Traits beside rows of explanations, for the shards of one archive and one dataset."""

    def __init__(self, store: ObjectStore, archive: Archive | None) -> None:
        self._store, self._archive = store, archive
        self._shards = {shard.key: shard for shard in archive.shards} if archive else {}

    def beside(self, key: str, content_digest: str, rows: pa.Table) -> pa.Table:
        """`rows` of a shard's explanations with its traits; null where they cannot be had any more.

        They cannot when the shard has changed or gone since, or rows of it gave way to a newer shard.
        """
        found = self._kept(key, content_digest)
        if found is None:
            found = self._computed(key, content_digest)
        if found is None or found.num_rows != rows.num_rows:
            nothing = pa.nulls(rows.num_rows, pa.float32())
            found = pa.table(dict.fromkeys(TRAITS, nothing))
        return with_traits(rows, found)

    def _kept(self, key: str, content_digest: str) -> pa.Table | None:
        data = self._store.read(_name(key, content_digest))
        return None if data is None else pq.read_table(pa.BufferReader(data))

    def _computed(self, key: str, content_digest: str) -> pa.Table | None:
        shard = self._shards.get(key)
        if shard is None or self._archive is None:
            return None
        try:
            if self._archive.footer(shard).content_digest != content_digest:
                return None
            found = traits_of_shard(self._archive, shard)
        except ShardError:
            return None  # it was explained, and is damaged by now: the explain pass tells of that
        sink = io.BytesIO()
        pq.write_table(found, sink, compression="zstd")
        self._store.put_if_absent(_name(key, content_digest), sink.getvalue())
        return found


def _name(key: str, content_digest: str) -> str:
    return f"{FOLDER}/{stem_of_key(key)}-{content_digest[:16]}.parquet"
