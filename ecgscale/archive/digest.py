"""A digest of what a table says, not of how a file says it.

Two tables with equal rows have equal digests whatever their chunks, offsets, compression or writer version. A shard's
footer carries it, so an unchanged shard is recognised without reading it.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ecgscale.archive.schema import is_list

if TYPE_CHECKING:
    from hashlib import _Hash


class ContentDigest:
    """sha256 over the rows of a shard, fed one row group after the other (the groups are part of the content)."""

    def __init__(self, schema: pa.Schema) -> None:
        self._hasher = sha256()
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
