"""Reading archives, other people's included, and refusing what is none."""

from __future__ import annotations

import json
from pathlib import Path

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ecgscale.archive import Archive, archive_schema
from ecgscale.archive.listing import archive_json
from ecgscale.archive.schema import carried_columns
from ecgscale.errors import ArchiveError, ShardError
from tests.worlds.formula.recordings import all_records, record, wave, write_archive


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    extra = [pa.field("superclasses", pa.list_(pa.string())), pa.field("AF", pa.bool_())]
    rows = [record(str(i), superclasses=["NORM"], AF=i == 2, fold=i % 10) for i in range(300)]
    return write_archive(tmp_path / "a", rows, extra=extra, shard_records=200)


def test_batches_are_whole_across_row_groups(archive: Archive) -> None:
    sizes = [[len(raw) for raw in archive.batches(shard, batch_records=50)] for shard in archive.shards]
    assert sizes == [[50] * 4, [50, 50]]
    first, second = [[raw.first_row for raw in archive.batches(shard, batch_records=90)] for shard in archive.shards]
    assert (first, second) == ([0, 90, 180], [0, 90])
    assert [record_id for record_id, _ in all_records(archive)] == [str(i) for i in range(300)]


def test_samples_share_memory_with_what_was_decoded(archive: Archive) -> None:
    raw = next(archive.batches(archive.shards[0]))
    assert not raw.values.flags.owndata
    assert not raw.values.flags.writeable
    assert np.shares_memory(raw.signal(3), raw.values)
    np.testing.assert_array_equal(raw.signal(3), wave(3))
    assert raw.n_samples.tolist() == [200] * 32
    assert raw.leads[0] == ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")


def test_projection_reads_what_was_asked_for(archive: Archive) -> None:
    names = set(next(archive.batches(archive.shards[0], columns=["AF"])).table.schema.names)
    assert names == {
        "record_id",
        "patient_id",
        "leads",
        "sampling_rate",
        "units_per_mv",
        "valid_start",
        "valid_stop",
        "AF",
    }
    assert "fold" in next(archive.batches(archive.shards[0])).table.schema.names
    with pytest.raises(ArchiveError, match=r"no column 'AFIB'\. Did you mean 'AF'\? There are: record_id"):
        next(archive.batches(archive.shards[0], columns=["AFIB"]))


def test_metadata_tells_where_rows_stand(archive: Archive) -> None:
    table = archive.metadata(["record_id", "superclasses"])
    assert table.num_rows == 300
    assert table.slice(199, 2).to_pylist() == [
        {"record_id": "199", "superclasses": ["NORM"], "shard": "part-00000.parquet", "row": 199},
        {"record_id": "200", "superclasses": ["NORM"], "shard": "part-00001.parquet", "row": 0},
    ]
    with pytest.raises(ArchiveError, match="Did you mean 'superclasses'"):
        archive.metadata(["superclass"])


def test_columns_to_carry_and_labels(archive: Archive) -> None:
    carried = [field.name for field in carried_columns(archive.schema())]
    assert carried == ["acquired_at", "site", "device", "age", "sex", "fold", "fiducials", "superclasses", "AF"]
    assert archive.label_columns() == ["superclasses", "AF"]
    assert archive.shard("part-00001.parquet") == archive.shards[1]
    with pytest.raises(ArchiveError, match=r"no shard 'part-1\.parquet'"):
        archive.shard("part-1.parquet")


def test_a_reserved_column_is_named(archive: Archive) -> None:
    for shard in archive.shards:
        table = pq.read_table(shard.path).append_column("entropy", pa.repeat(1.0, archive.footer(shard).rows))
        pq.write_table(table, shard.path)
    with pytest.raises(ArchiveError, match="entropy: reserved for the explanations; rename"):
        carried_columns(archive.schema())


def test_a_digest_says_what_is_in_a_shard(archive: Archive, tmp_path: Path) -> None:
    rows = [record(str(i), superclasses=["NORM"], AF=i == 2, fold=i % 10) for i in range(300)]
    extra = [pa.field("superclasses", pa.list_(pa.string())), pa.field("AF", pa.bool_())]
    again = write_archive(tmp_path / "b", rows, extra=extra, shard_records=200)
    assert [again.footer(s).content_digest for s in again.shards] == [
        archive.footer(s).content_digest for s in archive.shards
    ]
    rows[5]["AF"] = None
    other = write_archive(tmp_path / "c", rows, extra=extra, shard_records=200)
    differs = [
        a.content_digest != b.content_digest
        for a, b in zip(map(archive.footer, archive.shards), map(other.footer, other.shards), strict=True)
    ]
    assert differs == [True, False]


def test_a_digest_copied_along_by_another_tool_does_not_count(archive: Archive) -> None:
    shard = archive.shards[0]
    before = archive.footer(shard).content_digest
    table = pq.ParquetFile(shard.path).read()
    assert table.schema.metadata[b"ecgscale.content_digest"].decode() == before
    pq.write_table(table.set_column(table.schema.get_field_index("fold"), "fold", table.column("age")), shard.path)
    changed = Archive.open(archive.path)
    assert changed.footer(changed.shards[0]).content_digest != before


