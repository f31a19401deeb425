"""A model of several processes at one store: an archive that changes, drivers, workers, and who runs next.

The real functions run, each process in a thread of its own, over objects in a dictionary. Before every call to the
store the thread waits for its turn, so an interleaving is a list of choices, and a crash is a turn that ends the
process. Nothing else is shared between them.
"""

from __future__ import annotations

import hashlib
import json
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa

from ecgscale.archive.shard import Shard, ShardFooter
from ecgscale.errors import ShardError
from ecgscale.explain.schema import to_parquet
from ecgscale.io.objects import ObjectStat, ObjectStore
from ecgscale.passes.explain.committing import CommittedShards, RunLimits
from ecgscale.passes.explain.plan import Pending, Plan, order_of
from ecgscale.store.commit import Commit, commit_output, find_commit, hash_record_id, restamp
from ecgscale.store.manifest import SetAside
from ecgscale.store.provenance import RunFacts

START = datetime(2026, 1, 1, tzinfo=UTC)
PATIENCE_S = 60.0

Records = tuple[tuple[str, int], ...]
"""(record id, what was measured) of a shard's rows."""


class Killed(BaseException):
    """The process ends here."""


@dataclass(frozen=True)
class Choice:
    """Who goes on (modulo those who can), for how many steps, and whether the last of them is the end of it."""

    who: int
    kill: bool = False
    steps: int = 1


KILLED = 0.1
"""Share of the choices that end a process."""


class Turns:
    """Lets one process at a time go on, in the order of `choices`, and then of a random generator."""

    def __init__(self, choices: Sequence[Choice], seed: int, killed: float = KILLED) -> None:
        self._choices, self._random, self._killed = list(choices), random.Random(seed), killed
        self._processes: list[_Process] = []
        self._back = threading.Semaphore(0)

    def add(self, name: str, work: Callable[[Callable[[], None]], None]) -> None:
        """A process; `work` gets what it has to call before each of its steps."""
        self._processes.append(_Process(name, work, self._back))

    def run(self) -> None:
        """Until all have ended. What one raises, other than `Killed`, is raised here."""
        for process in self._processes:
            process.thread.start()
        while able := [process for process in self._processes if not process.ended]:
            choice = self._choices.pop(0) if self._choices else self._drawn()
            process = able[choice.who % len(able)]
            for step in range(choice.steps):
                if process.ended:
                    break
                process.kill = choice.kill and step == choice.steps - 1
                process.go.release()
                assert self._back.acquire(timeout=PATIENCE_S), f"{process.name} does not come to its next step"
        for process in self._processes:
            process.thread.join()
            if process.error is not None:
                raise process.error

    def _drawn(self) -> Choice:
        # Now step by step, now one far ahead of the others, which are asleep meanwhile.
        steps = self._random.choice((1, 1, 2, 5, 20, 80))
        return Choice(self._random.randrange(60), self._random.random() < self._killed, steps)


class _Process:
    def __init__(self, name: str, work: Callable[[Callable[[], None]], None], back: threading.Semaphore) -> None:
        self.name, self.back, self.go = name, back, threading.Semaphore(0)
        self.kill = self.ended = False
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, args=(work,), name=name, daemon=True)

    def _run(self, work: Callable[[Callable[[], None]], None]) -> None:
        self.go.acquire()
        try:
            work(self._turn)
        except BaseException as error:
            self.error = error
        self.ended = True
        self.back.release()

    def _turn(self) -> None:
        # Reads that a process makes side by side count as one step: they change nothing.
        if threading.current_thread() is not self.thread:
            return
        self.back.release()
        self.go.acquire()
        if self.kill:
            self.kill = False
            raise Killed


@dataclass
class Objects:
    """What lies in the store. `put_if_absent` has one winner, or, where `conditional` is False, none."""

    conditional: bool = True
    data: dict[str, bytes] = field(default_factory=dict)
    stats: dict[str, ObjectStat] = field(default_factory=dict)
    history: list[tuple[str, bytes]] = field(default_factory=list)

    def put(self, key: str, data: bytes) -> None:
        """Create or replace."""
        self.history.append((key, data))
        self.data[key] = data
        moment = START + timedelta(seconds=len(self.history))
        self.stats[key] = ObjectStat(len(data), f"etag={len(self.history)}", moment)


class View(ObjectStore):
    """The store as one process sees it."""

    def __init__(self, objects: Objects, turn: Callable[[], None] = lambda: None) -> None:
        self._objects, self._turn = objects, turn

    @property
    def where(self) -> str:
        return "model:"

    def put_if_absent(self, key: str, data: bytes) -> bool:
        self._turn()
        if key in self._objects.data:
            return False
        if not self._objects.conditional:
            # Looked at first, put afterwards, and somebody else may come in between: the last one wins.
            self._turn()
        self._objects.put(key, data)
        return True

    def put(self, key: str, data: bytes) -> None:
        self._turn()
        self._objects.put(key, data)

    def read(self, key: str) -> bytes | None:
        self._turn()
        return self._objects.data.get(key)

    def stat(self, key: str) -> ObjectStat | None:
        self._turn()
        return self._objects.stats.get(key)

    def list_prefix(self, prefix: str) -> Iterator[str]:
        yield from self.list_stats(prefix)

    def list_stats(self, prefix: str) -> dict[str, ObjectStat]:
        self._turn()
        return {key: stat for key, stat in sorted(self._objects.stats.items()) if key.startswith(f"{prefix}/")}

    def list_leftovers(self) -> dict[str, ObjectStat]:
        return {}

    def copy(self, key: str, to: str) -> None:
        self.put(to, self._objects.data[key])

    def delete(self, key: str) -> None:
        self._turn()
        self._objects.data.pop(key, None)
        self._objects.stats.pop(key, None)

    def clock(self) -> datetime:
        return START + timedelta(seconds=len(self._objects.history))

    def location(self, key: str) -> str:
        return f"model:{key}"


