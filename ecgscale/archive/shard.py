"""One shard as a file: built whole in memory and put in place in one piece; its stamp, its footer, its row groups.

A shard's footer carries a digest of what its rows say, not of how the file says it: two tables with equal rows have
equal digests whatever their chunks, offsets, compression or writer version. So an unchanged shard is recognised without
reading it. Whoever reads all of a shard has its rows held against that digest (`record_tables`); whoever takes a file
for an earlier one because of the digest reads it for that (`check_content`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ecgscale.archive.schema import (
    CORE_COLUMNS,
    DIGEST_KEY,
    REQUIRED_COLUMNS,
    SCHEMA_VERSION,
    VERSION_KEY,
    is_list,
)
from ecgscale.errors import ShardError
from ecgscale.io.objects import StoreError, open_objects
from ecgscale.io.parquet import (
    DATA_BYTES_KEY,
    UNREADABLE,
    UNSIGNED,
    checked_footer,
    damage,
    data_end,
    open_parquet_file,
    parquet_writer,
    sign_footer,
)
from ecgscale.io.places import fetch, is_remote
from ecgscale.io.settings import is_of_the_store, s3, storage_errors

if TYPE_CHECKING:
    from hashlib import _Hash

ROW_GROUP_RECORDS = 128
READ_BYTES = 256 * 2**20
"""Of encoded pages that are decoded at once, at most, where a record has not more."""
RESTORE = "Restore it from a copy, or ingest it again"
"""What to do about a shard that is damaged."""
_READ_BUFFER = 2**20
_FOOTER_BLOCK = 2**18


class ContentDigest:
    """sha256 over the rows of a shard, fed one row group after the other (the groups are part of the content)."""

    def __init__(self, schema: pa.Schema) -> None:
        self._hasher = hashlib.sha256()
        for field in schema:
            self._hasher.update(f"{field.name}\0{_type_name(field.type)}\n".encode())

    def update(self, table: pa.Table) -> None:
        """Add the rows of `table`, whose columns are those of the schema in its order."""
        self._hasher.update(np.int64(table.num_rows).tobytes())
        for column in table.columns:
            _feed(self._hasher, _one_array(column))

    def hexdigest(self) -> str:
        """The digest of all rows so far."""
        return self._hasher.hexdigest()


def _type_name(kind: pa.DataType) -> str:
    """A type's name without the names of list items, which depend on the writer ("item" or "element")."""
    return f"list<{_type_name(kind.value_type)}>" if is_list(kind) else str(kind)


def _one_array(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks or [pa.array([], column.type)])


def _feed(hasher: _Hash, array: pa.Array) -> None:
    """Validity, then lengths, then values, recursively; what lies behind a null does not count."""
    hasher.update(np.packbits(array.is_null().to_numpy(zero_copy_only=False)).tobytes() if array.null_count else b"")
    kind = array.type
    if is_list(kind):
        lengths = pc.list_value_length(array).fill_null(0).cast(pa.int64())
        hasher.update(lengths.to_numpy().data)
        _feed(hasher, array.flatten())
    elif pa.types.is_struct(kind):
        for child in array.flatten():
            _feed(hasher, child)
    elif pa.types.is_integer(kind) or pa.types.is_floating(kind):
        filled = array.fill_null(0) if array.null_count else array
        hasher.update(np.ascontiguousarray(filled.to_numpy()).data)
    elif pa.types.is_boolean(kind):
        hasher.update(array.fill_null(False).to_numpy(zero_copy_only=False).tobytes())
    elif pa.types.is_timestamp(kind):
        _feed(hasher, array.cast(pa.int64()))
    else:
        texts = array.cast(pa.large_string()).fill_null("")
        hasher.update(pc.binary_length(texts).to_numpy().data)
        hasher.update("".join(texts.to_pylist()).encode())


