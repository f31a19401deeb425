"""Progress on stderr: a bar with rate and time left on a terminal, plain lines elsewhere, JSON lines in a job's log.

Lines come at most every few seconds, so that a night's log stays readable. `ECGSCALE_LOG` (`json` or `text`) chooses
what comes where there is no terminal; without it, JSON under a Ray job.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.progress import Task as RichTask
from rich.text import Text

from ecgscale.errors import UsageError
from ecgscale.progress import Progress, Stage

PLAIN_INTERVAL_S = 5.0
LOG = "ECGSCALE_LOG"


def make_progress(stream: TextIO | None = None) -> Progress:
    """The progress display that suits `stream` (stderr by default); UsageError for an `ECGSCALE_LOG` of no meaning."""
    stream = stream or sys.stderr
    if stream.isatty():
        return _TerminalProgress(stream)
    from ecgscale.runtime.ray_pool import under_ray_job

    log = os.environ.get(LOG) or ("json" if under_ray_job() else "text")
    if log not in ("json", "text"):
        raise UsageError(f"{LOG}={log}: it is json or text")
    return _LineProgress(stream, _JsonLines() if log == "json" else _PlainLines())


def _unit(plural: str, n: int | None) -> str:
    """ "records", but "record" of one, and "batch" of "batches"."""
    if n == 1 and plural.endswith(("ches", "shes")):
        return plural.removesuffix("es")
    return plural.removesuffix("s") if n == 1 else plural


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
        units = TextColumn(_unit(unit, total))
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), units, _RateColumn())
        with RichProgress(
            *columns, TimeRemainingColumn(), TextColumn("{task.fields[note]}", markup=False), console=self._console
        ) as bars:
            task = bars.add_task(name, total=total, note="")
            yield _TerminalStage(bars, task)
            if total is None and not bars.tasks[0].completed:
                bars.update(task, visible=False)

    def say(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False)


@dataclass(frozen=True)
class _State:
    """A stage as it is told: what is done after so many seconds."""

    name: str
    total: int | None
    unit: str
    done: int
    seconds: float
    note: str
    ended: bool

    @property
    def rate(self) -> float:
        return self.done / self.seconds

    @property
    def seconds_left(self) -> float | None:
        known = self.total and self.rate and not self.ended
        return max((self.total or 0) - self.done, 0) / self.rate if known else None


class _Lines(Protocol):
    def told(self, state: _State) -> str: ...

    def said(self, text: str) -> str: ...


class _PlainLines:
    """For people: `explain: 250/1000 records, 50.0/s, 15 s left (part-00000.parquet)`."""

    def told(self, state: _State) -> str:
        of_total = f"/{state.total}" if state.total is not None else ""
        unit = _unit(state.unit, state.done if state.total is None else state.total)
        line = f"{state.name}: {state.done}{of_total} {unit}, {state.rate:,.1f}/s"
        if state.ended:
            line += f", {state.seconds:.1f} s"
        elif state.seconds_left is not None:
            line += f", {state.seconds_left:.0f} s left"
        return line + (f" ({state.note})" if state.note else "")

    def said(self, text: str) -> str:
        return text


class _JsonLines:
    """For programs: one object a line, `time` in UTC; `ended` when the stage is over, `said` for a message."""

    def told(self, state: _State) -> str:
        left = state.seconds_left
        facts: dict[str, Any] = {
            "time": _utc(),
            "stage": state.name,
            "done": state.done,
            "total": state.total,
            "unit": state.unit,
            "rate": round(state.rate, 3),
            "seconds": round(state.seconds, 3),
            "seconds_left": round(left, 1) if left is not None else None,
            "ended": state.ended,
        }
        return json.dumps(facts | ({"note": state.note} if state.note else {}))

    def said(self, text: str) -> str:
        return json.dumps({"time": _utc(), "said": text})


def _utc() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


class _LineStage:
    def __init__(self, stream: TextIO, lines: _Lines, name: str, total: int | None, unit: str) -> None:
        self._stream, self._lines, self._name, self._total, self._unit = stream, lines, name, total, unit
        self._done, self._note = 0, ""
        self._started = self._told = time.monotonic()

    def advance(self, amount: int = 1) -> None:
        self._done += amount
        if time.monotonic() - self._told >= PLAIN_INTERVAL_S:
            self.tell()

    def note(self, text: str) -> None:
        self._note = text

    @property
    def idle(self) -> bool:
        """Whether it turned out that there was nothing to do, and nobody was told of the stage yet."""
        return self._total is None and not self._done and self._told == self._started

    def tell(self, ended: bool = False) -> None:
        self._told = time.monotonic()
        seconds = max(self._told - self._started, 1e-9)
        state = _State(self._name, self._total, self._unit, self._done, seconds, self._note, ended)
        print(self._lines.told(state), file=self._stream, flush=True)


class _LineProgress:
    def __init__(self, stream: TextIO, lines: _Lines) -> None:
        self._stream, self._lines = stream, lines

    @contextmanager
    def stage(self, name: str, total: int | None, unit: str) -> Iterator[Stage]:
        stage = _LineStage(self._stream, self._lines, name, total, unit)
        yield stage
        if not stage.idle:
            stage.tell(ended=True)

    def say(self, text: str) -> None:
        print(self._lines.said(text), file=self._stream, flush=True)
