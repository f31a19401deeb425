"""Forgetting that is stopped: whatever change was the last, the same command finishes it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ecgscale.archive.reader import Archive
from ecgscale.io.objects import LocalObjects, open_objects
from ecgscale.nightly.forget import forget as forget_module
from tests.worlds.commands.forgetting import busiest, copy_of, forget, grown_world, published, telling
from tests.worlds.commands.nights import NightWorld


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> NightWorld:
    return grown_world(tmp_path_factory.mktemp("forget"))


class Stopped(Exception):
    """As if the process had died here."""


def stopping_at(number: int, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Let change number `number` of what is stored be the last; how many there were."""
    count = 0

    def counted(name: str) -> None:
        real = getattr(LocalObjects, name)

        def changed(self: LocalObjects, key: str, *data: bytes) -> Any:
            nonlocal count
            if not key.startswith("_lock/"):
                count += 1
                if count == number:
                    raise Stopped
            return real(self, key, *data)

        monkeypatch.setattr(LocalObjects, name, changed)

    for name in ("put", "put_if_absent", "delete"):
        counted(name)
    return lambda: count


@pytest.mark.parametrize("between", ["at once", "after a night"])
def test_stopped_anywhere_the_same_command_finishes(
    made: NightWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, between: str
) -> None:
    patient, records = busiest(made)
    whole = copy_of(made, tmp_path / "whole")
    with monkeypatch.context() as patched:
        changes = stopping_at(-1, patched)
        forget(whole, patient)
        total = changes()
    expected = published(whole)
    # With a night in between, every third stop: there the others take long.
    for number in range(1, total + 1) if between == "at once" else range(2, total + 1, 3):
        world = copy_of(made, tmp_path / f"stopped-{number}")
        with monkeypatch.context() as patched:
            stopping_at(number, patched)
            with pytest.raises(Stopped):
                forget_module.forget_patient(world.root, forget_module.Whom(patient), f"{world.where}/archive")
        if between == "after a night":
            world.run("nightly", str(world.config), "--allow-recompute")
        assert forget(world, patient)["left"] == 0, number
        assert published(world) == expected, number
        assert telling(world.where + "/results", patient, *records) == [], number
        assert telling(world.where + "/archive", patient, *records) == [], number
        assert world.run("verify", world.root)["ok"], number
        assert world.run("gc", world.root, "--grace", "0")["kept"] > 0
        shutil.rmtree(world.where)


def test_a_shard_that_is_replaced_meanwhile_fails_alone(
    made: NightWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look and the writing somebody puts another file there."""
    local = copy_of(made, tmp_path / "own")
    patient, _ = busiest(local)
    real = forget_module.rewrite_shard

    def late(archive: Archive, shard: Any, traces: Any) -> None:
        data = open_objects(archive.path).read(shard.key) or b""
        (Path(str(archive.path)) / shard.key).write_bytes(data)
        real(archive, shard, traces)

    monkeypatch.setattr(forget_module, "rewrite_shard", late)
    assert "was changed while it was read" in forget(local, patient, code=1)["error"]
    monkeypatch.undo()
    assert forget(local, patient)["left"] == 0
