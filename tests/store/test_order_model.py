"""A correction is never undone: nights of absence, tearing, restoring, holding, releasing and sending again, at random.

Every night two drivers are at it and are killed anywhere; the functions of the protocol are the real ones. What has to
hold is said by a few lines of an oracle that remembers everything.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from datetime import timedelta

import pytest

from ecgscale.store.commit import COMMITS, Commit, read_commit
from ecgscale.store.garbage import doomed_objects, still_loose
from ecgscale.store.holds import decide, holds
from ecgscale.store.manifest import Manifest, newest_number, prune, read_manifest
from tests.store.interleaved import ArchiveModel, Held, Objects, Records, Turns, View
from tests.store.test_protocol_model import drive, published

KEYS = [f"part-{i:05d}.parquet" for i in range(4)]
HELD = 7
"""A shard with this measurement is held back by the gates."""
TIMES = [(40, False), pytest.param(1000, True, marks=pytest.mark.slow)]


pytestmark = pytest.mark.usefixtures("in_a_model")


class Oracle:
    """When what came: versions by the first night that could see them, rows by the first version of their shard that
    had them just so."""

    def __init__(self) -> None:
        self.versions: dict[tuple[str, str | None], int] = {}
        self.rows: dict[tuple[str, str], dict[str, int]] = {}
        self.records: dict[tuple[str, str], Records] = {}

    def see(self, night: int, archive: ArchiveModel) -> None:
        """What lies in the archive on a night."""
        for key, held in archive.shards.items():
            known = {digest for name, digest in self.versions if name == key and digest is not None}
            if held.torn:
                if not known:
                    self.versions.setdefault((key, None), night)
                continue
            if (key, held.digest) in self.rows:
                continue
            came = self.versions.get((key, held.digest), night if known else self.versions.get((key, None), night))
            self.versions[key, held.digest] = came
            there = [digest for digest in known if (key, digest) in self.rows]
            earlier = [(self.records[key, digest], self.rows[key, digest]) for digest in there]
            self.records[key, held.digest] = held.records
            self.rows[key, held.digest] = {
                record: min([came, *(rows[record] for records, rows in earlier if (record, value) in records)])
                for record, value in held.records
            }

    def clean_up(self, kept: set[tuple[str, str]]) -> None:
        """Of versions whose commit records went, it is known when they came, and no longer what was in them."""
        self.rows = {identity: rows for identity, rows in self.rows.items() if identity in kept}

    def expected(self, versions: Sequence[tuple[str, str]]) -> dict[str, int]:
        """What is published of every record, given which versions of which shards are."""
        newest: dict[str, tuple[tuple[int, str], int]] = {}
        for key, digest in versions:
            for record, value in self.records[key, digest]:
                candidate = (self.rows[key, digest][record], key), value
                newest[record] = max(newest.get(record, candidate), candidate)
        return {record: value for record, (_, value) in newest.items()}


class Story:
    """An archive, the nights over it, and what people do in between."""

    def __init__(self, seed: int) -> None:
        self.random, self.archive, self.objects, self.oracle = random.Random(seed), ArchiveModel(), Objects(), Oracle()
        self.before: dict[str, list[Held]] = {key: [] for key in KEYS}
        self.archive.put(KEYS[0], self._records())

    def _records(self) -> Records:
        names = self.random.sample(range(4), self.random.randint(1, 3))
        return tuple((f"r{i}", self.random.choice([0, 1, 2, 3, 4, 5, HELD])) for i in sorted(names))

    def people(self) -> None:
        """One thing that is done to one shard."""
        key, what = self.random.choice(KEYS), self.random.choice(MOVES)
        held = self.archive.shards.get(key)
        if held is not None and not held.torn and held not in self.before[key]:
            self.before[key].append(held)
        if what == "new":
            self.archive.put(key, self._records())
        elif what == "tear":
            self.archive.tear(key, held.records if held else self._records())
        elif what == "restore" and self.before[key]:
            self.archive.put_back(key, self.random.choice(self.before[key]))
        elif what == "copied back" and self.before[key]:
            self.archive.put(key, self.random.choice(self.before[key]).records)
        elif what == "another corrected" and held is not None and not held.torn:
            at = self.random.randrange(len(held.records))
            records = [*held.records]
            records[at] = records[at][0], self.random.randrange(10, 99)
            self.archive.put(key, tuple(records))
        elif what == "remove" and held is not None and len(self.archive.shards) > 1:
            self.archive.remove(key)
        elif what == "clean up":
            self.clean_up()
        elif what == "release":
            store = View(self.objects)
            for hold in holds(store).values():
                if hold.source.key == key and hold.state == "held":
                    decide(store, hold, "released", "looked at", "somebody")

    def clean_up(self) -> None:
        """`ecgscale gc --keep-manifests 1`, long after."""
        store = View(self.objects)
        doomed = doomed_objects(store, store.clock() + timedelta(days=1), timedelta(0), keep_manifests=1)
        prune(store, doomed.numbers, "gc")
        for key in (*doomed.manifests, *doomed.commits, *still_loose(store, doomed)):
            store.delete(key)
        commits = (read_commit(store, name) for name in store.list_prefix(COMMITS))
        self.oracle.clean_up({commit.source.identity for commit in commits if commit is not None})

    def night(self, number: int, kill: bool) -> Manifest | None:
        """Two drivers at once, killed anywhere and started again, and one that is left alone."""
        if any(not held.torn for held in self.archive.shards.values()):
            # Of an archive of which nothing can be read nothing is published, and nothing remembered.
            self.oracle.see(number, self.archive)
        turns = Turns([], self.random.randrange(2**32), killed=0.05 if kill else 0.0)
        for name in ("one", "other") if kill else ("one",):
            turns.add(name, lambda turn, name=name: drive(View(self.objects, turn), self.archive, name, gate(self)))  # type: ignore[misc]
        turns.run()
        store = View(self.objects)
        drive(store, self.archive, "last", gate(self))
        number = newest_number(store)
        return read_manifest(store, number) if number else None

    def check(self, manifest: Manifest) -> None:
        """Every record once, with the value that came last."""
        versions = [(entry.key, entry.content_digest) for entry in manifest.content.shards]
        rows = published(self.objects, manifest)
        assert len({record for _, record, _ in rows}) == len(rows)
        assert {record: value for _, record, value in rows} == self.oracle.expected(versions)


MOVES = [
    "new",
    "new",
    "tear",
    "restore",
    "restore",
    "copied back",
    "another corrected",
    "remove",
    "release",
    "clean up",
]


def gate(story: Story):  # type: ignore[no-untyped-def]
    def judge(fresh: Sequence[Commit], _newest: Manifest | None) -> Mapping[str, Sequence[str]]:
        odd = {json_digest(records) for records in story.oracle.records.values() if HELD in dict(records).values()}
        return {commit.source.key: ["odd"] for commit in fresh if commit.source.content_digest in odd}

    return judge


def json_digest(records: Records) -> str:
    return hashlib.sha256(json.dumps(records).encode()).hexdigest()


@pytest.mark.parametrize(("plays", "kill"), TIMES)
def test_a_correction_is_never_undone(plays: int, kill: bool) -> None:
    for seed in range(plays):
        story = Story(seed)
        for number in range(1, 9):
            manifest = story.night(number, kill and seed % 4 == 0)
            if manifest is not None and any(not held.torn for held in story.archive.shards.values()):
                story.check(manifest)
            for _ in range(story.random.randint(1, 2)):
                story.people()
