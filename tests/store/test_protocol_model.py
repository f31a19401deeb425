"""Random interleavings of drivers, workers, crashes, retries and people at the archive: no record is lost or doubled.

The functions of the protocol are the real ones; store, archive and network are the model's (`interleaved`).
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ecgscale.passes.explain.explain as explain_module
from ecgscale.errors import ShardError
from ecgscale.io.numbered import to_json
from ecgscale.passes.explain.explain import Policy, _Run
from ecgscale.passes.explain.plan import freeze_plan
from ecgscale.progress import SILENT
from ecgscale.store.commit import Commit
from ecgscale.store.manifest import (
    MANIFESTS,
    DatasetFacts,
    Manifest,
    manifest_key,
    newest_number,
    publish,
    read_manifest,
)
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
pytestmark = pytest.mark.usefixtures("in_a_model")

RETRIES = 6
NIGHTS = 3
"""So often each driver's command is typed, again when it was killed."""
Change = tuple[str, str, Records, int]

CHOICES = st.lists(
    st.builds(Choice, st.integers(0, 5), st.sampled_from([False] * 9 + [True]), st.sampled_from([1, 2, 5, 20, 80])),
    max_size=30,
)
SEEDS = st.integers(0, 2**32)
RECORDS = st.lists(
    st.tuples(st.sampled_from([f"r{i}" for i in range(8)]), st.integers(0, 3)),
    min_size=1,
    max_size=3,
    unique_by=lambda record: record[0],
).map(tuple)
KEYS = st.sampled_from([f"part-{i:05d}.parquet" for i in range(4)])
CHANGES = st.lists(
    st.tuples(st.sampled_from(["put", "put", "touch", "remove"]), KEYS, RECORDS, st.integers(0, 60)), max_size=6
)
"""What is done to which shard, and how many steps of the others people let pass before."""
ARCHIVES = st.dictionaries(KEYS, RECORDS, min_size=1)


def facts(name: str) -> RunFacts:
    return RunFacts(run_id=name, host="h", pid=1, started="now", code_version="1", code_commit=None)


class ModelRun(_Run):
    """A run over the model's archive."""

    def __init__(self, store: View, archive: ArchiveModel, name: str, admission: Any) -> None:
        committing: Any = CommittingModel(store, facts(name))
        super().__init__(None, None, IDENTITY, store, committing, SILENT, Policy(admission), None)  # type: ignore[arg-type]
        self._model = archive

    def _beside(self) -> None:
        return None

    def _open_archive(self) -> Any:
        return self._model.listed()


def nothing_held(_fresh: Sequence[Commit], _newest: Manifest | None) -> Mapping[str, Sequence[str]]:
    return {}


def drive(store: View, archive: ArchiveModel, name: str, admission: Any = nothing_held, nights: int = 1) -> None:
    """What `explain_archive` does with a run, until it is through; a killed process is started again."""
    lives = itertools.count()
    for _ in range(nights):
        while next(lives) < RETRIES:
            try:
                run = ModelRun(store, archive, f"{name}-{lives}", admission)
                while run.attempt() is None:
                    continue
                break
            except ShardError:
                break  # nothing can be read: nothing is published
            except Killed:
                continue


def work(store: View, listed: ListedArchive, plan: Any, name: str) -> None:
    """A worker with the plan of a driver that may be gone since: it commits, and publishes nothing."""
    committing: Any = CommittingModel(store, facts(name))
    for _ in range(2):
        try:
            committing.commit(listed, plan, None)
            return
        except Killed:
            continue


def people(turn: Callable[[], None], archive: ArchiveModel, changes: Sequence[Change]) -> None:
    for what, key, records, after in changes:
        for _ in range(after + 1):
            with contextlib.suppress(Killed):
                turn()
        if what == "put":
            archive.put(key, records)
        elif key in archive.shards and what == "touch":
            archive.touch(key)
        elif key in archive.shards and len(archive.shards) > 1:
            archive.remove(key)


