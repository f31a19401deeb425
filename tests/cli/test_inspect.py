"""`ecgscale inspect` as it is typed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow as pa
from click.testing import CliRunner, Result

from ecgscale.cli import main
from tests.worlds.formula.recordings import record, wave, write_archive, write_ptbxl


def run(*args: str | Path) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args])


def test_a_person_is_told_what_is_there(tmp_path: Path) -> None:
    run("ingest", "ptbxl", write_ptbxl(tmp_path / "src"), tmp_path / "a")
    result = run("inspect", tmp_path / "a")
    assert result.exit_code == 0, result.output
    for message in (
        "records        3 of 2 patients (1 without a patient_id) in 1 shard",
        "sampling_rate  500 Hz",
        "signal         int16, units_per_mv 1000",
        "samples        500 = 1 s (2), 0 (1)",
        "superclasses  list<",
        "NORM 2, MI 1",
        "usable         2 of 3 records",
        "empty_signal: 1 (no samples)",
        "part-00000.parquet, row 2, record '3'",
        "told at ingest: 1",
    ):
        assert message in result.stdout
    assert "15709" not in result.output


def test_json_is_the_last_line(tmp_path: Path) -> None:
    write_archive(tmp_path / "a", [record("1", AF=True)], extra=[pa.field("AF", pa.bool_())])
    facts = json.loads(run("inspect", tmp_path / "a", "--json").stdout.splitlines()[-1])
    assert facts["records"] == 1
    assert facts["status"] == {"ok": 1}
    quick = run("inspect", tmp_path / "a", "--quick")
    assert "records not checked (--quick)" in quick.stdout


def test_duplicates_across_shards_and_a_broken_shard(tmp_path: Path) -> None:
    rows = [record("1"), record("1", signal=wave(2)), record("2")]
    archive = write_archive(tmp_path / "a", rows, shard_records=1)
    result = run("inspect", tmp_path / "a")
    assert result.exit_code == 0
    assert "1 record id in several shards" in result.stdout
    assert "record '1': part-00000.parquet, row 0 and part-00001.parquet, row 0" in result.stdout
    Path(archive.shards[2].path).write_bytes(b"PAR1 no more")
    result = run("inspect", tmp_path / "a")
    assert result.exit_code == 3
    assert "unreadable shard part-00002.parquet" in result.stdout
    assert "usable         2 of 2 records" in result.stdout


def test_shards_that_were_copied_in_are_told(tmp_path: Path) -> None:
    archive = write_archive(tmp_path / "a", [record("1"), record("2")])
    assert "at ingest " not in run("inspect", tmp_path / "a").stdout
    more = write_archive(tmp_path / "more", [record("3", signal=wave(3)), record("4", signal=wave(4)), record("5")])
    shutil.copy(more.shards[0].path, tmp_path / "a" / "part-00099.parquet")
    result = run("inspect", tmp_path / "a", "--json")
    assert "records        5 of " in result.stdout
    assert "at ingest      2 records in 1 shard; since then +3 records, +1 shard" in result.stdout
    assert "5/2" not in result.stderr
    assert json.loads(result.stdout.splitlines()[-1])["at_ingest"] == {"records": 2, "shards": 1}
    Path(archive.shards[0].path).unlink()
    assert "at ingest      2 records in 1 shard; since then +1 record\n" in run("inspect", tmp_path / "a").stdout


def test_no_archive_is_a_usage_error(tmp_path: Path) -> None:
    result = run("inspect", tmp_path / "nowhere")
    assert result.exit_code == 2
    assert "no such folder" in result.stderr


def test_all_shards_broken(tmp_path: Path) -> None:
    archive = write_archive(tmp_path / "a", [record("1")])
    Path(archive.shards[0].path).write_bytes(b"nothing")
    result = run("inspect", tmp_path / "a")
    assert result.exit_code == 2
    assert "none of 1 shards can be read" in result.stderr
