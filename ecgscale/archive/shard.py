"""Reading one shard: its stamp, its footer, its row groups one after the other."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ecgscale.archive.schema import CORE_COLUMNS, DATA_BYTES_KEY, DIGEST_KEY, REQUIRED_COLUMNS, is_list
from ecgscale.archive.shard_file import ROW_GROUP_RECORDS
from ecgscale.errors import ShardError
from ecgscale.places import Place, fetch, is_remote
from ecgscale.storage import is_of_the_store, s3, told
from ecgscale.store.objects import StoreError
from ecgscale.store.s3_objects import open_objects

_READ_BUFFER = 2**20
_FOOTER_BLOCK = 2**18


@dataclass(frozen=True)
class Shard:
    """One file of an archive, as a listing shows it; `stamp` is its version (a modification time, an ETag)."""

    key: str
    path: str
    size: int
    stamp: str


@dataclass(frozen=True)
class ShardFooter:
    """What a shard says about itself without being read."""

    rows: int
    row_groups: int
    content_digest: str
    schema: pa.Schema


def list_shards(folder: Place) -> tuple[Shard, ...]:
    """The shards of an archive in the order of their keys, from one listing."""
    store = open_objects(folder)
    return tuple(
        Shard(key, store.location(key), stat.size, stat.version)
        for key, stat in store.list_stats("").items()
        if is_shard_name(key)
    )


def is_shard_name(name: str) -> bool:
    """Whether a file of an archive's folder is a shard."""
    return name.startswith("part-") and name.endswith(".parquet") and "/" not in name


def require_unchanged(shard: Shard) -> None:
    """Raise `ShardError` when the file is no longer the one that the listing showed."""
    folder, _, name = shard.path.rpartition("/")
    found = open_objects(folder).stat(name)
    if found is None:
        raise ShardError(f"{shard.path} went away while it was read; type the command again")
    if (found.size, found.version) != (shard.size, shard.stamp):
        raise ShardError(f"{shard.path} was changed while it was read; type the command again")


def open_parquet(shard: Shard, whole: bool = False) -> pq.ParquetFile:
    """The shard's file, its footer read; `ShardError` if it is not Parquet, cut short, or lacks columns, `StoreError`
    if the store is away.

    `whole` says that most of it will be read: then a shard in an object store is fetched at once, in parallel ranges.
    """
    try:
        # A buffer, because without one a column chunk of a large row group is read in one piece.
        file = pq.ParquetFile(_opened(shard, whole), pre_buffer=False, buffer_size=_READ_BUFFER)
    except (pa.ArrowException, OSError, StoreError) as error:
        if is_of_the_store(error):
            # All the others would be set aside too, one after the other.
            with told(f"cannot read {shard.path}"):
                raise
        raise ShardError(
            f"{shard.path} ({shard.size} bytes) is not a whole Parquet file: {str(error).rstrip('. ')}. "
            "Restore it or ingest again"
        ) from error
    try:
        _check_shard_schema(shard, file.schema_arrow)
    except ShardError:
        file.close()
        raise
    return file


def _check_shard_schema(shard: Shard, schema: pa.Schema) -> None:
    absent = [name for name in REQUIRED_COLUMNS if name not in schema.names]
    if absent:
        raise ShardError(f"{shard.path} lacks {', '.join(absent)}; a shard has {', '.join(CORE_COLUMNS)} and labels")
    kind = schema.field("signal").type
    if not is_list(kind) or kind.value_type not in (pa.int16(), pa.float32()):
        raise ShardError(f"{shard.path}: signal is {kind}, expected a list of int16 or float32")
    if not is_list(schema.field("leads").type):
        raise ShardError(f"{shard.path}: leads is {schema.field('leads').type}, expected a list of strings")


def read_footer(shard: Shard) -> ShardFooter:
    """Rows, schema and content digest; raises as `open_parquet` does.

    A digest in the metadata counts only if it was written behind these very data pages: tools that rewrite a shard
    may copy the metadata along. Without one, the file is read and its sha256 taken.
    """
    with open_parquet(shard) as file:
        meta = file.metadata
        told = meta.metadata or {}
        digest = told.get(DIGEST_KEY, b"").decode()
        if not digest or told.get(DATA_BYTES_KEY) != str(_data_end(meta)).encode():
            digest = _file_digest(shard)
        return ShardFooter(meta.num_rows, meta.num_row_groups, digest, file.schema_arrow.remove_metadata())


def _opened(shard: Shard, whole: bool) -> Any:
    if not is_remote(shard.path):
        return shard.path
    if whole:
        return pa.BufferReader(fetch(shard.path, shard.size))
    return s3().open(shard.path, "rb", block_size=_FOOTER_BLOCK, cache_type="readahead")


def _file_digest(shard: Shard) -> str:
    if is_remote(shard.path):
        return hashlib.sha256(fetch(shard.path, shard.size)).hexdigest()
    with open(shard.path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _data_end(meta: pq.FileMetaData) -> int:
    """Where the last data page ends: the position at which the writer wrote the digest down."""
    if not meta.num_row_groups:
        return 4
    last = meta.row_group(meta.num_row_groups - 1)
    column = last.column(last.num_columns - 1)
    start = column.dictionary_page_offset if column.has_dictionary_page else column.data_page_offset
    return int(start + column.total_compressed_size)


def record_tables(file: pq.ParquetFile, shard: Shard, columns: list[str], size: int) -> Iterator[pa.Table]:
    """The rows of a shard in order, `size` at a time (the last table may be shorter), decoded as they are asked for.

    Raises `ShardError` where the file breaks off.
    """
    yield from _rechunk(_stretches(file, shard, columns), size)


def _stretches(file: pq.ParquetFile, shard: Shard, columns: list[str]) -> Iterator[pa.Table]:
    """Up to a row group of ours at a time, of whatever size the file's own row groups are."""
    row = 0
    try:
        for batch in file.iter_batches(batch_size=ROW_GROUP_RECORDS, columns=columns, use_threads=False):
            row += batch.num_rows
            yield pa.Table.from_batches([batch])
    except (pa.ArrowException, OSError) as error:
        raise ShardError(f"{shard.path} breaks off after row {row} of {file.metadata.num_rows}: {error}") from error


def _rechunk(tables: Iterator[pa.Table], size: int) -> Iterator[pa.Table]:
    """Tables of exactly `size` rows, slices where a row group allows it; the last one may be shorter."""
    rest: pa.Table | None = None
    for new in tables:
        table = pa.concat_tables([rest, new]) if rest is not None and rest.num_rows else new
        whole = table.num_rows - table.num_rows % size
        for start in range(0, whole, size):
            yield table.slice(start, size)
        rest = table.slice(whole)
    if rest is not None and rest.num_rows:
        yield rest
