"""What is on disk after writing, and after writing went wrong."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ecgscale.archive import Archive, ArchiveWriter, archive_schema
from ecgscale.errors import ArchiveError
from ecgscale.io.objects import open_objects
from ecgscale.io.places import place
from ecgscale.progress import SILENT
from tests.worlds.formula.recordings import all_records, record, wave, write_archive

BAD = record("2", signal=np.zeros(3))


class Listener:
    """A progress that keeps what was said."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.stage = SILENT.stage

    def say(self, text: str) -> None:
        self.said.append(text)


def test_shards_and_row_groups_have_the_sizes_asked_for(tmp_path: Path) -> None:
    archive = write_archive(tmp_path / "a", [record(str(i)) for i in range(700)], shard_records=300)
    assert [shard.key for shard in archive.shards] == [f"part-0000{i}.parquet" for i in range(3)]
    files = [pq.ParquetFile(shard.path) for shard in archive.shards]
    groups = [[file.metadata.row_group(g).num_rows for g in range(file.num_row_groups)] for file in files]
    assert groups == [[128, 128, 44], [128, 128, 44], [100]]
    column = files[0].metadata.row_group(0).column(files[0].schema_arrow.names.index("signal"))
    assert "DELTA_BINARY_PACKED" in column.encodings
    assert column.compression == "ZSTD"
    assert (archive.info["records"], archive.info["shards"], archive.info["signal"]) == (700, 3, "int16")


def test_a_shard_closes_at_its_size(tmp_path: Path) -> None:
    archive = write_archive(tmp_path / "a", [record(str(i)) for i in range(300)], shard_bytes=100_000)
    assert len(archive.shards) > 1
    assert sum(archive.footer(shard).rows for shard in archive.shards) == 300


def test_a_number_of_records_that_was_asked_for_counts_alone(tmp_path: Path) -> None:
    rows = [record(str(i)) for i in range(300)]
    archive = write_archive(tmp_path / "a", rows, shard_records=290, shard_bytes=100_000)
    assert [archive.footer(shard).rows for shard in archive.shards] == [290, 10]


@pytest.mark.parametrize("signal", ["int16", "float32"])
def test_what_is_written_is_read(tmp_path: Path, signal: str) -> None:
    rows = [record(str(i), signal=wave(i, samples=50 + i).astype(signal)) for i in range(200)]
    archive = write_archive(tmp_path / "a", rows, signal, shard_records=150)
    for row, (record_id, values) in zip(rows, all_records(archive), strict=True):
        assert record_id == row["record_id"]
        np.testing.assert_array_equal(values, row["signal"])
        assert values.dtype == signal


def test_one_record_at_a_time_or_a_table_make_the_same_bytes(tmp_path: Path) -> None:
    extra = [pa.field("AF", pa.bool_())]
    rows = [record(str(i), AF=i % 3 == 0, valid_start=0, valid_stop=200) for i in range(300)]
    one = write_archive(tmp_path / "one", rows, extra=extra, shard_records=200)
    flat = [{**row, "signal": row["signal"].ravel().tolist()} for row in rows]
    table = pa.Table.from_pylist(flat, archive_schema("int16", extra))
    with ArchiveWriter(tmp_path / "two", {}, "int16", extra, shard_records=200) as writer:
        writer.append_table(table.slice(0, 7))
        writer.append(rows[7])
        writer.append_table(table.slice(8))
    two = Archive.open(tmp_path / "two")
    for a, b in zip(one.shards, two.shards, strict=True):
        assert Path(a.path).read_bytes() == Path(b.path).read_bytes()
    assert one.archive_id != two.archive_id


def test_the_caller_may_use_its_buffer_again(tmp_path: Path) -> None:
    buffer = wave(1)
    with ArchiveWriter(tmp_path / "a", {}) as writer:
        writer.append(record("1", signal=buffer))
        kept = buffer.copy()
        buffer[:] = 0
    np.testing.assert_array_equal(all_records(Archive.open(tmp_path / "a"))[0][1], kept)


def test_facts_found_while_writing_are_kept(tmp_path: Path) -> None:
    with ArchiveWriter(tmp_path / "a", {"kind": "test"}, archive_id="abc") as writer:
        writer.append(record("1"))
        writer.source["dropped"] = 2
    info = json.loads((tmp_path / "a/_archive.json").read_text())
    assert info["source"] == {"kind": "test", "dropped": 2}
    assert info["archive_id"] == "abc"


