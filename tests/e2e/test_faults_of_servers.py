"""What a real object store can do to a night: die in mid-write, hang, throttle, have two at once; and dying workers.

SeaweedFS is the store, nginx throttles. After each, the same command leaves what an undisturbed night leaves.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from ecgscale.io.objects import open_objects
from ecgscale.store.commit import COMMITS, Commit, Source, commit_output
from ecgscale.store.provenance import run_facts
from tests.e2e.faulty import Nightly, Trip, held_content, nightly
from tests.e2e.slow_worker import MARKS, slow_spec
from tests.servers import Seaweed, throttled
from tests.worlds.commands.nights import NightWorld
from tests.worlds.commands.ward_world import HELD, whole

IMPATIENT = """
[storage]
attempts = 2
connect_seconds = 1
read_seconds = 1
"""
SHORT_LEASE = """
[nightly]
lease_seconds = 3
"""


def add(world: NightWorld, more: str) -> None:
    world.config.write_text(world.config.read_text() + more)


def at_the(put: str, world: NightWorld, name: str = "first") -> Nightly:
    """A night that was stopped before this put."""
    night = nightly(world, name, trip=Trip(1, signal=signal.SIGSTOP, of=put))
    assert night.stopped(), night.said
    return night


def ends_as(world: NightWorld, undisturbed: dict[str, Any], code: int = HELD) -> dict[str, Any]:
    """The same command again ends well, and what it leaves is what an undisturbed night leaves."""
    facts = nightly(world, f"again-{time.monotonic_ns()}").end(code)
    assert held_content(world) == undisturbed
    assert whole(world)
    return facts


@pytest.mark.parametrize("put", ["/data/part-00003", "/_manifests/"])
def test_the_server_is_killed_in_mid_write(
    put: str, server: Seaweed, world: NightWorld, undisturbed: dict[str, Any]
) -> None:
    add(world, IMPATIENT)
    night = at_the(put, world)
    server.pause()
    night.resume()
    time.sleep(0.3)  # the request is under way, and nobody answers it
    server.kill()
    code = night.wait()
    assert code == 1, night.said
    assert "error: cannot write s3://nights/" in night.said
    assert "type the same command again" in night.said
    server.restart()
    ends_as(world, undisturbed)


def test_a_server_that_comes_back_is_waited_for(
    server: Seaweed, world: NightWorld, undisturbed: dict[str, Any]
) -> None:
    night = at_the("/_commits/part-00002", world)
    server.kill()
    night.resume()
    server.restart()
    night.end(HELD)
    assert held_content(world) == undisturbed
    assert whole(world)


def test_a_server_that_hangs_ends_the_night_in_time(
    server: Seaweed, world: NightWorld, undisturbed: dict[str, Any]
) -> None:
    add(world, IMPATIENT)
    night = at_the("/_commits/part-00002", world)
    server.pause()
    try:
        night.resume()
        begun = time.monotonic()
        assert night.wait() == 1, night.said
        # The commit, the end of the lease and the run record: each is tried twice, for a second and a pause.
        assert time.monotonic() - begun < 20
    finally:
        server.resume()
    assert "cannot write s3://nights/" in night.said
    assert "did not answer" in night.said
    ends_as(world, undisturbed)


def test_a_store_that_throttles_is_not_hurried(
    server: Seaweed, world: NightWorld, undisturbed: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with throttled(tmp_path / "nginx", server.endpoint, rate=40, burst=15) as slow:
        nightly(world, "night", endpoint=slow.endpoint).end(HELD)
        assert slow.refused > 3
    assert held_content(world) == undisturbed
    assert whole(world)


def test_the_second_of_two_nights_is_told_of_the_first(world: NightWorld, undisturbed: dict[str, Any]) -> None:
    first = at_the("/data/part-00002", world)
    second = nightly(world, "second").end(5)
    assert "is in use by ecgscale nightly" in second["error"]
    first.resume()
    first.end(HELD)
    assert held_content(world) == undisturbed


@pytest.mark.parametrize("put", ["/_manifests/", "/_commits/part-00003"])
def test_a_holder_that_slept_wakes_to_another_and_publishes_nothing(put: str, world: NightWorld) -> None:
    add(world, SHORT_LEASE)
    sleeper = at_the(put, world)
    # What it would publish is older than this.
    world.arrive(4, seed=4)
    due = time.monotonic() + 30
    tries = 0
    while (other := nightly(world, f"other-{tries}")).wait() == 5:
        assert time.monotonic() < due
        tries += 1
    assert tries > 0
    other.end(HELD)
    published = held_content(world)
    sleeper.resume()
    facts = sleeper.end(6)
    assert "another run has taken over" in facts["error"]
    assert held_content(world) == published
    assert whole(world)
    assert len(set(world.ids())) == len(world.ids()) == 24 + 12 + 12
    assert world.published()[-1] == "part-00004.parquet"


def test_workers_that_commit_one_shard_at_once_agree(server: Seaweed, tmp_path: Path) -> None:
    store = open_objects(f"s3://nights/{tmp_path.name}")
    source = Source(key="part-00000.parquet", size=1, stamp="etag=1", rows=2, content_digest="0" * 64)
    barrier, found = threading.Barrier(6), list[Commit]()

    def commit() -> None:
        run = run_facts()
        barrier.wait()
        found.append(
            commit_output(store, source, b"the output", record_ids=["a", "b"], quarantined={}, rows=2, run=run)
        )

    threads = [threading.Thread(target=commit) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 6
    assert len({commit.run.run_id for commit in found}) == 1
    assert len(list(store.list_prefix(COMMITS))) == len(list(store.list_prefix("data"))) == 1


def test_a_worker_and_then_the_driver_are_killed_in_mid_shard(
    undisturbed: dict[str, Any], world: NightWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(world, "[runtime]\nworkers = 2\n")
    marks = tmp_path / "marks"
    marks.mkdir()
    monkeypatch.setenv(MARKS, str(marks))
    night = nightly(world, "first", patch={"ecgscale.passes.explain.committing:WorkerSpec": slow_spec})
    at_work(marks, 2)
    os.kill(min(pids(marks)), signal.SIGKILL)
    # Another takes the shard on.
    at_work(marks, 3)
    os.kill(night.pid, signal.SIGKILL)
    assert night.wait() == -signal.SIGKILL
    due = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in pids(marks)):
        assert time.monotonic() < due, "workers outlive their driver"
        time.sleep(0.05)
    ends_as(world, undisturbed)


def pids(marks: Path) -> list[int]:
    """Of workers, once for every shard that they came to."""
    return [int(mark.name.partition("-")[0]) for mark in marks.iterdir()]


def at_work(marks: Path, count: int) -> None:
    """Wait until so many workers have begun with a shard."""
    due = time.monotonic() + 60
    while len(pids(marks)) < count:
        assert time.monotonic() < due, f"only {pids(marks)} are at work"
        time.sleep(0.02)