@pytest.mark.parametrize("kind", [pa.large_list(pa.int16()), pa.list_(pa.int16(), 2400), pa.list_(pa.int16())])
def test_lists_of_other_kinds_and_big_row_groups_are_read(archive: Archive, kind: pa.DataType) -> None:
    expected = all_records(archive)
    for shard in archive.shards:
        table = pq.read_table(shard.path)
        place = table.schema.get_field_index("signal")
        pq.write_table(table.set_column(place, "signal", table.column("signal").cast(kind)), shard.path)
    for (record_id, signal), (other_id, other) in zip(expected, all_records(Archive.open(archive.path)), strict=True):
        assert record_id == other_id
        np.testing.assert_array_equal(signal, other)


def test_an_archive_without_optional_columns_is_read(archive: Archive) -> None:
    for shard in archive.shards:
        table = pq.read_table(shard.path)
        optional = ["patient_id", "acquired_at", "site", "device", "age", "sex", "fold", "fiducials"]
        pq.write_table(table.drop_columns(optional), shard.path)
    bare = Archive.open(archive.path)
    assert [field.name for field in carried_columns(bare.schema())] == ["superclasses", "AF"]
    assert len(next(bare.batches(bare.shards[0]))) == 32


def test_nulls_become_what_the_check_can_see(tmp_path: Path) -> None:
    row = {"record_id": "1", "leads": ["DI", "AVR"], "sampling_rate": None, "signal": [1, None, 3, 4]}
    table = pa.Table.from_pylist([row, {"record_id": None, "signal": None}], archive_schema("int16"))
    archive = write_archive(tmp_path / "a", [record("1")])
    pq.write_table(table, archive.shards[0].path)
    raw = next(Archive.open(tmp_path / "a").batches(archive.shards[0]))
    assert raw.leads == [("I", "aVR"), ()]
    np.testing.assert_array_equal(raw.values, np.array([1, np.nan, 3, 4], dtype=np.float32))
    assert raw.offsets.tolist() == [0, 4, 4]
    assert np.isnan(raw.sampling_rate).all()
    assert (raw.valid_start.tolist(), raw.valid_stop.tolist()) == ([0, 0], [2, 0])


def test_duckdb_and_polars_read_shards(tmp_path: Path) -> None:
    for kind in ("int16", "float32"):
        rows = [record(str(i), signal=wave(i).astype(kind)) for i in range(5)]
        write_archive(tmp_path / kind, rows, kind)
        files = str(tmp_path / kind / "part-*.parquet")
        total = int(sum(row["signal"].sum(dtype=np.int64) for row in rows))
        found = duckdb.sql(f"select sum(list_sum(signal)), min(leads[4]) from '{files}'").fetchall()
        assert found == [(total, "aVR")]
        frame = pl.read_parquet(files)
        assert frame["signal"].list.sum().sum() == total


def test_shards_that_cannot_be_read_are_named_alone(archive: Archive) -> None:
    broken = archive.shards[0]
    data = Path(broken.path).read_bytes()
    Path(broken.path).write_bytes(data[: len(data) // 2])
    with pytest.raises(ShardError, match=r"part-00000\.parquet .* is not a whole Parquet file: .*[^.]\. Restore it"):
        archive.footer(broken)
    with pytest.raises(ShardError, match="not a whole Parquet"):
        next(archive.batches(broken))
    assert archive.label_columns() == ["superclasses", "AF"]
    errors: list[ShardError] = []
    assert archive.metadata(["record_id"], unreadable=errors).num_rows == 100
    assert len(errors) == 1
    with pytest.raises(ShardError):
        archive.metadata(["record_id"])


def test_damaged_data_are_found_when_they_are_read(archive: Archive) -> None:
    shard = archive.shards[0]
    data = bytearray(Path(shard.path).read_bytes())
    meta = pq.ParquetFile(shard.path).metadata.row_group(1).column(2)
    data[meta.data_page_offset : meta.data_page_offset + 2000] = bytes(2000)
    Path(shard.path).write_bytes(data)
    with pytest.raises(ShardError, match=r"breaks off after row 128 of 200"):
        list(archive.batches(shard))


def test_a_shard_of_another_form_is_refused(archive: Archive) -> None:
    shard = archive.shards[0]
    table = pq.read_table(shard.path)
    pq.write_table(table.drop_columns(["sampling_rate", "leads"]), shard.path)
    with pytest.raises(ShardError, match="lacks leads, sampling_rate"):
        archive.footer(shard)
    place = table.schema.get_field_index("signal")
    pq.write_table(table.set_column(place, "signal", pa.repeat(1.0, len(table))), shard.path)
    with pytest.raises(ShardError, match="signal is double, expected a list"):
        archive.footer(shard)
    pq.write_table(table.drop_columns(["AF"]), shard.path)
    with pytest.raises(ShardError, match="no column 'AF'"):
        Archive(archive.path, archive.info, archive.shards[::-1]).metadata(["AF"])


def test_folders_that_are_no_archive(tmp_path: Path, archive: Archive) -> None:
    with pytest.raises(ArchiveError, match="no such folder"):
        Archive.open(tmp_path / "nowhere")
    with pytest.raises(ArchiveError, match=r"no _archive\.json"):
        Archive.open(tmp_path)
    info = tmp_path / "a/_archive.json"
    good = json.loads(info.read_text())
    info.write_bytes(archive_json(good | {"schema_version": 2}))
    with pytest.raises(ArchiveError, match="schema 2, this version reads schema 1"):
        Archive.open(tmp_path / "a")
    info.write_text("{")
    with pytest.raises(ArchiveError, match="damaged"):
        Archive.open(tmp_path / "a")
    info.write_text(json.dumps(good))
    for shard in archive.shards:
        Path(shard.path).unlink()
    with pytest.raises(ArchiveError, match="no part-"):
        Archive.open(tmp_path / "a")
