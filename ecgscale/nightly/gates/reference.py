"""The reference period: a sample of sound records, one a patient, that later nights are compared with.

The sample does not depend on how the records are divided into tables or in which order they come: each patient has a
number that follows from the seed and the patient's id alone, and those with the smallest numbers are taken.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from ecgscale.archive.reader import Archive
from ecgscale.archive.traits import TRAITS, traits_of_shard, with_traits
from ecgscale.errors import EcgscaleError, ShardError
from ecgscale.io.objects import ObjectStore
from ecgscale.io.parquet import parse_parquet, read_those_there, to_parquet_bytes
from ecgscale.nightly.gates.evidence import COLUMNS, texts, usable
from ecgscale.store.commit import stem_of_key
from ecgscale.store.manifest import ShardEntry

REFERENCE_ROWS = 20_000
"""Records of a reference at most: a Cliff's delta against 20,000 is known to 0.004."""

_KEPT = tuple(name for name in COLUMNS if name not in ("record_id", "patient_id", "status", "acquired_at"))
_PATIENT, _RECORD = "_patient", "_record"
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
        sample: pa.Table | None = None
        records = 0
        for table in rows:
            kept = table.filter(pa.array(usable(table)))
            records += kept.num_rows
            parts = [*([] if sample is None else [sample]), _numbered(kept, seed)]
            sample = _smallest(pa.concat_tables(parts, promote_options="default"), most)
        if sample is None or not records:
            raise EcgscaleError("no explained record to make a reference of; explain the archive first")
        return cls(sample.drop_columns([_PATIENT, _RECORD]), model_id, tuple(output_names), seed, records)

    def __len__(self) -> int:
        return int(self.rows.num_rows)

    def to_parquet_bytes(self) -> bytes:
        """A Parquet file that `from_bytes` reads; the same reference gives the same bytes."""
        facts = {"version": _VERSION, "model_id": self.model_id, "output_names": self.output_names}
        facts |= {"seed": self.seed, "records": self.records}
        table = self.rows.combine_chunks().replace_schema_metadata({_METADATA: json.dumps(facts, sort_keys=True)})
        return to_parquet_bytes(table, compression="zstd")

    @classmethod
    def from_bytes(cls, data: bytes) -> Reference:
        """The reference that `to_parquet_bytes` wrote; EcgscaleError for anything else."""
        try:
            table = parse_parquet(data, "the drift reference")
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


def _numbered(table: pa.Table, seed: int) -> pa.Table:
    """What is kept of rows, with the numbers of their patients and of themselves."""
    records = [f"record {name}" for name in texts(table, "record_id")]
    patients = [f"patient {name}" if name else "" for name in texts(table, "patient_id")]
    owners = [patient or record for patient, record in zip(patients, records, strict=True)]
    kept = table.select([name for name in _KEPT if name in table.column_names])
    return kept.append_column(_PATIENT, _numbers(seed, owners)).append_column(_RECORD, _numbers(seed, records))


def _smallest(sample: pa.Table, most: int) -> pa.Table:
    """The rows with the smallest numbers, ascending by patient, each patient once."""
    patient = sample[_PATIENT].to_numpy()
    order = np.lexsort([sample[_RECORD].to_numpy(), patient])
    first = np.append(True, np.diff(patient[order]) != 0)[: len(order)]
    return sample.take(pa.array(order[first][:most]))


def _numbers(seed: int, names: Sequence[str]) -> pa.Array:
    """A number for each name, evenly spread over 64 bits, that the seed and the name decide."""
    digests = (hashlib.blake2b(f"{seed} {name}".encode(), digest_size=8).digest() for name in names)
    return pa.array(np.frombuffer(b"".join(digests), dtype="<u8"))


FOLDER = "_traits"


class RowsWithTraits:
    """Rows of explanations with the traits of their signals, for the shards of one archive and one dataset.

    ROOT/explanations/<dataset_id>/_traits/<shard>-<content>.parquet    four numbers a record, no ids

    Traits are computed from the archive once, then kept alongside the dataset. What a network makes of a signal hardly
    shows that arm leads are reversed or that the mains hum; the signal itself does.
    """

    def __init__(self, store: ObjectStore, archive: Archive | None) -> None:
        self._store, self._archive = store, archive
        self._shards = {shard.key: shard for shard in archive.shards} if archive else {}

    def __call__(self, entry: ShardEntry) -> pa.Table:
        """`COLUMNS` of a shard, those that are there; traits are null where they cannot be had any more.

        They cannot when the shard has changed or gone since, or rows of it gave way to a newer shard.
        """
        rows = read_those_there(self._store.location(entry.file), COLUMNS)
        name = traits_name(entry.key, entry.content_digest)
        data = self._store.read(name)
        found = self._computed(entry, name) if data is None else parse_parquet(data, name)
        if found is None or found.num_rows != rows.num_rows:
            found = pa.table(dict.fromkeys(TRAITS, pa.nulls(rows.num_rows, pa.float32())))
        return with_traits(rows, found)

    def _computed(self, entry: ShardEntry, name: str) -> pa.Table | None:
        shard = self._shards.get(entry.key)
        if shard is None or self._archive is None:
            return None
        try:
            if self._archive.footer(shard).content_digest != entry.content_digest:
                return None
            found = traits_of_shard(self._archive, shard)
        except ShardError:
            return None  # it was explained, and is damaged by now: the explain pass tells of that
        self._store.put_if_absent(name, to_parquet_bytes(found, compression="zstd"))
        return found


def traits_name(key: str, content_digest: str) -> str:
    """Key of the traits of a shard with that content."""
    return f"{FOLDER}/{stem_of_key(key)}-{content_digest[:16]}.parquet"
