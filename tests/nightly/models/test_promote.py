"""Serving another dataset: what is refused, what is inherited, and the way back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ecgscale.clusters.features import BlockLayout
from ecgscale.clusters.model import ClusterModel
from ecgscale.errors import PublishError, UsageError
from ecgscale.io.numbered import to_json
from ecgscale.io.places import place
from ecgscale.nightly.gates.gatekeeper import NIGHTS
from ecgscale.nightly.models import promote as promoting
from ecgscale.nightly.models.promote import LINEAGE, promote
from ecgscale.report.subject import read_names
from ecgscale.store.dataset import DATASET_FILE, newest_pointer, open_explanations, serve, served
from ecgscale.store.holds import decide, hold, holds
from ecgscale.store.manifest import publish
from tests.cli.operated import typed
from tests.worlds.commands.refitted import source_of
from tests.worlds.published.shards import RUN, commit_shard, content_of, facts, publish_shards, store_of

OLD, NEW = facts("model-a").dataset_id, facts("model-b").dataset_id


def write_model(root: str | Path, model_id: str, refit_of: str | None = None) -> ClusterModel:
    """A model below ROOT, perhaps a refit of another in which cluster 1 died."""
    layout = BlockLayout((2,), (4,), 8, (1.0,))
    info = {"model_id": model_id, "encoder": {"id": "e", "path": "../../encoders/e", "digest": "e"}}
    model = ClusterModel(np.eye(3, 2, dtype=np.float32), np.arange(3), layout, 2, 0.5, info)
    if refit_of:
        lineage = {"model_id": refit_of, "digest": model.digest, "clusters": [0, None, 2]}
        model.info[LINEAGE] = lineage
    return ClusterModel.load(model.save(place(root) / "models"))


def two_datasets(root: str | Path, new_shards: int = 2) -> None:
    """A served dataset of two shards, and a refit of its model with so many of them published."""
    write_model(root, "model-a")
    write_model(root, "model-b", refit_of="model-a")
    publish_shards(place(root), [["a"], ["b"]], model_id="model-a")
    serve(root, OLD, "as it was", RUN)
    publish_shards(place(root), [["a"], ["b"]][:new_shards], model_id="model-b")


def ids(root: str | Path) -> list[str]:
    return [str(value) for value in open_explanations(root).to_table()["record_id"].to_pylist()]


def test_there_and_back(any_root: str) -> None:
    two_datasets(any_root)
    done = promote(any_root, NEW, " looked at ")
    assert (done.changed, done.pointer.number, done.pointer.reason, done.lacking) == (True, 2, "looked at", ())
    assert done.before is not None
    assert (done.now.content.dataset_id, done.before.content.dataset_id) == (NEW, OLD)
    assert served(any_root) == done.pointer
    again = promote(any_root, NEW, "once more")
    assert (again.changed, again.pointer) == (False, done.pointer)
    back = promote(any_root, OLD, "cluster 7 made no sense")
    assert (back.changed, back.pointer.number) == (True, 3)
    assert back.to_dict()["before"] == NEW
    assert newest_pointer(any_root) == 3


def test_without_a_pointer_the_one_published_last_is_what_was_served(tmp_path: Path) -> None:
    write_model(tmp_path, "model-a")
    write_model(tmp_path, "model-b")
    publish_shards(tmp_path, [["a"]], model_id="model-b")
    publish_shards(tmp_path, [["a"], ["b"]], model_id="model-a")
    with (
        pytest.warns(UserWarning, match="nothing but the clocks"),
        pytest.raises(UsageError, match=r"lacks 1 shard \(part-00001.parquet\)"),
    ):
        promote(tmp_path, NEW, "earlier")
    with pytest.warns(UserWarning, match="nothing but the clocks"):
        pinned = promote(tmp_path, OLD, "is fine as it is")
    assert (pinned.changed, pinned.pointer.number) == (False, 1)


def test_a_dataset_that_lacks_shards_is_refused_unless_that_is_wanted(tmp_path: Path) -> None:
    two_datasets(tmp_path, new_shards=1)
    with pytest.raises(UsageError) as caught:
        promote(tmp_path, NEW, "in a hurry")
    message = str(caught.value)
    assert "lacks 1 shard (part-00001.parquet) of what is served" in message
    assert f"served: {OLD}, model model-a, manifest 1" in message
    assert "2 records in 2 shards" in message
    assert f"to be served: {NEW}, model model-b, manifest 1" in message
    assert "`ecgscale refit CONFIG.toml --model model-b`" in message
    assert newest_pointer(tmp_path) == 1
    done = promote(tmp_path, NEW, "in a hurry", incomplete=True)
    assert (done.changed, done.lacking) == (True, ("part-00001.parquet",))
    assert ids(tmp_path) == ["a"]


def test_older_content_of_a_shard_is_lacking_too_and_newer_is_not(tmp_path: Path) -> None:
    two_datasets(tmp_path)
    old = store_of(tmp_path, facts("model-a"))
    commits = [commit_shard(old, 0, ["a"]), commit_shard(old, 1, ["b again"], "mtime_ns=2")]
    assert publish(old, content_of(commits), 1, RUN)
    with pytest.raises(UsageError, match=r"or has older content of them"):
        promote(tmp_path, NEW, "looked at")
    new = store_of(tmp_path, facts("model-b"))
    commits = [commit_shard(new, 0, ["a"]), commit_shard(new, 1, ["b once more"], "mtime_ns=3")]
    assert publish(new, content_of(commits, model_id="model-b"), 1, RUN)
    assert promote(tmp_path, NEW, "looked at").lacking == ()


def test_decisions_nights_and_names_come_along(any_root: str) -> None:
    two_datasets(any_root)
    old, new = store_of(place(any_root), facts("model-a")), store_of(place(any_root), facts("model-b"))
    model_b = place(any_root) / "models" / "model-b"
    (place(any_root) / "models" / "model-a" / "names.json").write_text(
        '{"model_id": "model-a", "names": {"0": "QRS", "1": "gone", "2": "T"}}'
    )
    old.put(f"{NIGHTS}/2026-01-01-run.json", b"{}")
    commit = commit_shard(old, 2, ["c"])
    made = hold(old, commit.source, commit.name, ["upside down"], RUN)
    decide(old, made, "rejected", "it was", "somebody")
    promote(any_root, NEW, "looked at")
    assert read_names(model_b, 3) == {0: "QRS", 2: "T"}
    assert new.read(f"{NIGHTS}/2026-01-01-run.json") == b"{}"
    [inherited] = holds(new).values()
    assert (inherited.state, inherited.decisions[0].reason) == ("rejected", "it was")
    # What is decided here stands, whatever is decided there later.
    decide(new, inherited, "released", "after all", "somebody else")
    promote(any_root, OLD, "back")
    promote(any_root, NEW, "and there")
    [kept] = holds(new).values()
    assert kept.state == "released"


def test_a_decision_made_later_is_carried_and_published_shards_that_are_held_are_refused(tmp_path: Path) -> None:
    two_datasets(tmp_path)
    old, new = store_of(tmp_path, facts("model-a")), store_of(tmp_path, facts("model-b"))
    [_, entry] = promoting.find_dataset(tmp_path, OLD).manifest.content.shards  # type: ignore[union-attr]
    for store in (old, new):
        hold(store, source_of(entry), entry.commit, ["drift"], RUN)
    [standing] = holds(old).values()
    decide(old, standing, "rejected", "another hospital's", "somebody")
    with pytest.raises(UsageError, match=r"publishes 1 shard \(part-00001.parquet\) that are held back"):
        promote(tmp_path, NEW, "looked at")
    [inherited] = holds(new).values()
    assert inherited.state == "rejected"
    assert newest_pointer(tmp_path) == 1


def test_a_rejected_shard_is_not_waited_for(tmp_path: Path) -> None:
    two_datasets(tmp_path, new_shards=1)
    new = store_of(tmp_path, facts("model-b"))
    commit = commit_shard(new, 1, ["b"])
    made = hold(new, commit.source, commit.name, ["upside down"], RUN)
    with pytest.raises(UsageError, match=r"1 shard \(part-00001.parquet\) of them is held back there \(upside down\)"):
        promote(tmp_path, NEW, "in a hurry")
    decide(new, made, "rejected", "another ward's", "somebody")
    with pytest.raises(UsageError) as caught:
        promote(tmp_path, NEW, "in a hurry")
    message = str(caught.value)
    assert "part-00001.parquet) of them is rejected there (another ward's), and no run brings" in message
    assert "brings what is kept out" in message
    assert f"`ecgscale release {tmp_path} part-00001.parquet --dataset {NEW} --reason TEXT`" in message
    assert "promote with --incomplete" in message
    assert "explains what the archive has" not in message
    done = promote(tmp_path, NEW, "without it", incomplete=True)
    assert (done.lacking, done.kept_out) == (("part-00001.parquet",), ("part-00001.parquet",))
    assert done.to_dict()["kept_out"] == ["part-00001.parquet"]


def test_the_command_tells_what_a_night_brings_and_what_it_does_not(tmp_path: Path) -> None:
    write_model(tmp_path, "model-a")
    write_model(tmp_path, "model-b", refit_of="model-a")
    publish_shards(tmp_path, [["a"], ["b"], ["c"]], model_id="model-a")
    serve(tmp_path, OLD, "as it was", RUN)
    publish_shards(tmp_path, [["a"]], model_id="model-b")
    new = store_of(tmp_path, facts("model-b"))
    commit = commit_shard(new, 1, ["b"])
    decide(new, hold(new, commit.source, commit.name, ["odd"], RUN), "rejected", "another ward's", "somebody")
    refused = typed("promote", tmp_path, NEW, "--reason", "in a hurry")
    assert refused.exit_code == 2
    assert "explains what the archive has of the others" in refused.stderr
    result = typed("promote", tmp_path, NEW, "--reason", "in a hurry", "--incomplete")
    assert result.exit_code == 0
    assert "lacking 1 shard of what was served; the next nightly run explains it" in result.stdout
    assert "lacking 1 shard held back or rejected in this dataset (part-00001.parquet); only ecgscale release" in (
        result.stdout
    )


def test_of_two_who_promote_the_second_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    two_datasets(tmp_path)
    write_model(tmp_path, "model-c")
    publish_shards(tmp_path, [["a"], ["b"]], model_id="model-c")
    looked = promoting.lacking_shards

    def while_somebody_promotes(*manifests: object) -> list[str]:
        monkeypatch.setattr(promoting, "lacking_shards", looked)
        promote(tmp_path, facts("model-c").dataset_id, "was quicker")
        return []

    monkeypatch.setattr(promoting, "lacking_shards", while_somebody_promotes)
    with pytest.raises(PublishError, match="was quicker"):
        promote(tmp_path, NEW, "looked at")
    pointer = served(tmp_path)
    assert pointer is not None
    assert (pointer.number, pointer.reason) == (2, "was quicker")


def test_what_cannot_be_served_is_refused(tmp_path: Path) -> None:
    two_datasets(tmp_path)
    with pytest.raises(UsageError, match=f"no dataset {NEW[:-1]!r} .*Did you mean"):
        promote(tmp_path, NEW[:-1], "typed wrong")
    with pytest.raises(UsageError, match="--reason"):
        promote(tmp_path, NEW, "  ")
    begun = facts("model-c")
    store_of(tmp_path, begun).put(DATASET_FILE, to_json(begun))
    with pytest.raises(UsageError, match=r"with model model-c was never published.*Type the command"):
        promote(tmp_path, begun.dataset_id, "not yet")
    publish_shards(tmp_path, [["a"], ["b"]], model_id="model-c")
    with pytest.raises(UsageError, match=r"models/model-c is gone"):
        promote(tmp_path, begun.dataset_id, "its model was removed")
    assert newest_pointer(tmp_path) == 1


def test_an_earlier_dataset_is_filled_by_explaining(tmp_path: Path) -> None:
    two_datasets(tmp_path)
    promote(tmp_path, NEW, "looked at")
    new = store_of(tmp_path, facts("model-b"))
    commits = [commit_shard(new, number, [name]) for number, name in enumerate("abc")]
    assert publish(new, content_of(commits, model_id="model-b"), 1, RUN)
    with pytest.raises(
        UsageError, match=r"`ecgscale explain /archive --model .*models/model-a --out .*--entropy none`"
    ):
        promote(tmp_path, OLD, "back")
    assert promote(tmp_path, OLD, "back", incomplete=True).lacking == ("part-00002.parquet",)


def test_what_was_served_may_be_gone(tmp_path: Path) -> None:
    two_datasets(tmp_path)
    serve(tmp_path, "0" * 16, "typed by hand", RUN)
    done = promote(tmp_path, NEW, "what is there")
    assert (done.changed, done.before) == (True, None)
