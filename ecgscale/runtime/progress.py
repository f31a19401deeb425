"""Progress on stderr: a bar with rate and time left on a terminal, plain lines elsewhere, JSON lines in a job's log.

Lines come at most every few seconds, so that a night's log stays readable. `ECGSCALE_LOG` (`json` or `text`) chooses
what comes where there is no terminal; without it, JSON under a Ray job.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.progress import Task as RichTask
from rich.text import Text

from ecgscale.errors import UsageError
from ecgscale.progress import Progress, Stage
from ecgscale.words import one_line

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
    return _LineProgress(stream, as_json=log == "json")


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
        self._bars.update(self._task, note=one_line(text))


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
            task = bars.add_task(one_line(name), total=total, note="")
            yield _TerminalStage(bars, task)
            if total is None and not bars.tasks[0].completed:
                bars.update(task, visible=False)

    def say(self, text: str) -> None:
        self._console.print(one_line(text), markup=False, highlight=False)


def _plain(facts: dict[str, Any]) -> str:
    """For people: `explain: 250/1000 records, 50.0/s, 15 s left (part-00000.parquet)`."""
    done, total = facts["done"], facts["total"]
    of_total = f"/{total}" if total is not None else ""
    unit = _unit(facts["unit"], done if total is None else total)
    line = f"{facts['stage']}: {done}{of_total} {unit}, {facts['rate']:,.1f}/s"
    if facts["ended"]:
        line += f", {facts['seconds']:.1f} s"
    elif facts["seconds_left"] is not None:
        line += f", {facts['seconds_left']:.0f} s left"
    return line + (f" ({facts['note']})" if facts.get("note") else "")


def _json(facts: dict[str, Any]) -> str:
    """For programs: one object a line, `time` in UTC; `ended` when the stage is over, `said` for a message."""
    digits = {"rate": 3, "seconds": 3, "seconds_left": 1}
    rounded = {key: round(facts[key], n) for key, n in digits.items() if facts.get(key) is not None}
    return json.dumps({"time": datetime.now(UTC).isoformat(timespec="milliseconds"), **facts, **rounded})


class _LineStage:
    def __init__(self, print_line: Callable[[dict[str, Any]], None], name: str, total: int | None, unit: str) -> None:
        self._print, self._name, self._total, self._unit = print_line, name, total, unit
        self._done, self._note = 0, ""
        self._started = self._printed = time.monotonic()

    def advance(self, amount: int = 1) -> None:
        self._done += amount
        if time.monotonic() - self._printed >= PLAIN_INTERVAL_S:
            self.print()

    def note(self, text: str) -> None:
        self._note = text

    @property
    def idle(self) -> bool:
        """Whether it turned out that there was nothing to do, and nothing was printed of the stage yet."""
        return self._total is None and not self._done and self._printed == self._started

    def print(self, ended: bool = False) -> None:
        self._printed = time.monotonic()
        seconds = max(self._printed - self._started, 1e-9)
        rate = self._done / seconds
        left = max(self._total - self._done, 0) / rate if self._total and rate and not ended else None
        facts = {
            "stage": self._name,
            "done": self._done,
            "total": self._total,
            "unit": self._unit,
            "rate": rate,
            "seconds": seconds,
            "seconds_left": left,
            "ended": ended,
        }
        self._print(facts | ({"note": self._note} if self._note else {}))


class _LineProgress:
    def __init__(self, stream: TextIO, as_json: bool) -> None:
        self._stream, self._as_json = stream, as_json

    @contextmanager
    def stage(self, name: str, total: int | None, unit: str) -> Iterator[Stage]:
        stage = _LineStage(
            lambda facts: self._print(_json(facts) if self._as_json else _plain(facts)), name, total, unit
        )
        yield stage
        if not stage.idle:
            stage.print(ended=True)

    def say(self, text: str) -> None:
        self._print(_json({"said": text}) if self._as_json else text)

    def _print(self, line: str) -> None:
        print(one_line(line), file=self._stream, flush=True)
