"""One scheduler for every kind of pool: hands calls to workers as they become free, and survives what happens to them.

    free worker ← next call             no static split: a slow worker simply takes fewer
    worker dies, or outlives a deadline → it is replaced, its call goes back with a growing pause, to another if it can
    call fails `attempts` times         → given up; the rest goes on
    call raises ShardError              → given up at once: another worker would find the same shard
    call raises a usage error           → the whole run would: it is raised (of a call with `raises`, any error)
    worker cannot be made               → tried again ever more slowly while others work, raised when none does
    worker is unlike the others         → raised; refused, if others have worked already

What a pool is made of (processes, Ray actors) is a `Backend`: it starts, calls, waits for and ends members. The
driver keeps one call a worker and the waiting ones as an iterator, so neither its memory nor its time for a call grow
with the run.
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from ecgscale.errors import EcgscaleError, ShardError, UsageError
from ecgscale.passes.workers import Call, Done, Failed, OpenPool, WorkerPool, WorkerSpec, in_process
from ecgscale.progress import SILENT, UNSEEN, Progress, Stage
from ecgscale.runtime.worker import Attempted, Hello, Queue, kind

LONGEST_PAUSE = 6
"""Pauses double so many times."""


class NoWorkers(EcgscaleError):
    """No worker could be had; what was committed stays, and the same command goes on from there."""


@dataclass(frozen=True)
class Reply:
    """What came of a call: a value, an error raised by it, or the death of the worker.

    `blameless` deaths came from outside (a node went away), so they are not held against the call.
    """

    value: Any = None
    error: BaseException | None = None
    died: str | None = None
    blameless: bool = False


class Member(Protocol):
    """One worker of a backend. It answers its first call only once it is made."""

    @property
    def number(self) -> int:
        """Unique within the pool, never used again."""

    def call(self, method: str, arguments: tuple[Any, ...]) -> None:
        """Begin a call; one at a time."""

    def end(self) -> None:
        """End the worker, whatever it does. Called once."""


class Backend(Protocol):
    """Where members come from."""

    def wanted(self) -> int:
        """How many members there should be now."""

    def start(self, spec: WorkerSpec) -> Member:
        """Begin to start a member."""

    def wait(self, members: Sequence[Any], timeout: float) -> list[tuple[Any, Reply]]:
        """Replies of members with a call under way, as soon as there is one, or none after `timeout` seconds."""

    def description(self) -> str:
        """What a worker needs and what there is, for the error when none can be had."""

    def close(self) -> None:
        """End what the backend itself started."""


@dataclass(frozen=True)
class PoolLimits:
    """How long to wait, and how often to try. Deadlines grow with a call's records.

    attempts: of a call, and of starting workers before any is ready; moves: attempts that were lost with a node and
    do not count; start_s: until the first worker is ready; replace_s: for a dead one's successor, where it is waited
    for; poll_s: how often deadlines are looked at.
    """

    attempts: int = 3
    moves: int = 20
    pause_s: float = 1.0
    deadline_s: float = 600.0
    deadline_s_per_record: float = 1.0
    start_s: float = 300.0
    replace_s: float = 20.0
    poll_s: float = 0.5

    def deadline(self, call: Call) -> float:
        """Seconds after which a call's worker counts as hung."""
        if call.deadline_s is not None:
            return call.deadline_s
        return self.deadline_s + self.deadline_s_per_record * call.records

    def pause(self, failures: int) -> float:
        """Seconds before the next attempt after so many failures."""
        return self.pause_s * 2.0 ** min(failures - 1, LONGEST_PAUSE)


@dataclass
class _Running:
    """A member, the call it has, and when that has to be over; `greeting` until its first answer."""

    member: Any
    until: float = math.inf
    at: Attempted | None = None
    greeting: bool = True


