"""Opening what was published, and only that; records that stand in two shards."""

from __future__ import annotations

from pathlib import Path

import pytest

from ecgscale.errors import PublishError, UsageError
from ecgscale.store import find_dataset, newest_manifest, open_explanations
from ecgscale.store.commit import refuse_doubles
from ecgscale.store.manifest import publish
from tests.worlds.published.shards import RUN, commit_shard, content_of, facts, publish_shards, store_of


def ids(root: Path, **options: object) -> list[str]:
    table = open_explanations(root, **options).to_table()  # type: ignore[arg-type]
    return [str(value) for value in table["record_id"].to_pylist()]


def test_reads_exactly_the_files_of_the_newest_manifest(tmp_path: Path) -> None:
    publish_shards(tmp_path, [["a", "b"], ["c"]])
    store = store_of(tmp_path)
    changed = commit_shard(store, 1, ["d"], "mtime_ns=2")
    (store.root / "data" / "_tmp-9-garbage").write_bytes(b"PAR1")
    assert ids(tmp_path) == ["a", "b", "c"]
    assert publish(store, content_of([commit_shard(store, 0, ["a", "b"]), changed]), 1, RUN)
    assert ids(tmp_path) == ["a", "b", "d"]
    assert newest_manifest(tmp_path).number == 2


def test_partial_lays_later_commits_over(tmp_path: Path) -> None:
    store = store_of(tmp_path)
    commit_shard(store, 0, ["a"])
    assert ids(tmp_path, partial=True) == ["a"]
    with pytest.raises(UsageError, match=r"nothing was published.*partial=True"):
        open_explanations(tmp_path)
    publish_shards(tmp_path, [["a"], ["b"]])
    commit_shard(store, 1, ["b2"], "mtime_ns=2")
    commit_shard(store, 2, ["c"])
    assert ids(tmp_path) == ["a", "b"]
    assert ids(tmp_path, partial=True) == ["a", "b2", "c"]


def test_the_dataset_published_last_is_opened_unless_named(tmp_path: Path) -> None:
    publish_shards(tmp_path, [["old"]], model_id="model-a")
    publish_shards(tmp_path, [["new"]], model_id="model-b")
    assert ids(tmp_path, dataset=facts("model-a").dataset_id) == ["old"]
    # Nothing below a ROOT of before says which; it is as it was, and told.
    with pytest.warns(UserWarning, match=r"nothing but the clocks .* `ecgscale promote"):
        assert find_dataset(tmp_path).dataset_id == facts("model-b").dataset_id


def test_what_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="ecgscale explain ARCHIVE"):
        open_explanations(tmp_path)
    publish_shards(tmp_path, [["a"]])
    known = facts().dataset_id
    with pytest.raises(UsageError, match=f"There are: {known}. Did you mean '{known}'"):
        open_explanations(tmp_path, dataset=known[:-1])


def test_a_record_in_two_shards_is_told_with_both_places() -> None:
    with pytest.raises(PublishError) as caught:
        refuse_doubles([("b", [("part-00000.parquet", 1), ("part-00001.parquet", 2)])])
    assert "'b': shard part-00000.parquet row 1 and shard part-00001.parquet row 2" in str(caught.value)
    assert "1 record id stands in more than one shard" in str(caught.value)


def test_many_doubles_are_counted() -> None:
    with pytest.raises(PublishError, match=r"8 record ids stand(.|\n)*and 3 more"):
        refuse_doubles([(f"r{i}", [("one", i), ("two", i)]) for i in range(8)])
