"""Independent tasks of an evaluation, here or on a pool of workers: one function, the same answers, in their order.

A task is a plain function of what all tasks share and of what is its own. Both can be pickled, the function is found by
its import path, and who answers makes no difference to the answer. Workers are made with what tasks share, so that one
that comes later (for one that died, or with a new node) has it from its first moment.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any, TypeVar

from threadpoolctl import threadpool_limits

from ecgscale.errors import EcgscaleError
from ecgscale.passes.workers import Call, Done, OpenPool, WorkerPool, WorkerSpec, imported
from ecgscale.progress import Stage

Shared = TypeVar("Shared")
Task = TypeVar("Task")
Answer = TypeVar("Answer")


class SpreadWorker:
    """Answers tasks that share something; `device` is where they compute, for functions that ask.

    What is shared, and tasks, come pickled (by the driver of this very run): arrays that Ray hands over as they are can
    only be read, and kernels would be compiled once more for those.
    """

    def __init__(self, shared: bytes, device: str = "cpu") -> None:
        self._shared = pickle.loads(shared)
        self.device = _kind(device)

    def answer(self, function: str, task: bytes) -> tuple[Any, Exception | None]:
        """The answer, or what the function raised: another worker would run into the same, so it is not tried again."""
        try:
            return answered(imported(function), self._shared, pickle.loads(task)), None
        except Exception as error:  # whatever it is, it is raised where the task came from
            return None, _travelling(error)


class Spread:
    """Where tasks are done: on the workers of `pool`, started when first needed, or in this process without one.

    A context manager: workers end with it. `device` is what workers compute on; all have to have the same kind. There
    are no more workers than tasks, nor than `at_most`.
    """

    def __init__(self, pool: OpenPool | None = None, device: str = "cpu", at_most: int | None = None) -> None:
        self._pool, self._device, self._at_most = pool, device, at_most
        self._open = ExitStack()
        self._workers: WorkerPool | None = None
        self._shared: Any = None

    def __enter__(self) -> Spread:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._workers = self._shared = None
        self._open.__exit__(kind, error, trace)

    def map(
        self,
        function: Callable[[Shared, Task], Answer],
        shared: Shared,
        tasks: Sequence[Task],
        stage: Stage | None = None,
        weights: Sequence[int] | None = None,
        names: Sequence[str] | None = None,
    ) -> list[Answer]:
        """What `function`, of a module's top level, answers to each of the tasks, in their order.

        `stage` advances by the weight of every task that is done (1); `names` stand for tasks in messages. Raises what
        the function raises, and `EcgscaleError` when workers died of a task again and again. A task may take as long
        as it takes. The next map of the same `shared` object finds its workers ready.
        """
        weights = weights or [1] * len(tasks)
        answers: dict[int, Answer] = {}

        def done(task: int, answer: Answer) -> None:
            answers[task] = answer
            if stage is not None:
                stage.advance(weights[task])

        if self._pool is None:
            for i, task in enumerate(tasks):
                done(i, answered(function, shared, task))
        elif tasks:
            path = f"{function.__module__}:{function.__qualname__}"
            calls = (
                Call(
                    str(i),
                    "answer",
                    (path, pickle.dumps(task)),
                    what=names[i] if names else f"task {i + 1}",
                    deadline_s=math.inf,
                )
                for i, task in enumerate(tasks)
            )
            for outcome in self._workers_with(self._pool, shared, len(tasks)).run(calls):
                if not isinstance(outcome, Done):
                    raise EcgscaleError(f"{outcome.reason}. Type the command again, with fewer --workers if need be")
                answer, error = outcome.value
                if error is not None:
                    raise error
                done(int(outcome.call.key), answer)
        return [answers[i] for i in range(len(tasks))]

    def _workers_with(self, pool: OpenPool, shared: Any, tasks: int) -> WorkerPool:
        if self._workers is None or self._shared is not shared:
            self._open.close()
            arguments = {"shared": pickle.dumps(shared), "device": self._device}
            at_most = min(tasks, self._at_most or tasks)
            spec = WorkerSpec("ecgscale.passes.spread:SpreadWorker", arguments, at_most=at_most)
            self._workers, self._shared = self._open.enter_context(pool(spec)), shared
        return self._workers


HERE = Spread()
"""In this process."""


def answered(function: Callable[[Shared, Task], Answer], shared: Shared, task: Task) -> Answer:
    """One answer. Sums of BLAS depend on how many threads make them, so it has one, wherever the task is done."""
    with threadpool_limits(1, user_api="blas"):
        return function(shared, task)


def _kind(device: str) -> str:
    if device == "cpu":
        return device
    from ecgscale.encoders.taps import resolve_device
    from ecgscale.passes.workers import device_kind

    return device_kind(resolve_device(device))


def _travelling(error: Exception) -> Exception:
    """The error itself if it can be sent, else one that tells it."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # pickling runs code of whatever is sent
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
