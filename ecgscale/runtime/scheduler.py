"""One scheduler for every kind of pool: hands calls to workers as they become free, and survives what happens to them.

    free worker ← next call            no static split: a slow worker simply takes fewer
    worker dies, or outlives a deadline → it is replaced, its call goes back with a growing pause
    call fails `attempts` times         → given up and told; the rest goes on
    call raises ShardError              → given up at once: another worker would find the same shard
    call raises a usage error           → the whole run would: it is raised

What a pool is made of (processes, Ray actors) is a `Backend`: it starts, calls, waits for and ends members. The
driver keeps one call a worker and the waiting ones as an iterator, so its memory does not grow with the run.
"""

from __future__ import annotations

import heapq
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ecgscale.errors import EcgscaleError, ShardError, UsageError
from ecgscale.passes.workers import Call, Done, Failed, WorkerSpec
from ecgscale.progress import SILENT, Progress
from ecgscale.store.provenance import versions

POLL_S = 0.5


class NoWorkers(EcgscaleError):
    """No worker could be had; what was committed stays, and the same command goes on from there."""


@dataclass(frozen=True)
class Reply:
    """What came of a call: a value, an error raised by it, or the death of the worker."""

    value: Any = None
    error: BaseException | None = None
    died: str | None = None


class Member(Protocol):
    """One worker of a backend. It answers its first call only once it is made."""

    @property
    def number(self) -> int:
        """Unique within the pool, never used again."""

    def call(self, method: str, arguments: tuple[Any, ...]) -> None:
        """Begin a call; one at a time."""

    def end(self) -> None:
        """End the worker, whatever it does."""


class Backend(Protocol):
    """Where members come from."""

    def wanted(self) -> int:
        """How many members there should be now."""

    def start(self, spec: WorkerSpec) -> Member:
        """Begin to start a member."""

    def wait(self, members: Sequence[Any], timeout: float) -> list[tuple[Any, Reply]]:
        """Replies of members with a call under way, as soon as there is one, or none after `timeout` seconds."""

    def told(self) -> str:
        """What a worker needs and what there is, for the error when none can be had."""

    def close(self) -> None:
        """End what the backend itself started."""


@dataclass(frozen=True)
class Limits:
    """How long to wait, and how often to try. Deadlines grow with a call's records."""

    attempts: int = 3
    pause_s: float = 1.0
    deadline_s: float = 600.0
    deadline_s_per_record: float = 2.0
    start_s: float = 300.0
    restarts: int = 20

    def deadline(self, call: Call) -> float:
        """Seconds after which a call's worker counts as hung."""
        return self.deadline_s + self.deadline_s_per_record * call.records


@dataclass
class _Attempted:
    """A call on its way."""

    call: Call
    tried: int = 0
    fatal: int = 0
    reasons: list[str] = field(default_factory=list)


@dataclass
class _Running:
    """A member, the call it has, and when that has to be over; `greeting` until its first answer."""

    member: Any
    until: float
    at: _Attempted | None = None
    greeting: bool = True


