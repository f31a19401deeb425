"""The scheduler over a backend without processes: who gets what, what is tried again or given up, what it costs."""

from __future__ import annotations

import itertools
import random
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest

from ecgscale.errors import EcgscaleError, ShardError, UsageError
from ecgscale.passes.workers import Call, Done, Failed, WorkerSpec
from ecgscale.runtime.scheduler import NoWorkers, PoolLimits, Reply, Scheduler
from ecgscale.runtime.worker import Hello, kind
from tests.worlds.commands.explaining import Watching

QUICK = PoolLimits(pause_s=0.005, deadline_s=5.0, start_s=0.3, replace_s=0.1, poll_s=0.002)
HELLO = Hello({**kind(), "device": "cpu", "threads": 1}, "here", 1)
NEVER = Reply(value="never comes")

Answer = Callable[["FakeMember", str, tuple[Any, ...]], Reply]


class FakeMember:
    """Answers after `takes` rounds of waiting what the backend's `answer` says."""

    def __init__(self, number: int, backend: FakeBackend) -> None:
        self.number, self._backend = number, backend
        self.asked: tuple[str, tuple[Any, ...]] | None = None
        self.rounds = 0
        self.calls: list[Any] = []
        self.ended = 0

    def call(self, method: str, arguments: tuple[Any, ...]) -> None:
        assert self.asked is None, "one call at a time"
        assert not self.ended
        self.asked, self.rounds = (method, arguments), self._backend.takes(self.number)
        if method != "hello":
            self.calls.append(arguments)

    def end(self) -> None:
        self.ended += 1


class FakeBackend:
    """`answer` is what a call ends with, `hello` what a worker says of itself, `takes` how many rounds it takes."""

    def __init__(
        self,
        workers: int,
        answer: Answer = lambda member, method, arguments: Reply(value=arguments),
        hello: Callable[[int], Reply] = lambda number: Reply(value=HELLO),
        takes: Callable[[int], int] = lambda number: 1,
        seed: int = 0,
    ) -> None:
        self.workers, self.answer, self.hello, self.takes = workers, answer, hello, takes
        self.members: list[FakeMember] = []
        self.closed = False
        self._random = random.Random(seed)

    def wanted(self) -> int:
        return self.workers

    def start(self, spec: WorkerSpec) -> FakeMember:
        self.members.append(FakeMember(len(self.members), self))
        return self.members[-1]

    def wait(self, members: Sequence[FakeMember], timeout: float) -> list[tuple[FakeMember, Reply]]:
        assert all(member.asked is not None for member in members)
        replies = []
        for member in self._random.sample(list(members), len(members)):
            member.rounds -= 1
            assert member.asked is not None
            method, arguments = member.asked
            if member.rounds > 0:
                continue
            reply = self.hello(member.number) if method == "hello" else self.answer(member, method, arguments)
            if reply is not NEVER:
                member.asked = None
                replies.append((member, reply))
        if not replies:
            time.sleep(min(timeout, 0.001))
        return replies

    def description(self) -> str:
        return "a worker needs 1 CPU and 1 GPU, the cluster has {'CPU': 8.0}"

    def close(self) -> None:
        self.closed = True


def calls(n: int, **more: Any) -> list[Call]:
    return [Call(str(i), "work", (i,), records=1, what=f"shard {i}", **more) for i in range(n)]


def outcomes(backend: FakeBackend, todo: Any, limits: PoolLimits = QUICK, progress: Any = None) -> list[Done | Failed]:
    with Scheduler(backend, WorkerSpec("none:needed"), limits, progress or Watching()) as pool:
        found = list(pool.run(todo))
    assert all(member.ended == 1 for member in backend.members)
    assert backend.closed
    return found


def test_calls_go_to_whoever_is_free() -> None:
    backend = FakeBackend(3, takes=lambda number: 50 if number == 0 else 1)
    found = outcomes(backend, calls(60))
    assert sorted(int(o.call.key) for o in found) == list(range(60))
    assert all(isinstance(o, Done) and o.value == o.call.arguments for o in found)
    done = [len(member.calls) for member in backend.members]
    assert sum(done) == 60
    assert done[0] < 5 < min(done[1:]), "the slow one takes fewer"


