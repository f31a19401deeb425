"""A fit's backend over a pool without processes: who gets what the dead held, and when it is given up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ecgscale.clusters.accumulate import PartialSums
from ecgscale.clusters.features import BlockLayout
from ecgscale.errors import EcgscaleError
from ecgscale.passes.fit.pool_source import MOST_LOSSES, PoolSource
from ecgscale.passes.fit.request import Selection
from ecgscale.passes.fit.worker import Filled
from ecgscale.passes.workers import Call, Done, Failed
from ecgscale.progress import UNSEEN, Stage
from tests.worlds.commands.explaining import Watching

LAYOUT = BlockLayout((2, 3), (8, 4), 32, (1.0, 1.0))
SIZES = (5, 1, 9, 3, 7, 4)


def selection() -> Selection:
    rows = {f"part-{i}": np.arange(n) for i, n in enumerate(SIZES)}
    return Selection(rows, [None] * sum(SIZES), [None] * sum(SIZES), {})


class Workers:
    """Workers in this process. `accident(worker, call)` says what becomes of a call: None is well, "dies", or an error.

    A dead worker is replaced by one with a new number, which holds nothing.
    """

    def __init__(self, n: int, accident: Callable[[int, Call], str | None] = lambda worker, call: None) -> None:
        self.held: dict[int, dict[str, NDArray[np.int64]]] = {number: {} for number in range(n)}
        self.accident, self.next = accident, n
        self.asked: Counter[str] = Counter()

    def ready(self) -> list[int]:
        return sorted(self.held)

    def run(self, calls: Iterable[Call], stage: Stage = UNSEEN) -> Iterator[Done | Failed]:
        for i, call in enumerate(calls):
            worker = call.worker if call.worker is not None else self.ready()[i % len(self.held)]
            self.asked[call.method] += 1
            if worker not in self.held:
                yield Failed(call, "worker is gone", lost=True)
            elif (what := self.accident(worker, call)) == "dies":
                del self.held[worker]
                self.held[self.next], self.next = {}, self.next + 1
                yield Failed(call, "died", fatal=1, lost=call.worker is not None)
            elif what:
                yield Failed(call, what)
            else:
                yield Done(call, getattr(self, call.method)(worker, *call.arguments), worker)

    def fill(self, worker: int, lot: str, rows: dict[str, NDArray[np.int64]], first: int) -> Filled:
        n = sum(map(len, rows.values()))
        self.held[worker][lot] = np.arange(first, first + n)
        said = ("left out: part-3 breaks off",) if lot == "part-3" else ()
        return Filled(Counter(too_short=1), np.zeros(n, np.int32), np.full(n, 32, np.int32), said)

    def assign(
        self, worker: int, shards: list[str], sets: list[NDArray[np.float32]], records: NDArray[np.int64] | None
    ) -> list[PartialSums]:
        mine = np.concatenate([self.held[worker][shard] for shard in shards])
        chosen = mine if records is None else records
        assert set(chosen.tolist()) <= set(mine.tolist())
        zero = PartialSums.zero(1, LAYOUT)
        return [replace(zero, counts=np.array([len(chosen)]), margin=int((chosen + 1).sum())) for _ in sets]


CENTROIDS = [np.zeros((1, LAYOUT.n_channels), np.float32)]


def summed(source: PoolSource, records: NDArray[np.int64] | None = None) -> tuple[int, int]:
    [sums] = source.assign_to(CENTROIDS, records)
    return int(sums.counts[0]), sums.margin


def expected(records: NDArray[np.int64] | None = None) -> tuple[int, int]:
    chosen = np.arange(sum(SIZES)) if records is None else records
    return len(chosen), int((chosen + 1).sum())


def filled(pool: Any, progress: Any = None) -> PoolSource:
    source = PoolSource(pool, LAYOUT, selection(), progress or Watching())
    assert source.fill()["too_short"] == len(SIZES)
    return source


def test_only_the_owners_of_the_records_are_asked() -> None:
    pool, progress = Workers(3), Watching()
    source = filled(pool, progress)
    assert progress.said == ["left out: part-3 breaks off"]
    assert summed(source) == expected()
    assert pool.asked["assign"] == 3
    for records in ([0], [4, 5, 6], [28], [2, 5, 14, 15, 17, 18, 24, 25]):
        assert summed(source, np.array(records)) == expected(np.array(records))
    assert pool.asked["assign"] == 3 + 1 + 3 + 1 + 3


def test_what_the_dead_held_goes_to_those_that_hold_least() -> None:
    dead: list[int] = []

    def accident(worker: int, call: Call) -> str | None:
        if call.method == "assign" and worker == 0 and not dead:
            dead.append(worker)
            return "dies"
        return None

    pool, progress = Workers(3, accident), Watching()
    source = filled(pool, progress)
    assert summed(source) == expected()
    assert sum("were lost with their worker" in line for line in progress.said) == 1
    loads = {worker: sum(map(len, held.values())) for worker, held in pool.held.items()}
    assert pool.held[3], "the successor takes its part"
    assert max(loads.values()) - min(loads.values()) <= max(SIZES)
    assert summed(source, np.arange(3, 20)) == expected(np.arange(3, 20))


@pytest.mark.parametrize("deaths", range(1, 9))
def test_any_order_of_deaths_gives_the_same_sums(deaths: int) -> None:
    left = [deaths]
    rng = np.random.default_rng(deaths)

    def accident(worker: int, call: Call) -> str | None:
        if call.worker is not None and left[0] and rng.random() < 0.4:
            left[0] -= 1
            return "dies"
        return None

    source = filled(Workers(3, accident))
    for _ in range(4):
        assert summed(source) == expected()
        assert summed(source, np.array([1, 8, 22, 23])) == expected(np.array([1, 8, 22, 23]))


def test_a_step_that_always_kills_ends_the_fit() -> None:
    pool = Workers(
        3, lambda worker, call: "dies" if call.method == "assign" and "part-2" in call.arguments[0] else None
    )
    source = filled(pool)
    with pytest.raises(EcgscaleError, match=rf"{MOST_LOSSES + 1} workers died in one step over part-2; last: died"):
        summed(source)


def test_errors_end_the_fit_with_the_shard() -> None:
    refused = Workers(2, lambda worker, call: "part-4: given up" if call.key == "part-4" else None)
    with pytest.raises(EcgscaleError, match=r"part-4: given up\. A fit without part-4 would be another fit"):
        PoolSource(refused, LAYOUT, selection(), Watching()).fill()
    source = filled(Workers(2, lambda worker, call: "out of memory" if call.method == "assign" else None))
    with pytest.raises(EcgscaleError, match="a worker failed in the fit: out of memory"):
        summed(source)