@dataclass(frozen=True)
class Held:
    """A shard as it lies in the archive; `torn`: nobody can read it."""

    stamp: int
    records: Records
    torn: bool = False

    @property
    def digest(self) -> str:
        """Of its content."""
        return hashlib.sha256(json.dumps(self.records).encode()).hexdigest()


class ArchiveModel:
    """Shards that people put, replace, copy and remove; `states` are all that a listing could have shown."""

    def __init__(self) -> None:
        self.shards: dict[str, Held] = {}
        self.states: list[dict[str, Held]] = [{}]

    def put(self, key: str, records: Records) -> None:
        """Put or replace a shard."""
        self._change({**self.shards, key: Held(len(self.states), records)})

    def put_back(self, key: str, held: Held) -> None:
        """Restore a shard with the stamp that it had."""
        self._change({**self.shards, key: held})

    def tear(self, key: str, records: Records) -> None:
        """Leave something in the place of a shard that cannot be read."""
        self._change({**self.shards, key: Held(len(self.states), records, torn=True)})

    def touch(self, key: str) -> None:
        """The same content under a new stamp."""
        self.put(key, self.shards[key].records)

    def remove(self, key: str) -> None:
        """Take a shard away."""
        self._change({name: held for name, held in self.shards.items() if name != key})

    def _change(self, shards: dict[str, Held]) -> None:
        self.shards = shards
        self.states.append(shards)

    def listed(self) -> ListedArchive:
        """As a run lists it."""
        return ListedArchive(self, dict(self.shards))


class ListedArchive:
    """What the explain pass uses of an `Archive`."""

    archive_id, path, info = "model", "model:archive", dict[str, Any]()

    def __init__(self, model: ArchiveModel, listed: dict[str, Held]) -> None:
        self._model, self._listed = model, listed

    @property
    def shards(self) -> tuple[Shard, ...]:
        return tuple(
            Shard(key, f"model:archive/{key}", len(json.dumps(held.records)), f"etag={held.stamp}")
            for key, held in sorted(self._listed.items())
        )

    def records(self, key: str) -> Records:
        """Those of a shard; `ShardError` when it is no longer what the listing showed."""
        now = self._model.shards.get(key)
        if now is None or now != self._listed[key]:
            raise ShardError(f"{key} was changed while it was read")
        if now.torn:
            raise ShardError(f"{key} is torn")
        return now.records

    def footer(self, shard: Shard) -> ShardFooter:
        records = self.records(shard.key)
        return ShardFooter(len(records), 1, self._listed[shard.key].digest, pa.schema([]))


def explained(key: str, records: Records) -> bytes:
    """The output file of a shard: always the same bytes for the same records."""
    table = pa.table(
        {
            "record_id": [record_id for record_id, _ in records],
            "patient_id": [f"p-{record_id}" for record_id, _ in records],
            "source_shard": [key] * len(records),
            "status": ["ok"] * len(records),
            "measured": pa.array([value for _, value in records], pa.int64()),
        }
    )
    return to_parquet(table.to_batches(), table.schema, {"source_shard": key})


class CommittingModel:
    """In the place of `passes.committing.Committing`: no network, the same protocol."""

    code = "code"

    def __init__(self, store: ObjectStore, facts: RunFacts) -> None:
        self.store, self.facts = store, facts
        self.computed = self.restamped = self.cropped = 0

    def commit(self, archive: ListedArchive, plan: Plan, _limits: RunLimits) -> CommittedShards:
        """Commit what is pending, one after the other."""
        commits, aside = list(plan.committed), list(plan.set_aside)
        for moved in plan.moved:
            commits.append(restamp(self.store, moved.source, moved.earlier, self.facts))
        for pending in plan.pending:
            try:
                commits.append(self.commit_one(archive, pending))
            except ShardError as error:
                aside.append(SetAside(**pending.source.model_dump(), reason=str(error)))
        return CommittedShards(tuple(commits), tuple(aside), ())

    def commit_one(self, archive: ListedArchive, pending: Pending) -> Commit:
        """As a worker does it."""
        source = pending.source
        standing = find_commit(self.store, source.key, source.size, source.stamp)
        if standing is not None:
            return standing
        records = archive.records(source.key)
        data = explained(source.key, records)
        # Computing takes a while, and the shard is looked at once more before it is committed.
        self.store.stat("elsewhere")
        archive.records(source.key)
        ids = [record_id for record_id, _ in records]
        self.computed += 1
        digests = {hash_record_id(record_id): value for record_id, value in records}
        order = order_of(pending, self.store, digests)
        return commit_output(
            self.store, source, data, record_ids=ids, quarantined={}, rows=len(records), run=self.facts, order=order
        )
