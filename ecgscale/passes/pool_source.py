"""A pool of workers as a backend of K-means: the same seam, the same bits.

The driver knows which worker owns which shard. A step sends centroids out and gets one partial sum a worker back; when
a worker died, its shards are computed again by others and only they are asked again. Sums are integers, so neither
who owned what nor the order of answers can be told from the result.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecgscale.clusters.features import BlockLayout
from ecgscale.clusters.init import sampled_records
from ecgscale.clusters.sums import PartialSums
from ecgscale.errors import EcgscaleError
from ecgscale.passes.fit_worker import Filled
from ecgscale.passes.selection import Selection
from ecgscale.passes.workers import Call, Done, Failed, WorkerPool
from ecgscale.progress import Progress


class PoolSource:
    """Activations of a selection, spread over the workers of a pool."""

    def __init__(self, pool: WorkerPool, layout: BlockLayout, selection: Selection, progress: Progress) -> None:
        self._pool, self._layout, self._selection, self._progress = pool, layout, selection, progress
        self._owner: dict[str, int] = {}
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

    def fill(self, shards: Iterable[str] | None = None) -> Counter[str]:
        """Have these shards (all by default) computed by whoever is free; records left out, by status."""
        shards = list(self._selection.rows if shards is None else shards)
        left_out: Counter[str] = Counter()
        total = sum(len(self._selection.rows[shard]) for shard in shards)
        calls = (self._fill_call(shard) for shard in shards)
        with self._progress.stage("activations", total, "records") as stage:
            for outcome in self._pool.run(calls):
                shard, n = outcome.call.key, outcome.call.records
                if isinstance(outcome, Failed):
                    raise EcgscaleError(
                        f"{outcome.reason}. A fit without {shard} would be another fit: repair the shard, or leave its"
                        " records out with --folds or --records"
                    )
                filled: Filled = outcome.value
                first = self._selection.first[shard]
                self._start[first : first + n], self._stop[first : first + n] = filled.valid_start, filled.valid_stop
                self._owner[shard] = outcome.worker
                left_out.update(filled.left_out)
                stage.advance(n)
        return left_out

    def assign_to(
        self, centroid_sets: Sequence[NDArray[np.float32]], records: NDArray[np.int64] | None = None
    ) -> list[PartialSums]:
        """Sums over `records` (all by default) for each set of centroids."""
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
        for answer in self._ask("sample", records, lambda part: (part, per_record, seed)):
            found.update(answer)
        empty = np.empty((0, self._layout.n_channels), np.float32)
        return np.concatenate([empty, *(found[r] for r in records.tolist())])

    def _ask(self, method: str, records: NDArray[np.int64] | None, arguments: Any) -> list[Any]:
        """One answer from each owner of shards that hold `records`, however often owners die."""
        answers = []
        shards = [shard for shard in self._selection.rows if self._holds(shard, records)]
        while shards:
            orphans = [shard for shard in shards if shard not in self._owner]
            if orphans:
                self.fill(orphans)
            by_owner: dict[int, list[str]] = {}
            for shard in shards:
                by_owner.setdefault(self._owner[shard], []).append(shard)
            calls = [
                Call(f"{method}-{owner}", method, (mine, *arguments(self._part(mine, records))), worker=owner)
                for owner, mine in by_owner.items()
            ]
            shards = []
            for outcome in self._pool.run(calls):
                mine = list(outcome.call.arguments[0])
                if isinstance(outcome, Done):
                    answers.append(outcome.value)
                elif outcome.lost:
                    shards += mine
                else:
                    raise EcgscaleError(f"a worker failed in the fit: {outcome.reason}")
            gone = {self._owner[shard] for shard in shards}
            self._owner = {shard: owner for shard, owner in self._owner.items() if owner not in gone}
        return answers

    def _fill_call(self, shard: str) -> Call:
        rows = self._selection.rows[shard]
        return Call(shard, "fill", (shard, rows, self._selection.first[shard]), len(rows), what=shard)

    def _holds(self, shard: str, records: NDArray[np.int64] | None) -> bool:
        if records is None:
            return True
        first = self._selection.first[shard]
        at, end = np.searchsorted(records, (first, first + len(self._selection.rows[shard])))
        return bool(end > at)

    def _part(self, shards: Sequence[str], records: NDArray[np.int64] | None) -> NDArray[np.int64] | None:
        """Those of the sorted `records` that lie in these shards."""
        if records is None:
            return None
        parts = []
        for shard in shards:
            first = self._selection.first[shard]
            at, end = np.searchsorted(records, (first, first + len(self._selection.rows[shard])))
            parts.append(records[at:end])
        return np.concatenate(parts)
