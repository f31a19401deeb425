"""What was published when and by what, and what people decided."""

from __future__ import annotations

import getpass
from pathlib import Path

import pytest

from ecgscale.errors import UsageError
from ecgscale.nightly.history import _moments, decide_on, roll_back, root_history
from ecgscale.nightly.models.promote import promote
from ecgscale.store.holds import Decision, hold, holds
from tests.cli.operated import facts, typed
from tests.nightly.models.test_promote import NEW, OLD, two_datasets
from tests.worlds.commands.nights import NightWorld, new_world
from tests.worlds.published.shards import RUN, commit_shard, store_of
from tests.worlds.published.shards import facts as identity

ME = getpass.getuser()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> NightWorld:
    """Three manifests, of which the first holds again, and what was held by that released."""
    folder = tmp_path_factory.mktemp("history")
    world = new_world(str(folder), folder)
    for number in (2, 3):
        world.arrive(number, seed=number)
    world.night()
    roll_back(world.root, 1, "wrong units")
    decide_on(world.root, [], "released", "units mended", every=True)
    world.night()
    return world


def test_manifests_with_the_commands_that_made_them(world: NightWorld) -> None:
    lines = root_history(world.root, 10).manifests
    assert [(line.number, line.by, line.records, line.shards, line.held) for line in lines] == [
        (4, "nightly", 48, 4, 0),
        (3, "rollback", 24, 2, 2),
        (2, "nightly", 48, 4, 0),
        (1, "run", 24, 2, 0),
    ]
    assert [line.number for line in root_history(world.root, 2).manifests] == [4, 3]
    run_id = lines[0].run_id
    assert Path(world.root, "runs", f"{run_id}.json").exists()


def test_decisions_with_who_and_why(world: NightWorld) -> None:
    released, rolled_back = root_history(world.root, 10).decisions
    assert (released.what, released.who, released.reason) == ("released", ME, "units mended")
    assert released.shards == rolled_back.shards == ("part-00002.parquet", "part-00003.parquet")
    assert (rolled_back.what, rolled_back.who) == ("rolled back", ME)
    assert rolled_back.reason == "rolled back to manifest 1: wrong units"
    assert released.at > rolled_back.at


def test_status_shows_it_when_asked(world: NightWorld) -> None:
    result = typed("status", world.root, "--history", 3)
    found = facts(result)["history"]
    assert [line["number"] for line in found["manifests"]] == [4, 3, 2]
    assert [line["what"] for line in found["decisions"]] == ["released", "rolled back"]
    for text in ("last manifests", "last decisions", "units mended", "rollback", "part-00002.parquet"):
        assert text in result.stdout
    assert "history" not in facts(typed("status", world.root))


def test_what_was_held_again_keeps_who_released_it(world: NightWorld) -> None:
    roll_back(world.root, 1, "wrong units after all")
    decisions = root_history(world.root, 10).decisions
    assert [line.what for line in decisions] == ["rolled back", "released"]
    assert decisions[1].reason == "units mended"


def test_promotions_and_what_two_datasets_tell_of(tmp_path: Path) -> None:
    two_datasets(tmp_path)
    old = store_of(tmp_path, identity("model-a"))
    commit = commit_shard(old, 2, ["c"])
    hold(old, commit.source, commit.name, ["upside down"], RUN)
    decide_on(tmp_path, [commit.source.key], "rejected", "it was", OLD)
    promote(tmp_path, NEW, "looked at")
    past = root_history(tmp_path, 10)
    assert len(holds(store_of(tmp_path, identity("model-b")))) == 1
    assert [(line.what, line.dataset_id, line.reason) for line in past.decisions] == [
        ("promoted", NEW, "looked at"),
        ("rejected", past.decisions[1].dataset_id, "it was"),
        ("promoted", OLD, "as it was"),
    ]
    assert {line.dataset_id for line in past.manifests} == {OLD, NEW}
    assert {line.by for line in past.manifests} == {""}
    assert f"dataset {NEW}" in typed("status", tmp_path, "--history", 5).stdout


def test_a_root_without_anything(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no ROOT"):
        root_history(tmp_path, 5)
    (tmp_path / "models").mkdir()
    assert root_history(tmp_path, 5).to_dict() == {"manifests": [], "decisions": []}
    assert "nobody has released" in typed("status", tmp_path, "--history", 5).stdout


@pytest.mark.parametrize("reason", ["units mended", "at last: by all means, at 5"])
def test_a_decision_is_read_back_from_its_words(reason: str) -> None:
    made = Decision(state="released", reason=reason, decided_by="ada", decided_at="2026-11-20T02:31:00+00:00")
    assert Decision.read(made.sentence()) == made
    assert Decision.read("rolled back to manifest 1: released by mistake") is None


def test_what_was_decided_within_moments_is_one_decision() -> None:
    at = ["2026-01-02T02:31:59.9+00:00", "2026-01-02T02:32:00.1+00:00", "2026-01-02T02:40:00+00:00"]
    parted = list(_moments([(time, f"part-{i}") for i, time in enumerate(at)]))
    assert [[key for _, key in together] for together in parted] == [["part-0", "part-1"], ["part-2"]]
    assert list(_moments([])) == []
