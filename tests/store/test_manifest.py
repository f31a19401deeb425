"""Numbered manifests: one winner a number, nothing moves back, nothing new means no new manifest."""

from __future__ import annotations

from pathlib import Path

from ecgscale.store.manifest import SetAside, newest_number, plan_digest, publish, read_manifest
from tests.worlds.published.shards import RUN, commit_shard, content_of, facts, store_of


def test_numbers_go_up_from_one(tmp_path: Path) -> None:
    store = store_of(tmp_path)
    assert newest_number(store) == 0
    one = publish(store, content_of([commit_shard(store, 0, ["a"])]), 0, RUN)
    two = publish(store, content_of([commit_shard(store, 0, ["b"], "mtime_ns=2")]), 1, RUN)
    assert one is not None
    assert two is not None
    assert (one.number, two.number) == (1, 2)
    assert newest_number(store) == 2
    assert read_manifest(store, 2) == two


def test_nothing_new_publishes_nothing(tmp_path: Path) -> None:
    store = store_of(tmp_path)
    content = content_of([commit_shard(store, 0, ["a"])])
    first = publish(store, content, 0, RUN)
    assert publish(store, content, 1, RUN.model_copy(update={"run_id": "later"})) == first
    assert newest_number(store) == 1


def test_who_planned_on_an_older_view_has_to_plan_again(tmp_path: Path) -> None:
    store = store_of(tmp_path)
    old = content_of([commit_shard(store, 0, ["a"])])
    new = content_of([commit_shard(store, 0, ["b"], "mtime_ns=2")])
    assert publish(store, old, 0, RUN)
    assert publish(store, new, 1, RUN)
    # A process that planned on 0 or 1 and slept since.
    assert publish(store, old, 0, RUN) is None
    assert publish(store, content_of([commit_shard(store, 1, ["c"])]), 1, RUN) is None
    assert newest_number(store) == 2


def test_two_runs_with_equal_results_share_a_manifest(tmp_path: Path) -> None:
    store = store_of(tmp_path)
    content = content_of([commit_shard(store, 0, ["a"])])
    first = publish(store, content, 0, RUN)
    assert publish(store, content, 0, RUN.model_copy(update={"run_id": "other"})) == first
    assert newest_number(store) == 1


def test_a_listing_that_lags_does_not_hide_the_newest(tmp_path: Path) -> None:
    store = store_of(tmp_path)
    for base in range(3):
        assert publish(store, content_of([commit_shard(store, base, ["a"])]), base, RUN)

    class Lagging(type(store)):  # type: ignore[misc]
        def list_prefix(self, prefix: str):  # type: ignore[no-untyped-def]
            return (key for key in list(super().list_prefix(prefix))[:1])

    assert newest_number(Lagging(store.root)) == 3


def test_totals_order_and_digest(tmp_path: Path) -> None:
    store = store_of(tmp_path)
    commits = [commit_shard(store, number, [f"{number}a", f"{number}b"]) for number in (2, 0, 1)]
    aside = SetAside(key="part-00009.parquet", size=1, stamp="mtime_ns=1", reason="not Parquet")
    content = content_of(commits, [aside])
    assert [shard.key for shard in content.shards] == [f"part-0000{i}.parquet" for i in range(3)]
    assert (content.totals.shards, content.totals.records) == (3, 6)
    assert content.plan_digest == plan_digest([*reversed(content.shards), *content.set_aside])
    assert content.plan_digest != content_of(commits).plan_digest


def test_the_identity_is_everything_that_changes_facts() -> None:
    one = facts()
    others = [
        one.model_copy(update=change)
        for change in (
            {"archive_id": "x"},
            {"encoder_digest": "x"},
            {"model_digest": "x"},
            {"settings": {"entropy": "timestep"}},
            {"results_version": 2},
        )
    ]
    assert len({facts.dataset_id for facts in [one, *others]}) == 6
    assert one.dataset_id == facts().dataset_id
    assert len(one.dataset_id) == 16


def test_a_version_keeps_its_sequence_number_through_absence(tmp_path: Path) -> None:
    store = store_of(tmp_path)
    a, b, c = (commit_shard(store, number, [name]) for number, name in enumerate("abc"))
    aside = SetAside(key="part-00009.parquet", size=1, stamp="mtime_ns=1", reason="not Parquet")
    contents = [content_of([a]), content_of([b], [aside]), content_of([a, b, c])]
    found = [publish(store, content, base, RUN) for base, content in enumerate(contents)]
    numbers = [{entry.key[5:10]: entry.sequence for entry in one.content.shards} for one in found if one]
    assert numbers == [{"00000": 1}, {"00001": 2}, {"00000": 1, "00001": 2, "00002": 3}]
    assert found[1] is not None
    assert [(one.key[5:10], one.sequence) for one in found[1].content.past] == [("00000", 1)]
    # What could never be read came when it was first set aside.
    mended = commit_shard(store, 9, ["x"])
    last = publish(store, content_of([a, b, c, mended]), 3, RUN)
    assert last is not None
    assert last.content.shards[-1].sequence == 2
    assert last.content.past == ()


def test_what_is_forgotten_is_not_among_the_past(tmp_path: Path) -> None:
    store = store_of(tmp_path)
    one, other = commit_shard(store, 0, ["a", "b"]), commit_shard(store, 1, ["c"])
    assert publish(store, content_of([one, other]), 0, RUN)
    without = commit_shard(store, 0, ["b"], "mtime_ns=2")
    found = publish(store, content_of([without, other]), 1, RUN, forgotten={one.source.identity})
    assert found is not None
    assert found.content.past == ()
