"""Independent tasks of an evaluation, here or on a pool of workers: one function, the same answers, in their order.

A task is a plain function of what all tasks share and of what is its own. Both can be pickled, the function is found by
its import path, and who answers makes no difference to the answer. What tasks share is given to every worker once; a
worker that came later (for one that died, or with a new node) says that it has not got it, and is given it before the
tasks that it could not do come round again.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any, TypeVar

from ecgscale.errors import EcgscaleError
from ecgscale.passes.workers import Call, Done, Failed, OpenPool, WorkerPool, WorkerSpec, imported
from ecgscale.progress import Stage

Shared = TypeVar("Shared")
Task = TypeVar("Task")
Answer = TypeVar("Answer")

ROUNDS = 20
PATIENCE_S = 7200
"""Added to the pool's deadline: a forest or a K-means of many records is no hung worker."""

NOT_GIVEN = "what these tasks share was not given to this worker"


class SpreadWorker:
    """Answers tasks of one function at a time."""

    def __init__(self) -> None:
        self._number: int | None = None
        self._function: Callable[[Any, Any], Any] | None = None
        self._shared: Any = None

    def give(self, number: int, function: str, shared: Any) -> None:
        """What the tasks of this number are and share; what was there before goes."""
        self._number, self._function, self._shared = number, imported(function), shared

    def answer(self, number: int, task: Any) -> tuple[bool, Any]:
        """(True, the answer), or (False, why there is none yet)."""
        if number != self._number or self._function is None:
            return False, NOT_GIVEN
        return True, self._function(self._shared, task)


class Spread:
    """Where tasks are done: on the workers of `pool`, started when first needed, or in this process without one.

    A context manager: workers end with it.
    """

    def __init__(self, pool: OpenPool | None = None) -> None:
        self._pool = pool
        self._open = ExitStack()
        self._workers: WorkerPool | None = None
        self._numbers = itertools.count()

    def __enter__(self) -> Spread:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._workers = None
        self._open.__exit__(kind, error, trace)

    def map(
        self,
        function: Callable[[Shared, Task], Answer],
        shared: Shared,
        tasks: Sequence[Task],
        stage: Stage | None = None,
        weights: Sequence[int] | None = None,
    ) -> list[Answer]:
        """What `function`, of a module's top level, answers to each of the tasks, in their order.

        `stage` advances by the weight of every task that is done (1). Raises what the function raises;
        `EcgscaleError` when a task was given up after workers died of it.
        """
        weights = weights or [1] * len(tasks)

        def done(task: int) -> None:
            if stage is not None:
                stage.advance(weights[task])

        if self._pool is None:
            answers = []
            for i, task in enumerate(tasks):
                answers.append(function(shared, task))
                done(i)
            return answers
        if not tasks:
            return []
        if self._workers is None:
            spec = WorkerSpec("ecgscale.passes.spread:SpreadWorker")
            self._workers = self._open.enter_context(self._pool(spec))
        return self._asked(self._workers, function, shared, tasks, done)

    def _asked(
        self,
        workers: WorkerPool,
        function: Callable[[Shared, Task], Answer],
        shared: Shared,
        tasks: Sequence[Task],
        done: Callable[[int], None],
    ) -> list[Answer]:
        number, path = next(self._numbers), f"{function.__module__}:{function.__qualname__}"
        answers: dict[int, Answer] = {}
        for _ in range(ROUNDS):
            given = [
                Call(f"give {worker}", "give", (number, path, shared), worker=worker, what="what tasks share")
                for worker in workers.ready()
            ]
            for outcome in workers.run(given):
                if isinstance(outcome, Failed) and not outcome.lost:
                    raise EcgscaleError(f"{outcome.reason}. Type the command again, with fewer --workers if need be")
            calls = [
                Call(str(i), "answer", (number, task), PATIENCE_S, what=f"task {i + 1} of {len(tasks)}")
                for i, task in enumerate(tasks)
                if i not in answers
            ]
            for outcome in workers.run(calls):
                if not isinstance(outcome, Done):
                    raise EcgscaleError(f"{outcome.reason}. Type the command again, with fewer --workers if need be")
                known, value = outcome.value
                if known:
                    answers[int(outcome.call.key)] = value
                    done(int(outcome.call.key))
            if len(answers) == len(tasks):
                return [answers[i] for i in range(len(tasks))]
        raise EcgscaleError(f"workers came and went {ROUNDS} times without an end; type the command again")


HERE = Spread()
"""In this process."""
