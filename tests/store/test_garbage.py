"""Garbage goes; what is published, held, or may still be published stays, wherever the removal stops."""

from __future__ import annotations

import os
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ecgscale.errors import UsageError
from ecgscale.io.objects import LocalObjects, ObjectStore, S3Objects, StoreError
from ecgscale.store import garbage as cleaning
from ecgscale.store.commit import Commit, read_commit
from ecgscale.store.dataset import open_explanations
from ecgscale.store.garbage import Cleaned, collect_garbage, doomed_objects
from ecgscale.store.holds import hold
from ecgscale.store.lease import LockedError
from ecgscale.store.manifest import Manifest, newest_number, publish, read_manifest
from ecgscale.store.presence import Mark, at_work
from ecgscale.store.presence import cleaning as alone
from tests.worlds.published.shards import RUN, commit_shard, content_of, store_of

GRACE = timedelta(hours=72)
LATER = timedelta(hours=100)


@pytest.fixture
def root(any_root: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A place whose clock is 100 hours ahead of everything that is put there."""
    for kind in (LocalObjects, S3Objects):
        clock = kind.clock
        monkeypatch.setattr(kind, "clock", lambda store, clock=clock: clock(store) + LATER)
    return any_root


def published(store: ObjectStore, base: int, *commits: Commit) -> Manifest:
    manifest = publish(store, content_of(commits), base, RUN)
    assert manifest is not None
    return manifest


def counts(cleaned: Cleaned) -> dict[str, int]:
    """Objects removed by kind, where there were any."""
    return {kind: removed.count for kind, removed in cleaned.by_kind.items() if removed.count}


def keys(store: ObjectStore) -> set[str]:
    return set(store.list_prefix("")) if isinstance(store, LocalObjects) else set(store.list_stats(""))


def nothing_dangles(store: ObjectStore) -> None:
    """Every manifest's commits are there, and every commit's file."""
    for number in range(1, newest_number(store) + 1):
        manifest = read_manifest(store, number)
        for entry in manifest.content.shards if manifest else ():
            assert store.stat(entry.file) is not None
            assert store.stat(entry.commit) is not None
    for name in store.list_prefix("_commits"):
        commit = read_commit(store, name)
        assert commit is not None
        assert store.stat(commit.output.file) is not None


def test_nothing_to_do(root: str) -> None:
    store = store_of(root)
    published(store, 0, commit_shard(store, 0, ["a"]), commit_shard(store, 1, ["b"]))
    before = keys(store)
    cleaned = collect_garbage(root, GRACE)
    assert counts(cleaned) == {}
    assert cleaned.to_dict() | {"by_kind": None} == {
        "root": root,
        "removed": 0,
        "bytes": 0,
        "kept": 5,
        "dry_run": False,
        "grace_hours": 72.0,
        "by_kind": None,
    }
    assert keys(store) == before


def test_files_without_a_commit_go_and_foreign_ones_stay(root: str) -> None:
    store = store_of(root)
    published(store, 0, commit_shard(store, 0, ["a"]))
    store.put("data/part-00000-0123456789abcdef.parquet", b"12345")
    store.put("data/notes.txt", b"of people")
    dry = collect_garbage(root, GRACE, dry_run=True)
    assert (counts(dry), dry.dry_run) == ({"data": 1}, True)
    assert store.stat("data/part-00000-0123456789abcdef.parquet") is not None
    cleaned = collect_garbage(root, GRACE)
    assert (counts(cleaned), cleaned.by_kind["data"].bytes, cleaned.kept) == ({"data": 1}, 5, 4)
    assert store.stat("data/notes.txt") is not None
    assert store.stat("data/part-00000-0123456789abcdef.parquet") is None
    nothing_dangles(store)


def test_nothing_younger_than_the_grace_period_goes(root: str) -> None:
    store = store_of(root)
    store.put("data/part-00000-0123456789abcdef.parquet", b"12345")
    assert counts(collect_garbage(root, LATER + timedelta(hours=1))) == {}
    assert counts(collect_garbage(root, LATER - timedelta(hours=1))) == {"data": 1}


def test_a_commit_that_was_replaced_before_it_was_published(root: str) -> None:
    store = store_of(root)
    never, now = commit_shard(store, 0, ["a"]), commit_shard(store, 0, ["a", "b"], "mtime_ns=2")
    published(store, 0, now)
    assert counts(collect_garbage(root, GRACE)) == {"commits": 1, "data": 1}
    assert store.stat(never.name) is None
    assert store.stat(never.output.file) is None
    nothing_dangles(store)


def test_commits_that_may_still_be_published_stay(root: str) -> None:
    store = store_of(root)
    commit_shard(store, 3, ["unpublished at all"])
    assert counts(collect_garbage(root, GRACE)) == {}
    one = commit_shard(store, 0, ["a"])
    published(store, 0, one)
    commit_shard(store, 0, ["a", "newer than what is published"], "mtime_ns=2")
    assert counts(collect_garbage(root, GRACE)) == {}


def test_the_same_output_under_another_stamp_stays(root: str) -> None:
    store = store_of(root)
    commit_shard(store, 0, ["a"])
    published(store, 0, commit_shard(store, 0, ["a"], "mtime_ns=2"))
    assert counts(collect_garbage(root, GRACE)) == {}


def test_held_commits_stay(root: str) -> None:
    store = store_of(root)
    held, now = commit_shard(store, 0, ["odd"]), commit_shard(store, 0, ["a"], "mtime_ns=2")
    hold(store, held.source, held.name, ["drift"], RUN)
    published(store, 0, now)
    assert counts(collect_garbage(root, GRACE)) == {}


def test_older_manifests_go_only_when_asked(root: str) -> None:
    store = store_of(root)
    other = commit_shard(store, 1, ["b"])
    for number in range(4):
        published(store, number, commit_shard(store, 0, [f"a{number}"], f"mtime_ns={number}"), other)
    assert counts(collect_garbage(root, GRACE)) == {}
    kept = collect_garbage(root, GRACE, keep_manifests=2)
    assert counts(kept) == {"manifests": 2, "commits": 2, "data": 2}
    assert newest_number(store) == 4
    assert read_manifest(store, 2) is None
    nothing_dangles(store)
    assert open_explanations(root).to_table()["record_id"].to_pylist() == ["a3", "b"]
    assert counts(collect_garbage(root, GRACE, keep_manifests=1)) == {"manifests": 1, "commits": 1, "data": 1}
    assert counts(collect_garbage(root, GRACE, keep_manifests=1)) == {}


def test_a_manifest_counts_its_grace_from_when_it_was_followed(tmp_path: Path) -> None:
    store = store_of(tmp_path)
    for number in range(3):
        published(store, number, commit_shard(store, 0, [f"a{number}"], f"mtime_ns={number}"))
        os.utime(store.root / f"_manifests/0000000{number + 1}.json", (1e9 + number * 3600, 1e9 + number * 3600))
    now = datetime.fromtimestamp(1e9, UTC) + timedelta(hours=73.5)
    doomed = doomed_objects(store, now, GRACE, keep_manifests=1)
    # The first was followed 72.5 h ago; the second 71.5 h ago.
    assert list(doomed.manifests) == ["_manifests/00000001.json"]


def test_shards_that_left_the_archive_stay_as_long_as_a_manifest_shows_them(root: str) -> None:
    store = store_of(root)
    one, gone = commit_shard(store, 0, ["a"]), commit_shard(store, 1, ["b"])
    published(store, 0, one, gone)
    published(store, 1, one)
    assert counts(collect_garbage(root, GRACE)) == {}
    assert counts(collect_garbage(root, GRACE, keep_manifests=1)) == {"manifests": 1, "commits": 1, "data": 1}
    assert store.stat(gone.name) is None
    nothing_dangles(store)


def test_what_other_programs_left(root: str) -> None:
    store, whole = store_of(root), cleaning.open_objects(root)
    published(store, 0, commit_shard(store, 0, ["a"]))
    whole.put("_fits/0123.npz", b"1")
    whole.put("_probe/1", b"22")
    store.put("_clock/2", b"")
    whole.put("runs/1.json", b"{}")
    expected = {"checkpoints": 1, "preflight": 2}
    if isinstance(store, LocalObjects):
        models = Path(root) / "models"
        (models / "_tmp-x" / "deep").mkdir(parents=True)
        (models / "_tmp-x" / "deep" / "weights").write_bytes(b"333")
        (models / "_tmp-x" / "model.json").write_bytes(b"333")
        (store.root / "data" / "_tmp-1-dead").write_bytes(b"4444")
        expected["temporary"] = 3
    cleaned = collect_garbage(root, GRACE)
    assert counts(cleaned) == expected
    assert whole.read("runs/1.json") == b"{}"
    if isinstance(store, LocalObjects):
        assert list(models.iterdir()) == []
    assert counts(collect_garbage(root, GRACE)) == {}


def test_a_record_that_cannot_be_understood_stops_it(root: str) -> None:
    store = store_of(root)
    store.put("data/part-00000-0123456789abcdef.parquet", b"12345")
    store.put("_commits/part-00000-0123456789abcdef.json", b"{}")
    with pytest.raises(StoreError, match="is not what ecgscale writes"):
        collect_garbage(root, GRACE)
    assert store.stat("data/part-00000-0123456789abcdef.parquet") is not None


class Stopped(BaseException):
    """The process is told to stop."""


def grown(root: str | Path) -> LocalObjects:
    """Four manifests of a shard that changes, a shard that does not, and a file that nobody names."""
    store = store_of(Path(root))
    other = commit_shard(store, 1, ["b"])
    for number in range(4):
        published(store, number, commit_shard(store, 0, [f"a{number}"], f"mtime_ns={number}"), other)
    store.put("data/part-00000-0123456789abcdef.parquet", b"12345")
    assert isinstance(store, LocalObjects)
    return store


def test_stopped_at_every_step_nothing_dangles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cleaning, "WRITERS", 1)
    clock, delete = LocalObjects.clock, LocalObjects.delete
    monkeypatch.setattr(LocalObjects, "clock", lambda store: clock(store) + LATER)
    whole = counts(collect_garbage(grown(tmp_path / "undisturbed").root.parents[1], GRACE, keep_manifests=1))
    assert whole == {"manifests": 3, "commits": 3, "data": 4}
    undisturbed = keys(store_of(tmp_path / "undisturbed"))
    for at in range(sum(whole.values())):
        root = tmp_path / str(at)
        store = grown(root)
        done: list[str] = []

        def stopping(self: LocalObjects, key: str, done: list[str] = done, at: int = at) -> None:
            if len(done) == at:
                raise Stopped
            delete(self, key)
            done.append(key)

        with monkeypatch.context() as patch:
            patch.setattr(LocalObjects, "delete", stopping)
            with pytest.raises(Stopped):
                collect_garbage(root, GRACE, keep_manifests=1)
        nothing_dangles(store)
        collect_garbage(root, GRACE, keep_manifests=1)
        assert keys(store) == undisturbed


def test_what_is_referred_to_meanwhile_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run finds an old file in its place, and commits it while it is being thought about."""
    clock = LocalObjects.clock
    monkeypatch.setattr(LocalObjects, "clock", lambda store: clock(store) + LATER)
    store = store_of(tmp_path)
    kept = commit_shard(store, 0, ["a"])
    record = store.read(kept.name)
    store.delete(kept.name)
    plan = cleaning.doomed_objects

    def overtaken(*arguments: Any) -> Any:
        doomed = plan(*arguments)
        store.put(kept.name, record or b"")
        return doomed

    monkeypatch.setattr(cleaning, "doomed_objects", overtaken)
    cleaned = collect_garbage(tmp_path, GRACE)
    assert counts(cleaned) == {}
    nothing_dangles(store)


def test_nothing_goes_beside_a_running_writer(tmp_path: Path) -> None:
    store = store_of(tmp_path)
    store.put("data/part-00000-0123456789abcdef.parquet", b"12345")
    beside = cleaning.open_objects(tmp_path)
    mark = Mark(beside, "ecgscale explain")
    mark.announce()
    with pytest.raises(LockedError, match=r"at work below .*ecgscale explain \(process \d+") as refused:
        collect_garbage(tmp_path, timedelta(0))
    assert refused.value.exit_code == 5
    assert counts(collect_garbage(tmp_path, timedelta(0), dry_run=True)) == {"data": 1}
    mark.withdraw()
    assert counts(collect_garbage(tmp_path, timedelta(0))) == {"data": 1}
    assert not list(beside.list_prefix("_lock"))
    # Whoever cleans up within its own work is not in its own way.
    with at_work(tmp_path, "ecgscale nightly"):
        assert counts(collect_garbage(tmp_path, timedelta(0))) == {}


def test_who_begins_meanwhile_waits(tmp_path: Path) -> None:
    store_of(tmp_path)
    order: list[str] = []

    def begin() -> None:
        with at_work(tmp_path, "ecgscale explain"):
            order.append("at work")

    writer = threading.Thread(target=begin)
    with alone(cleaning.open_objects(tmp_path), "ecgscale gc"):
        writer.start()
        writer.join(timeout=0.5)
        order.append("clean")
    writer.join()
    assert order == ["clean", "at work"]


def test_no_such_root(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing lies there"):
        collect_garbage(tmp_path / "typo", GRACE)
    assert not (tmp_path / "typo").exists()
