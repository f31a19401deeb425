"""A full disk, two nights at the same moment, shards that change under a night's hands: told, and mended afterwards."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ecgscale.config import load_config
from ecgscale.errors import ExitCode
from ecgscale.io.objects import open_objects
from ecgscale.nightly.night import run_night
from ecgscale.passes.explain.shard import ShardExplainer
from ecgscale.passes.watch import RunWatch
from ecgscale.store import newest_manifest, open_explanations
from tests.e2e.faulty import Trip, held_content, nightly
from tests.worlds.commands.nights import NightWorld
from tests.worlds.commands.ward_world import HELD, copied, shard_world, whole

NO_ROOM_NEEDED = {"ecgscale.nightly.preflight:LEAST_FREE_BYTES": 0}
DISK = 16 * 2**20


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> NightWorld:
    folder = tmp_path_factory.mktemp("places") / "before"
    return shard_world(str(folder), folder)


@pytest.fixture(scope="module")
def undisturbed(before: NightWorld) -> dict[str, Any]:
    world = copied(before, before.scratch.parent / "undisturbed")
    nightly(world, "night").end(HELD)
    return held_content(world)


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A disk of `DISK` bytes at `folder`, where this process may mount one."""
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "ecgscale-test", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no disk can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_disk_that_fills_up(before: NightWorld, undisturbed: dict[str, Any], tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk"):
        world = copied(before, tmp_path / "disk" / "world")
        # No room at all, and then more and more: it runs out at another step each time.
        for number, room in enumerate((0, 8_000, 20_000, 36_000)):
            filled = fill(tmp_path / "disk", room)
            night = nightly(world, f"full-{number}", patch=NO_ROOM_NEEDED, says=tmp_path / f"full-{number}")
            facts = night.end(1)
            assert "No space left on device" in facts["error"], facts
            assert "free space" in facts["error"]
            assert newest_manifest(world.root).number == 1
            assert open_explanations(world.root).count_rows() == 24
            filled.unlink()
        nightly(world, "again", patch=NO_ROOM_NEEDED, says=tmp_path / "again").end(HELD)
        assert held_content(world) == undisturbed
        assert whole(world)


def fill(disk: Path, room: int) -> Path:
    """Fill a disk but for so many bytes; the file that does it."""
    filler, free = disk / "filler", os.statvfs(disk)
    with open(filler, "wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(free.f_bavail * free.f_frsize - room, 1))
    return filler


def test_a_disk_with_little_room_is_refused_before_any_work(before: NightWorld, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk"):
        world = copied(before, tmp_path / "disk" / "world")
        facts = nightly(world, "night", says=tmp_path / "night").end(1)
        assert "a night needs at least 1 GiB. Free some space" in facts["error"]


def test_a_disk_that_refuses_a_put(before: NightWorld, undisturbed: dict[str, Any], tmp_path: Path) -> None:
    """Like the small disk, but at any put, and wherever tests are run."""

    def one(at: int) -> None:
        kind = (errno.ENOSPC, errno.EROFS)[at % 2]
        world = copied(before, tmp_path / str(at))
        facts = nightly(world, "refused", trip=Trip(at, refusal=kind)).end(1)
        assert f"{os.strerror(kind)}. What was committed so far stays" in facts["error"]
        assert "type the same command again" in facts["error"]
        nightly(world, "again").end(HELD)
        assert held_content(world) == undisturbed
        assert whole(world)

    # The first two are of the preflight; the night's own record and what follows it are puts 13 and on.
    with ThreadPoolExecutor(2) as nights:
        list(nights.map(one, range(1, 13)))


def test_two_nights_at_the_same_moment(before: NightWorld, undisturbed: dict[str, Any], tmp_path: Path) -> None:
    def race(number: int) -> None:
        world = copied(before, tmp_path / str(number))
        nights = [nightly(world, name) for name in ("one", "other")]
        codes = sorted(night.wait() for night in nights)
        # Whoever comes when the other is through has nothing to do.
        assert codes in ([HELD, ExitCode.LOCKED], [ExitCode.DONE, HELD]), [night.said for night in nights]
        assert held_content(world) == undisturbed
        assert whole(world)

    with ThreadPoolExecutor(2) as races:
        list(races.map(race, range(4)))


def test_a_shard_that_is_replaced_while_it_is_read_waits_for_the_next_night(
    before: NightWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = copied(before, tmp_path / "world")
    commit = ShardExplainer.commit

    def replaced(self: ShardExplainer, pending: Any, *arguments: Any, **options: Any) -> Any:
        if pending.source.key == "part-00002.parquet":
            world.arrive(2, seed=9)
        return commit(self, pending, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(ShardExplainer, "commit", replaced)
        night = run_night(load_config(world.config), watch=RunWatch())
    [aside] = night.explained.set_aside
    assert (aside.key, night.exit_code) == ("part-00002.parquet", ExitCode.GATE_HELD)
    assert "was changed while it was read" in aside.reason
    assert world.published() == ["part-00000.parquet", "part-00001.parquet"]
    again = run_night(load_config(world.config), watch=RunWatch())
    assert (again.explained.computed, again.explained.set_aside, again.exit_code) == (1, (), ExitCode.DONE)
    assert world.published() == ["part-00000.parquet", "part-00001.parquet", "part-00002.parquet"]
    assert len(set(world.ids())) == len(world.ids()) == 36
    assert whole(world)


def test_a_shard_that_goes_while_a_night_runs_is_left_out(
    before: NightWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = copied(before, tmp_path / "world")
    commit = ShardExplainer.commit

    def gone(self: ShardExplainer, pending: Any, *arguments: Any, **options: Any) -> Any:
        if pending.source.key == "part-00002.parquet":
            open_objects(f"{world.where}/archive").delete(pending.source.key)
        return commit(self, pending, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(ShardExplainer, "commit", gone)
        night = run_night(load_config(world.config), watch=RunWatch())
    assert [aside.key for aside in night.explained.set_aside] == ["part-00002.parquet"]
    assert run_night(load_config(world.config), watch=RunWatch()).explained.set_aside == ()
    assert world.published() == ["part-00000.parquet", "part-00001.parquet"]
    assert whole(world)
