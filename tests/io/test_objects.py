"""Whole objects, one winner, no traces of those who lost."""

from __future__ import annotations

import errno
import multiprocessing
import os
from pathlib import Path

import pytest

from ecgscale.io.objects import LocalObjects, StoreError


def test_put_if_absent_has_one_winner_and_keeps_the_first(tmp_path: Path) -> None:
    store = LocalObjects(tmp_path)
    assert store.put_if_absent("a/b.json", b"first")
    assert not store.put_if_absent("a/b.json", b"second")
    assert store.read("a/b.json") == b"first"
    assert os.listdir(tmp_path / "a") == ["b.json"]


def test_put_replaces_whole(tmp_path: Path) -> None:
    store = LocalObjects(tmp_path)
    store.put("x", b"old")
    store.put("x", b"new and longer")
    assert store.read("x") == b"new and longer"
    stat = store.stat("x")
    assert stat is not None
    assert stat.size == 14


def test_what_is_not_there(tmp_path: Path) -> None:
    store = LocalObjects(tmp_path / "nowhere")
    assert store.read("x") is None
    assert store.stat("x") is None
    assert list(store.list_prefix("_commits")) == []


@pytest.mark.parametrize("key", ["../outside", "a/../../outside", "/etc/hostname"])
def test_no_key_leads_out_of_the_place(tmp_path: Path, key: str) -> None:
    """Of commits, manifests and lists that somebody else has made."""
    store, outside = LocalObjects(tmp_path / "root"), tmp_path / "outside"
    outside.write_bytes(b"kept")
    for does in (store.read, store.delete, store.stat, store.location, lambda key: store.put(key, b""),
                 lambda key: store.put_if_absent(key, b""), lambda key: store.copy(key, "here")):  # fmt: skip
        with pytest.raises(StoreError, match="is no object below"):
            does(key)
    assert outside.read_bytes() == b"kept"


def test_listing_is_sorted_and_skips_leftovers(tmp_path: Path) -> None:
    store = LocalObjects(tmp_path)
    for name in ("c/2", "c/1", "d/3"):
        store.put(name, b"")
    (tmp_path / "c" / "_tmp-1-dead").write_bytes(b"half an ob")
    assert list(store.list_prefix("c")) == ["c/1", "c/2"]


def test_a_full_disk_leaves_nothing_and_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LocalObjects(tmp_path)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match=r"No space left on device.*type the same command again"):
        store.put_if_absent("data/x", b"1")
    assert os.listdir(tmp_path / "data") == []


def test_a_read_only_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(b"a file where a folder should be")
    with pytest.raises(StoreError, match="cannot write"):
        LocalObjects(tmp_path).put("data/x", b"1")


def _race(root: str, barrier: multiprocessing.synchronize.Barrier, wins: multiprocessing.Queue[int], me: int) -> None:
    store = LocalObjects(root)
    for number in range(50):
        barrier.wait()
        if store.put_if_absent(f"m/{number}", str(me).encode() * 1000):
            wins.put(number)


def test_processes_race_and_exactly_one_wins_each(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier, wins = context.Barrier(3), context.Queue()
    racers = [context.Process(target=_race, args=(str(tmp_path), barrier, wins, me)) for me in range(3)]
    for racer in racers:
        racer.start()
    won = sorted(wins.get(timeout=30) for _ in range(50))
    for racer in racers:
        racer.join()
    assert won == list(range(50))
    assert wins.empty()
    for number in range(50):
        data = LocalObjects(tmp_path).read(f"m/{number}")
        assert data is not None
        assert len(data) == 1000
        assert len(set(data)) == 1


def _die_before_the_link(root: str) -> None:
    os.link = lambda *_: os._exit(9)  # type: ignore[assignment]
    LocalObjects(root).put_if_absent("data/x", b"whole object")


def test_a_process_killed_in_mid_write_leaves_garbage_that_nothing_reads(tmp_path: Path) -> None:
    process = multiprocessing.get_context("fork").Process(target=_die_before_the_link, args=(str(tmp_path),))
    process.start()
    process.join()
    assert process.exitcode == 9
    store = LocalObjects(tmp_path)
    assert [name.startswith("_tmp-") for name in os.listdir(tmp_path / "data")] == [True]
    assert list(store.list_prefix("")) == []
    assert store.stat("data/x") is None
    assert store.put_if_absent("data/x", b"whole object")