def test_replies_may_come_in_any_order() -> None:
    for seed in range(5):
        backend = FakeBackend(4, takes=lambda number: random.Random(number).randint(1, 4), seed=seed)
        found = outcomes(backend, calls(40))
        assert Counter(o.call.key for o in found) == Counter(str(i) for i in range(40))


def test_a_failed_call_is_tried_again_after_a_growing_pause_by_another_worker() -> None:
    tried: list[tuple[float, int]] = []

    def fail_twice(member: FakeMember, method: str, arguments: tuple[Any, ...]) -> Reply:
        if arguments == (3,):
            tried.append((time.monotonic(), member.number))
            if len(tried) < 3:
                return Reply(error=RuntimeError("CUDA out of memory"))
        return Reply(value=arguments)

    found = outcomes(FakeBackend(2, fail_twice), calls(6), replace(QUICK, pause_s=0.05))
    assert len(found) == 6
    assert all(isinstance(o, Done) for o in found)
    first, second = (b[0] - a[0] for a, b in itertools.pairwise(tried))
    assert first >= 0.05
    assert second >= 0.1
    assert tried[0][1] != tried[1][1], "elsewhere, where there is another"


def test_a_call_that_always_fails_is_given_up_and_the_rest_goes_on() -> None:
    def fail(member: FakeMember, method: str, arguments: tuple[Any, ...]) -> Reply:
        return Reply(error=MemoryError("64 GiB")) if arguments == (1,) else Reply(value=0)

    found = outcomes(FakeBackend(2, fail), calls(4))
    [failed] = [o for o in found if isinstance(o, Failed)]
    assert (failed.call.key, failed.attempts, failed.fatal, failed.lost) == ("1", 3, 0, False)
    assert failed.reason.startswith("shard 1: given up after 3 attempts; last: MemoryError: 64 GiB")
    assert "--batch" in failed.reason
    assert len(found) == 4


def test_a_call_that_kills_is_given_up_and_its_workers_are_replaced() -> None:
    def die(member: FakeMember, method: str, arguments: tuple[Any, ...]) -> Reply:
        return Reply(died="died (signal SIGSEGV)") if arguments == (1,) else Reply(value=0)

    backend, progress = FakeBackend(2, die), Watching()
    found = outcomes(backend, calls(5), progress=progress)
    [failed] = [o for o in found if isinstance(o, Failed)]
    assert (failed.fatal, failed.attempts) == (3, 3)
    assert len(found) == 5
    assert len(backend.members) in (4, 5)
    assert progress.said.count("worker 0 died (signal SIGSEGV) on shard 1; it is replaced") <= 1
    assert sum("on shard 1; it is replaced" in line for line in progress.said) == 3


def test_many_deaths_in_a_row_are_no_reason_to_stop() -> None:
    found = outcomes(FakeBackend(2, lambda *_: Reply(died="died")), calls(30))
    assert len(found) == 30
    assert all(isinstance(o, Failed) and o.fatal == 3 for o in found)


def test_a_node_that_goes_away_is_not_held_against_the_call() -> None:
    deaths: Counter[int] = Counter()

    def move(member: FakeMember, method: str, arguments: tuple[Any, ...]) -> Reply:
        deaths[arguments[0]] += 1
        return Reply(died="died (its node has died)", blameless=True) if deaths[arguments[0]] <= 6 else Reply(value=0)

    found = outcomes(FakeBackend(2, move), calls(3))
    assert all(isinstance(o, Done) for o in found)
    # Not for ever: a call may be what brings nodes down.
    deaths.clear()
    found = outcomes(FakeBackend(2, lambda *_: Reply(died="died", blameless=True)), calls(1), replace(QUICK, moves=4))
    assert [o.fatal for o in found if isinstance(o, Failed)] == [3]


def test_a_worker_past_its_deadline_is_ended_and_the_call_done_elsewhere() -> None:
    hung: list[FakeMember] = []

    def hang(member: FakeMember, method: str, arguments: tuple[Any, ...]) -> Reply:
        if arguments == (0,) and not hung:
            hung.append(member)
        return NEVER if member in hung else Reply(value=member.number)

    backend, progress = FakeBackend(2, hang), Watching()
    started = time.monotonic()
    limits = replace(QUICK, deadline_s=0.1, deadline_s_per_record=0.1)
    found = outcomes(backend, calls(400), limits, progress)
    assert 0.2 <= time.monotonic() - started < 2, "deadline and records, while others answer all the time"
    assert len(found) == 400
    [late] = [o for o in found if o.call.key == "0"]
    assert isinstance(late, Done)
    assert late.value != hung[0].number
    assert "did not answer within 0 s on shard 0" in progress.said[0]


