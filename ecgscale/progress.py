"""How long work reports on itself, without knowing who listens.

Passes, readers and trainers take a `Progress`; `ecgscale.runtime.progress` shows it (a bar on a terminal, plain
lines elsewhere) and `SILENT` ignores it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Stage(Protocol):
    """One named piece of work of a known or unknown size."""

    def advance(self, amount: int = 1) -> None:
        """`amount` more units are done."""

    def note(self, text: str) -> None:
        """A short fact to stand beside the bar (a loss, a shard name); never a patient."""


class Progress(Protocol):
    """Where stages are opened, and messages that should stay on the screen are sent."""

    def stage(self, name: str, total: int | None, unit: str) -> AbstractContextManager[Stage]:
        """Open a stage; `total` is None when unknown, `unit` a plural noun ("records")."""

    def say(self, text: str) -> None:
        """A line that stays: a warning, a result."""


class _SilentStage:
    def advance(self, amount: int = 1) -> None:
        pass

    def note(self, text: str) -> None:
        pass


class _Silent:
    @contextmanager
    def stage(self, name: str, total: int | None, unit: str) -> Iterator[Stage]:
        yield _SilentStage()

    def say(self, text: str) -> None:
        pass


SILENT: Progress = _Silent()
