"""Progress on stderr: a bar with rate and time left on a terminal, plain lines elsewhere.

Plain lines come at most every few seconds, so that a night's log stays readable.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.progress import Task as RichTask
from rich.text import Text

from ecgscale.progress import Progress, Stage

PLAIN_INTERVAL_S = 5.0


def make_progress(stream: TextIO | None = None) -> Progress:
    """The progress display that suits `stream` (stderr by default)."""
    stream = stream or sys.stderr
    return _TerminalProgress(stream) if stream.isatty() else _PlainProgress(stream)


class _RateColumn(TextColumn):
    def __init__(self) -> None:
        super().__init__("")

    def render(self, task: RichTask) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.1f}/s" if speed else "", style="dim")


class _TerminalStage:
    def __init__(self, bars: RichProgress, task: TaskID) -> None:
        self._bars, self._task = bars, task

    def advance(self, amount: int = 1) -> None:
        self._bars.advance(self._task, amount)

    def note(self, text: str) -> None:
        self._bars.update(self._task, note=text)


class _TerminalProgress:
    def __init__(self, stream: TextIO) -> None:
        self._console = Console(file=stream)

    @contextmanager
    def stage(self, name: str, total: int | None, unit: str) -> Iterator[Stage]:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit), _RateColumn())
        with RichProgress(
            *columns, TimeRemainingColumn(), TextColumn("{task.fields[note]}", markup=False), console=self._console
        ) as bars:
            yield _TerminalStage(bars, bars.add_task(name, total=total, note=""))

    def say(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False)


class _PlainStage:
    def __init__(self, stream: TextIO, name: str, total: int | None, unit: str) -> None:
        self._stream, self._name, self._total, self._unit = stream, name, total, unit
        self._done, self._note = 0, ""
        self._started = self._told = time.monotonic()

    def advance(self, amount: int = 1) -> None:
        self._done += amount
        if time.monotonic() - self._told >= PLAIN_INTERVAL_S:
            self.tell()

    def note(self, text: str) -> None:
        self._note = text

    def tell(self, ended: bool = False) -> None:
        self._told = time.monotonic()
        seconds = max(self._told - self._started, 1e-9)
        rate = self._done / seconds
        of_total = f"/{self._total}" if self._total is not None else ""
        line = f"{self._name}: {self._done}{of_total} {self._unit}, {rate:,.1f}/s"
        if ended:
            line += f", {seconds:.1f} s"
        elif self._total and rate:
            line += f", {max(self._total - self._done, 0) / rate:.0f} s left"
        print(line + (f" ({self._note})" if self._note else ""), file=self._stream, flush=True)


class _PlainProgress:
    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    @contextmanager
    def stage(self, name: str, total: int | None, unit: str) -> Iterator[Stage]:
        stage = _PlainStage(self._stream, name, total, unit)
        yield stage
        stage.tell(ended=True)

    def say(self, text: str) -> None:
        print(text, file=self._stream, flush=True)