def test_pinned_calls_go_to_their_worker_or_are_lost() -> None:
    def die(member: FakeMember, method: str, arguments: tuple[Any, ...]) -> Reply:
        return Reply(died="died") if arguments == ("kill",) else Reply(value=member.number)

    backend = FakeBackend(3, die)
    with Scheduler(backend, WorkerSpec("none:needed"), QUICK) as pool:
        assert pool.ready() == [0, 1, 2]
        todo = [Call(str(i), "work", (i,), worker=i % 3) for i in range(9)]
        assert all(isinstance(o, Done) and o.value == o.call.worker for o in pool.run(todo))
        fatal = [Call("k", "work", ("kill",), worker=1), *(Call(str(i), "work", (i,), worker=1) for i in range(3))]
        found = list(pool.run([*fatal, Call("fine", "work", (), worker=2)]))
        lost = [o for o in found if isinstance(o, Failed)]
        assert {o.call.key for o in lost} == {"k", "0", "1", "2"}
        assert all(o.lost for o in lost)
        [gone] = pool.run([Call("late", "work", (), worker=1)])
        assert isinstance(gone, Failed)
        assert (gone.lost, gone.reason) == (True, "worker 1 is gone")
        assert pool.ready() == [0, 2, 3]


def test_a_pinned_call_that_raises_is_not_lost() -> None:
    with Scheduler(FakeBackend(1, lambda *_: Reply(error=MemoryError())), WorkerSpec("none:needed"), QUICK) as pool:
        [failed] = pool.run([Call("0", "work", (), worker=pool.ready()[0])])
    assert isinstance(failed, Failed)
    assert not failed.lost
    assert "out of memory" in failed.reason


def test_a_shard_error_is_given_up_at_once_and_other_errors_of_the_whole_run_are_raised() -> None:
    def answer(error: Exception) -> FakeBackend:
        return FakeBackend(2, lambda m, _, a: Reply(error=error) if a == (2,) else Reply(value=0))

    [failed] = [o for o in outcomes(answer(ShardError("part-2 breaks off")), calls(5)) if isinstance(o, Failed)]
    assert (failed.reason, failed.attempts, failed.fatal) == ("part-2 breaks off", 1, 0)
    tried: list[int] = []
    for error, attempts in ((UsageError("no such column"), 1), (EcgscaleError("the disk is full"), 3)):
        backend = answer(error)
        with pytest.raises(type(error), match=str(error)):
            outcomes(backend, calls(5))
        tried.append(sum(member.calls.count((2,)) for member in backend.members))
        assert tried[-1] == attempts
        assert backend.closed
        assert all(member.ended == 1 for member in backend.members)


def test_workers_that_never_come_end_the_run_with_what_is_needed_and_what_there_is() -> None:
    backend = FakeBackend(2, hello=lambda number: NEVER)
    with pytest.raises(NoWorkers, match=r"no worker was ready within 0 s: a worker needs 1 CPU and 1 GPU, the clust"):
        outcomes(backend, calls(3))


def test_a_worker_that_waits_for_room_holds_up_nobody() -> None:
    backend = FakeBackend(2, hello=lambda number: Reply(value=HELLO) if number == 0 else NEVER, takes=lambda n: 2)
    assert len(outcomes(backend, calls(300), replace(QUICK, start_s=0.05))) == 300


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (Reply(died="died (exit code 1)"), r"died \(exit code 1\)"),
        (Reply(error=OSError("no CUDA")), "OSError: no CUDA"),
    ],
)
def test_workers_that_cannot_be_made_end_the_run_with_the_reason(reply: Reply, message: str) -> None:
    backend = FakeBackend(4, hello=lambda number: reply)
    with pytest.raises(NoWorkers, match=f"no worker could be started, 3 were tried; last: {message}"):
        outcomes(backend, calls(3))
    assert len(backend.members) <= 8


