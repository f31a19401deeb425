"""One shard as a file: built whole in memory, then put in place in one piece."""

from __future__ import annotations

import os
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq

from ecgscale.archive.digest import ContentDigest
from ecgscale.archive.schema import DATA_BYTES_KEY, DIGEST_KEY, SCHEMA_VERSION, VERSION_KEY
from ecgscale.places import Place, is_remote
from ecgscale.store.s3_objects import open_objects

ROW_GROUP_RECORDS = 128


class ShardInMemory:
    """One shard's Parquet file, growing row group by row group in memory."""

    def __init__(self, schema: pa.Schema) -> None:
        self.rows = 0
        self._sink = pa.BufferOutputStream()
        self._digest = ContentDigest(schema)
        self._writer = pq.ParquetWriter(self._sink, schema, **_parquet_options(schema))

    @property
    def bytes(self) -> int:
        """How long the file is so far."""
        return int(self._sink.tell())

    def write(self, table: pa.Table) -> None:
        """Add one row group."""
        table = table.combine_chunks()
        self._digest.update(table)
        self._writer.write_table(table, row_group_size=ROW_GROUP_RECORDS)
        self.rows += table.num_rows

    def close(self) -> pa.Buffer:
        """The finished file; its metadata tell the content digest and where the data it belongs to end."""
        self._writer.add_key_value_metadata(
            {
                DIGEST_KEY: self._digest.hexdigest().encode(),
                DATA_BYTES_KEY: str(self.bytes).encode(),
                VERSION_KEY: str(SCHEMA_VERSION).encode(),
            }
        )
        self._writer.close()
        return self._sink.getvalue()


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


def put_whole(path: Place, data: bytes | pa.Buffer) -> None:
    """Write a file so that it is there in one piece or not at all, and survives a crash of the machine."""
    if is_remote(path):
        open_objects(path.parent).put(path.name, bytes(data))
        return
    temporary = path.with_name(f"_tmp-{uuid4().hex[:12]}-{path.name}")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
