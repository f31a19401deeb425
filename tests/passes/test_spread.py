"""Tasks on real worker processes: answers in their order, whoever gives them, dies of them or comes too late."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from threadpoolctl import threadpool_info

from ecgscale.errors import EcgscaleError, UsageError
from ecgscale.passes.spread import HERE, Spread
from ecgscale.passes.workers import WorkerSpec
from ecgscale.runtime.processes import ProcessBackend
from ecgscale.runtime.scheduler import PoolLimits, Scheduler, choose_runtime


def scaled(shared: int, task: int) -> int:
    return shared * task


def first_of(shared: list[int], task: int) -> int:
    return shared[0]


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


class Unsendable(Exception):
    """An error that cannot be unpickled."""

    def __init__(self, what: str, where: str) -> None:
        super().__init__(f"{what} at {where}")


def breaks(shared: Path, task: int) -> int:
    with (shared / "tries").open("a") as tries:
        tries.write(f"{task}\n")
    raise Unsendable("a bug", "line 7") if task else ValueError("no such fold")


def blas_threads(shared: None, task: int) -> set[int]:
    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


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
    with Scheduler(ProcessBackend(2, threads=1), spec, PoolLimits(attempts=2, pause_s=0.01, poll_s=0.05)) as pool:
        yield pool


def test_here_and_on_workers_alike() -> None:
    tasks = list(range(20))
    here, there = Counted(), Counted()
    assert HERE.map(scaled, 3, tasks, here) == [3 * task for task in tasks]
    with Spread(choose_runtime("local", 2)) as spread:
        assert spread.map(scaled, 3, tasks, there, [2] * 20) == [3 * task for task in tasks]
        # What tasks share is another thing the second time, the workers are the same.
        assert spread.map(scaled, 5, tasks) == [5 * task for task in tasks]
        assert os.getpid() not in spread.map(where, None, tasks)
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


def test_what_a_task_raises_is_not_tried_again(tmp_path: Path) -> None:
    with Spread(two_processes) as spread:
        with pytest.raises(ValueError, match=r"^no such fold$"):
            spread.map(breaks, tmp_path, [0])
        with pytest.raises(RuntimeError, match=r"^Unsendable: a bug at line 7$"):
            spread.map(breaks, tmp_path, [1])
    assert (tmp_path / "tries").read_text() == "0\n1\n"


@pytest.mark.parametrize("spread", [HERE, Spread(two_processes)])
def test_sums_do_not_depend_on_the_cores_of_who_adds_them_up(spread: Spread) -> None:
    with spread:
        assert set.union(*spread.map(blas_threads, None, [0, 1])) == {1}


def test_workers_are_made_for_what_is_shared_and_no_more_than_there_is_to_do() -> None:
    made: list[WorkerSpec] = []

    @contextmanager
    def counted(spec: WorkerSpec) -> Iterator[Scheduler]:
        made.append(spec)
        with two_processes(spec) as pool:
            yield pool

    shared, other = [3], [4]
    with Spread(counted) as spread:
        assert spread.map(first_of, shared, [0, 1, 2]) == [3, 3, 3]
        assert spread.map(first_of, shared, [0]) == [3]
        assert spread.map(first_of, other, [0]) == [4]
    assert [spec.at_most for spec in made] == [3, 1]
    with Spread(counted, at_most=1) as spread:
        spread.map(first_of, shared, [0, 1])
    assert made[-1].at_most == 1
    with choose_runtime("local", 4)(made[0]) as pool:
        assert len(pool.ready()) == 3


def test_a_worker_that_dies_is_replaced_and_has_what_tasks_share(tmp_path: Path) -> None:
    with Spread(two_processes) as spread:
        answers = spread.map(dies_once, tmp_path, list(range(12)))
    assert [task for task, _ in answers] == list(range(12))
    assert (tmp_path / "died").exists()


def test_a_task_that_kills_every_worker_ends_it() -> None:
    with Spread(two_processes) as spread, pytest.raises(EcgscaleError, match=r"^fold 3: given up after 2 attempts"):
        spread.map(always_dies, None, [0], names=["fold 3"])