class Scheduler:
    """A pool of workers over a backend; `WorkerPool` of the passes. Use as a context manager."""

    def __init__(
        self, backend: Backend, spec: WorkerSpec, limits: Limits | None = None, progress: Progress = SILENT
    ) -> None:
        self._backend, self._spec, self._limits, self._progress = backend, spec, limits or Limits(), progress
        self._members: dict[int, _Running] = {}
        self._deaths = 0
        self._alone_since = time.monotonic()
        self._kinds: dict[str, Any] = dict(versions())

    def __enter__(self) -> Scheduler:
        return self

    def __exit__(self, *exc: object) -> None:
        for running in self._members.values():
            running.member.end()
        self._members.clear()
        self._backend.close()

    def wanted(self) -> int:
        """How many workers there should be."""
        return self._backend.wanted()

    def run(self, calls: Iterable[Call]) -> Iterator[Done | Failed]:
        """Outcomes as they come; see `WorkerPool`."""
        waiting = iter(calls)
        pinned: dict[int, list[_Attempted]] = {}
        later: list[tuple[float, int, _Attempted]] = []
        exhausted = False
        while True:
            self._fill_up()
            for running in [r for r in self._members.values() if r.at is None and not r.greeting]:
                number = running.member.number
                if pinned.get(number):
                    self._begin(running, pinned[number].pop(0))
                    continue
                attempted = self._due(later)
                while attempted is None and not exhausted:
                    call = next(waiting, None)
                    if call is None:
                        exhausted = True
                    elif call.worker is None or call.worker == number:
                        attempted = _Attempted(call)
                    elif call.worker in self._members:
                        pinned.setdefault(call.worker, []).append(_Attempted(call))
                    else:
                        yield Failed(call, f"worker {call.worker} is gone", lost=True)
                if attempted is not None:
                    self._begin(running, attempted)
            busy = any(r.at is not None for r in self._members.values())
            if exhausted and not busy and not later and not any(pinned.values()):
                return
            for member, reply in self._wait(later):
                outcome = self._settle(member, reply, later)
                if outcome is not None:
                    yield outcome
            for number in [n for n in pinned if n not in self._members]:
                for attempted in pinned.pop(number):
                    yield Failed(attempted.call, f"worker {number} is gone", lost=True)

    def _fill_up(self) -> None:
        while len(self._members) < self._backend.wanted():
            if self._deaths > self._limits.restarts:
                break
            member = self._backend.start(self._spec)
            # A worker that waits for the cluster to grow may take as long as it takes, once another one works.
            self._members[member.number] = _Running(member, math.inf)
            member.call("hello", ())
        if not self._members:
            raise NoWorkers(
                f"no worker is left, {self._deaths} died. What was finished stays; see the messages above, then type"
                " the same command again"
            )
        now = time.monotonic()
        if any(not running.greeting for running in self._members.values()):
            self._alone_since = now
        elif now - self._alone_since > self._limits.start_s:
            raise NoWorkers(
                f"no worker was ready within {self._limits.start_s:.0f} s: {self._backend.told()}. What was finished"
                " stays; give the cluster room and type the same command again"
            )

    def _begin(self, running: _Running, attempted: _Attempted) -> None:
        attempted.tried += 1
        running.at = attempted
        running.until = time.monotonic() + self._limits.deadline(attempted.call)
        running.member.call(attempted.call.method, attempted.call.arguments)

    def _due(self, later: list[tuple[float, int, _Attempted]]) -> _Attempted | None:
        if later and later[0][0] <= time.monotonic():
            return heapq.heappop(later)[2]
        return None

    def _wait(self, later: list[tuple[float, int, _Attempted]]) -> list[tuple[Any, Reply]]:
        now = time.monotonic()
        busy = [r for r in self._members.values() if r.at is not None or r.greeting]
        nearest = min([*(r.until for r in busy), *(t for t, _, _ in later[:1])], default=now + POLL_S)
        replies = self._backend.wait([r.member for r in busy], max(min(nearest - now, POLL_S), 0.001))
        if replies:
            return replies
        now = time.monotonic()
        hung = [r for r in busy if r.until < now]
        for running in hung:
            running.member.end()
        return [(r.member, Reply(died=self._overdue(r))) for r in hung]

    def _overdue(self, running: _Running) -> str:
        assert running.at is not None
        return f"did not answer within {self._limits.deadline(running.at.call):.0f} s"

    def _settle(self, member: Any, reply: Reply, later: list[tuple[float, int, _Attempted]]) -> Done | Failed | None:
        running = self._members.get(member.number)
        if running is None:
            return None
        if reply.died is not None:
            del self._members[member.number]
            member.end()
            self._deaths += 1
            self._progress.say(f"worker {member.number} {reply.died}; it is replaced")
        if running.greeting:
            running.greeting = False
            if reply.error is not None:
                raise reply.error
            if reply.died is None:
                self._same_kind(reply.value)
            return None
        attempted, running.at = running.at, None
        assert attempted is not None
        if reply.died is None and reply.error is None:
            self._deaths = 0
            return Done(attempted.call, reply.value, member.number)
        return self._again(attempted, reply, later)

    def _again(self, attempted: _Attempted, reply: Reply, later: list[tuple[float, int, _Attempted]]) -> Failed | None:
        call, error = attempted.call, reply.error
        if isinstance(error, UsageError):
            raise error
        attempted.fatal += reply.died is not None
        attempted.reasons.append(reply.died or f"{type(error).__name__}: {error}")
        if call.worker is not None:
            return Failed(call, attempted.reasons[-1], attempted.tried, attempted.fatal, reply.died is not None)
        if isinstance(error, ShardError):
            return Failed(call, str(error), attempted.tried)
        if attempted.tried >= (call.attempts or self._limits.attempts):
            reason = (
                f"{call.what or call.key}: given up after {attempted.tried} attempts; last: {attempted.reasons[-1]}"
            )
            return Failed(call, reason + _advice(error), attempted.tried, attempted.fatal)
        pause = self._limits.pause_s * 2.0 ** (attempted.tried - 1)
        heapq.heappush(later, (time.monotonic() + pause, id(attempted), attempted))
        return None

    def _same_kind(self, facts: dict[str, Any]) -> None:
        """Raise UsageError when a worker is not like the driver and the others: bits would depend on who does what."""
        for name, value in facts.items():
            if self._kinds.setdefault(name, value) != value:
                raise UsageError(
                    f"workers differ in {name}: {self._kinds[name]} and {value}. One run admits one kind, since"
                    " results have to be the same whoever computes them; give all nodes the same software and devices"
                )


def _advice(error: BaseException | None) -> str:
    text = f"{type(error).__name__} {error}".lower()
    if "out of memory" in text or isinstance(error, MemoryError):
        return " (out of memory: a smaller --batch needs less)"
    return ""
