"""What passes ask of a pool of workers. `in_process` is the pool of this process; `ecgscale.runtime` has others.

A worker is an object made anywhere from an import path and plain arguments. It does one call at a time and may keep
state between calls. Calls are handed out as workers become free; one that is pinned goes to that worker or to nobody.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from ecgscale.errors import ShardError
from ecgscale.io.settings import storage_variables
from ecgscale.progress import UNSEEN, Stage

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class WorkerSpec:
    """How to make a worker: "package.module:callable" and its keyword arguments, all of which can be pickled.

    `environment` tells it where object stores are, on whatever node it is made; credentials never travel. Of more than
    `at_most` workers the others would have nothing to do. `here` makes the same worker of what this process has open
    already, where this process is the worker; it does not travel either.
    """

    factory: str
    arguments: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=storage_variables)
    at_most: int | None = None
    here: Callable[[], Any] | None = None

    def make(self) -> Any:
        """The worker, in a process that has nothing else to do."""
        os.environ.update(self.environment)
        return self._made()

    def make_here(self) -> Any:
        """The worker, in the process of the driver."""
        return self.here() if self.here else self._made()

    def _made(self) -> Any:
        module, name = self.factory.split(":")
        return getattr(importlib.import_module(module), name)(**self.arguments)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "here": None}


@dataclass(frozen=True)
class Call:
    """One call of a worker's method. `records` is what it weighs, `worker` pins it, `what` names it in messages.

    `attempts` overrides how often the pool tries it, `deadline_s` after how long its worker counts as hung. `raises`:
    what it raises is raised where outcomes are read, since another worker would run into the same.
    """

    key: str
    method: str
    arguments: tuple[Any, ...] = ()
    records: int = 0
    worker: int | None = None
    what: str = ""
    attempts: int | None = None
    deadline_s: float | None = None
    raises: bool = False


@dataclass(frozen=True)
class Done:
    """A call that returned, and the worker that did it."""

    call: Call
    value: Any
    worker: int


@dataclass(frozen=True)
class Failed:
    """A call given up: `reason` for people, `fatal` attempts that took their worker along, `lost` if it was pinned."""

    call: Call
    reason: str
    attempts: int = 1
    fatal: int = 0
    lost: bool = False


class WorkerPool(Protocol):
    """Workers of one specification, replaced when they die."""

    def run(self, calls: Iterable[Call], stage: Stage = UNSEEN) -> Iterator[Done | Failed]:
        """Outcomes in the order in which they come; one for every call, however often it had to be tried.

        `stage` advances by the records of every call that is through. An EcgscaleError that concerns the whole run (a
        usage error in a worker) is raised.
        """

    def ready(self) -> list[int]:
        """Numbers of the workers, after waiting a while for those that are being replaced; one at least."""


OpenPool = Callable[[WorkerSpec], AbstractContextManager[WorkerPool]]
"""A runtime, as passes see it: make workers of this specification."""


@contextmanager
def in_process(spec: WorkerSpec) -> Iterator[WorkerPool]:
    """The pool whose only worker is this process: nothing is pickled, and what a call raises is raised.

    But for a `ShardError`, which is that of one shard. A worker's `stage`, where it has one, is the stage itself, so
    that it may advance before its call is through; its `close` is called in the end.
    """
    pool = _InProcess(spec)
    try:
        yield pool
    finally:
        pool.close()


class _InProcess:
    def __init__(self, spec: WorkerSpec) -> None:
        self._spec = spec
        self._worker: Any = None

    def run(self, calls: Iterable[Call], stage: Stage = UNSEEN) -> Iterator[Done | Failed]:
        for call in calls:
            if self._worker is None:
                self._worker = self._spec.make_here()
            self._worker.stage = part = _Part(stage)
            outcome: Done | Failed
            try:
                outcome = Done(call, getattr(self._worker, call.method)(*call.arguments), 0)
            except ShardError as error:
                if call.raises:
                    raise
                outcome = Failed(call, str(error))
            stage.advance(max(call.records - part.done, 0))
            yield outcome

    def ready(self) -> list[int]:
        return [0]

    def close(self) -> None:
        close = getattr(self._worker, "close", None)
        self._worker = None
        if close is not None:
            close()


class _Part:
    """The stage of one call, which knows how far the call has advanced it."""

    def __init__(self, stage: Stage) -> None:
        self._stage, self.done = stage, 0
        self.note = stage.note

    def advance(self, amount: int = 1) -> None:
        self.done += amount
        self._stage.advance(amount)


def is_divided(pool: OpenPool) -> bool:
    """Whether work is divided among workers: not where this process does all of it."""
    return pool is not in_process


def driver_device(pool: OpenPool, device: str) -> str:
    """Where the driver computes what it computes itself: it may have none of the GPUs that its workers have."""
    return "cpu" if is_divided(pool) else device


def device_kind(device: torch.device) -> str:
    """ "cpu", or a GPU's model: "cuda (NVIDIA L4)". Workers of one run share it: results differ in the last bits."""
    import torch

    return f"cuda ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else device.type
