"""A pool of workers as a backend of K-means: the same seam, the same bits.

The driver knows which worker owns which lot of records: a shard each, or all of them where this process is the worker.
A step sends centroids out and gets one partial sum a worker back, added up as they come; when a worker died, its lots
are computed again by those that hold least and only they are asked again. Sums are integers, so neither who owned what
nor the order of answers can be told from the result.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecgscale.clusters.accumulate import PartialSums
from ecgscale.clusters.features import BlockLayout
from ecgscale.clusters.init import sampled_records
from ecgscale.errors import EcgscaleError
from ecgscale.passes.fit.request import Selection
from ecgscale.passes.fit.worker import Filled
from ecgscale.passes.workers import Call, Done, Failed, WorkerPool
from ecgscale.progress import Progress

MOST_LOSSES = 5
"""Workers that may die over one shard in one step."""

LIGHT = 100
"""Assigning so many records takes less time than computing one; deadlines grow with the latter."""

NOBODY = -1


class PoolSource:
    """Activations of a selection, spread over the workers of a pool."""

    def __init__(
        self, pool: WorkerPool, layout: BlockLayout, selection: Selection, progress: Progress, divided: bool = True
    ) -> None:
        self._pool, self._layout, self._selection, self._progress = pool, layout, selection, progress
        self._lots = [{shard: rows} for shard, rows in selection.rows.items()] if divided else [selection.rows]
        self._names = list(selection.rows)[: len(self._lots)]
        self._place = {name: at for at, name in enumerate(self._names)}
        self._size = np.array([sum(map(len, lot.values())) for lot in self._lots], np.int64)
        self._first = np.cumsum(self._size) - self._size
        self._owner = np.full(len(self._lots), NOBODY, np.int64)
        self._start = np.zeros(len(selection), np.int32)
        self._stop = np.zeros(len(selection), np.int32)

    @property
    def layout(self) -> BlockLayout:
        """Shapes of the tapped blocks."""
        return self._layout

    @property
    def n_records(self) -> int:
        """Records of the selection."""
        return len(self._selection)

    def fill(self) -> Counter[str]:
        """Have every lot computed by whoever is free; records left out, by status.

        Raises EcgscaleError for a lot that nobody can compute.
        """
        left_out: Counter[str] = Counter()
        self.cropped = 0
        calls = (self._fill_call(at) for at in range(len(self._lots)))
        with self._progress.stage("activations", self.n_records, "records") as stage:
            for outcome in self._pool.run(calls, stage):
                filled = self._filled(outcome)
                left_out.update(filled.left_out)
                self.cropped += filled.cropped
                for text in filled.said:
                    self._progress.say(text)
        return left_out

    def assign_to(
        self, centroid_sets: Sequence[NDArray[np.float32]], records: NDArray[np.int64] | None = None
    ) -> list[PartialSums]:
        """Sums over `records` (sorted; all by default) for each set of centroids."""
        total = [PartialSums.zero(len(c), self._layout) for c in centroid_sets]
        for answer in self._ask("assign", records, lambda part: (centroid_sets, part)):
            total = [a + b for a, b in zip(total, answer, strict=True)]
        return total

    def sample(self, n: int, seed: int) -> NDArray[np.float32]:
        """About `n` feature vectors, the same as any other backend draws."""
        usable = np.flatnonzero(self._stop > self._start)
        chosen, per_record = sampled_records(n, len(usable), seed)
        records = usable[chosen]
        found: dict[int, NDArray[np.float32]] = {}
        for answer in self._ask("sample", np.sort(records), lambda part: (part, per_record, seed)):
            found.update(answer)
        empty = np.empty((0, self._layout.n_channels), np.float32)
        return np.concatenate([empty, *(found[r] for r in records.tolist())])

    def _ask(
        self,
        method: str,
        records: NDArray[np.int64] | None,
        arguments: Callable[[NDArray[np.int64] | None], tuple[Any, ...]],
    ) -> Iterator[Any]:
        """One answer from each owner of lots that hold `records`, however often owners die."""
        todo = np.arange(len(self._lots)) if records is None else self._holding(records)
        losses = np.zeros(len(self._lots), np.int64)
        while len(todo):
            self._adopt_orphans(todo, losses)
            shares = self._by_owner(todo)
            calls = [
                self._pinned(owner, method, mine, arguments(self._part(mine, records)))
                for owner, mine in shares.items()
            ]
            todo = np.empty(0, np.int64)
            for outcome in self._pool.run(calls):
                owner = outcome.call.worker
                if isinstance(outcome, Done):
                    yield outcome.value
                elif outcome.lost:
                    assert owner is not None
                    self._lost(shares[owner], outcome, losses)
                    todo = np.append(todo, shares[owner])
                else:
                    raise EcgscaleError(f"a worker failed in the fit: {outcome.reason}")

    def _by_owner(self, lots: NDArray[np.int64]) -> dict[int, NDArray[np.int64]]:
        by_owner = lots[np.argsort(self._owner[lots], kind="stable")]
        owners, at = np.unique(self._owner[by_owner], return_index=True)
        return dict(zip(owners.tolist(), np.split(by_owner, at[1:]), strict=True))

    def _adopt_orphans(self, todo: NDArray[np.int64], losses: NDArray[np.int64]) -> None:
        """Give lots without an owner to the workers that hold least, until each has one.

        The dead one's successor is waited for a while: over a night of deaths, those that never die would end up
        with everything.
        """
        while len(orphans := todo[self._owner[todo] == NOBODY]):
            self._progress.say(
                f"{self._size[orphans].sum():,} records in {len(orphans)} shards were lost with their worker; they are"
                " computed again"
            )
            held = {number: int(self._size[self._owner == number].sum()) for number in self._pool.ready()}
            calls = []
            for at in sorted(orphans.tolist(), key=lambda at: -self._size[at]):
                least = min(held, key=lambda number: (held[number], number))
                held[least] += int(self._size[at])
                calls.append(self._fill_call(at, least))
            for outcome in self._pool.run(calls):
                if isinstance(outcome, Failed) and outcome.lost:
                    self._lost(np.array([self._place[outcome.call.key]]), outcome, losses)
                else:
                    self._filled(outcome)

    def _lost(self, lots: NDArray[np.int64], outcome: Failed, losses: NDArray[np.int64]) -> None:
        """Note that a worker died over these lots (or had died before), and with it all that it held."""
        losses[lots] += outcome.fatal
        if losses[lots].max() > MOST_LOSSES:
            name = self._names[int(lots[losses[lots].argmax()])]
            raise EcgscaleError(
                f"{MOST_LOSSES + 1} workers died in one step over {name}; last: {outcome.reason}. More memory a worker,"
                " more workers, or a limit with --memory; then type the same command again"
            )
        self._owner[self._owner == outcome.call.worker] = NOBODY

    def _filled(self, outcome: Done | Failed) -> Filled:
        if isinstance(outcome, Failed):
            raise EcgscaleError(
                f"{outcome.reason}. A fit without {outcome.call.key} would be another fit: repair the shard, or leave"
                " its records out with --folds or --records"
            )
        filled: Filled = outcome.value
        at = self._place[outcome.call.key]
        here = slice(self._first[at], self._first[at] + self._size[at])
        self._start[here], self._stop[here] = filled.valid_start, filled.valid_stop
        self._owner[at] = outcome.worker
        return filled

    def _fill_call(self, at: int, worker: int | None = None) -> Call:
        name = self._names[at]
        return Call(name, "fill", (name, self._lots[at], int(self._first[at])), int(self._size[at]), worker, what=name)

    def _pinned(self, owner: int, method: str, mine: NDArray[np.int64], arguments: tuple[Any, ...]) -> Call:
        lots = [self._names[at] for at in mine.tolist()]
        weight = int(self._size[mine].sum()) // LIGHT
        return Call(f"{method}-{owner}", method, (lots, *arguments), weight, owner)

    def _holding(self, records: NDArray[np.int64]) -> NDArray[np.int64]:
        """Places of the lots that hold any of the sorted `records`."""
        at, end = np.searchsorted(records, (self._first, self._first + self._size))
        return np.flatnonzero(end > at)

    def _part(self, lots: NDArray[np.int64], records: NDArray[np.int64] | None) -> NDArray[np.int64] | None:
        """Those of the sorted `records` that lie in these lots."""
        if records is None:
            return None
        at, end = np.searchsorted(records, (self._first[lots], self._first[lots] + self._size[lots]))
        return np.concatenate([records[a:b] for a, b in zip(at, end, strict=True)])
