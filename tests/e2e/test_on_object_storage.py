"""The whole path with every place in an object store: the same bytes as on a disk, readable by DuckDB and Polars."""

from __future__ import annotations

import json
from pathlib import Path

import duckdb
import polars
import pytest
from click.testing import CliRunner

from ecgscale.cli import main
from ecgscale.io.places import place, upload
from ecgscale.store import open_explanations
from ecgscale.store.dataset import find_dataset
from tests.worlds.commands.simulated import QUICK, simulated
from tests.worlds.formula.small_networks import write_small_encoder


def run(*arguments: str) -> dict[str, object]:
    result = CliRunner().invoke(main, [*arguments, "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    facts: dict[str, object] = json.loads(result.stdout.splitlines()[-1])
    return facts


def explained(archive: str, encoder: str, root: str, *runtime: str) -> dict[str, object]:
    fitted = run("fit", archive, "--encoder", encoder, "--out", root, *QUICK)
    return run("explain", archive, "--model", str(fitted["path"]), "--out", root, "--device", "cpu", *runtime)


@pytest.fixture
def on_disk(tmp_path: Path) -> tuple[str, str]:
    archive = simulated(tmp_path / "archive")
    write_small_encoder(tmp_path / "encoder")
    return str(archive), str(tmp_path / "encoder")


def test_everything_in_a_bucket_gives_the_same_bytes(on_disk: tuple[str, str], s3_root: str, tmp_path: Path) -> None:
    archive, encoder = on_disk
    upload(Path(archive), f"{s3_root}/archive", last="_archive.json")
    upload(Path(encoder), f"{s3_root}/encoder")
    here = explained(archive, encoder, str(tmp_path / "root"))
    there = explained(f"{s3_root}/archive", f"{s3_root}/encoder", f"{s3_root}/root")
    assert there["records"] == here["records"] == 60
    local, remote = (find_dataset(root).manifest for root in (str(tmp_path / "root"), f"{s3_root}/root"))
    assert local is not None
    assert remote is not None
    assert [shard.sha256 for shard in remote.content.shards] == [shard.sha256 for shard in local.content.shards]
    dataset = open_explanations(f"{s3_root}/root")
    explained_rows = dataset.to_table(columns=["record_id", "mean_entropy"])
    assert explained_rows.equals(open_explanations(tmp_path / "root").to_table(columns=["record_id", "mean_entropy"]))
    assert duckdb.sql("SELECT count(DISTINCT record_id) FROM explained_rows").fetchall() == [(60,)]
    frame = polars.scan_pyarrow_dataset(dataset).select("record_id").collect()
    assert frame["record_id"].n_unique() == 60
    # The same command again: nothing is computed.
    again = explained(f"{s3_root}/archive", f"{s3_root}/encoder", f"{s3_root}/root")
    assert (again["computed"], again["published"]) == (0, False)


def test_workers_write_to_a_bucket(on_disk: tuple[str, str], s3_root: str) -> None:
    archive, encoder = on_disk
    upload(Path(archive), f"{s3_root}/archive", last="_archive.json")
    facts = explained(f"{s3_root}/archive", encoder, f"{s3_root}/root", "--workers", "2")
    assert (facts["records"], facts["computed"]) == (60, 4)


def test_an_archive_is_made_in_a_bucket(s3_root: str) -> None:
    run("simulate", f"{s3_root}/archive", "--records", "40", "--shard-records", "16")
    assert sorted(path.name for path in place(f"{s3_root}/archive").iterdir()) == [
        "_archive.json",
        "part-00000.parquet",
        "part-00001.parquet",
        "part-00002.parquet",
    ]
    facts = run("inspect", f"{s3_root}/archive")
    assert facts["records"] == 40


def test_what_a_store_refuses_is_said_in_words(
    on_disk: tuple[str, str], s3_root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive, encoder = on_disk
    absent = "s3://no-such-bucket-anywhere/root"
    result = CliRunner().invoke(main, ["fit", archive, "--encoder", encoder, "--out", absent, *QUICK])
    assert result.exit_code == 1
    assert "there is no such bucket" in result.stderr
    result = CliRunner().invoke(main, ["inspect", f"{s3_root}/nothing"])
    assert result.exit_code == 2
    assert "no _archive.json" in result.stderr
    result = CliRunner().invoke(main, ["inspect", "gs://bucket/archive"])
    assert result.exit_code == 2
    assert "only local paths and s3://" in result.stderr
