"""Paired timing: ours and theirs in turn, so that whatever else the machine does hits both."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numba
import torch
from threadpoolctl import threadpool_limits

REPETITIONS = 5
"""Pairs behind every ratio."""

SETTLE_S = 0.02
"""Pause before a timing: the waiting threads of an OpenMP library spin for some milliseconds after its last call."""

LEAST_S = 0.05
"""Calls shorter than this are repeated within one timing."""


@dataclass(frozen=True)
class Pairs:
    """Seconds a call, repetition by repetition."""

    ours_s: tuple[float, ...]
    theirs_s: tuple[float, ...]

    @property
    def ratios(self) -> list[float]:
        """Theirs over ours: how many times faster ours is."""
        return [theirs / ours for ours, theirs in zip(self.ours_s, self.theirs_s, strict=True)]

    @property
    def ratio(self) -> float:
        """The median of the paired ratios."""
        return statistics.median(self.ratios)

    def facts(self, records: int) -> dict[str, float]:
        """Milliseconds a record of both, the ratio, and its range over the repetitions."""
        return {
            "ours_ms": milliseconds(statistics.median(self.ours_s) / records),
            "theirs_ms": milliseconds(statistics.median(self.theirs_s) / records),
            "ratio": rounded(self.ratio),
            "ratio_least": rounded(min(self.ratios)),
            "ratio_most": rounded(max(self.ratios)),
        }


def milliseconds(seconds: float) -> float:
    """As milliseconds, to a tenth of a microsecond."""
    return round(seconds * 1e3, 4)


def rounded(value: float) -> float:
    """Four significant digits: more than any timing has."""
    return float(f"{value:.4g}")


def _nothing() -> None:
    pass


def paired(
    ours: Callable[[], object],
    theirs: Callable[[], object],
    *,
    before_theirs: Callable[[], object] = _nothing,
    repetitions: int = REPETITIONS,
) -> Pairs:
    """Time `ours`, then `theirs`, `repetitions` times over, both warmed up; `before_theirs` is not timed."""
    ours()
    calls = calls_needed(ours)
    before_theirs()
    theirs()
    seconds_ours, seconds_theirs = [], []
    for _ in range(repetitions):
        seconds_ours.append(seconds(ours, calls))
        before_theirs()
        seconds_theirs.append(seconds(theirs))
    return Pairs(tuple(seconds_ours), tuple(seconds_theirs))


def calls_needed(call: Callable[[], object]) -> int:
    """How many calls make a timing of at least LEAST_S."""
    return max(1, round(LEAST_S / max(seconds(call), 1e-7)))


def seconds(call: Callable[[], object], calls: int = 1) -> float:
    """Seconds of one call, the mean of `calls` in a row."""
    time.sleep(SETTLE_S)
    started = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - started) / calls


def median_seconds(call: Callable[[], object], repetitions: int = REPETITIONS) -> float:
    """The median over `repetitions` timings of a warmed-up call."""
    call()
    calls = calls_needed(call)
    return statistics.median(seconds(call, calls) for _ in range(repetitions))


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Give torch, the compiled kernels (which follow torch), BLAS and OpenMP libraries `count` threads each."""
    before = torch.get_num_threads()
    # In this order: when numba starts its threads, it sets the number that torch has too.
    numba.set_num_threads(count)
    torch.set_num_threads(count)
    try:
        with threadpool_limits(count):
            yield
    finally:
        torch.set_num_threads(before)
