"""Parquet as ecgscale writes and reads it: every page with a checksum, and no page taken without a look at it.

A disk or a network that changes a bit mostly leaves a file that decodes, to other numbers. Parquet has room for a CRC
of every page, which its libraries neither write nor check unless they are told to; here they are, and nowhere else is
a file of ours written or opened. Files without them (of earlier versions, of other programs) are read as they are.
"""

from __future__ import annotations

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