def test_an_exception_leaves_no_archive_and_says_so(tmp_path: Path) -> None:
    heard = Listener()
    with pytest.raises(ArchiveError, match="shape"):
        write_archive(tmp_path / "a", [record("1"), BAD], shard_records=1, progress=heard)
    assert list((tmp_path / "a").iterdir()) == []
    assert "no archive was written" in heard.said[0]


def test_an_archive_is_replaced_only_when_asked_and_only_by_a_whole_one(tmp_path: Path) -> None:
    first = write_archive(tmp_path / "a", [record(str(i)) for i in range(3)], shard_records=1)
    with pytest.raises(ArchiveError, match=r"already holds an archive.*--overwrite"):
        ArchiveWriter(tmp_path / "a", {})
    heard = Listener()
    with pytest.raises(ArchiveError, match="shape"):
        write_archive(tmp_path / "a", [record("9"), BAD], overwrite=True, shard_records=1, progress=heard)
    assert "untouched" in heard.said[0]
    assert Archive.open(tmp_path / "a") == first
    replaced = write_archive(tmp_path / "a", [record("7")], overwrite=True)
    assert [record_id for record_id, _ in all_records(replaced)] == ["7"]
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["_archive.json", "part-00000.parquet"]


def test_shards_that_others_staged_are_taken_in_and_left_overs_go(any_root: str, tmp_path: Path) -> None:
    write_archive(tmp_path / "made", [record(str(i)) for i in range(3)], shard_records=1)
    store = open_objects(place(any_root))
    store.put("_writing-0123456789ab/00000-00000.parquet", b"of a process that was killed")
    for fails in (True, False):
        with (
            pytest.raises(ZeroDivisionError) if fails else nullcontext(),
            ArchiveWriter(any_root, {"kind": "test"}) as writer,
        ):
            writer.open_staging()
            for i in (2, 0, 1):
                shard = (tmp_path / f"made/part-0000{i}.parquet").read_bytes()
                store.put(f"{writer.staging}/0000{i}.parquet", shard)
            _ = 1 / (not fails)
            writer.adopt_staged([(f"0000{i}.parquet", 1) for i in range(3)])
        assert not fails or not [name for name in store.list_prefix("") if "0123456789ab" not in name]
    assert list(store.list_prefix("")) == ["_archive.json", *(f"part-0000{i}.parquet" for i in range(3))]
    archive = Archive.open(place(any_root))
    assert [record_id for record_id, _ in all_records(archive)] == ["0", "1", "2"]
    assert (archive.info["records"], archive.info["shards"]) == (3, 3)


def test_a_folder_with_other_things_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.docx").touch()
    with pytest.raises(ArchiveError, match=r"thesis\.docx"):
        ArchiveWriter(tmp_path, {}, overwrite=True)
    with pytest.raises(ArchiveError, match="is a file"):
        ArchiveWriter(tmp_path / "thesis.docx", {})


def test_bad_rows_are_refused(tmp_path: Path) -> None:
    writer = ArchiveWriter(tmp_path / "a", {})
    with pytest.raises(ArchiveError, match="column 'nonsense' is not in this archive"):
        writer.append(record("1", nonsense=1))
    with pytest.raises(ArchiveError, match=r"record '1': signal is float64 of shape \(2, 3\)"):
        writer.append(record("1", signal=np.zeros((2, 3))))
    with pytest.raises(ArchiveError, match="schema is not the archive's"):
        writer.append_table(pa.table({"record_id": ["1"]}))
    with pytest.raises(ArchiveError, match="at least 1"):
        ArchiveWriter(tmp_path / "b", {}, shard_records=0)
    with pytest.raises(ArchiveError, match="no records"), ArchiveWriter(tmp_path / "c", {}):
        pass


@pytest.mark.parametrize(("name", "message"), [("entropy", "entropy: reserved"), ("age", "age would be there twice")])
def test_label_columns_may_not_take_a_name(name: str, message: str) -> None:
    with pytest.raises(ArchiveError, match=message):
        archive_schema("int16", [pa.field(name, pa.int32())])


def test_a_signal_type_is_checked() -> None:
    with pytest.raises(ArchiveError, match="float64"):
        archive_schema("float64")  # type: ignore[arg-type]
