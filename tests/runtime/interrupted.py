"""A pool with an accident in it: at a chosen moment the process of a worker that has just been given work is killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from ecgscale.passes.workers import Call, Done, Failed, OpenPool, WorkerPool, WorkerSpec
from ecgscale.progress import UNSEEN, Stage
from ecgscale.runtime.scheduler import Backend, PoolLimits, Scheduler
from tests.worlds.commands.explaining import Watching

LIMITS = PoolLimits(pause_s=0.05, deadline_s=120.0, poll_s=0.1, replace_s=60.0)


class Accident:
    """Kill a worker while run number `run` (from 0) of calls of `method` is under way; `deaths` says whether it did.

    Not before `workers` are there.
    """

    def __init__(
        self, method: str, run: int = 0, how: Callable[[Scheduler, int], None] | None = None, workers: int = 1
    ) -> None:
        self.method, self.at, self.how, self.workers = method, run, how or kill, workers
        self.runs = self.deaths = 0

    def watch(self, pool: Scheduler, calls: Iterable[Call], stage: Stage) -> Iterator[Done | Failed]:
        due: list[Call] = []

        def drawn() -> Iterator[Call]:
            for call in calls:
                if call.method == self.method and not due:
                    due.append(call)
                    self.runs += 1
                yield call

        for outcome in pool.run(drawn(), stage):
            yield outcome
            # One is done, so the others that were handed out are under way, or have just answered.
            if due and self.runs == self.at + 1 and not self.deaths and len(pool.greeted) >= self.workers:
                self.deaths += 1
                self.how(pool, outcome.worker if isinstance(outcome, Done) else -1)


def kill(pool: Scheduler, but: int) -> None:
    """Kill the process of a worker, another than `but` if there is one."""
    victim = next((number for number in pool.greeted if number != but), but)
    os.kill(pool.greeted[victim].pid, signal.SIGKILL)


class _Pool:
    def __init__(self, pool: Scheduler, accident: Accident | None) -> None:
        self._pool, self._accident = pool, accident
        self.ready = pool.ready

    def run(self, calls: Iterable[Call], stage: Stage = UNSEEN) -> Iterator[Done | Failed]:
        return (
            self._pool.run(calls, stage) if self._accident is None else self._accident.watch(self._pool, calls, stage)
        )


def pool_on(
    backend: Callable[[], Backend],
    accident: Accident | None = None,
    limits: PoolLimits = LIMITS,
    progress: Any = None,
) -> OpenPool:
    """A runtime for passes over a backend, with an accident if there is to be one.

    All workers are waited for, so that each gets something to do.
    """

    @contextmanager
    def open_pool(spec: WorkerSpec) -> Iterator[WorkerPool]:
        with Scheduler(backend(), spec, limits, progress or Watching()) as pool:
            while len(pool.ready()) < (accident.workers if accident else 1):
                pass  # it waits for a while each time
            yield _Pool(pool, accident)

    return open_pool
