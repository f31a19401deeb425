"""Calls that wait for a worker: an iterator, read one ahead; those pinned to a worker; those that are tried again."""

from __future__ import annotations

import heapq
import itertools
import math
import time
from collections import deque
from collections.abc import Container, Iterable, Iterator, Set
from dataclasses import dataclass, field

from ecgscale.passes.workers import Call


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
