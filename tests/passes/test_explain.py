"""The explain pass: every record out once, whatever happens in between."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import signal
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import ecgscale.passes.explain as explain_pass
from ecgscale.archive.reader import Archive
from ecgscale.errors import ArchiveError, ExitCode, PublishError, ShardError
from ecgscale.store import newest_manifest, open_explanations
from tests.explain.golden import good_row, write_archive, write_model, write_rows
from tests.passes.world import Stopped, TrippingStore, Watching, explain, rewrite, state


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("root"))


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return write_archive(tmp_path / "archive")  # 10 records in shards of 4, 4, 2


def rows(out: Path) -> list[dict[str, Any]]:
    return open_explanations(out).to_table().to_pylist()


def test_every_record_out_once_in_order(archive: Path, model: Path, tmp_path: Path) -> None:
    watch = Watching()
    result = explain(archive, model, tmp_path / "out", watch)
    table = open_explanations(tmp_path / "out").to_table()
    assert table["record_id"].to_pylist() == [f"r{number}" for number in range(10)]
    assert table["source_shard"].to_pylist() == [f"part-0000{n // 4}.parquet" for n in range(10)]
    assert set(table["status"].to_pylist()) == {"ok"}
    assert (result.records, result.shards, result.computed, result.manifest) == (10, 3, 3, 1)
    assert (watch.total, watch.unit, watch.advanced) == (10, "records", 10)
    assert result.exit_code == ExitCode.DONE
    assert (table["age"].to_pylist()[3], table["sex"].to_pylist()[3], table["fold"].to_pylist()[3]) == (43, "female", 3)


def test_facts_hold_together(archive: Path, model: Path, tmp_path: Path) -> None:
    explain(archive, model, tmp_path / "out", entropy="timestep")
    for row in rows(tmp_path / "out"):
        segments, valid = row["segments"], row["valid_stop"] - row["valid_start"]
        assert (row["sampling_rate"], row["length"], valid) == (100, 256, 220)
        assert row["start_s"] == -row["valid_start"] / 100
        assert [segments[0]["start"], segments[-1]["stop"]] == [row["valid_start"], row["valid_stop"]]
        assert all(a["stop"] == b["start"] for a, b in pairwise(segments))
        time_in = np.zeros(4)
        for segment in segments:
            time_in[segment["cluster"]] += segment["stop"] - segment["start"]
        np.testing.assert_allclose(row["proportions"], time_in / valid, atol=1e-7)
        assert abs(sum(row["proportions"]) - 1) < 1e-6
        assert abs(sum(row["soft_proportions"]) - 1) < 1e-6
        entropy = np.array(row["entropy"])
        assert len(entropy) == valid
        assert entropy.min() >= 0
        assert entropy.max() <= 1
        assert abs(entropy.mean() - row["mean_entropy"]) < 1e-6
        first = entropy[: segments[0]["stop"] - segments[0]["start"]]
        assert abs(first.mean() - segments[0]["entropy"]) < 1e-6


def test_unusable_records_keep_their_rows(model: Path, tmp_path: Path) -> None:
    flat = np.zeros((3, 220), np.int16)
    archive = write_archive(
        tmp_path / "archive",
        r1={"signal": flat},
        r2={"sampling_rate": 0.0},
        r3={"record_id": "r0"},
        r4={"leads": ["I", "II", "V2"]},
        r5={"signal": good_row(5)["signal"][:, :0]},
        r6={"record_id": None},
        r7={"valid_start": 90, "valid_stop": 94, "sampling_rate": 500.0},
        r8={"signal": np.vstack([good_row(8)["signal"][:2], flat[:1]])},
    )
    result = explain(archive, model, tmp_path / "out")
    found = rows(tmp_path / "out")
    assert [row["status"] for row in found] == [
        "ok",
        "flat_signal",
        "bad_sampling_rate",
        "duplicate_record_id",
        "missing_leads",
        "empty_signal",
        "missing_record_id",
        "too_short",
        "ok",
        "ok",
    ]
    assert found[8]["flags"] == ["flat_lead:V1"]
    for row in found:
        facts = ("prediction", "proportions", "soft_proportions", "mean_entropy", "distortion", "segments", "start_s")
        assert all((row[fact] is None) == (row["status"] != "ok") for fact in facts)
        assert row["age"] is not None
    assert result.quarantined == dict.fromkeys(sorted({row["status"] for row in found} - {"ok"}), 1)
    assert result.records == 10


def test_a_network_that_gives_nan_quarantines_that_record_alone(
    archive: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ecgscale.encoders.taps import Encoder

    explain(archive, model, tmp_path / "clean")
    forward = Encoder.forward

    def spoilt(self: Encoder, x: Any) -> Any:
        activations = forward(self, x)
        one, two, three = (block.clone() for block in activations.blocks)
        two[1, 0, 0] = float("nan")
        return dataclasses.replace(activations, blocks=(one, two, three))

    monkeypatch.setattr(Encoder, "forward", spoilt)
    explain(archive, model, tmp_path / "out")
    clean, found = rows(tmp_path / "clean"), rows(tmp_path / "out")
    assert [row["status"] for row in found[:4]] == ["ok", "non_finite_output", "ok", "ok"]
    assert found[1]["prediction"] is None
    assert [found[0], *found[2:4]] == [clean[0], *clean[2:4]]


def test_bytes_depend_on_nothing_but_the_input(archive: Path, model: Path, tmp_path: Path) -> None:
    one = explain(archive, model, tmp_path / "one")
    two = explain(archive, model, tmp_path / "two")
    assert state(one.path) == state(two.path)
    metadata = pq.read_schema(sorted(Path(one.path, "data").iterdir())[1]).metadata
    assert metadata[b"ecgscale.source_shard"] == b"part-00001.parquet"
    assert metadata[b"ecgscale.model_id"].decode() == model.name
    assert json.loads(metadata[b"ecgscale.settings"])["batch"] == 4
    assert {b"ecgscale.source_content_digest", b"ecgscale.encoder_digest", b"ecgscale.results_version"} <= set(metadata)


def test_other_settings_are_another_dataset(archive: Path, model: Path, tmp_path: Path) -> None:
    results = [
        explain(archive, model, tmp_path / "out", **options)
        for options in ({}, {"entropy": "timestep"}, {"batch": 8}, {"include_padding": True})
    ]
    assert len({result.dataset_id for result in results}) == 4
    padded = rows(tmp_path / "out")
    assert {(row["valid_start"], row["valid_stop"]) for row in padded} == {(0, 256)}
    assert {row["segments"][-1]["stop"] for row in padded} == {256}


# Exactly once


def stop_points(archive: Path, model: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many puts an undisturbed run makes."""
    store = TrippingStore(out)

    def counted(root: Path, dataset_id: str) -> TrippingStore:
        store.root = Path(root) / dataset_id
        return store

    with monkeypatch.context() as patch:
        patch.setattr(explain_pass, "dataset_store", counted)
        explain(archive, model, out)
    return store.puts


