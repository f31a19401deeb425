"""Workers that cost nothing, so that what is left is the driver and the way to them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecgscale.clusters.accumulate import PartialSums
from ecgscale.clusters.features import BlockLayout
from ecgscale.passes.fit.worker import Filled


class IdleWorker:
    """Takes shards and does nothing with them."""

    def commit(self, pending: Any) -> None:
        """Explain no record."""


class PartialsWorker:
    """Answers a step of a fit as so many workers would: each of its shards has a partial sum that is there already."""

    def __init__(self, layout: BlockLayout, n_clusters: int, partials: int) -> None:
        rng = np.random.default_rng(0)
        shape = (n_clusters, layout.n_channels)
        zero = PartialSums.zero(n_clusters, layout)
        self._partials = [
            PartialSums(
                rng.integers(0, 1000, n_clusters), rng.integers(-(2**40), 2**40, shape), zero.distortion, 1, zero.scale
            )
            for _ in range(partials)
        ]

    def fill(self, lot: str, rows: Mapping[str, NDArray[np.int64]], first: int) -> Filled:
        """Every record is valid for one timestep."""
        n = sum(map(len, rows.values()))
        return Filled(Counter(), np.zeros(n, np.int32), np.ones(n, np.int32))

    def assign(
        self, lots: Sequence[str], centroid_sets: Sequence[NDArray[np.float32]], records: NDArray[np.int64] | None
    ) -> list[PartialSums]:
        """One sum, as a worker answers."""
        total = self._partials[0]
        for partial in self._partials[1:]:
            total = total + partial
        return [total]

    def partials(self, centroid_sets: Sequence[NDArray[np.float32]]) -> list[PartialSums]:
        """All of them, as so many workers would send them to the driver."""
        return self._partials
