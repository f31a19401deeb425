"""Tasks on real worker processes: answers in their order, whoever gives them, dies of them or comes too late."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ecgscale.errors import EcgscaleError, UsageError
from ecgscale.passes.spread import HERE, ROUNDS, Spread
from ecgscale.passes.workers import Call, Done, Failed, WorkerSpec
from ecgscale.runtime.choose import choose_runtime
from ecgscale.runtime.processes import ProcessBackend
from ecgscale.runtime.scheduler import Limits, Scheduler


def scaled(shared: int, task: int) -> int:
    return shared * task


def where(shared: None, task: int) -> int:
    return os.getpid()


def refuses(shared: str, task: int) -> int:
    raise UsageError(f"{shared} {task} cannot be had")


def dies_once(shared: Path, task: int) -> tuple[int, int]:
    """The third task takes its worker along the first time."""
    flag = shared / "died"
    if task == 2 and not flag.exists():
        flag.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return task, os.getpid()


def always_dies(shared: None, task: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return task


class Counted:
    """A stage that adds up."""

    def __init__(self) -> None:
        self.done = 0

    def advance(self, amount: int = 1) -> None:
        self.done += amount

    def note(self, text: str) -> None:
        raise AssertionError(text)


@contextmanager
def two_processes(spec: WorkerSpec) -> Iterator[Scheduler]:
    with Scheduler(ProcessBackend(2, threads=1), spec, Limits(attempts=2, pause_s=0.01, poll_s=0.05)) as pool:
        yield pool


def test_here_and_on_workers_alike() -> None:
    tasks = list(range(20))
    here, there = Counted(), Counted()
    assert HERE.map(scaled, 3, tasks, here) == [3 * task for task in tasks]
    with Spread(choose_runtime("local", 2)) as spread:
        assert spread.map(scaled, 3, tasks, there, [2] * 20) == [3 * task for task in tasks]
        # What tasks share is another thing the second time, the workers are the same.
        assert spread.map(scaled, 5, tasks) == [5 * task for task in tasks]
        first = set(spread.map(where, None, tasks))
        assert set(spread.map(where, None, tasks)) | first == first
        assert os.getpid() not in first
    assert (here.done, there.done) == (20, 40)


def test_no_task_starts_no_worker() -> None:
    def none(spec: WorkerSpec) -> Any:
        raise AssertionError("a worker was asked for")

    with Spread(none) as spread:
        assert spread.map(scaled, 1, []) == []


@pytest.mark.parametrize("spread", [HERE, Spread(two_processes)])
def test_what_a_task_raises_comes_back(spread: Spread) -> None:
    with spread, pytest.raises(UsageError, match=r"the moon 1 cannot be had"):
        spread.map(refuses, "the moon", [1])


def test_a_worker_that_dies_is_replaced_and_given_what_tasks_share(tmp_path: Path) -> None:
    with Spread(two_processes) as spread:
        answers = spread.map(dies_once, tmp_path, list(range(12)))
    assert [task for task, _ in answers] == list(range(12))
    assert (tmp_path / "died").exists()


def test_a_task_that_kills_every_worker_ends_it() -> None:
    with Spread(two_processes) as spread, pytest.raises(EcgscaleError, match=r"task 1 of 1: given up after 2 attempts"):
        spread.map(always_dies, None, [0])


class Forgetful:
    """A pool whose workers are new for every run; `remember` of the runs they are not."""

    def __init__(self, remember: int) -> None:
        self.remember, self.runs, self.given = remember, 0, 0

    def ready(self) -> list[int]:
        return [0]

    def run(self, calls: Any) -> Iterator[Done | Failed]:
        calls = list(calls)
        for call in calls:
            assert isinstance(call, Call)
            if call.method == "give":
                self.given += 1
                yield Done(call, None, 0)
        if calls[0].method == "answer":
            self.runs += 1
            known = self.runs > self.remember
            for call in calls:
                yield Done(call, (known, call.arguments[1]), 0)


def of(pool: Forgetful) -> Callable[[WorkerSpec], Any]:
    @contextmanager
    def opened(spec: WorkerSpec) -> Iterator[Forgetful]:
        yield pool

    return opened


def test_workers_that_come_late_are_given_it_and_asked_again() -> None:
    pool = Forgetful(remember=3)
    with Spread(of(pool)) as spread:
        assert spread.map(scaled, 1, [7, 8]) == [7, 8]
    assert pool.given == 4


def test_coming_and_going_without_an_end_is_told() -> None:
    with Spread(of(Forgetful(remember=ROUNDS))) as spread, pytest.raises(EcgscaleError, match="came and went"):
        spread.map(scaled, 1, [7])
