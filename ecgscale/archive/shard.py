"""Reading one shard: its stamp, its footer, its row groups one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ecgscale.archive.schema import CORE_COLUMNS, DATA_BYTES_KEY, DIGEST_KEY, REQUIRED_COLUMNS, is_list
from ecgscale.archive.shard_file import ROW_GROUP_RECORDS
from ecgscale.errors import ShardError

_READ_BUFFER = 2**20


@dataclass(frozen=True)
class Shard:
    """One file of an archive, as the folder listing shows it."""

    key: str
    path: str
    size: int
    mtime_ns: int


@dataclass(frozen=True)
class ShardFooter:
    """What a shard says about itself without being read."""

    rows: int
    row_groups: int
    content_digest: str
    schema: pa.Schema


def stat_shard(file: Path) -> Shard:
    """The shard in a file, as a listing shows it."""
    stat = file.stat()
    return Shard(file.name, str(file), stat.st_size, stat.st_mtime_ns)


def open_parquet(shard: Shard) -> pq.ParquetFile:
    """The shard's file, its footer read; `ShardError` if it is not Parquet, cut short, or lacks columns."""
    try:
        # A buffer, because without one a column chunk of a large row group is read in one piece.
        file = pq.ParquetFile(shard.path, pre_buffer=False, buffer_size=_READ_BUFFER)
    except (pa.ArrowException, OSError) as error:
        raise ShardError(
            f"{shard.path} ({shard.size} bytes) is not a whole Parquet file: {error}. Restore it or ingest again"
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
            with open(shard.path, "rb") as stream:
                digest = file_digest(stream, "sha256").hexdigest()
        return ShardFooter(meta.num_rows, meta.num_row_groups, digest, file.schema_arrow.remove_metadata())


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
