"""What is served: the newest pointer, one winner a number, and the dataset published last where nobody decided."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from ecgscale.errors import PublishError, UsageError
from ecgscale.io.objects import LocalObjects, open_objects
from ecgscale.io.places import place
from ecgscale.io.settings import StoreError
from ecgscale.store.dataset import (
    SERVED,
    Pointer,
    find_dataset,
    newest_pointer,
    open_explanations,
    pointer_key,
    serve,
    served,
)
from ecgscale.store.root import EXPLANATIONS, dataset_ids
from tests.worlds.published.shards import RUN, commit_shard, facts, publish_shards, store_of

OLD, NEW = facts("model-a").dataset_id, facts("model-b").dataset_id


def publish_two(root: str) -> None:
    publish_shards(place(root), [["old"]], model_id="model-a")
    publish_shards(place(root), [["new"]], model_id="model-b")


def ids(root: str, **options: object) -> list[str]:
    table = open_explanations(root, **options).to_table()  # type: ignore[arg-type]
    return [str(value) for value in table["record_id"].to_pylist()]


def test_the_newest_pointer_says_what_is_served(any_root: str) -> None:
    publish_two(any_root)
    assert served(any_root) is None
    first = serve(any_root, OLD, "as it was", RUN)
    assert (first.number, first.dataset_id, first.reason, first.run) == (1, OLD, "as it was", RUN)
    assert first.promoted_by
    assert first.promoted_at > RUN.started
    assert served(any_root) == first
    assert ids(any_root) == ["old"]
    assert find_dataset(any_root).dataset_id == OLD
    assert ids(any_root, dataset=NEW) == ["new"]
    second = serve(any_root, NEW, "looked at", RUN)
    assert (second.number, newest_pointer(any_root)) == (2, 2)
    assert ids(any_root) == ["new"]
    assert dataset_ids(any_root) == sorted([OLD, NEW])


def test_what_is_published_later_does_not_become_served(tmp_path: Path) -> None:
    publish_shards(tmp_path, [["old"]], model_id="model-a")
    serve(tmp_path, OLD, "as it was", RUN)
    publish_shards(tmp_path, [["new"]], model_id="model-b")
    assert ids(str(tmp_path)) == ["old"]
    publish_shards(tmp_path, [["old"], ["more"]], base=1, model_id="model-a")
    assert ids(str(tmp_path)) == ["old", "more"]


def test_partial_is_of_what_is_served(tmp_path: Path) -> None:
    publish_two(str(tmp_path))
    serve(tmp_path, OLD, "as it was", RUN)
    commit_shard(store_of(tmp_path, facts("model-a")), 1, ["since"])
    commit_shard(store_of(tmp_path, facts("model-b")), 1, ["elsewhere"])
    assert ids(str(tmp_path), partial=True) == ["old", "since"]


def test_of_many_who_decide_at_once_one_does(any_root: str) -> None:
    publish_two(any_root)
    message: list[Pointer | PublishError] = []
    at_once = threading.Barrier(6)

    def decide(number: int) -> None:
        at_once.wait()
        try:
            message.append(serve(any_root, (OLD, NEW)[number % 2], f"number {number}", RUN, base=0))
        except PublishError as error:
            message.append(error)

    threads = [threading.Thread(target=decide, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    [winner] = [one for one in message if isinstance(one, Pointer)]
    assert served(any_root) == winner
    assert newest_pointer(any_root) == 1
    for error in (one for one in message if isinstance(one, PublishError)):
        assert winner.reason in str(error)
        assert "type the same command again" in str(error)


def test_who_decided_on_an_older_view_is_told(tmp_path: Path) -> None:
    publish_two(str(tmp_path))
    serve(tmp_path, OLD, "as it was", RUN)
    serve(tmp_path, NEW, "looked at", RUN)
    with pytest.raises(PublishError, match=rf"serves dataset {NEW} \(looked at\)"):
        serve(tmp_path, OLD, "asleep since", RUN, base=1)
    assert newest_pointer(tmp_path) == 2


def test_a_listing_that_lags_does_not_hide_the_newest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish_two(str(tmp_path))
    for dataset in (OLD, NEW, OLD):
        serve(tmp_path, dataset, "again", RUN)
    whole = LocalObjects.list_prefix
    monkeypatch.setattr(LocalObjects, "list_prefix", lambda self, prefix: iter(list(whole(self, prefix))[:1]))
    assert newest_pointer(tmp_path) == 3


def test_a_dataset_that_is_gone_and_a_pointer_that_is_damaged_are_told(any_root: str) -> None:
    publish_two(any_root)
    serve(any_root, "0" * 16, "typed by hand", RUN)
    with pytest.raises(UsageError, match=r"no dataset '0000000000000000'.*00000001.json serves it.*ecgscale promote"):
        open_explanations(any_root)
    open_objects(place(any_root)).put(pointer_key(1), b"{}")
    with pytest.raises(StoreError, match="is not what ecgscale writes"):
        served(any_root)


def test_pointers_lie_beside_the_datasets() -> None:
    assert f"{EXPLANATIONS}/_served" == SERVED
    assert pointer_key(7) == "explanations/_served/00000007.json"