def test_stopped_at_every_step_and_repeated(
    archive: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = state(explain(archive, model, tmp_path / "undisturbed").path)
    steps = stop_points(archive, model, tmp_path / "counted", monkeypatch)
    assert steps == 1 + 3 * 2 + 1
    for at in range(1, steps + 1):
        for when in ("before", "after"):
            out = tmp_path / f"{when}-{at}"
            with monkeypatch.context() as patch:
                patch.setattr(
                    explain_pass,
                    "dataset_store",
                    lambda root, name, at=at, when=when: TrippingStore(root / "explanations" / name, at, when),
                )
                with pytest.raises(Stopped):
                    explain(archive, model, out)
            result = explain(archive, model, out)
            assert state(result.path) == undisturbed, (at, when)
            assert result.computed + result.unchanged == 3


def test_nothing_new_reads_nothing(archive: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = explain(archive, model, tmp_path / "out")

    def read(*_: object) -> None:
        raise AssertionError("an unchanged shard was read")

    monkeypatch.setattr(Archive, "footer", read)
    monkeypatch.setattr(Archive, "batches", read)
    again = explain(archive, model, tmp_path / "out")
    assert (again.computed, again.unchanged, again.manifest, again.published) == (0, 3, 1, False)
    assert again.records == first.records


def test_a_new_stamp_on_old_content_is_restamped(archive: Path, model: Path, tmp_path: Path) -> None:
    first = explain(archive, model, tmp_path / "out")
    data = sorted(Path(first.path, "data").iterdir())
    os.utime(archive / "part-00001.parquet", ns=(1, 1))
    again = explain(archive, model, tmp_path / "out")
    assert (again.computed, again.restamped, again.unchanged, again.manifest) == (0, 1, 2, 2)
    assert sorted(Path(first.path, "data").iterdir()) == data
    assert explain(archive, model, tmp_path / "out").manifest == 2


def test_an_archive_copied_before_the_first_publishing_is_restamped(archive: Path, model: Path, tmp_path: Path) -> None:
    def stop(shard: str) -> None:
        if shard == "part-00002.parquet":
            raise Stopped

    with pytest.raises(Stopped):
        explain(archive, model, tmp_path / "out", Watching(stop))
    for shard in archive.glob("part-*"):
        os.utime(shard, ns=(1, 1))
    result = explain(archive, model, tmp_path / "out")
    assert (result.restamped, result.computed) == (2, 1)


def test_a_changed_shard_supersedes(archive: Path, model: Path, tmp_path: Path) -> None:
    explain(archive, model, tmp_path / "out")
    before = rows(tmp_path / "out")

    def older(table: pa.Table) -> pa.Table:
        ages = pa.array([age + 1 for age in table["age"].to_pylist()], pa.float32())
        return table.set_column(table.schema.get_field_index("age"), "age", ages)

    rewrite(archive / "part-00001.parquet", older)
    result = explain(archive, model, tmp_path / "out")
    after = rows(tmp_path / "out")
    assert (result.computed, result.unchanged, result.manifest) == (1, 2, 2)
    assert [row["age"] for row in after] == [row["age"] + (4 <= i < 8) for i, row in enumerate(before)]
    assert [row["segments"] for row in after] == [row["segments"] for row in before]
    assert open_explanations(tmp_path / "out", partial=True).count_rows() == 10


def test_a_removed_shard_is_retired_and_a_new_one_added(archive: Path, model: Path, tmp_path: Path) -> None:
    explain(archive, model, tmp_path / "out")
    (archive / "part-00002.parquet").rename(tmp_path / "kept")
    result = explain(archive, model, tmp_path / "out")
    assert (result.retired, result.records, result.manifest) == (1, 8, 2)
    assert open_explanations(tmp_path / "out", partial=True).count_rows() == 8
    (tmp_path / "kept").rename(archive / "part-00002.parquet")
    result = explain(archive, model, tmp_path / "out")
    assert (result.computed, result.records, result.manifest) == (0, 10, 3)


@pytest.mark.parametrize("broken", [b"", b"not Parquet", "short"])
def test_a_bad_shard_fails_alone(archive: Path, model: Path, tmp_path: Path, broken: bytes | str) -> None:
    shard = archive / "part-00001.parquet"
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) // 2] if isinstance(broken, str) else broken)
    watch = Watching()
    result = explain(archive, model, tmp_path / "out", watch)
    assert result.exit_code == ExitCode.SHARDS_SET_ASIDE
    assert (result.records, result.shards) == (6, 2)
    assert [aside.key for aside in result.set_aside] == ["part-00001.parquet"]
    assert "part-00001.parquet" in watch.said[0]
    assert newest_manifest(tmp_path / "out").content.set_aside == result.set_aside
    shard.write_bytes(whole)
    result = explain(archive, model, tmp_path / "out")
    assert (result.exit_code, result.computed, result.records, result.manifest) == (ExitCode.DONE, 1, 10, 2)


def test_pages_that_are_damaged_set_the_shard_aside(archive: Path, model: Path, tmp_path: Path) -> None:
    shard = archive / "part-00000.parquet"
    data = bytearray(shard.read_bytes())
    data[100:2000] = bytes(1900)
    shard.write_bytes(data)
    result = explain(archive, model, tmp_path / "out")
    assert [aside.key for aside in result.set_aside] == ["part-00000.parquet"]
    assert result.set_aside[0].rows == 4
    assert result.records == 6


def test_no_readable_shard_publishes_nothing(archive: Path, model: Path, tmp_path: Path) -> None:
    for shard in archive.glob("part-*"):
        shard.write_bytes(b"PAR1")
    with pytest.raises(ShardError, match="none of the 3 shards"):
        explain(archive, model, tmp_path / "out")


def test_a_shard_replaced_while_it_is_read_is_set_aside(archive: Path, model: Path, tmp_path: Path) -> None:
    def replace(shard: str) -> None:
        if shard == "part-00001.parquet":
            rewrite(archive / shard, lambda table: table.slice(0, 3))

    result = explain(archive, model, tmp_path / "out", Watching(replace))
    assert "was changed while it was read" in result.set_aside[0].reason
    assert result.records == 6
    again = explain(archive, model, tmp_path / "out")
    assert (again.records, again.computed, again.exit_code) == (9, 1, ExitCode.DONE)


def test_a_record_in_two_shards_stops_publishing_alone(archive: Path, model: Path, tmp_path: Path) -> None:
    shard = archive / "part-00002.parquet"

    def rename(name: str) -> Callable[[pa.Table], pa.Table]:
        return lambda table: table.set_column(0, "record_id", pa.array(["r8", name]))

    rewrite(shard, rename("r2"))
    with pytest.raises(PublishError, match=r"'r2': shard part-00000.parquet row 2 and shard part-00002.parquet row 1"):
        explain(archive, model, tmp_path / "out")
    assert open_explanations(tmp_path / "out", partial=True).count_rows() == 10
    rewrite(shard, rename("r10"))
    result = explain(archive, model, tmp_path / "out")
    assert (result.computed, result.unchanged, result.manifest) == (1, 2, 1)


def test_a_run_that_was_overtaken_plans_again(
    archive: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = explain_pass.require_distinct_records
    others: list[int] = []

    def overtaken(store: Any, commits: Any) -> None:
        check(store, commits)
        if not others:
            others.append(0)
            os.utime(archive / "part-00000.parquet", ns=(5, 5))
            others[0] = explain(archive, model, tmp_path / "out").manifest

    monkeypatch.setattr(explain_pass, "require_distinct_records", overtaken)
    result = explain(archive, model, tmp_path / "out")
    assert others == [1]
    assert (result.manifest, result.published) == (1, False)
    assert newest_manifest(tmp_path / "out").content.shards[0].stamp == "mtime_ns=5"


def _explain_at_once(archive: Path, model: Path, out: Path, barrier: Any, killed: bool) -> None:
    if killed:
        link, links = os.link, []

        def link_or_die(source: Any, target: Any) -> None:
            links.append(target)
            if len(links) == 4:
                os.kill(os.getpid(), signal.SIGKILL)
            link(source, target)

        os.link = link_or_die  # type: ignore[assignment]
    barrier.wait()
    explain(archive, model, out)


def test_three_runs_at_once_one_of_them_killed_do_no_harm(archive: Path, model: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    barrier, out = context.Barrier(3), tmp_path / "out"
    runs = [
        context.Process(target=_explain_at_once, args=(archive, model, out, barrier, killed))
        for killed in (False, True, False)
    ]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert [run.exitcode for run in runs] == [0, -signal.SIGKILL, 0]
    alone = explain(archive, model, tmp_path / "alone")
    left = [path for path in out.rglob("_tmp-*") if path.unlink() is None]
    assert len(left) == 1
    assert state(Path(alone.path.replace("alone", "out"))) == state(alone.path)


def test_a_reserved_label_column_is_told_before_any_work(model: Path, tmp_path: Path) -> None:
    archive = write_rows(tmp_path / "archive", [good_row(0)])
    rewrite(archive / "part-00000.parquet", lambda table: table.append_column("entropy", pa.array([0.5])))
    with pytest.raises(ArchiveError, match="entropy: reserved for the explanations"):
        explain(archive, model, tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*.parquet"))


def test_a_shard_with_other_labels_is_set_aside(archive: Path, model: Path, tmp_path: Path) -> None:
    rewrite(archive / "part-00001.parquet", lambda table: table.drop_columns(["age"]))
    rewrite(
        archive / "part-00002.parquet",
        lambda table: table.set_column(table.schema.get_field_index("age"), "age", pa.array(["old", "older"])),
    )
    result = explain(archive, model, tmp_path / "out")
    assert [aside.key for aside in result.set_aside] == ["part-00001.parquet", "part-00002.parquet"]
    assert "age" in result.set_aside[0].reason


def test_duckdb_and_polars_read_the_files(archive: Path, model: Path, tmp_path: Path) -> None:
    import duckdb
    import polars

    rewrite(
        archive / "part-00001.parquet",
        lambda table: table.set_column(
            table.schema.get_field_index("sampling_rate"), "sampling_rate", pa.array([100, 0, 100, 100], pa.float32())
        ),
    )
    result = explain(archive, model, tmp_path / "out", entropy="timestep")
    expected = rows(tmp_path / "out")
    ds = open_explanations(tmp_path / "out")  # noqa: F841 (DuckDB finds it by name)
    shares = "list_sum(proportions::FLOAT[]), len(segments), len(entropy)"
    for source in ("ds", f"'{result.path}/data/*.parquet'"):
        found = duckdb.sql(f"SELECT record_id, status, {shares} FROM {source} ORDER BY record_id").fetchall()
        assert [row[0] for row in found] == [row["record_id"] for row in expected]
        assert [row[1] for row in found].count("bad_sampling_rate") == 1
        for mine, row in zip(found, expected, strict=True):
            if row["status"] == "ok":
                assert mine[2] == pytest.approx(1, abs=1e-6)
                assert mine[3:] == (len(row["segments"]), len(row["entropy"]))
            else:
                assert mine[2:] == (None, None, None)
    frame = polars.read_parquet(f"{result.path}/data/*.parquet")
    assert frame["segments"].to_list() == [row["segments"] for row in expected]
    assert frame["proportions"].to_list() == [row["proportions"] for row in expected]
