"""Files of ours have checksums, and every reader of ours looks at them."""

from __future__ import annotations

from pathlib import Path

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ecgscale.io.parquet import (
    open_parquet_file,
    parquet_dataset,
    parse_parquet,
    read_parquet,
    read_those_there,
    to_parquet_bytes,
)
from ecgscale.io.settings import StoreError


@pytest.fixture
def rotten(tmp_path: Path) -> Path:
    """A file in which one number is another."""
    table = pa.table({"a": np.arange(1000), "b": np.arange(1000)})
    data = bytearray(to_parquet_bytes(table, use_dictionary=False, compression="none"))
    column = pq.read_metadata(pa.BufferReader(bytes(data))).row_group(0).column(0)
    data[column.data_page_offset + column.total_compressed_size - 1] ^= 1
    file = tmp_path / "a.parquet"
    file.write_bytes(bytes(data))
    return file


def test_every_reader_says_so(rotten: Path) -> None:
    assert pq.read_table(rotten)["a"][-1].as_py() != 999, "nobody else notices"
    for read in (
        lambda: read_parquet(str(rotten)),
        lambda: read_parquet(str(rotten), ["a"]),
        lambda: read_those_there(str(rotten), ["a", "c"]),
        lambda: parse_parquet(rotten.read_bytes(), str(rotten)),
    ):
        with pytest.raises(StoreError, match=r"a\.parquet is damaged: the bytes of a page do not fit their checksum"):
            read()
    with open_parquet_file(str(rotten)) as file, pytest.raises(OSError, match="CRC checksum"):
        file.read_row_group(0)


def test_so_do_other_libraries_through_a_dataset(rotten: Path) -> None:
    opened = parquet_dataset([str(rotten)], pa.schema([("a", pa.int64()), ("b", pa.int64())]))
    with pytest.raises(OSError, match="CRC checksum"):
        opened.to_table()
    with pytest.raises(Exception, match="CRC checksum"):
        duckdb.sql("SELECT sum(a) FROM opened").fetchall()
    with pytest.raises(Exception, match="CRC checksum"):
        pl.scan_pyarrow_dataset(opened).select("a").collect()
    assert opened.to_table(columns=["b"])["b"].to_pylist() == list(range(1000)), "other columns can be had"


def test_what_has_no_checksums_is_read(tmp_path: Path) -> None:
    table = pa.table({"a": [1, 2]})
    pq.write_table(table, tmp_path / "a.parquet")
    assert read_parquet(str(tmp_path / "a.parquet")).equals(table)
    with pytest.raises(StoreError, match=r"b\.parquet is gone"):
        read_parquet(str(tmp_path / "b.parquet"))
    (tmp_path / "c.parquet").write_bytes(b"PAR1")
    with pytest.raises(StoreError, match=r"c\.parquet is damaged"):
        read_parquet(str(tmp_path / "c.parquet"))
