"""Shards whose carried columns differ: the dataset stays readable, and nothing vanishes without a word."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ecgscale.archive.inspect import inspect_archive
from ecgscale.archive.reader import Archive
from ecgscale.errors import ArchiveError, ExitCode
from ecgscale.nightly.verify.verify import verify_root
from ecgscale.store import newest_manifest, open_explanations
from tests.explain.golden import write_archive
from tests.worlds.commands.explaining import Watching, explain, rewrite

SHARDS = ("part-00000.parquet", "part-00001.parquet", "part-00002.parquet")


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """10 records in shards of 4, 4 and 2."""
    return write_archive(tmp_path / "archive")


def with_label(shard: Path, values: pa.Array | None, name: str = "label") -> None:
    """Give a shard a label column, or another one."""

    def change(table: pa.Table) -> pa.Table:
        table = table.drop_columns([name]) if name in table.column_names else table
        return table if values is None else table.append_column(name, values)

    rewrite(shard, change)


def read_in_every_way(root: Path) -> list[Any]:
    """The label of all records, as pyarrow, DuckDB and Polars see it."""
    opened = open_explanations(root)
    found = opened.to_table(columns=["record_id", "label"]).sort_by("record_id")["label"].to_pylist()
    sql = duckdb.sql("SELECT label FROM opened ORDER BY record_id").fetchall()
    assert [value for (value,) in sql] == found
    files = duckdb.read_parquet(opened.files, union_by_name=True)  # noqa: F841 (DuckDB finds it by name)
    assert [value for (value,) in duckdb.sql("SELECT label FROM files ORDER BY record_id").fetchall()] == found
    assert pl.scan_pyarrow_dataset(opened).sort("record_id").select("label").collect()["label"].to_list() == found
    assert verify_root(root, sample=1.0).problems == 0
    return found


@pytest.mark.parametrize("first", [0, 1, 2])
def test_the_order_in_which_wider_and_missing_columns_come_is_nothing(
    archive: Path, model: Path, tmp_path: Path, first: int
) -> None:
    labels = [pa.array([1, 2, None, 4], pa.int32()), pa.array([2**40, 6, 7, 8], pa.int64()), None]
    for shard, values in zip(SHARDS, labels, strict=True):
        with_label(archive / shard, values)
    held = {name: (archive / name).read_bytes() for name in SHARDS}
    for name in SHARDS:
        (archive / name).unlink()
    said = []
    for name in (*SHARDS[first:], *SHARDS[:first]):
        (archive / name).write_bytes(held[name])
        watching = Watching()
        result = explain(archive, model, tmp_path / "out", progress=watching)
        assert result.exit_code == ExitCode.DONE
        assert set(result.columns) <= set(watching.said)
        said += result.columns
    assert read_in_every_way(tmp_path / "out") == [1, 2, None, 4, 2**40, 6, 7, 8, None, None]
    columns = newest_manifest(tmp_path / "out").content.columns
    assert columns is not None
    assert columns.types["label"] == "int64"
    expected = {
        0: ["column label is int64 from now on: int32 before", "column label is not in part-00002.parquet: null there"],
        1: ["column label is not in part-00002.parquet: null there"],
        2: ["column label (int32) is new: null in shards that were explained before", "column label is int64 from now"],
    }[first]
    assert [any(line.startswith(wanted) for line in said) for wanted in expected] == [True] * len(expected)


def test_another_type_is_refused_and_said(archive: Path, model: Path, tmp_path: Path) -> None:
    with_label(archive / SHARDS[0], pa.array([1, 2, 3, 4], pa.int32()))
    with_label(archive / SHARDS[1], pa.array(["a", "b", "c", "d"]))
    watching = Watching()
    result = explain(archive, model, tmp_path / "out", progress=watching)
    assert (result.exit_code, result.records) == (ExitCode.SHARDS_SET_ASIDE, 6)
    [aside] = result.set_aside
    assert aside.key == SHARDS[1]
    assert "column label is string, and int32 in other shards" in aside.reason
    assert any(aside.reason in line for line in watching.said)
    assert read_in_every_way(tmp_path / "out") == [1, 2, 3, 4, None, None]
    again = explain(archive, model, tmp_path / "out")
    assert (again.published, again.exit_code) == (False, ExitCode.SHARDS_SET_ASIDE)
    # The first one was the one that was wrong: what went with it does not stand in the way.
    with_label(archive / SHARDS[0], pa.array(["w", "x", "y", "z"]))
    mended = explain(archive, model, tmp_path / "out")
    assert mended.exit_code == ExitCode.DONE
    assert read_in_every_way(tmp_path / "out") == ["w", "x", "y", "z", "a", "b", "c", "d", None, None]


def test_files_are_of_their_shard_alone(archive: Path, model: Path, tmp_path: Path) -> None:
    """Whatever other shards have: a fresh run over all of them gives the same files."""
    with_label(archive / SHARDS[1], pa.array([5, 6, 7, 8], pa.int64()))
    last = (archive / SHARDS[2]).read_bytes()
    (archive / SHARDS[2]).unlink()
    explain(archive, model, tmp_path / "nights")
    (archive / SHARDS[2]).write_bytes(last)
    with_label(archive / SHARDS[2], pa.array([9.5, 10.5]), "score")
    explain(archive, model, tmp_path / "nights")
    explain(archive, model, tmp_path / "fresh")
    nights, fresh = (newest_manifest(tmp_path / name).content for name in ("nights", "fresh"))
    assert [entry.file for entry in nights.shards] == [entry.file for entry in fresh.shards]
    assert nights.columns == fresh.columns


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda table: table.append_column("status", pa.array(["a"] * 4)), "status: reserved for the explanations"),
        (lambda table: table.append_column("age", pa.array([1.0] * 4)), "more than one column age"),
        (
            lambda table: table.set_column(table.schema.get_field_index("age"), "age", pa.array(["old"] * 4)),
            "column age is string, expected float",
        ),
        (
            lambda table: table.set_column(
                table.schema.get_field_index("signal"), "signal", table["signal"].cast(pa.list_(pa.float32()))
            ),
            "signal is float32, and int16 in this archive",
        ),
        (
            lambda table: table.set_column(
                table.schema.get_field_index("sampling_rate"), "sampling_rate", pa.array(["fast"] * 4)
            ),
            "sampling_rate is string, expected a number",
        ),
    ],
)
@pytest.mark.parametrize("position", [0, 1])
def test_columns_that_cannot_be_carried_cost_one_shard(
    archive: Path, model: Path, tmp_path: Path, change: Any, reason: str, position: int
) -> None:
    rewrite(archive / SHARDS[position], change)
    result = explain(archive, model, tmp_path / "out")
    assert (result.exit_code, result.records) == (ExitCode.SHARDS_SET_ASIDE, 6)
    [aside] = result.set_aside
    assert aside.key == SHARDS[position]
    assert reason in aside.reason


def test_an_archive_of_which_no_shard_can_be_carried_is_refused(archive: Path, model: Path, tmp_path: Path) -> None:
    for shard in SHARDS:
        rewrite(archive / shard, lambda table: table.append_column("entropy", pa.nulls(table.num_rows)))
    with pytest.raises(ArchiveError, match="entropy: reserved"):
        explain(archive, model, tmp_path / "out")


def test_what_is_laid_out_otherwise_is_the_same(archive: Path, model: Path, tmp_path: Path) -> None:
    with_label(archive / SHARDS[0], pa.array(["a", "b", None, "a"]).dictionary_encode())
    with_label(archive / SHARDS[1], pa.array(["c", "d", "e", "f"], pa.large_string()))
    with_label(archive / SHARDS[2], pa.nulls(2))
    assert explain(archive, model, tmp_path / "out").exit_code == ExitCode.DONE
    assert read_in_every_way(tmp_path / "out") == ["a", "b", None, "a", "c", "d", "e", "f", None, None]


def test_a_manifest_of_before_is_opened_by_its_files(archive: Path, model: Path, tmp_path: Path) -> None:
    with_label(archive / SHARDS[0], pa.array([1, 2, 3, 4], pa.int32()))
    explain(archive, model, tmp_path / "out")
    [manifest] = (tmp_path / "out").glob("explanations/*/_manifests/*.json")
    manifest.write_text(manifest.read_text().replace('"columns": {', '"before": {'))
    assert newest_manifest(tmp_path / "out").content.columns is None
    opened = open_explanations(tmp_path / "out")
    assert opened.to_table(columns=["label"])["label"].to_pylist() == [1, 2, 3, 4, *[None] * 6]


def test_inspect_says_how_shards_differ(archive: Path) -> None:
    with_label(archive / SHARDS[0], pa.array([1, 2, 3, 4], pa.int32()))
    with_label(archive / SHARDS[1], pa.array(["a", "b", "c", "d"]))
    with_label(archive / SHARDS[2], pa.array([1.5, 2.5]), "score")
    facts = inspect_archive(Archive.open(archive))
    assert facts["unreadable"] == {}
    assert facts["labels"] == ["label", "score"]
    assert facts["differences"] == [
        "column label is not in part-00002.parquet: null there",
        "column label is int32 in part-00000.parquet and string in part-00001.parquet",
        "column score is not in part-00000.parquet, part-00001.parquet: null there",
    ]
    assert facts["columns"]["label"]["types"] == {"int32": 1, "string": 1}


def test_labels_of_an_archive_are_read_in_one_type(archive: Path) -> None:
    with_label(archive / SHARDS[0], pa.array([1, 2, 3, 4], pa.int32()))
    with_label(archive / SHARDS[1], pa.array([2**40] * 4))
    with_label(archive / SHARDS[2], pa.array(["a", "b"]))
    unreadable: list[Any] = []
    table = Archive.open(archive).metadata(["label"], unreadable)
    assert table["label"].type == pa.int64()
    assert table["label"].to_pylist() == [1, 2, 3, 4, *[2**40] * 4]
    assert "part-00002.parquet: column label is string, and int64 in other shards" in str(unreadable[0])
    assert pq.read_schema(archive / SHARDS[0]).field("label").type == pa.int32()
