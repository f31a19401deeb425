"""Random interleavings of drivers, workers, crashes, retries and people at the archive: no record is lost or doubled.

The functions of the protocol are the real ones; store, archive and network are the model's (`interleaved`).
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ecgscale.passes.settle as settle_module
import ecgscale.store.lease as lease_module
from ecgscale.errors import ShardError
from ecgscale.passes.explain import Unattended, _Run
from ecgscale.progress import SILENT
from ecgscale.store.commit import Commit
from ecgscale.store.lease import Lease, LockedError
from ecgscale.store.manifest import MANIFESTS, DatasetFacts, Manifest, newest_number, read_manifest
from ecgscale.store.provenance import RunFacts
from tests.store.interleaved import (
    ArchiveModel,
    Choice,
    CommittingModel,
    Killed,
    ListedArchive,
    Objects,
    Records,
    Turns,
    View,
)

IDENTITY = DatasetFacts(
    archive_id="model",
    encoder_id="e",
    encoder_digest="e",
    model_id="m",
    model_digest="m",
    settings={},
    results_version=1,
)
RETRIES = 6
BAD = 99
"""A measurement that the gates of the model hold a shard back for."""

CHOICES = st.lists(st.builds(Choice, st.integers(0, 5), st.sampled_from([False] * 9 + [True])), max_size=160)
RECORDS = st.lists(
    st.tuples(st.sampled_from([f"r{i}" for i in range(8)]), st.integers(0, 3)),
    min_size=1,
    max_size=3,
    unique_by=lambda record: record[0],
).map(tuple)
KEYS = st.sampled_from([f"part-{i:05d}.parquet" for i in range(4)])
CHANGES = st.lists(st.tuples(st.sampled_from(["put", "put", "touch", "remove"]), KEYS, RECORDS), max_size=5)
ARCHIVES = st.dictionaries(KEYS, RECORDS, min_size=1)


def facts(name: str) -> RunFacts:
    return RunFacts(run_id=name, host="h", pid=1, started="now", code_version="1", code_commit=None)


class ModelRun(_Run):
    """A run over the model's archive."""

    def __init__(self, store: View, archive: ArchiveModel, name: str, admission: Any) -> None:
        committing: Any = CommittingModel(store, facts(name))
        super().__init__(None, IDENTITY, store, committing, SILENT, Unattended(admission))  # type: ignore[arg-type]
        self._model = archive

    def _open_archive(self) -> Any:
        return self._model.listed()


def nothing_held(_fresh: Sequence[Commit], _newest: Manifest | None) -> Mapping[str, Sequence[str]]:
    return {}


def drive(store: View, archive: ArchiveModel, name: str, admission: Any = nothing_held) -> None:
    """What `explain_archive` does with a run, until it is through; a killed process is started again."""
    for life in itertools.count():
        try:
            run = ModelRun(store, archive, f"{name}-{life}", admission)
            while run.attempt() is None:
                continue
            return
        except ShardError:
            return  # nothing can be read: nothing is published
        except Killed:
            if life == RETRIES:
                return


def work(store: View, listed: ListedArchive, plan: Any, name: str) -> None:
    """A worker with the plan of a driver that may be gone since: it commits, and publishes nothing."""
    committing: Any = CommittingModel(store, facts(name))
    for _ in range(2):
        try:
            committing.commit(listed, plan, None)
            return
        except Killed:
            continue


def people(turn: Callable[[], None], archive: ArchiveModel, changes: Sequence[tuple[str, str, Records]]) -> None:
    for what, key, records in changes:
        try:
            turn()
        except Killed:
            continue
        if what == "put":
            archive.put(key, records)
        elif key in archive.shards and what == "touch":
            archive.touch(key)
        elif key in archive.shards and len(archive.shards) > 1:
            archive.remove(key)


def read_from_model(store: View, commit: Commit, columns: list[str] | None = None) -> pa.Table:
    return pq.read_table(pa.BufferReader(store.read(commit.output.file)), columns=columns)


@pytest.fixture(autouse=True, scope="module")
def _files_are_in_the_model() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(settle_module, "_read", read_from_model)
        yield


def play(
    objects: Objects,
    initial: dict[str, Records],
    changes: Sequence[tuple[str, str, Records]],
    choices: Sequence[Choice],
    admission: Any = nothing_held,
) -> ArchiveModel:
    """Everybody at once, then one run that nothing happens to; the archive as it is in the end."""
    archive = ArchiveModel()
    for key, records in sorted(initial.items()):
        archive.put(key, records)
    listed = archive.listed()
    stale = settle_plan(View(objects), listed)
    turns = Turns(choices)
    turns.add("people", lambda turn: people(turn, archive, changes))
    for name in ("one", "other"):
        turns.add(name, lambda turn, name=name: drive(View(objects, turn), archive, name, admission))  # type: ignore[misc]
        turns.add(f"w-{name}", lambda turn, name=name: work(View(objects, turn), listed, stale, name))  # type: ignore[misc]
    turns.run()
    drive(View(objects), archive, "last", admission)
    return archive


def settle_plan(store: View, listed: ListedArchive) -> Any:
    from ecgscale.passes.plan import freeze_plan

    archive: Any = listed
    return freeze_plan(archive, store, None, "code")


def published(objects: Objects, manifest: Manifest) -> list[tuple[str, str, int]]:
    """(shard, record id, measured) of every row, every file as the manifest says it is."""
    rows = []
    for entry in manifest.content.shards:
        data = objects.data[entry.file]
        assert (len(data), hashlib.sha256(data).hexdigest()) == (entry.file_size, entry.sha256)
        table = pq.read_table(pa.BufferReader(data))
        assert table.num_rows == entry.published_rows
        rows += [(entry.key, row["record_id"], row["measured"]) for row in table.to_pylist()]
    return rows