def test_one_that_cannot_be_made_is_tried_ever_more_slowly_while_others_work() -> None:
    backend = FakeBackend(
        2, hello=lambda n: Reply(value=HELLO) if n == 0 else Reply(error=OSError()), takes=lambda n: 3
    )
    limits = replace(QUICK, pause_s=0.02)
    started = time.monotonic()
    assert len(outcomes(backend, calls(200), limits)) == 200
    assert len(backend.members) <= 3 + (time.monotonic() - started) / 0.04


def unlike(name: str, value: str) -> Hello:
    return replace(HELLO, kind={**HELLO.kind, name: value}, host="node-7")


def test_another_version_is_refused_with_both() -> None:
    backend = FakeBackend(2, hello=lambda number: Reply(value=unlike("torch", "1.0.0")))
    mine = kind()["torch"]
    with pytest.raises(UsageError, match=rf"a worker on node-7 has torch 1\.0\.0, this process {mine.split('+')[0]}"):
        outcomes(backend, calls(3))


@pytest.mark.parametrize(("name", "value"), [("device", "cuda (NVIDIA H200)"), ("threads", "8")])
def test_another_device_or_thread_setting_is_refused_with_both(name: str, value: str) -> None:
    backend = FakeBackend(
        2, hello=lambda n: Reply(value=HELLO if n == 0 else unlike(name, value)), takes=lambda n: n + 1
    )
    with Scheduler(backend, WorkerSpec("none:needed"), QUICK) as pool, pytest.raises(UsageError) as raised:
        pool.ready()
    assert f"a worker on node-7 has {name} {value}, the others {HELLO.kind[name]}" in str(raised.value)
    assert "One run admits one kind" in str(raised.value)


def test_a_node_that_joins_late_and_is_another_does_not_end_the_night() -> None:
    deaths: list[int] = []

    def die_once(member: FakeMember, method: str, arguments: tuple[Any, ...]) -> Reply:
        if arguments == (20,) and not deaths:
            deaths.append(member.number)
            return Reply(died="died")
        return Reply(value=0)

    progress = Watching()
    backend = FakeBackend(2, die_once, hello=lambda n: Reply(value=HELLO if n < 2 else unlike("torch", "9.9")))
    assert len(outcomes(backend, calls(60), progress=progress)) == 60
    assert any("worker 2 did not start: a worker on node-7 has torch 9.9" in line for line in progress.said)


def test_ten_thousand_calls_are_never_all_there() -> None:
    backend = FakeBackend(8, lambda *_: Reply(value=None))
    drawn = done = 0
    most_ahead = 0

    @dataclass
    class Weight:
        bytes: bytes

    def source() -> Iterator[Call]:
        nonlocal drawn, most_ahead
        for i in range(10_000):
            drawn += 1
            most_ahead = max(most_ahead, drawn - done)
            yield Call(str(i), "work", (Weight(bytes(10_000)),))

    backend.answer = lambda member, *_: (member.calls.clear(), Reply(value=None))[1]
    tracemalloc.start()
    try:
        with Scheduler(backend, WorkerSpec("none:needed"), QUICK) as pool:
            for outcome in pool.run(source()):
                assert isinstance(outcome, Done)
                done += 1
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert done == 10_000
    assert most_ahead <= 2 * 8 + 2
    assert peak < 2e6


def test_who_stops_listening_leaves_no_call_under_way() -> None:
    answered: list[int] = []

    def slow(member: FakeMember, method: str, arguments: tuple[Any, ...]) -> Reply:
        answered.append(arguments[0])
        return Reply(value=arguments[0]) if arguments[0] < 100 else Reply(value=-1)

    backend = FakeBackend(3, slow, takes=lambda n: n + 1)
    with Scheduler(backend, WorkerSpec("none:needed"), QUICK) as pool:
        pool.ready()
        run = pool.run(calls(50))
        next(run)
        run.close()
        again = list(pool.run(Call(str(i), "work", (i,)) for i in range(100, 110)))
    assert sorted(o.call.arguments[0] for o in again) == list(range(100, 110))


def test_nothing_to_do_needs_no_workers() -> None:
    backend = FakeBackend(2)
    assert outcomes(backend, []) == []
    assert not backend.members


def test_the_last_call_that_kills_costs_no_new_worker() -> None:
    backend = FakeBackend(1, lambda *_: Reply(died="died"))
    found = outcomes(backend, [Call("0", "work", (), attempts=1)])
    assert len(found) == len(backend.members) == 1
