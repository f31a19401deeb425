"""What is going on below a ROOT, told from listings."""

from __future__ import annotations

import json
import shutil
import uuid
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from ecgscale.archive.reader import Archive
from ecgscale.errors import ArchiveError, UsageError
from ecgscale.io.objects import LocalObjects, StoreError, open_objects
from ecgscale.nightly.history import decide_on
from ecgscale.nightly.status import DatasetStatus, RootStatus, root_status
from ecgscale.passes.explain.explain import Policy
from ecgscale.store.commit import Source
from ecgscale.store.failures import remember
from ecgscale.store.lease import Lease
from ecgscale.store.provenance import run_facts
from tests.explain.golden import good_row, write_archive, write_model, write_rows
from tests.worlds.commands.explaining import rewrite
from tests.worlds.commands.small_world import SmallWorld


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def world(model: Path, tmp_path: Path) -> SmallWorld:
    return SmallWorld(str(tmp_path / "root"), write_archive(tmp_path / "archive", r5={"units_per_mv": 0.0}), model)


def only(found: RootStatus) -> DatasetStatus:
    [dataset] = found.datasets
    return dataset


def add_shard(world: SmallWorld, number: int, tmp_path: Path) -> str:
    """A shard more in the archive; its key."""
    more = write_rows(tmp_path / f"more{number}", [good_row(100 + number)])
    key = f"part-{number:05d}.parquet"
    shutil.copy(more / "part-00000.parquet", world.archive / key)
    return key


def hold_back(*keys: str) -> Policy:
    """Gates that find these shards odd."""

    def admission(commits: Any, newest: Any) -> dict[str, list[str]]:
        return {c.source.key: ["cluster 3 moved"] for c in commits if c.source.key in keys}

    return Policy(admission=admission)


def test_a_published_dataset(world: SmallWorld) -> None:
    world.explain()
    found = root_status(world.root)
    dataset = only(found)
    assert dataset.served
    assert (dataset.model_id, dataset.archive) == ("golden-k4", str(world.archive))
    assert (dataset.manifest, dataset.shards, dataset.records) == (1, 3, 10)
    assert dataset.quarantined == {"bad_units": 1}
    assert dataset.bytes == sum((Path(world.store.where) / file).stat().st_size for file in world.manifest.files)
    assert dataset.published_s is not None
    assert 0 <= dataset.published_s < 100
    assert (dataset.waiting.unpublished, dataset.waiting.pending, dataset.waiting.gone) == (0, 0, 0)
    assert (dataset.failed, dataset.held, dataset.rejected, dataset.set_aside) == ({}, {}, {}, {})
    assert (found.running, found.runs, found.remark) == ("", (), "")
    json.dumps(found.to_dict())