def newest(objects: Objects) -> Manifest:
    store = View(objects)
    found = read_manifest(store, newest_number(store))
    assert found is not None
    return found


def check_end(objects: Objects, archive: ArchiveModel) -> None:
    """Every record of the archive as it is now once, as one of its shards has it; nothing else."""
    manifest = newest(objects)
    assert {entry.key: entry.content_digest for entry in manifest.content.shards} == {
        key: held.digest for key, held in archive.shards.items()
    }
    rows = published(objects, manifest)
    assert all((record_id, value) in archive.shards[key].records for key, record_id, value in rows)
    ids = Counter(record_id for _, record_id, _ in rows)
    assert set(ids.values()) <= {1}, ids
    there = {record_id for held in archive.shards.values() for record_id, _ in held.records}
    assert set(ids) == there
    superseded = sum(entry.superseded for entry in manifest.content.shards)
    assert sum(len(held.records) for held in archive.shards.values()) == len(rows) + superseded


def check_past(objects: Objects) -> list[Manifest]:
    """Every manifest that there ever was is whole, and has no record twice."""
    manifests = [Manifest.model_validate_json(data) for key, data in objects.history if key.startswith(MANIFESTS)]
    for manifest in manifests:
        ids = [record_id for _, record_id, _ in published(objects, manifest)]
        assert len(ids) == len(set(ids)), (manifest.number, ids)
    return manifests


def check_forward(manifests: Sequence[Manifest], archive: ArchiveModel) -> None:
    """No manifest shows an older state of the archive than the one before it."""
    earliest = 0
    for manifest in manifests:
        content = manifest.content
        shown = {one.key: one.stamp for one in (*content.shards, *content.set_aside, *content.held)}
        as_shown = [
            i for i, state in enumerate(archive.states) if {k: f"etag={h.stamp}" for k, h in state.items()} == shown
        ]
        later = [i for i in as_shown if i >= earliest]
        assert later, (manifest.number, shown)
        earliest = later[0]


@settings(max_examples=60, deadline=None)
@given(ARCHIVES, CHANGES, CHOICES)
def test_no_record_is_lost_or_doubled(
    initial: dict[str, Records], changes: list[tuple[str, str, Records]], choices: list[Choice]
) -> None:
    objects = Objects()
    archive = play(objects, initial, changes, choices)
    check_end(objects, archive)
    manifests = check_past(objects)
    assert [manifest.number for manifest in manifests] == list(range(1, len(manifests) + 1))
    check_forward(manifests, archive)


@settings(max_examples=60, deadline=None)
@given(ARCHIVES, CHANGES, CHOICES)
def test_nor_where_the_last_one_wins(
    initial: dict[str, Records], changes: list[tuple[str, str, Records]], choices: list[Choice]
) -> None:
    """A store without put-if-absent, and nobody heeds the lock: what readers see may go back, and comes right again."""
    objects = Objects(conditional=False)
    archive = play(objects, initial, changes, choices)
    check_end(objects, archive)
    check_past(objects)


@settings(max_examples=40, deadline=None)
@given(ARCHIVES, CHANGES, CHOICES)
def test_what_is_held_is_held_whoever_judges(
    initial: dict[str, Records], changes: list[tuple[str, str, Records]], choices: list[Choice]
) -> None:
    """Shards with the measurement 0 are held back: none of their rows is ever published, and all others are."""
    objects = Objects()

    def hold_zeros(fresh: Sequence[Commit], _newest: Manifest | None) -> Mapping[str, Sequence[str]]:
        found = {}
        for commit in fresh:
            table = pq.read_table(pa.BufferReader(objects.data[commit.output.file]))
            if 0 in table["measured"].to_pylist():
                found[commit.source.key] = ["zero"]
        return found

    archive = play(objects, initial, changes, choices, hold_zeros)
    for manifest in check_past(objects):
        assert all(value != 0 for _, _, value in published(objects, manifest))
    content = newest(objects).content
    sound = {key for key, held in archive.shards.items() if all(value != 0 for _, value in held.records)}
    assert sound <= {entry.key for entry in content.shards}
    assert {held.key for held in content.held} == set(archive.shards) - sound


@settings(max_examples=60, deadline=None)
@given(st.lists(st.builds(Choice, st.integers(0, 3)), max_size=80))
def test_a_generation_of_the_lease_has_one_holder(choices: list[Choice]) -> None:
    objects, turns, holders = Objects(), Turns(choices), list[int]()

    def hold(name: str, turn: Callable[[], None]) -> None:
        view = View(objects, turn)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(lease_module, "open_objects", lambda root: view)
            lease = Lease("root", name, "a test")
        try:
            lease._acquire()
            holders.append(lease._number)
        except LockedError:
            pass

    for name in ("a", "b", "c", "d"):
        turns.add(name, lambda turn, name=name: hold(name, turn))  # type: ignore[misc]
    turns.run()
    assert holders == [1]


def test_the_model_sees_a_protocol_that_is_wrong() -> None:
    """A driver that commits before it puts the file would be found out: the checks are no empty words."""
    objects, archive = Objects(), ArchiveModel()
    archive.put("part-00000.parquet", (("r0", 1),))
    drive(View(objects), archive, "one")
    [entry] = newest(objects).content.shards
    objects.data[entry.file] = objects.data[entry.file][:-1]
    with pytest.raises(AssertionError):
        check_end(objects, archive)
    objects.data.pop(entry.file)
    with pytest.raises(KeyError):
        check_past(objects)
    assert json.loads(objects.data["_manifests/00000001.json"])["content"]["totals"]["records"] == 1