class Scheduler:
    """A pool of workers over a backend; `WorkerPool` of the passes. Use as a context manager.

    `greeted` says of every worker that is ready what and where it is.
    """

    def __init__(
        self, backend: Backend, spec: WorkerSpec, limits: PoolLimits | None = None, progress: Progress = SILENT
    ) -> None:
        self._backend, self._spec, self._limits, self._progress = backend, spec, limits or PoolLimits(), progress
        self._members: dict[int, _Running] = {}
        self._free: dict[int, _Running] = {}
        self.greeted: dict[int, Hello] = {}
        self._kind, self._kind_of = kind(), "this process"
        self._worked = False
        self._failed_starts, self._start_after = 0, 0.0
        self._alone_since = time.monotonic()
        self._next_look = 0.0

    def __enter__(self) -> Scheduler:
        return self

    def __exit__(self, *exc: object) -> None:
        # Every one of them is ended, whatever ending another runs into.
        with ExitStack() as stack:
            stack.callback(self._backend.close)
            for running in list(self._members.values()):
                stack.callback(self._dismiss, running)

    def ready(self) -> list[int]:
        """Numbers of the workers, after waiting a while for those that are being replaced; one at least."""
        until = time.monotonic() + self._limits.replace_s
        while True:
            self._fill_up()
            if len(self.greeted) == self._backend.wanted() or (self.greeted and time.monotonic() >= until):
                return sorted(self.greeted)
            for member, reply in self._wait(math.inf):
                self._outcome(member, reply, None)

    def run(self, calls: Iterable[Call], stage: Stage = UNSEEN) -> Generator[Done | Failed, None, None]:
        """Outcomes as they come; see `WorkerPool`."""
        queue = Queue(calls)
        try:
            while True:
                for attempted in queue.orphans(self._members):
                    yield Failed(attempted.call, f"worker {attempted.call.worker} is gone", lost=True)
                self._hand_out(queue)
                if queue.empty and not any(running.at is not None for running in self._members.values()):
                    return
                self._fill_up()
                for member, reply in self._wait(queue.next_due()):
                    outcome = self._outcome(member, reply, queue)
                    if outcome is not None:
                        stage.advance(outcome.call.records)
                        yield outcome
        finally:
            # Whoever stopped listening does not want the rest, and the next run must not be told of it.
            for running in [running for running in self._members.values() if running.at is not None]:
                self._dismiss(running)

    def _hand_out(self, queue: Queue) -> None:
        for number, running in list(self._free.items()):
            attempted = queue.take(number, self.greeted.keys())
            if attempted is not None:
                del self._free[number]
                attempted.tried += 1
                running.at = attempted
                running.until = time.monotonic() + self._limits.deadline(attempted.call)
                running.member.call(attempted.call.method, attempted.call.arguments)

    def _fill_up(self) -> None:
        now = time.monotonic()
        while len(self._members) < self._backend.wanted() and now >= self._start_after:
            member = self._backend.start(self._spec)
            # A worker that waits for the cluster to grow may take as long as it takes, once another one works.
            self._members[member.number] = _Running(member)
            member.call("hello", ())
        if self.greeted:
            self._alone_since = now
        elif now - self._alone_since > self._limits.start_s:
            raise NoWorkers(
                f"no worker was ready within {self._limits.start_s:.0f} s: {self._backend.description()}. What was"
                " finished stays; give the cluster room and type the same command again"
            )

    def _wait(self, due: float) -> list[tuple[Any, Reply]]:
        """Replies, those of workers past their deadline included; at the latest when a paused call is due."""
        now = time.monotonic()
        busy = [running for running in self._members.values() if running.at is not None or running.greeting]
        timeout = max(min(due - now, self._limits.poll_s), 0.001)
        if not busy:
            time.sleep(timeout)
            return []
        replies = self._backend.wait([running.member for running in busy], timeout)
        now = time.monotonic()
        if now >= self._next_look:
            self._next_look = now + self._limits.poll_s
            answered = {member.number for member, _ in replies}
            for running in busy:
                if running.until < now and running.member.number not in answered and running.at is not None:
                    deadline = self._limits.deadline(running.at.call)
                    replies.append((running.member, Reply(died=f"did not answer within {deadline:.0f} s")))
        return replies

    def _outcome(self, member: Any, reply: Reply, queue: Queue | None) -> Done | Failed | None:
        running = self._members.get(member.number)
        if running is None:
            return None
        if running.greeting:
            self._greeted(running, reply)
            return None
        attempted, running.at, running.until = running.at, None, math.inf
        if reply.died is None:
            self._free[member.number] = running
        else:
            self._dismiss(running)
            at = f" on {attempted.call.what}" if attempted is not None and attempted.call.what else ""
            self._progress.say(f"worker {member.number} {reply.died}{at}; it is replaced")
        if attempted is None or queue is None:
            return None
        if reply.died is None and reply.error is None:
            self._worked = True
            return Done(attempted.call, reply.value, member.number)
        return self._again(attempted, reply, member.number, queue)

    def _greeted(self, running: _Running, reply: Reply) -> None:
        """A worker says what it is, or that it could not be made."""
        error = reply.error
        if error is None and reply.died is None:
            error = self._unlike(reply.value)
            if error is None:
                running.greeting = False
                self._free[running.member.number] = running
                self.greeted[running.member.number] = reply.value
                self._failed_starts = 0
                return
        number = running.member.number
        self._dismiss(running)
        # At the beginning it is the set-up that is wrong; later, one node that came and is unlike the others.
        if isinstance(error, UsageError) and not self._worked:
            raise error
        self._failed_starts += 1
        self._start_after = time.monotonic() + self._limits.pause(self._failed_starts)
        reason = reply.died or (str(error) if isinstance(error, EcgscaleError) else f"{type(error).__name__}: {error}")
        self._progress.say(f"worker {number} did not start: {reason}")
        if self._failed_starts >= self._limits.attempts and not self.greeted:
            raise NoWorkers(
                f"no worker could be started, {self._failed_starts} were tried; last: {reason}. What was finished"
                " stays; put it right and type the same command again"
            )

    def _unlike(self, hello: Hello) -> UsageError | None:
        """What a worker differs in from the driver or from the first worker: bits would depend on who does what."""
        for name, value in hello.kind.items():
            known = self._kind.setdefault(name, value)
            if value != known:
                return UsageError(
                    f"a worker on {hello.host} has {name} {value}, {self._kind_of} {known}. One run admits one kind,"
                    " since results have to be the same whoever computes them; give all nodes the same software,"
                    " devices and threads"
                )
        self._kind_of = "the others"
        return None

    def _again(self, attempted: Attempted, reply: Reply, number: int, queue: Queue) -> Failed | None:
        """Put a call back after it failed, or give it up."""
        call, error = attempted.call, reply.error
        if error is not None and (call.raises or isinstance(error, UsageError)):
            raise error
        reason = reply.died or f"{type(error).__name__}: {error}"
        if call.worker is not None:
            dead = reply.died is not None
            return Failed(call, reason + _advice(error), attempted.tried, fatal=int(dead), lost=dead)
        if isinstance(error, ShardError):
            return Failed(call, str(error), attempted.tried)
        if reply.blameless and attempted.moved < self._limits.moves:
            attempted.moved += 1
            attempted.tried -= 1
        else:
            attempted.fatal += reply.died is not None
        if attempted.tried < (call.attempts or self._limits.attempts):
            attempted.failed_on.add(number)
            queue.put_back(attempted, time.monotonic() + self._limits.pause(max(attempted.tried, 1)))
            return None
        if isinstance(error, EcgscaleError):
            raise error  # it says itself what is wrong, and it is not the shard: a full disk, for one
        reason = f"{call.what or call.key}: given up after {attempted.tried} attempts; last: {reason}{_advice(error)}"
        return Failed(call, reason, attempted.tried, attempted.fatal)

    def _dismiss(self, running: _Running) -> None:
        number = running.member.number
        del self._members[number]
        self._free.pop(number, None)
        self.greeted.pop(number, None)
        running.member.end()


