"""The shell around one worker, which makes it in its process or actor and says what it is like; and the queue of calls
that wait for workers: an iterator, read one ahead; those pinned to a worker; those that are tried again.
"""

from __future__ import annotations

import heapq
import itertools
import math
import os
import pickle
import socket
import sys
import time
from collections import deque
from collections.abc import Container, Iterable, Iterator, Set
from dataclasses import dataclass, field
from typing import Any

from threadpoolctl import threadpool_limits

from ecgscale.passes.workers import Call, WorkerSpec
from ecgscale.store.failures import code_digest
from ecgscale.store.provenance import versions

THREADS = ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
JOBLIB = "LOKY_MAX_CPU_COUNT"
"""What joblib, which grows scikit-learn's forests, takes for the number of cores."""


@dataclass(frozen=True)
class Hello:
    """A worker's first answer: what all workers of a run must share, and where it is."""

    kind: dict[str, Any]
    host: str
    pid: int


def kind() -> dict[str, Any]:
    """What decides bits in this process, as far as the driver has to share it: versions, and the code itself."""
    return {**versions(), "ecgscale code": code_digest()}


class WorkerShell:
    """Makes the worker of a specification when first called, then passes calls on."""

    def __init__(self, spec: WorkerSpec, threads: int | None = None) -> None:
        self._spec, self._threads = spec, threads
        self._worker: Any = None
        if threads is not None:
            os.environ[JOBLIB] = str(threads)
        if threads is not None and "numba" not in sys.modules:
            # For libraries that the worker will load; numba reads its own again and again, and refuses another.
            os.environ.update(dict.fromkeys(THREADS, str(threads)))

    def call(self, method: str, arguments: tuple[Any, ...]) -> Any:
        """`hello` answers what the worker is like; others are the worker's own methods.

        An error that would not arrive as what it is comes as a RuntimeError that tells it.
        """
        try:
            if self._worker is None:
                self._worker = self._made()
            return self._hello() if method == "hello" else getattr(self._worker, method)(*arguments)
        except Exception as error:
            if _travels(error):
                raise
            raise RuntimeError(f"{type(error).__name__}: {error}") from None

    def _made(self) -> Any:
        if self._threads is None:
            return self._spec.make()
        _limit_threads(self._threads)
        worker = self._spec.make()
        _limit_threads(self._threads)  # what was loaded meanwhile
        return worker

    def _hello(self) -> Hello:
        facts = {"device": getattr(self._worker, "device", "cpu"), "threads": self._threads}
        if self._threads is None and "torch" in sys.modules:
            facts["threads"] = sys.modules["torch"].get_num_threads()
        return Hello({**kind(), **facts}, socket.gethostname(), os.getpid())


def _limit_threads(threads: int) -> None:
    """Give BLAS, torch and the compiled kernels so many, where they are loaded already."""
    threadpool_limits(threads, user_api="blas")
    if "numba" in sys.modules:
        # First: when numba starts its threads, it sets the number that torch has too.
        numba = sys.modules["numba"]
        numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)


def _travels(error: Exception) -> bool:
    """Whether an error survives being pickled and unpickled."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # whatever it is, it would be raised in the driver instead of the error itself
        return False
    return True


@dataclass
class Attempted:
    """A call on its way: how often it was tried, with how many deaths, moved how often, and who failed at it."""

    call: Call
    tried: int = 0
    fatal: int = 0
    moved: int = 0
    failed_on: set[int] = field(default_factory=set)


class Queue:
    """What is left of one run. Pinned calls are set apart as the iterator comes to them."""

    def __init__(self, calls: Iterable[Call]) -> None:
        self._calls = iter(calls)
        self._next = next(self._calls, None)
        self._pinned: dict[int, deque[Attempted]] = {}
        self._later: list[tuple[float, int, Attempted]] = []
        self._order = itertools.count()

    @property
    def empty(self) -> bool:
        """Whether nothing waits."""
        return self._next is None and not self._later and not self._pinned

    def take(self, number: int, ready: Set[int]) -> Attempted | None:
        """The next call for this worker. One that it failed at is left to those of `ready` that have not, if any."""
        if number in self._pinned:
            return self._of(number)
        if self._later and self._later[0][0] <= time.monotonic():
            attempted = self._later[0][2]
            if number not in attempted.failed_on or ready <= attempted.failed_on:
                return heapq.heappop(self._later)[2]
        while (call := self._next) is not None:
            self._next = next(self._calls, None)
            if call.worker is None:
                return Attempted(call)
            self._pinned.setdefault(call.worker, deque()).append(Attempted(call))
            if call.worker == number:
                return self._of(number)
        return None

    def put_back(self, attempted: Attempted, due: float) -> None:
        """Try again, not before `due` (monotonic seconds)."""
        heapq.heappush(self._later, (due, next(self._order), attempted))

    def next_due(self) -> float:
        """When a paused call becomes due; infinite when none does in the future."""
        now = time.monotonic()
        return min((due for due, _, _ in self._later if due > now), default=math.inf)

    def orphans(self, members: Container[int]) -> Iterator[Attempted]:
        """Take out the calls that are pinned to workers that are not there."""
        for number in [number for number in self._pinned if number not in members]:
            yield from self._pinned.pop(number)

    def _of(self, number: int) -> Attempted:
        mine = self._pinned[number]
        attempted = mine.popleft()
        if not mine:
            del self._pinned[number]
        return attempted
