"""Exactly once: stopped anywhere, repeated, overtaken, changed underneath; the end is that of an undisturbed run."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import ecgscale.passes.explain.explain as explain_pass
from ecgscale.archive import shard as archive_shard
from ecgscale.archive.reader import Archive
from ecgscale.errors import ExitCode, PublishError, ShardError
from ecgscale.store import newest_manifest, open_explanations
from ecgscale.store.manifest import plan_digest
from tests.explain.golden import write_archive
from tests.worlds.commands.explaining import (
    Stopped,
    TrippingStore,
    Watching,
    change_a_sample,
    explain,
    rewrite,
    rows,
    state,
)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return write_archive(tmp_path / "archive")  # 10 records in shards of 4, 4, 2


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


@pytest.mark.parametrize("checksums", [True, False])
def test_a_new_stamp_on_content_that_is_not_what_its_footer_says(
    archive: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checksums: bool
) -> None:
    """A restored backup, a copy over a bad cable: told, and never believed for its footer."""
    first = explain(archive, model, tmp_path / "out")
    shard = archive / "part-00001.parquet"
    change_a_sample(shard)
    if not checksums:
        # What shards of before have: the digest alone finds it.
        monkeypatch.setattr(archive_shard, "open_parquet_file", pq.ParquetFile)
    again = explain(archive, model, tmp_path / "out")
    assert (again.exit_code, again.restamped, again.computed) == (ExitCode.SHARDS_SET_ASIDE, 0, 0)
    assert [aside.key for aside in again.set_aside] == ["part-00001.parquet"]
    assert ("do not fit their checksum" if checksums else "content digest") in again.set_aside[0].reason
    fresh = explain(archive, model, tmp_path / "fresh")
    assert [aside.key for aside in fresh.set_aside] == ["part-00001.parquet"]
    assert fresh.records == again.records == first.records - 4


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
    content = newest_manifest(tmp_path / "out").content
    assert content.set_aside == result.set_aside
    assert content.plan_digest == plan_digest([*content.shards, *content.set_aside])
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
    resolve_duplicates = explain_pass.resolve_duplicates
    others: list[int] = []

    def overtaken(*arguments: Any, **options: Any) -> Any:
        resolved = resolve_duplicates(*arguments, **options)
        if not others:
            others.append(0)
            os.utime(archive / "part-00000.parquet", ns=(5, 5))
            others[0] = explain(archive, model, tmp_path / "out").manifest
        return resolved

    monkeypatch.setattr(explain_pass, "resolve_duplicates", overtaken)
    result = explain(archive, model, tmp_path / "out")
    assert others == [1]
    assert (result.manifest, result.published) == (1, False)
    assert newest_manifest(tmp_path / "out").content.shards[0].stamp == "mtime_ns=5"


def _explain_at_once(archive: Path, model: Path, out: Path, barrier: Any, killed: bool) -> None:
    if killed:
        link, links = os.link, []

        def link_or_die(source: Any, target: Any) -> None:
            links.append(target)
            if len(links) == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            link(source, target)

        os.link = link_or_die  # type: ignore[assignment]
    barrier.wait()
    explain(archive, model, out)


def test_three_runs_at_once_one_of_them_killed_do_no_harm(archive: Path, model: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.worlds.commands.explaining"])  # torch is imported once, not three times
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
