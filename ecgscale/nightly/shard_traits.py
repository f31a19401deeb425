"""Traits of the signals of a shard, for the gates: computed from the archive once, then kept beside the dataset.

    ROOT/explanations/<dataset_id>/_traits/<shard>-<content>.parquet    four numbers a record, no ids

What a network makes of a signal hardly shows that arm leads are reversed or that the mains hum; the signal itself does.
"""

from __future__ import annotations

import io

import pyarrow as pa
import pyarrow.parquet as pq

from ecgscale.archive.reader import Archive
from ecgscale.archive.traits import TRAITS, traits_of_shard, with_traits
from ecgscale.errors import ShardError
from ecgscale.store.commit import stem_of_key
from ecgscale.store.objects import ObjectStore

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
