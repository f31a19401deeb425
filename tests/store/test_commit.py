"""One source, one commit: whoever comes second takes the first one's record as its own."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest

from ecgscale.io.objects import LocalObjects, StoreError
from ecgscale.store.commit import (
    Commit,
    Source,
    commit_name,
    commit_output,
    find_commit,
    read_commit,
    restamp,
    stem_of_commit,
)
from ecgscale.store.provenance import run_facts

SOURCE = Source(key="part-00000.parquet", size=10, stamp="mtime_ns=1", rows=2, content_digest="c0ffee")


def commit(store: LocalObjects, data: bytes = b"data", source: Source = SOURCE, rows: int = 2) -> Commit:
    return commit_output(
        store, source, data, record_ids=["a", "b"], quarantined={"flat_signal": 1}, rows=rows, run=run_facts()
    )


def test_names_tell_the_shard_and_the_identity() -> None:
    name = commit_name("part-00000.parquet", 10, "mtime_ns=1")
    assert name == "_commits/part-00000-7ceafbe8074dd636.json"
    assert stem_of_commit(name) == "part-00000"
    assert name != commit_name("part-00000.parquet", 10, "mtime_ns=2")
    assert name != commit_name("part-00000.parquet", 11, "mtime_ns=1")


def test_a_commit_is_found_by_name_with_its_file(tmp_path: Path) -> None:
    store = LocalObjects(tmp_path)
    made = commit(store)
    assert find_commit(store, SOURCE.key, SOURCE.size, SOURCE.stamp) == made
    assert store.read(made.output.file) == b"data"
    assert made.output.file == "data/part-00000-3a6eb0790f39ac87.parquet"
    assert find_commit(store, SOURCE.key, SOURCE.size, "mtime_ns=2") is None


def test_the_first_commit_stands(tmp_path: Path) -> None:
    store = LocalObjects(tmp_path)
    first = commit(store)
    assert commit(store) == first
    assert commit(store, b"the same facts from other hardware") == first


def test_rows_that_went_missing_are_never_committed(tmp_path: Path) -> None:
    store = LocalObjects(tmp_path)
    with pytest.raises(StoreError, match="2 records went in, 1 came out"):
        commit(store, rows=1)
    assert list(store.list_prefix("")) == []


def test_a_lost_or_short_file_is_made_again(tmp_path: Path) -> None:
    store = LocalObjects(tmp_path)
    made = commit(store)
    (tmp_path / made.output.file).write_bytes(b"dat")
    assert find_commit(store, SOURCE.key, SOURCE.size, SOURCE.stamp) is None
    commit(store)
    assert store.read(made.output.file) == b"data"
    (tmp_path / made.output.file).unlink()
    again = commit(store, b"other bytes")
    assert find_commit(store, SOURCE.key, SOURCE.size, SOURCE.stamp) == again


def test_a_restamp_takes_the_output_over(tmp_path: Path) -> None:
    store = LocalObjects(tmp_path)
    first = commit(store)
    moved = SOURCE.model_copy(update={"stamp": "mtime_ns=2"})
    second = restamp(store, moved, first, run_facts())
    assert second.output == first.output
    assert second.restamped_from == first.name
    assert find_commit(store, moved.key, moved.size, moved.stamp) == second


def test_a_damaged_record_is_told_with_its_place(tmp_path: Path) -> None:
    store = LocalObjects(tmp_path)
    made = commit(store)
    store.put(made.name, b'{"version": 1}')
    with pytest.raises(StoreError, match=r"part-00000-.*json is not what ecgscale writes \(source: Field required\)"):
        read_commit(store, made.name)


def _commit_once(root: str, barrier: multiprocessing.synchronize.Barrier, out: multiprocessing.Queue[str]) -> None:
    barrier.wait()
    out.put(commit(LocalObjects(root)).model_dump_json())


def test_two_processes_commit_one_shard(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier, out = context.Barrier(2), context.Queue()
    workers = [context.Process(target=_commit_once, args=(str(tmp_path), barrier, out)) for _ in range(2)]
    for worker in workers:
        worker.start()
    records = {out.get(timeout=30) for _ in workers}
    for worker in workers:
        worker.join()
    assert len(records) == 1
    assert len(list(LocalObjects(tmp_path).list_prefix(""))) == 2
