"""Independent tasks of an evaluation on the workers of a pool: one function, the same answers, in their order.

A task is a plain function of what all tasks share and of what is its own. Both can be pickled, the function is found by
its import path, and who answers makes no difference to the answer. Workers are made with what tasks share, so that one
that comes later (for one that died, or with a new node) has it from its first moment.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from types import TracebackType
from typing import Any, TypeVar

from threadpoolctl import threadpool_limits

from ecgscale.errors import EcgscaleError
from ecgscale.passes.workers import Call, Done, OpenPool, WorkerPool, WorkerSpec, device_kind, in_process
from ecgscale.progress import UNSEEN, Stage

Shared = TypeVar("Shared")
Task = TypeVar("Task")
Answer = TypeVar("Answer")


class Parcel:
    """A value that is pickled once, as a whole, where it has to travel.

    Arrays that Ray hands over as they are can only be read, and kernels would be compiled once more for those.
    """

    def __init__(self, value: Any) -> None:
        self.value = value

    @cached_property
    def _pickled(self) -> bytes:
        return pickle.dumps(self.value)

    def __reduce__(self) -> tuple[Callable[[bytes], Parcel], tuple[bytes]]:
        return _unpacked, (self._pickled,)


def _unpacked(pickled: bytes) -> Parcel:
    return Parcel(pickle.loads(pickled))  # by the driver of this very run


class SpreadWorker:
    """Answers tasks that share something."""

    def __init__(self, shared: Parcel, device: str = "cpu") -> None:
        self._shared, self._device = shared.value, device

    @property
    def device(self) -> str:
        """What it computes on; all workers have to have the same kind."""
        if self._device == "cpu":
            return self._device
        from ecgscale.encoders.taps import resolve_device

        return device_kind(resolve_device(self._device))

    def answer(self, task: Parcel) -> Any:
        """The answer of a (function, task); raises what the function raises."""
        function, own = task.value
        return answered(function, self._shared, own)


class Spread:
    """Tasks on the workers of `pool`, which are started when first needed.

    As a context manager it keeps them until its end, else they end with each map. `device` is what workers compute on;
    all have to have the same kind. There are no more workers than tasks, nor than `at_most`.
    """

    def __init__(self, pool: OpenPool = in_process, device: str = "cpu", at_most: int | None = None) -> None:
        self._pool, self._device, self._at_most = pool, device, at_most
        self._open: ExitStack | None = None
        self._workers: WorkerPool | None = None
        self._shared: Any = None

    def __enter__(self) -> Spread:
        self._open = ExitStack()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._workers = self._shared = None
        if self._open is not None:
            self._open.__exit__(kind, error, trace)
        self._open = None

    def map(
        self,
        function: Callable[[Shared, Task], Answer],
        shared: Shared,
        tasks: Sequence[Task],
        stage: Stage = UNSEEN,
        weights: Sequence[int] | None = None,
        names: Sequence[str] | None = None,
    ) -> list[Answer]:
        """What `function`, of a module's top level, answers to each of the tasks, in their order.

        `stage` advances by the weight of every task that is done (1); `names` stand for tasks in messages. Raises what
        the function raises, and `EcgscaleError` when workers died of a task again and again. A task may take as long
        as it takes. The next map of the same `shared` object finds its workers ready.
        """
        if not tasks:
            return []
        calls = (
            Call(
                str(i),
                "answer",
                (Parcel((function, task)),),
                records=weights[i] if weights else 1,
                what=names[i] if names else f"task {i + 1}",
                deadline_s=math.inf,
                raises=True,
            )
            for i, task in enumerate(tasks)
        )
        answers: dict[int, Answer] = {}
        with self._workers_with(shared, len(tasks)) as workers:
            for outcome in workers.run(calls, stage):
                if not isinstance(outcome, Done):
                    raise EcgscaleError(f"{outcome.reason}. Type the command again, with fewer --workers if need be")
                answers[int(outcome.call.key)] = outcome.value
        return [answers[i] for i in range(len(tasks))]

    @contextmanager
    def _workers_with(self, shared: Any, tasks: int) -> Iterator[WorkerPool]:
        arguments = {"shared": Parcel(shared), "device": self._device}
        at_most = min(tasks, self._at_most or tasks)
        spec = WorkerSpec("ecgscale.passes.spread:SpreadWorker", arguments, at_most=at_most)
        if self._open is None:
            with self._pool(spec) as workers:
                yield workers
            return
        if self._workers is None or self._shared is not shared:
            self._open.close()
            self._workers, self._shared = self._open.enter_context(self._pool(spec)), shared
        yield self._workers


HERE = Spread()
"""In this process."""


def answered(function: Callable[[Shared, Task], Answer], shared: Shared, task: Task) -> Answer:
    """One answer. Sums of BLAS depend on how many threads make them, so it has one, wherever the task is done."""
    with threadpool_limits(1, user_api="blas"):
        return function(shared, task)
