"""What was forgotten stays forgotten: hashes of patients and records that no ingest takes in again.

ARCHIVE/_forgotten.json holds them, each hashed with a salt that was drawn for this archive. They are hashes of the ids
as the archive has them. Where those are pseudonyms, nobody without the key can say whose they are. Where they are the
ids of the source, whoever can read the file and can list all ids that there might be can find out who was forgotten:
that is the price of keeping a patient out, and docs/privacy.md says what to do about it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, model_validator

from ecgscale.archive.shard import Shard, open_parquet
from ecgscale.archive.sources.pseudonyms import PSEUDONYMISED, Pseudonyms
from ecgscale.archive.writer import FORGOTTEN
from ecgscale.errors import ArchiveError
from ecgscale.io.numbered import canonical_digest, read_json_object, to_json
from ecgscale.io.objects import open_objects
from ecgscale.io.places import Place

if TYPE_CHECKING:
    from ecgscale.archive.sources.source import IngestOptions

_SALT_BYTES = 32
_HASH_BYTES = 16


class Tombstones(BaseModel):
    """Hashes of what was forgotten, sorted; `key_id` is that of the pseudonyms behind them, None for ids as the source
    has them."""

    model_config = ConfigDict(frozen=True)

    version: Literal[1] = 1
    salt: str
    key_id: str | None = None
    patients: tuple[str, ...] = ()
    records: tuple[str, ...] = ()
    digest: str = ""

    @model_validator(mode="after")
    def _is_whole(self) -> Tombstones:
        if self.digest and self.digest != self._own_digest():
            raise ValueError("its digest is of something else")
        return self

    def _own_digest(self) -> str:
        return canonical_digest(self.model_dump(mode="json", exclude={"digest"}))

    def whole(self) -> Tombstones:
        """The same with the digest of itself, by which every reader knows that no bit of it has changed."""
        return self.model_copy(update={"digest": self._own_digest()})

    def has_patient(self, patient_id: str | None) -> bool:
        """Whether this patient, by the id that the archive would have, was forgotten."""
        return bool(self.patients) and bool(patient_id) and self._hash("patient", str(patient_id)) in self._known

    def has_record(self, record_id: str | None) -> bool:
        """Whether this record, by the id that the archive would have, was forgotten."""
        return bool(self.records) and bool(record_id) and self._hash("record", str(record_id)) in self._known

    def refuses(self, row: Mapping[str, Any]) -> bool:
        """Whether a row of the archive is of a patient, or is a record, that was forgotten."""
        return self.has_patient(row.get("patient_id")) or self.has_record(row.get("record_id"))

    def with_these(self, patients: Iterable[str] = (), records: Iterable[str] = ()) -> Tombstones:
        """The same and more."""
        return self.model_copy(
            update={
                "patients": tuple(sorted({*self.patients, *(self._hash("patient", name) for name in patients)})),
                "records": tuple(sorted({*self.records, *(self._hash("record", name) for name in records)})),
            }
        )

    @cached_property
    def _known(self) -> frozenset[str]:
        return frozenset((*self.patients, *self.records))

    def _hash(self, kind: str, name: str) -> str:
        message = f"{kind}\0{name}".encode("utf-8", "surrogatepass")
        return hashlib.blake2b(message, digest_size=_HASH_BYTES, key=bytes.fromhex(self.salt)).hexdigest()


def new_tombstones(made: Mapping[str, Any]) -> Tombstones:
    """None yet, with a salt of their own; `made` is what `source` in `_archive.json` says."""
    return Tombstones(salt=os.urandom(_SALT_BYTES).hex(), key_id=(made.get(PSEUDONYMISED) or {}).get("key_id"))


def read_tombstones(archive: Place) -> Tombstones | None:
    """Those of an archive; None when nobody was forgotten there. `StoreError` for a file that is damaged."""
    return read_json_object(open_objects(archive), FORGOTTEN, Tombstones)


def write_tombstones(archive: Place, tombstones: Tombstones) -> None:
    """Put them in place, whole."""
    open_objects(archive).put(FORGOTTEN, to_json(tombstones.whole()))


def check_tombstones(tombstones: Tombstones | None, pseudonyms: Pseudonyms | None, where: Place) -> None:
    """Raise `ArchiveError` when an ingest could not know who was forgotten, because ids would be written otherwise."""
    key_id = pseudonyms.key_id if pseudonyms else None
    if tombstones is not None and tombstones.key_id != key_id:
        patients = len(tombstones.patients)
        raise ArchiveError(
            f"{where} remembers that {patients:,} patients were forgotten, by hashes of ids "
            f"{'under key ' + tombstones.key_id if tombstones.key_id else 'as the source has them'}; with other ids "
            f"they would come back unnoticed. Ingest as before; or take them out of the source, and remove {FORGOTTEN}"
        )


def returned(shard: Shard, tombstones: Tombstones | None) -> int:
    """How many rows of a shard are of patients who were forgotten; raises as `open_parquet` does.

    Shards that come into an archive by other hands pass no ingest that could leave those out.
    """
    if tombstones is None:
        return 0
    with open_parquet(shard) as file:
        names = [name for name in ("record_id", "patient_id") if name in file.schema_arrow.names]
        return sum(map(tombstones.refuses, file.read(columns=names, use_threads=False).to_pylist()))


def forgotten_note(count: int) -> list[str]:
    """A note on so many records that were left out; none where there are none."""
    records = "1 record" if count == 1 else f"{count:,} records"
    return [f"{records} of patients who were forgotten: left out; remove them at the source"] if count else []


def full_shards(
    ids: Sequence[str], patients: Callable[[], Sequence[str | None]], options: IngestOptions
) -> list[tuple[int, int, str]]:
    """First and one past the last record of pieces that make a full shard each, and of the rest; and what to call it.

    Who was forgotten takes no place in a shard; `patients` of all records are asked for only where patients were.
    """
    pseudonyms, tombstones = options.pseudonyms, options.tombstones
    is_in = [True] * len(ids)
    if tombstones is not None:
        owners = patients() if tombstones.patients else [None] * len(ids)
        for i, (record_id, patient_id) in enumerate(zip(ids, owners, strict=True)):
            row: dict[str, Any] = {"record_id": record_id, "patient_id": patient_id}
            is_in[i] = not tombstones.refuses(pseudonyms.row(row) if pseudonyms else row)
    return [(*ends, f"records {ends[0] + 1:,} to {ends[1]:,}") for ends in stretches(is_in, options.shard_records)]


def stretches(is_in: Sequence[bool], shard_records: int | None) -> list[tuple[int, int]]:
    """First and one past the last of stretches of so many records that are in, and of the rest."""
    ends = [i + 1 for i, one in enumerate(is_in) if one]
    size = shard_records or len(is_in)
    stops = ends[size - 1 :: size]
    if ends and (not stops or stops[-1] != ends[-1]):
        stops.append(ends[-1])
    # Those behind the last one that will be in it make no shard of their own.
    return list(pairwise([0, *stops[:-1], len(is_in)]))
