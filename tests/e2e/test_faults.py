"""A night that is killed anywhere and repeated ends as if nothing had happened: the same bytes, the same words.

Here the process is killed before and after every put, on a disk and in an object store. What servers, networks, disks
and people do to a night is in the files beside this one.
"""

from __future__ import annotations

import random
import signal
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.faulty import Trip, came, held_content, nightly
from tests.worlds.commands.nights import NightWorld
from tests.worlds.commands.ward_world import HELD, copied, shard_world, ward_world, whole

AT_ONCE = 2
"""Nights side by side."""


@dataclass(frozen=True)
class Ending:
    """A world after a night, less who ran it and when."""

    content: dict[str, Any]
    came: list[tuple[str, int]]
    code: int
    facts: dict[str, Any]

    @classmethod
    def of(cls, world: NightWorld, code: int, facts: dict[str, Any], stamps: bool) -> Ending:
        said = {key: facts[key] for key in ("records", "quarantined", "shards", "held", "manifest")}
        return cls(held_content(world, stamps), came(world.root), code, said)


@dataclass(frozen=True)
class Undisturbed:
    """A world before a night, how the night ends when nothing happens, and the names of its puts in order."""

    before: NightWorld
    ending: Ending
    puts: list[str]
    stamps: bool

    @classmethod
    def of(cls, before: NightWorld, after: NightWorld, stamps: bool = True) -> Undisturbed:
        night = nightly(after, "night")
        facts = night.end(HELD)
        assert whole(after)
        return cls(before, Ending.of(after, HELD, facts, stamps), night.puts, stamps)

    def trips(self, below: str = "") -> list[Trip]:
        """Every point at which a night can be killed; of puts that are not below a folder, before one, after the next.

        After one put is before the next, but for what a process leaves behind that is killed in the middle of one.
        """
        return [
            Trip(at, when)
            for at, name in enumerate(self.puts, 1)
            for when in ("before", "after")
            if below in name or when == ("before", "after")[at % 2]
        ]

    def killed(self, trip: Trip, world: NightWorld) -> None:
        """Kill a night there and repeat it: it ends as the undisturbed one did."""
        killed = nightly(world, "killed", trip=trip)
        assert killed.wait() == -signal.SIGKILL, (trip, killed.said)
        again = nightly(world, "again")
        # A night that was killed when all was done has said everything: nothing came since.
        message = HELD if self._before_the_end(trip) else 0
        facts = again.end(message)
        found = Ending.of(world, HELD, facts, self.stamps)
        assert found == self.ending, (trip, self.puts[trip.at - 1])
        assert whole(world), trip

    def _before_the_end(self, trip: Trip) -> bool:
        [last] = [at for at, name in enumerate(self.puts, 1) if "/_nights/" in name][-1:]
        return (trip.at, trip.when) < (last, "after") if trip.at != last else trip.when == "before"


def side_by_side(work: Callable[[Trip], None], trips: Iterable[Trip]) -> None:
    """Every trip, two at a time; the first that fails is told."""
    with ThreadPoolExecutor(AT_ONCE) as workers:
        list(workers.map(work, trips))


@pytest.fixture(scope="module")
def shards_came(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    folder = tmp_path_factory.mktemp("shards")
    before = shard_world(str(folder / "before"), folder / "before")
    return Undisturbed.of(before, copied(before, folder / "after"))


@pytest.fixture(scope="module")
def recordings_came(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    folder = tmp_path_factory.mktemp("recordings")
    before = ward_world(str(folder / "before"), folder / "before")
    # The times at which shards are put into the archive differ from night to night, and names hang on them.
    return Undisturbed.of(before, copied(before, folder / "after"), stamps=False)


def test_what_a_night_puts(shards_came: Undisturbed, recordings_came: Undisturbed) -> None:
    """Killing it at every put is worth something only if all of them are seen."""
    of_both = ["/_lock/", "/data/", "/_commits/", "/_reference.", "/_held/", "/_manifests/", "/_nights/", "/runs/"]
    for puts, kinds in (
        (shards_came.puts, of_both),
        (recordings_came.puts, [*of_both, "/_ingest/staged/", "/_ingest/0", "/archive/part-", "/archive/_archive."]),
    ):
        assert [kind for kind in kinds if not any(kind in name for name in puts)] == []


def test_killed_at_every_put(shards_came: Undisturbed, tmp_path: Path) -> None:
    def one(trip: Trip) -> None:
        shards_came.killed(trip, copied(shards_came.before, tmp_path / f"{trip.at}-{trip.when}"))

    side_by_side(one, shards_came.trips())


def test_killed_at_every_put_while_recordings_arrive(recordings_came: Undisturbed, tmp_path: Path) -> None:
    def one(trip: Trip) -> None:
        recordings_came.killed(trip, copied(recordings_came.before, tmp_path / f"{trip.at}-{trip.when}"))

    side_by_side(one, recordings_came.trips("/archive/"))


def test_killed_in_an_object_store(s3_root: str, tmp_path: Path) -> None:
    before = ward_world(f"{s3_root}/before", tmp_path / "before")
    undisturbed = Undisturbed.of(before, copied(before, tmp_path / "after", f"{s3_root}/after"))
    chosen = random.Random(5).sample(undisturbed.trips(), 6)

    def one(trip: Trip) -> None:
        name = f"{trip.at}-{trip.when}"
        undisturbed.killed(trip, copied(before, tmp_path / name, f"{s3_root}/{name}"))

    side_by_side(one, chosen)