def _advice(error: BaseException | None) -> str:
    text = f"{type(error).__name__} {error}".lower()
    if "out of memory" in text or "outofmemory" in text or isinstance(error, MemoryError):
        return " (out of memory: a smaller --batch needs less)"
    return ""


RuntimeName = Literal["local", "ray"]


def choose_runtime(
    name: RuntimeName,
    workers: int | None,
    *,
    gpus: float = 0.0,
    limits: PoolLimits | None = None,
    progress: Progress = SILENT,
) -> OpenPool:
    """The pool to hand to a pass; `in_process` for one worker on this machine.

    Raises UsageError for fewer than one worker.
    """
    if workers is not None and workers < 1:
        raise UsageError(f"--workers {workers}: at least one worker is needed")
    if name == "local" and (workers or 1) == 1:
        return in_process

    @contextmanager
    def open_pool(spec: WorkerSpec) -> Iterator[WorkerPool]:
        count = min(workers or 1, spec.at_most or workers or 1)
        with Scheduler(_backend(name, count, gpus), spec, limits, progress) as pool:
            yield pool

    return open_pool


def _backend(name: RuntimeName, workers: int, gpus: float) -> Backend:
    if name == "local":
        from ecgscale.runtime.processes import ProcessBackend

        return ProcessBackend(workers)
    from ecgscale.runtime.ray_pool import RayBackend

    return RayBackend(workers, gpus)