def play(
    objects: Objects,
    initial: dict[str, Records],
    changes: Sequence[Change],
    choices: Sequence[Choice],
    seed: int,
    admission: Any = nothing_held,
) -> ArchiveModel:
    """Everybody at once, then one run that nothing happens to; the archive as it is in the end."""
    archive = ArchiveModel()
    for key, records in sorted(initial.items()):
        archive.put(key, records)
    listed = archive.listed()
    stale = whole_plan(View(objects), listed)
    turns = Turns(choices, seed)
    turns.add("people", lambda turn: people(turn, archive, changes))
    for name in ("one", "other"):
        turns.add(name, lambda turn, name=name: drive(View(objects, turn), archive, name, admission, NIGHTS))  # type: ignore[misc]
        turns.add(f"w-{name}", lambda turn, name=name: work(View(objects, turn), listed, stale, name))  # type: ignore[misc]
    turns.run()
    drive(View(objects), archive, "last", admission)
    return archive


def whole_plan(store: View, listed: ListedArchive) -> Any:
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


@settings(max_examples=120, deadline=None)
@given(ARCHIVES, CHANGES, CHOICES, SEEDS)
def test_no_record_is_lost_or_doubled(
    initial: dict[str, Records], changes: list[Change], choices: list[Choice], seed: int
) -> None:
    objects = Objects()
    archive = play(objects, initial, changes, choices, seed)
    check_end(objects, archive)
    manifests = check_past(objects)
    assert [manifest.number for manifest in manifests] == list(range(1, len(manifests) + 1))
    check_forward(manifests, archive)


@settings(max_examples=120, deadline=None)
@given(ARCHIVES, CHANGES, CHOICES, SEEDS)
def test_nor_where_the_last_one_wins(
    initial: dict[str, Records], changes: list[Change], choices: list[Choice], seed: int
) -> None:
    """A store without put-if-absent, and nobody heeds the lock: what readers see may go back, and comes right again."""
    objects = Objects(conditional=False)
    archive = play(objects, initial, changes, choices, seed)
    check_end(objects, archive)
    check_past(objects)


@settings(max_examples=40, deadline=None)
@given(ARCHIVES, CHANGES, CHOICES, SEEDS)
def test_what_is_held_is_held_whoever_judges(
    initial: dict[str, Records], changes: list[Change], choices: list[Choice], seed: int
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

    archive = play(objects, initial, changes, choices, seed, hold_zeros)
    for manifest in check_past(objects):
        assert all(value != 0 for _, _, value in published(objects, manifest))
    content = newest(objects).content
    sound = {key for key, held in archive.shards.items() if all(value != 0 for _, value in held.records)}
    assert sound <= {entry.key for entry in content.shards}
    assert {held.key for held in content.held} == set(archive.shards) - sound


def drawn(seed: int) -> tuple[dict[str, Records], list[Change]]:
    """An archive and changes of it, without hypothesis."""
    rng = random.Random(seed)

    def records() -> Records:
        return tuple((f"r{i}", rng.randrange(4)) for i in rng.sample(range(8), rng.randint(1, 3)))

    keys = [f"part-{i:05d}.parquet" for i in range(4)]
    changes = [
        (rng.choice(["put", "put", "touch", "remove"]), rng.choice(keys), records(), rng.randrange(60))
        for _ in range(6)
    ]
    return {key: records() for key in rng.sample(keys, 3)}, changes


def broken_after(most: int) -> int | None:
    """The first of so many seeds at which something is lost, doubled or older than before."""
    for seed in range(most):
        objects = Objects()
        initial, changes = drawn(seed)
        try:
            archive = play(objects, initial, changes, [], seed)
            check_end(objects, archive)
            check_forward(check_past(objects), archive)
        except AssertionError:
            return seed
    return None


def publish_whatever_came_meanwhile(
    store: View, content: Any, _base: int, run: RunFacts, _pointer: int | None
) -> Manifest | None:
    return publish(store, content, newest_number(store), run)


def publish_over_others(store: View, content: Any, base: int, run: RunFacts, _pointer: int | None) -> Manifest:
    manifest = Manifest(number=base + 1, created="now", run=run, content=content)
    store.put(manifest_key(manifest.number), to_json(manifest))
    return manifest


@pytest.mark.parametrize("wrong", [publish_whatever_came_meanwhile, publish_over_others])
def test_a_protocol_that_is_wrong_is_found_out(wrong: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checks are no empty words: publishing that heeds nobody fails them, where the real one does not."""
    assert broken_after(60) is None
    monkeypatch.setattr(explain_module, "publish", wrong)
    assert broken_after(60) is not None