def test_what_waits_in_the_archive(world: SmallWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world.explain()
    add_shard(world, 3, tmp_path)
    rewrite(world.archive / "part-00000.parquet", lambda table: table.slice(0, 3))
    (world.archive / "part-00002.parquet").unlink()
    # No data file is read for this, and no shard.
    monkeypatch.setattr("pyarrow.parquet.ParquetFile", None)
    waiting = only(root_status(world.root)).waiting
    assert (waiting.unpublished, waiting.pending, waiting.gone) == (0, 2, 1)


def test_commits_without_a_manifest(world: SmallWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ecgscale.passes.explain.explain.publish", lambda *_: pytest.fail("stopped"))
    with pytest.raises(pytest.fail.Exception):
        world.explain()
    dataset = only(root_status(world.root))
    assert (dataset.served, dataset.manifest, dataset.records) == (False, 0, 0)
    assert dataset.model_id == "golden-k4"
    assert dataset.waiting.unpublished == 3
    assert dataset.waiting.pending is None
    monkeypatch.undo()
    world.explain()
    add_shard(world, 3, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("ecgscale.passes.explain.explain.publish", lambda *_: pytest.fail("stopped"))
        with pytest.raises(pytest.fail.Exception):
            world.explain()
    assert only(root_status(world.root)).waiting.unpublished == 1
    world.archive.rename(tmp_path / "moved")
    waiting = only(root_status(world.root)).waiting
    assert (waiting.unpublished, waiting.pending) == (1, None)
    assert "no such folder" in waiting.remark
    assert only(root_status(world.root, tmp_path / "moved")).waiting.pending == 0
    with pytest.raises(ArchiveError):
        root_status(world.root, tmp_path / "nowhere")


def test_held_and_decided(world: SmallWorld, tmp_path: Path) -> None:
    world.explain(policy=hold_back("part-00001.parquet"))
    dataset = only(root_status(world.root))
    assert dict(dataset.held) == {"part-00001.parquet": "cluster 3 moved"}
    assert (dataset.shards, dataset.waiting.unpublished, dataset.waiting.pending) == (2, 0, 0)
    decide_on(world.root, ["part-00001.parquet"], "rejected", "the leads were swapped")
    dataset = only(root_status(world.root))
    assert (dataset.held, dict(dataset.rejected)) == ({}, {"part-00001.parquet": "the leads were swapped"})
    decide_on(world.root, ["part-00001.parquet"], "released", "they were not")
    dataset = only(root_status(world.root))
    assert (dataset.held, dataset.rejected, dataset.waiting.unpublished) == ({}, {}, 1)
    world.explain(policy=hold_back())
    dataset = only(root_status(world.root))
    assert (dataset.shards, dataset.waiting.unpublished) == (3, 0)


def test_failed_and_set_aside(world: SmallWorld, tmp_path: Path) -> None:
    world.explain()
    key = add_shard(world, 3, tmp_path)
    shard = Archive.open(world.archive).shard(key)
    footer = Archive.open(world.archive).footer(shard)
    source = Source(key=key, size=shard.size, stamp=shard.stamp, rows=footer.rows, content_digest=footer.content_digest)
    remember(world.store, source, "row 0 takes its worker along", run_facts(), "c0de")
    dataset = only(root_status(world.root))
    assert dict(dataset.failed) == {key: "row 0 takes its worker along"}
    assert dataset.waiting.pending == 0
    (world.archive / "part-00004.parquet").write_bytes(b"PAR1")
    world.explain()
    # What failed was published since; what cannot be read is told by the manifest.
    dataset = only(root_status(world.root))
    assert dataset.failed == {}
    assert list(dataset.set_aside) == ["part-00004.parquet"]
    assert dataset.waiting.pending == 0, "it is told once"
    (world.archive / "part-00004.parquet").write_bytes(b"PAR1PAR1")
    assert only(root_status(world.root)).waiting.pending == 1


def test_the_last_runs_and_who_is_at_work(world: SmallWorld) -> None:
    world.explain()
    root = open_objects(world.root)
    for number in range(7):
        facts = {
            "command": "explain",
            "started": f"2026-01-0{number + 1}T02:00:00+00:00",
            "ended": f"2026-01-0{number + 1}T02:01:40+00:00",
            "outcome": "done",
            "exit_code": 0,
            "totals": {"records": number},
        }
        root.put(f"runs/{uuid.uuid4().hex}.json", json.dumps(facts).encode())
    root.put("runs/broken.json", b"{")
    runs = root_status(world.root).runs
    assert [run.outcome for run in runs] == ["unreadable", *["done"] * 4]
    assert [run.records for run in runs] == [None, 6, 5, 4, 3]
    assert (runs[1].command, runs[1].seconds, runs[1].exit_code) == ("explain", 100.0, 0)
    with Lease(world.root, "0" * 32, "ecgscale nightly"):
        assert root_status(world.root).running.startswith("ecgscale nightly, process ")
    assert root_status(world.root).running == ""


def test_where_nothing_may_be_written(world: SmallWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    world.explain()

    def refused(store: LocalObjects) -> datetime:
        raise StoreError("cannot write: read-only")

    monkeypatch.setattr(LocalObjects, "clock", refused)
    found = root_status(world.root)
    assert "the clock of this machine: cannot write: read-only" in found.remark
    assert only(found).published_s is not None


def test_a_root_without_anything(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no ROOT"):
        root_status(tmp_path)
    (tmp_path / "models").mkdir()
    assert root_status(tmp_path).datasets == ()
    with pytest.raises(UsageError, match="nothing lies there"):
        root_status(tmp_path / "typo")


def test_two_datasets_one_of_them_served(world: SmallWorld) -> None:
    world.explain()
    world.explain(entropy="timestep")
    assert [dataset.served for dataset in root_status(world.root).datasets].count(True) == 1


def test_in_an_object_store(model: Path, tmp_path: Path, s3_root: str) -> None:
    world = SmallWorld(s3_root, write_archive(tmp_path / "archive"), model)
    world.explain()
    add_shard(world, 3, tmp_path)
    found = root_status(s3_root)
    dataset = only(found)
    assert (dataset.shards, dataset.records, dataset.waiting.pending) == (3, 10, 1)
    assert found.root == s3_root
