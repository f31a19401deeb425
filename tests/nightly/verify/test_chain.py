"""The chain of manifests: what was done to one by hand is found, what was removed on purpose is no break."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from ecgscale.io.objects import ObjectStore
from ecgscale.nightly.verify.chain import broken_link, lost_versions
from ecgscale.store.garbage import collect_garbage
from ecgscale.store.manifest import PRUNED, manifest_key, newest_number, prune, publish, read_manifest
from tests.worlds.published.shards import RUN, commit_shard, content_of, store_of


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    """Five manifests of a shard that changes, and one that does not."""
    store = store_of(tmp_path)
    other = commit_shard(store, 1, ["b"])
    for number in range(5):
        commits = [commit_shard(store, 0, [f"a{number}"], f"mtime_ns={number}"), other]
        assert publish(store, content_of(commits), number, RUN)
    return store


def edit(store: ObjectStore, number: int, change: Callable[[dict[str, Any]], None]) -> None:
    facts = json.loads(store.read(manifest_key(number)) or b"")
    change(facts)
    store.put(manifest_key(number), json.dumps(facts).encode())


def test_a_whole_chain(store: ObjectStore) -> None:
    assert broken_link(store, newest_number(store)) is None
    newest = read_manifest(store, 5)
    assert newest is not None
    assert lost_versions(store, newest) == []
    assert [(one.key[-13:], one.sequence) for one in newest.content.past] == [
        ("00000.parquet", number) for number in (1, 2, 3, 4)
    ]


def test_an_older_manifest_that_was_edited(store: ObjectStore) -> None:
    edit(store, 3, lambda facts: facts["content"]["shards"].pop())
    broken = broken_link(store, 5)
    assert broken is not None
    assert broken[0] == manifest_key(4)
    assert "on top of a manifest 3" in broken[1]


def test_one_that_is_gone(store: ObjectStore) -> None:
    store.delete(manifest_key(3))
    assert broken_link(store, 5) == (
        manifest_key(3),
        "it is gone, and neither gc nor forget removed it. Restore it",
    )


def test_two_that_were_swapped(store: ObjectStore) -> None:
    two, three = (store.read(manifest_key(number)) or b"" for number in (2, 3))
    store.put(manifest_key(2), three)
    store.put(manifest_key(3), two)
    broken = broken_link(store, 5)
    assert broken is not None
    assert "says that it is manifest 3" in broken[1]


def test_the_first_that_was_removed_or_is_no_manifest(store: ObjectStore) -> None:
    store.put(manifest_key(1), b"[")
    assert "is no manifest" in (broken_link(store, 5) or ("", ""))[1]
    store.delete(manifest_key(1))
    assert (broken_link(store, 5) or ("",))[0] == manifest_key(1)


def test_an_entry_that_was_taken_out_of_the_newest(store: ObjectStore) -> None:
    def drop(facts: dict[str, Any]) -> None:
        facts["content"]["shards"] = facts["content"]["shards"][:1]

    edit(store, 5, drop)
    newest = read_manifest(store, 5)
    assert newest is not None
    assert lost_versions(store, newest) == ["part-00001.parquet"]


def test_what_gc_removed_is_no_break(store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = type(store).clock
    monkeypatch.setattr(type(store), "clock", lambda self: clock(self) + timedelta(hours=100))
    cleaned = collect_garbage(tmp_path, keep_manifests=2)
    assert cleaned.by_kind["manifests"].count == 3
    assert len(list(store.list_prefix(PRUNED))) == 3
    assert broken_link(store, 5) is None
    # What goes beside that does not go unseen, nor does an edited note.
    store.delete(manifest_key(4))
    assert (broken_link(store, 5) or ("",))[0] == manifest_key(4)


def test_who_is_stopped_between_a_note_and_the_removal_has_broken_nothing(store: ObjectStore) -> None:
    prune(store, [1, 3], "ecgscale forget")
    assert broken_link(store, 5) is None
    store.delete(manifest_key(3))
    assert broken_link(store, 5) is None
    edit(store, 2, lambda facts: facts.update(created="then"))
    broken = broken_link(store, 5)
    assert broken is not None
    assert "on top of a manifest 2" in broken[1]


def test_manifests_of_before_name_no_parent(store: ObjectStore) -> None:
    def before(facts: dict[str, Any]) -> None:
        facts.update(version=1)
        for name in ("parent", "pointer"):
            del facts[name]
        del facts["content"]["past"]
        facts["content"]["shards"][0]["since"] = facts["number"]
        for entry in facts["content"]["shards"]:
            del entry["sequence"]

    for number in (1, 2, 3, 4, 5):
        edit(store, number, before)
    store.delete(manifest_key(2))
    assert broken_link(store, 5) is None
    # The next one remembers what they were, in the order in which they came.
    changed = commit_shard(store, 0, ["a5"], "mtime_ns=5")
    assert publish(store, content_of([changed]), 5, RUN)
    newest = read_manifest(store, 6)
    assert newest is not None
    assert newest.version == 2
    assert [entry.sequence for entry in newest.content.shards] == [6]
    assert [(one.key[5:10], one.content_digest, one.sequence) for one in newest.content.past] == [
        ("00000", "a0", 1),
        ("00000", "a2", 3),
        ("00000", "a3", 4),
        ("00000", "a4", 5),
        ("00001", "b", 1),
    ]
    assert broken_link(store, 6) is None
    edit(store, 5, lambda facts: facts.update(created="then"))
    assert broken_link(store, 6) is not None
