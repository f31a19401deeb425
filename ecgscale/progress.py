"""How long work reports on itself, without knowing who listens.

Passes, readers and trainers take a `Progress`; `ecgscale.runtime.progress` shows it (a bar on a terminal, plain
lines elsewhere) and `SILENT` ignores it. A `Stopwatch` adds up where the seconds went.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, TypeVar

T = TypeVar("T")


class Stage(Protocol):
    """One named piece of work of a known or unknown size."""

    def advance(self, amount: int = 1) -> None:
        """`amount` more units are done."""

    def note(self, text: str) -> None:
        """A short fact to stand next to the bar (a loss, a shard name); never a patient."""


class Progress(Protocol):
    """Where stages are opened, and messages that should stay on the screen are sent."""

    def stage(self, name: str, total: int | None, unit: str) -> AbstractContextManager[Stage]:
        """Open a stage; `total` is None when unknown, `unit` a plural noun with an s ("records")."""

    def say(self, text: str) -> None:
        """A line that stays: a warning, a result."""


class _SilentStage:
    def advance(self, amount: int = 1) -> None:
        pass

    def note(self, text: str) -> None:
        pass


UNSEEN: Stage = _SilentStage()


class _Silent:
    @contextmanager
    def stage(self, name: str, total: int | None, unit: str) -> Iterator[Stage]:
        yield UNSEEN

    def say(self, text: str) -> None:
        pass


SILENT: Progress = _Silent()


class Stopwatch:
    """Seconds by stage, added up. A stage belongs to one thread; `seconds` is read when the work is done."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def time(self, stage: str) -> Iterator[None]:
        """Add what the block takes to `stage`."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - started

    def each(self, stage: str, items: Iterable[T]) -> Iterator[T]:
        """The same items; what each takes to come goes to `stage`, what is done with it does not."""
        iterator, end = iter(items), object()
        while True:
            with self.time(stage):
                item = next(iterator, end)
            if item is end:
                return
            yield item  # type: ignore[misc]