class ShardInMemory:
    """One shard's Parquet file, growing row group by row group in memory."""

    def __init__(self, schema: pa.Schema) -> None:
        self.rows = 0
        self._sink = pa.BufferOutputStream()
        self._digest = ContentDigest(schema)
        self._writer = parquet_writer(self._sink, schema, **_parquet_options(schema))

    @property
    def bytes(self) -> int:
        """How long the file is so far."""
        return int(self._sink.tell())

    def write(self, table: pa.Table) -> None:
        """Add a row group, of however many rows."""
        table = table.combine_chunks()
        self._digest.update(table)
        self._writer.write_table(table, row_group_size=max(table.num_rows, 1))
        self.rows += table.num_rows

    def close(self) -> pa.Buffer:
        """The finished file. Its metadata hold the content digest, where the data it belongs to end, and a digest of
        the footer that all this stands in."""
        self._writer.add_key_value_metadata(
            {
                DIGEST_KEY: self._digest.hexdigest().encode(),
                DATA_BYTES_KEY: str(self.bytes).encode(),
                VERSION_KEY: str(SCHEMA_VERSION).encode(),
                **UNSIGNED,
            }
        )
        self._writer.close()
        file = self._sink.getvalue()
        sign_footer(file)
        return file


def _parquet_options(schema: pa.Schema) -> dict[str, Any]:
    """Small files that every reader takes: int16 deltas, split float bytes, dictionaries for words."""
    is_int = schema.field("signal").type.value_type == pa.int16()
    words = [path for field in schema for path in _word_columns(field.name, field.type) if path != "record_id"]
    return {
        "compression": "zstd",
        "compression_level": 1,
        "use_dictionary": words,
        "column_encoding": {"signal.list.element": "DELTA_BINARY_PACKED" if is_int else "BYTE_STREAM_SPLIT"},
        "write_statistics": [field.name for field in schema if not pa.types.is_nested(field.type)],
    }


def _word_columns(path: str, kind: pa.DataType) -> list[str]:
    """Parquet paths of the string leaves under one column."""
    if pa.types.is_list(kind):
        return _word_columns(f"{path}.list.element", kind.value_type)
    if pa.types.is_struct(kind):
        return [leaf for child in kind for leaf in _word_columns(f"{path}.{child.name}", child.type)]
    return [path] if pa.types.is_string(kind) else []


@dataclass(frozen=True)
class Shard:
    """One file of an archive, as a listing shows it; `stamp` is its version (a modification time, an ETag).

    odd: why it cannot be read, as a listing shows already ("is a folder, …"); empty for all others
    """

    key: str
    path: str
    size: int
    stamp: str
    odd: str = ""


