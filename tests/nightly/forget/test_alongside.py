"""Forgetting is for those who are alone: whoever is at work below ROOT comes first, and nobody begins beside it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ecgscale.io.objects import LocalObjects, open_objects
from ecgscale.nightly.forget import forget as forget_module
from ecgscale.store import find_dataset
from ecgscale.store.lease import LOCK, Lease, LeaseLost
from ecgscale.store.presence import FORGETTING, at_work
from tests.store.test_presence import working
from tests.worlds.commands.forgetting import busiest, copy_of, forget, grown_world, objects_below, telling
from tests.worlds.commands.nights import NightWorld


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> NightWorld:
    """A world that no test changes, or only a copy of it."""
    return grown_world(tmp_path_factory.mktemp("beside"))


def dataset(world: NightWorld) -> str:
    return find_dataset(world.root).dataset_id


def model(world: NightWorld) -> str:
    [path] = (Path(world.root) / "models").iterdir()
    return str(path)


WRITING: dict[str, Callable[[NightWorld], list[str]]] = {
    "run": lambda w: ["run", str(w.config)],
    "nightly": lambda w: ["nightly", str(w.config)],
    "refit": lambda w: ["refit", str(w.config)],
    "fit": lambda w: ["fit", f"{w.where}/archive", "--encoder", f"{w.where}/encoder", "--out", w.root],
    "explain": lambda w: ["explain", f"{w.where}/archive", "--model", model(w), "--out", w.root],
    "probe": lambda w: ["probe", w.root],
    "surrogate": lambda w: ["surrogate", w.root, "--target", "superclasses"],
    "localise": lambda w: ["localise", w.root],
    "uncertainty": lambda w: ["uncertainty", w.root, "--target", "superclasses"],
    "temporal": lambda w: ["temporal", w.root, "--target", "superclasses"],
    "sweep": lambda w: ["sweep", w.root, "--target", "superclasses"],
    "audit": lambda w: ["audit", w.root, "--target", "superclasses"],
    "release": lambda w: ["release", w.root, "--all", "--reason", "x"],
    "reject": lambda w: ["reject", w.root, "--all", "--reason", "x"],
    "rollback": lambda w: ["rollback", w.root, "1", "--reason", "x"],
    "promote": lambda w: ["promote", w.root, dataset(w), "--reason", "x"],
}


@pytest.mark.parametrize("command", WRITING)
def test_nothing_begins_while_somebody_is_forgotten(made: NightWorld, command: str) -> None:
    with Lease(made.root, "other", FORGETTING):
        before = dict(objects_below(made.root))
        refused = made.run(*WRITING[command](made), code=5)["error"]
        assert dict(objects_below(made.root)) == before
    assert f"{made.root} is in use by ecgscale forget (process " in refused
    assert "type the same command again when it has ended" in refused.lower()


def test_nobody_is_forgotten_while_others_are_at_work(made: NightWorld, tmp_path: Path) -> None:
    local = copy_of(made, tmp_path / "own")
    patient, records = busiest(local)
    with working(local.root) as process:
        before = telling(local.root, patient)
        refused = forget(local, patient, code=5)["error"]
        assert f"at work below {local.root}: ecgscale explain (process {process.pid} on " in refused
        assert "Type the same command again when it has ended" in refused
        assert patient not in refused
        # Looking changes nothing, and the others go on: the lease is free again.
        assert forget(local, patient, "--dry-run")["left"] > 0
        with Lease(local.root, "other", "a test"):
            assert telling(local.root, patient) == before
        process.kill()
        process.wait(60)
    done = forget(local, patient)
    assert done["left"] == 0
    assert f"ecgscale explain (process {process.pid} on " in done["notes"][0]
    assert telling(local.root, patient, *records) == []
    assert not [key for key in open_objects(local.root).list_prefix(LOCK) if "at_work" in key]


def test_a_night_is_at_work_and_goes_on_beside_others(made: NightWorld, tmp_path: Path) -> None:
    local = copy_of(made, tmp_path / "own")
    local.arrive(3, seed=3)
    with working(local.root):
        assert local.night()["published"]
    with at_work(local.root, "ecgscale explain"):
        assert local.night()["computed"] == 0


def test_forgetting_that_slept_does_not_say_that_nothing_is_left(
    made: NightWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is stopped for so long that another command takes it for dead, and begins."""
    local = copy_of(made, tmp_path / "own")
    patient, _ = busiest(local)
    real = forget_module.search
    slept: list[bool] = []

    def asleep(*arguments: object, **options: object) -> object:
        if not slept:
            slept.append(True)
            LocalObjects(local.root).put(f"{LOCK}/{generation(local) + 1:08d}.json", b"{}")
        return real(*arguments, **options)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(forget_module, "search", asleep)
        with pytest.raises(LeaseLost):
            forget_module.forget_patient(local.root, forget_module.Whom(patient), f"{local.where}/archive")
    assert list((Path(local.root) / "_forgetting").iterdir())
    LocalObjects(local.root).put(f"{LOCK}/{generation(local):08d}.end", b"")
    assert forget(local, patient)["left"] == 0


def generation(world: NightWorld) -> int:
    return max(int(path.name[:8]) for path in (Path(world.root) / LOCK).glob("0*.json"))
