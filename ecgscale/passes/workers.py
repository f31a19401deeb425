"""What passes ask of a pool of workers; `ecgscale.runtime` provides one in processes or in Ray actors.

A worker is an object made anywhere from an import path and plain arguments. It does one call at a time and may keep
state between calls. Calls are handed out as workers become free; one that is pinned goes to that worker or to nobody.

What workers of one run have to share of their devices, since results differ in the last bits between models.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from ecgscale.io.settings import storage_variables

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class WorkerSpec:
    """How to make a worker: "package.module:callable" and its keyword arguments, all of which can be pickled.

    `environment` tells it where object stores are, on whatever node it is made; credentials never travel. Of more than
    `at_most` workers the others would have nothing to do.
    """

    factory: str
    arguments: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=storage_variables)
    at_most: int | None = None

    def make(self) -> Any:
        """The worker, in this process."""
        os.environ.update(self.environment)
        return imported(self.factory)(**self.arguments)


def imported(path: str) -> Any:
    """What "package.module:name" names."""
    module, name = path.split(":")
    return getattr(importlib.import_module(module), name)


@dataclass(frozen=True)
class Call:
    """One call of a worker's method. `records` is what it weighs, `worker` pins it, `what` names it in messages.

    `attempts` overrides how often the pool tries it, `deadline_s` after how long its worker counts as hung.
    """

    key: str
    method: str
    arguments: tuple[Any, ...] = ()
    records: int = 0
    worker: int | None = None
    what: str = ""
    attempts: int | None = None
    deadline_s: float | None = None


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

    def run(self, calls: Iterable[Call]) -> Iterator[Done | Failed]:
        """Outcomes in the order in which they come; one for every call, however often it had to be tried.

        An EcgscaleError that concerns the whole run (a usage error in a worker) is raised.
        """

    def ready(self) -> list[int]:
        """Numbers of the workers, after waiting a while for those that are being replaced; one at least."""


OpenPool = Callable[[WorkerSpec], AbstractContextManager[WorkerPool]]
"""A runtime, as passes see it: make workers of this specification."""


def device_kind(device: torch.device) -> str:
    """ "cpu", or a GPU's model: "cuda (NVIDIA L4)"."""
    import torch

    return f"cuda ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else device.type