@dataclass(frozen=True)
class ShardFooter:
    """What a shard says about itself without being read."""

    rows: int
    row_groups: int
    content_digest: str
    schema: pa.Schema


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
    if shard.odd:
        # Never opened: a pipe would be waited for without end.
        raise ShardError(f"{shard.path} {shard.odd}")
    try:
        source = _opened(shard, whole)
        meta = checked_footer(source)
        # A buffer, because without one a column chunk of a large row group is read in one piece.
        file = open_parquet_file(source, metadata=meta, pre_buffer=False, buffer_size=_READ_BUFFER)
    except (*UNREADABLE, StoreError) as error:
        if is_of_the_store(error):
            # All the others would be set aside too, one after the other.
            with storage_errors(f"cannot read {shard.path}"):
                raise
        raise ShardError(
            f"{shard.path} ({shard.size} bytes) is not a whole Parquet file: {damage(error)}. {RESTORE}"
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
    doubled = sorted({name for name in schema.names if schema.names.count(name) > 1})
    if doubled:
        raise ShardError(f"{shard.path} has more than one column {', '.join(doubled)}: nobody can say which is meant")
    kind = schema.field("signal").type
    if not is_list(kind) or kind.value_type not in (pa.int16(), pa.float32()):
        raise ShardError(f"{shard.path}: signal is {kind}, expected a list of int16 or float32")
    if not is_list(schema.field("leads").type):
        raise ShardError(f"{shard.path}: leads is {schema.field('leads').type}, expected a list of strings")
    for name in ("sampling_rate", "units_per_mv", "valid_start", "valid_stop"):
        found = schema.field(name).type
        if not (pa.types.is_integer(found) or pa.types.is_floating(found) or pa.types.is_null(found)):
            raise ShardError(f"{shard.path}: {name} is {found}, expected a number")


def read_footer(shard: Shard) -> ShardFooter:
    """Rows, schema and content digest; raises as `open_parquet` does.

    A digest in the metadata counts only if it was written behind these very data pages: tools that rewrite a shard
    may copy the metadata along. Without one, the file is read and its sha256 taken.
    """
    with open_parquet(shard) as file:
        meta = file.metadata
        digest = stated_digest(shard, meta) or _file_digest(shard)
        return ShardFooter(meta.num_rows, meta.num_row_groups, digest, file.schema_arrow.remove_metadata())


def stated_digest(shard: Shard, meta: pq.FileMetaData) -> str:
    """The digest in a footer that was written behind these very data pages; "" when there is none."""
    facts = meta.metadata or {}
    there = facts.get(DATA_BYTES_KEY) == str(data_end(shard.size, meta)).encode()
    return facts.get(DIGEST_KEY, b"").decode("ascii", "replace") if there else ""


def check_content(shard: Shard) -> bool:
    """Read all of a shard and raise `ShardError` unless its rows are those that its digest is of.

    False when it states no digest: then it was read to its end, and nothing more is known of it.
    """
    with open_parquet(shard, whole=True) as file:
        for _ in record_tables(file, shard, file.schema_arrow.names, ROW_GROUP_RECORDS):
            pass
        return bool(stated_digest(shard, file.metadata))


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


def _decoded_bytes(meta: pq.FileMetaData) -> int:
    return sum(meta.row_group(i).total_byte_size for i in range(meta.num_row_groups))


def record_tables(file: pq.ParquetFile, shard: Shard, columns: list[str], size: int) -> Iterator[pa.Table]:
    """The rows of a shard in order, `size` at a time (the last table may be shorter), decoded as they are asked for.

    Of recordings of a day only as many at a time as READ_BYTES hold, one at least. Up to a row group of ours is decoded
    at once, of whatever size the file's own are, and sliced where that allows it.
    Raises `ShardError` where the file breaks off, and, behind the last row, when all columns were read and the rows are
    not those that the digest in the footer is of.
    """
    rest: pa.Table | None = None
    row = 0
    digest = _RowGroupDigest(shard, file) if columns == file.schema_arrow.names else None
    at_once = max(READ_BYTES * file.metadata.num_rows // max(_decoded_bytes(file.metadata), 1), 1)
    size = min(size, at_once)
    try:
        for batch in file.iter_batches(batch_size=min(ROW_GROUP_RECORDS, at_once), columns=columns, use_threads=False):
            # Words that are no UTF-8 would be found by whoever looks at them first.
            batch.validate(full=True)
            row += batch.num_rows
            new = pa.Table.from_batches([batch])
            if digest is not None:
                digest.add(new)
            table = pa.concat_tables([rest, new]) if rest is not None and rest.num_rows else new
            whole = table.num_rows - table.num_rows % size
            yield from (table.slice(start, size) for start in range(0, whole, size))
            rest = table.slice(whole)
    except UNREADABLE as error:
        raise unreadable(shard, error, f" after row {row} of {file.metadata.num_rows}") from error
    if rest is not None and rest.num_rows:
        yield rest
    if row != file.metadata.num_rows:
        raise ShardError(f"{shard.path}: its footer says {file.metadata.num_rows} records, {row} were read. {RESTORE}")
    if digest is not None:
        digest.check(shard)


def unreadable(shard: Shard, error: BaseException, where: str = "") -> ShardError:
    """What to raise for an error while a shard is read; `where`: how far it was read."""
    return ShardError(f"{shard.path} breaks off{where or ' while it is read'}: {damage(error)}. {RESTORE}")


class _RowGroupDigest:
    """The content digest of rows that come in tables of any size, as their writer fed it: a row group at a time."""

    def __init__(self, shard: Shard, file: pq.ParquetFile) -> None:
        meta, schema = file.metadata, file.schema_arrow
        self._stated = stated_digest(shard, meta)
        self._sizes = [meta.row_group(i).num_rows for i in reversed(range(meta.num_row_groups))]
        self._digest, self._pending = ContentDigest(schema), schema.empty_table()

    def add(self, table: pa.Table) -> None:
        """The next rows."""
        if not self._stated:
            return
        self._pending = pa.concat_tables([self._pending, table]) if self._pending.num_rows else table
        while self._sizes and self._pending.num_rows >= self._sizes[-1]:
            size = self._sizes.pop()
            self._digest.update(self._pending.slice(0, size))
            self._pending = self._pending.slice(size)

    def check(self, shard: Shard) -> None:
        """Raise `ShardError` when the footer states another digest."""
        if self._stated and self._digest.hexdigest() != self._stated:
            raise ShardError(
                f"{shard.path}: its rows are not those that its content digest (checksum) is of. {RESTORE}"
            )
