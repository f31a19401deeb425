"""Simulating on workers: byte for byte what one process writes, and nothing where a worker fails for good."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from ecgscale.archive.reader import Archive
from ecgscale.archive.synthetic.simulation import simulate
from ecgscale.archive.writer import ArchiveWriter
from ecgscale.errors import EcgscaleError, UsageError
from ecgscale.passes.ingest import simulate as module
from ecgscale.passes.ingest.simulate import simulate_archive
from ecgscale.passes.workers import WorkerPool, WorkerSpec
from ecgscale.runtime.scheduler import PoolLimits, choose_runtime

SHORT = {"rate": 100.0, "seconds": 2.0}


def pool_of(workers: int, limits: PoolLimits | None = None) -> module.OpenPool:
    return choose_runtime("local", workers, limits=limits)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix == ".parquet"}


def test_shards_are_those_of_one_process(tmp_path: Path) -> None:
    # Shards that row groups of 128 do not divide, and a last one that is shorter.
    one = simulate(tmp_path / "one", 700, 5, 300, **SHORT)
    two = simulate_archive(tmp_path / "two", 700, 5, 300, pool=pool_of(2), **SHORT)
    assert {**one, "archive": ""} == {**two, "archive": ""}
    assert files(tmp_path / "one") == files(tmp_path / "two")
    assert len(files(tmp_path / "two")) == 3
    ours, theirs = (Archive.open(tmp_path / name).info for name in ("one", "two"))
    assert {**ours, "created_at": ""} == {**theirs, "created_at": ""}


def test_several_workers_need_shards_of_a_known_size(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="give --shard-records, such as 2000"):
        simulate_archive(tmp_path / "archive", 10, pool=pool_of(2), **SHORT)
    assert not (tmp_path / "archive").exists()
    assert simulate_archive(tmp_path / "archive", 10, **SHORT)["records"] == 10


def test_a_shard_that_cannot_be_made_leaves_no_archive(tmp_path: Path) -> None:
    def nowhere(spec: WorkerSpec) -> AbstractContextManager[WorkerPool]:
        wrong = WorkerSpec(spec.factory, {**spec.arguments, "seconds": 0.5})
        return pool_of(2, PoolLimits(attempts=1))(wrong)

    with pytest.raises(EcgscaleError, match=r"0\.5 s are not simulated"):
        simulate_archive(tmp_path / "archive", 40, 0, 20, pool=nowhere, **SHORT)
    assert list((tmp_path / "archive").iterdir()) == []


def test_one_process_makes_shards_of_that_number_however_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ArchiveWriter.__init__.__kwdefaults__, "shard_bytes", 2**16)
    simulate(tmp_path / "one", 150, 5, 140, **SHORT)
    simulate_archive(tmp_path / "two", 150, 5, 140, pool=pool_of(2), **SHORT)
    assert files(tmp_path / "one") == files(tmp_path / "two")
