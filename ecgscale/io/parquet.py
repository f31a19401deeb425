"""Parquet as ecgscale writes and reads it: every page with a checksum, and no page taken without a look at it.

A disk or a network that changes a bit mostly leaves a file that decodes, to other numbers. Parquet has room for a CRC
of every page, which its libraries neither write nor check unless they are told to; here they are, and nowhere else is
a file of ours written or opened. Files without them (of earlier versions, of other programs) are read as they are.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ecgscale.io.places import arrow_place
from ecgscale.io.settings import StoreError, is_of_the_store, storage_errors

if TYPE_CHECKING:
    import pyarrow.dataset

UNREADABLE = (pa.ArrowException, OSError, UnicodeDecodeError)
"""What pyarrow raises for bytes that are no Parquet file, or one that is not whole."""


def parquet_writer(sink: Any, schema: pa.Schema, **options: Any) -> pq.ParquetWriter:
    """A writer of row groups into `sink`, with pyarrow's `options`."""
    return pq.ParquetWriter(sink, schema, write_page_checksum=True, **options)


def to_parquet_bytes(table: pa.Table, **options: Any) -> bytes:
    """A whole file in memory: the same table gives the same bytes."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, write_page_checksum=True, **options)
    return bytes(sink.getvalue())


def open_parquet_file(source: Any, **options: Any) -> pq.ParquetFile:
    """A file, by its local path or as an open stream, to be read row group by row group.

    Reading raises what is in `UNREADABLE`; `damage` says it in words.
    """
    return pq.ParquetFile(source, page_checksum_verification=True, **options)


def read_schema(where: str) -> pa.Schema:
    """The schema of the file at a location. `StoreError` when it is damaged or cannot be had."""
    with parquet_errors(where):
        path, system = arrow_place(where)
        return pq.read_schema(path, filesystem=system)


def read_those_there(where: str, columns: Sequence[str]) -> pa.Table:
    """Of these columns those that the file at a location has. Raises as `read_parquet` does."""
    with parquet_errors(where):
        path, system = arrow_place(where)
        with open_parquet_file(path, filesystem=system) as file:
            return file.read(columns=[name for name in columns if name in file.schema_arrow.names], use_threads=False)


def read_parquet(where: str, columns: Sequence[str] | None = None, filters: pc.Expression | None = None) -> pa.Table:
    """Columns (None: all) and rows of the file at a location. `StoreError` when it is damaged or cannot be had."""
    with parquet_errors(where):
        path, system = arrow_place(where)
        return _read(path, filesystem=system, columns=columns and list(columns), filters=filters)


def parse_parquet(data: bytes, where: str) -> pa.Table:
    """The table in a file of these bytes, which lie at `where`. `StoreError` when they are damaged."""
    with parquet_errors(where):
        return _read(pa.BufferReader(data))


def _read(source: Any, **options: Any) -> pa.Table:
    return pq.read_table(source, partitioning=None, page_checksum_verification=True, **options)


def parquet_dataset(files: Sequence[str], schema: pa.Schema) -> pyarrow.dataset.FileSystemDataset:
    """The files at these locations as one dataset of that schema: what a file lacks is null, what it has in another
    type is cast. Whoever scans it (pyarrow, DuckDB, Polars) has the checksums looked at."""
    import pyarrow.dataset  # takes pandas along, for which operators' commands need not wait

    scan = pyarrow.dataset.ParquetFragmentScanOptions(page_checksum_verification=True)
    form = pyarrow.dataset.ParquetFileFormat(default_fragment_scan_options=scan)
    places = [arrow_place(file) for file in files]
    system = places[0][1] if places else None
    return pyarrow.dataset.dataset([path for path, _ in places], schema=schema, format=form, filesystem=system)


@contextmanager
def parquet_errors(where: str) -> Iterator[None]:
    """Raise `StoreError`, naming `where`, for a file that cannot be read to its end in this block."""
    try:
        yield
    except UNREADABLE as error:
        if is_of_the_store(error) or getattr(error, "errno", None) is not None:
            with storage_errors(f"cannot read {where}"):
                raise
        if isinstance(error, FileNotFoundError):
            raise StoreError(f"{where} is gone. `ecgscale verify` says what else is") from error
        raise StoreError(
            f"{where} is damaged: {damage(error)}. `ecgscale verify` says what else is; docs/operations.md, what to do"
        ) from error


def damage(error: BaseException) -> str:
    """What is wrong with a file, from the error that reading it raised."""
    said = str(error).strip().splitlines()[0].rstrip(". ") if str(error).strip() else type(error).__name__
    return f"the bytes of a page do not fit their checksum ({said})" if "CRC checksum" in said else said


# A digest of a footer, in itself. Pages have their checksums; what says where they are and how they are to be read, the
# names of the columns and what else is known of the rows has none in Parquet.
DATA_BYTES_KEY = b"ecgscale.data_bytes"
"""Metadata of a file that is signed: where its data end, and the footer begins."""
_KEY = b"ecgscale.footer_digest"
_BLANK = b"0" * 64
UNSIGNED = {_KEY: _BLANK}
"""Metadata of a file whose footer is to be signed."""

_TRAILER = 8
_TAIL = 2**16
# As Thrift's compact protocol has it: behind the key a string, its length before it.
_SIGNATURE = re.compile(re.escape(_KEY) + rb"\x18\x40(.{64})", re.DOTALL)
_DATA_END = re.compile(re.escape(DATA_BYTES_KEY) + rb"\x18.(\d+)", re.DOTALL)


def sign_footer(file: pa.Buffer) -> None:
    """Put the digest of its footer into a whole file in memory that was written with `UNSIGNED`."""
    whole = memoryview(file).cast("B")
    start = len(whole) - _TRAILER - _footer_length(whole)
    footer = bytes(whole[start:-_TRAILER])
    found = _SIGNATURE.search(footer)
    assert found is not None
    whole[start + found.start(1) : start + found.end(1)] = _digest(footer, found)


def data_end(size: int, meta: pq.FileMetaData) -> int:
    """Where the data pages of a file of that size end, and its footer begins: there is nothing between them."""
    return size - _TRAILER - int(meta.serialized_size)


def checked_footer(source: Any) -> pq.FileMetaData:
    """The footer of a local path or an open stream, read once. Raises `StoreError` when it is one of ours and not
    what its digest is of, and what pyarrow raises for one that it cannot parse.

    A digest counts only in the file that it was written for: a tool that rewrites a shard may copy the metadata along.
    """
    with contextlib.ExitStack() as stack:
        stream = stack.enter_context(open(source, "rb")) if isinstance(source, str) else source
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, size - _TAIL))
        tail = bytes(stream.read())
        length = _footer_length(tail) + _TRAILER
        if len(tail) < length <= size:
            stream.seek(size - length)
            tail = bytes(stream.read())
    footer = tail[-length:-_TRAILER]
    ends, signature = _DATA_END.search(footer), _SIGNATURE.search(footer)
    ours = ends is not None and int(ends[1]) == size - length
    if ours and signature is not None and signature[1] != _digest(footer, signature):
        raise StoreError("its footer is not what the digest (checksum) in it is of")
    return pq.read_metadata(pa.BufferReader(tail[-length:]))


def _footer_length(tail: bytes | memoryview) -> int:
    """Bytes of the footer, which the last 8 bytes of a file say."""
    return int.from_bytes(bytes(tail[-_TRAILER:])[:4], "little")


def _digest(footer: bytes, signature: re.Match[bytes]) -> bytes:
    """sha256, in hexadecimal, of a footer with zeros in the place of its digest."""
    blank = footer[: signature.start(1)] + _BLANK + footer[signature.end(1) :]
    return hashlib.sha256(blank).hexdigest().encode()
