"""The worker of a distributed fit: owns shards, keeps their activations, answers with integer sums.

A selection is numbered as a whole; a shard's cache numbers its own records from 0. What a worker answers is added up
over the shards it was asked for, so that an answer is one partial sum whatever it holds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ecgscale.archive.reader import Archive
from ecgscale.clusters.accumulate import PartialSums
from ecgscale.clusters.cache import ActivationCache, DeviceCache, bytes_per_record, device_bytes_per_record
from ecgscale.clusters.init import features_at, sampled_steps
from ecgscale.encoders.taps import Encoder
from ecgscale.errors import EcgscaleError
from ecgscale.passes.fit.activations import encoder_layout, fill_cache
from ecgscale.passes.fit.request import FitRequest, Selection
from ecgscale.passes.workers import device_kind
from ecgscale.progress import SILENT, Stage

GPU_SHARE = 0.8
"""Of the free GPU memory, what the activations of one more shard may take."""


@dataclass(frozen=True)
class Filled:
    """What filling a shard found: records left out by status, valid spans (N,) on the time axis, what was told."""

    left_out: Counter[str]
    valid_start: NDArray[np.int32]
    valid_stop: NDArray[np.int32]
    told: tuple[str, ...] = ()


class _Told:
    """A Progress that keeps what is said: the driver repeats it."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def stage(self, name: str, total: int | None, unit: str) -> AbstractContextManager[Stage]:
        return SILENT.stage(name, total, unit)

    def say(self, text: str) -> None:
        self.said.append(text)


class FitWorker:
    """Activations of the shards it was given; record numbers are those of the whole selection."""

    def __init__(self, archive: str, encoder: str, request: FitRequest, cache_budget: int | None) -> None:
        self._archive, self._request = Archive.open(archive), request
        self._encoder = Encoder.load(encoder, device=request.device, batch=request.batch, precision=request.precision)
        self._layout = encoder_layout(self._encoder)
        self._room = cache_budget
        self._caches: dict[str, tuple[int, ActivationCache | DeviceCache]] = {}
        self.device = device_kind(self._encoder.device)

    def fill(self, shard: str, rows: NDArray[np.int64], first: int) -> Filled:
        """Run the network over these rows of a shard; their records are numbered from `first`."""
        self.drop(shard)
        cache = self._cache(shard, len(rows))
        selection = Selection({shard: rows}, {shard: 0}, [None] * len(rows), [None] * len(rows), {})
        told = _Told()
        try:
            left_out = fill_cache(cache, self._archive, self._encoder, selection, self._request.include_padding, told)
        except BaseException:
            self._give_back(cache)
            raise
        self._caches[shard] = (first, cache)
        return Filled(left_out, *cache.spans, tuple(told.said))

    def drop(self, shard: str) -> None:
        """Forget a shard, if it is there."""
        if shard in self._caches:
            _, cache = self._caches.pop(shard)
            self._give_back(cache)

    def assign(
        self, shards: Sequence[str], centroid_sets: Sequence[NDArray[np.float32]], records: NDArray[np.int64] | None
    ) -> list[PartialSums]:
        """Sums over `records` (all by default) of these shards for each set of centroids."""
        total = [PartialSums.zero(len(c), self._layout) for c in centroid_sets]
        for shard in shards:
            first, cache = self._caches[shard]
            here = None
            if records is not None:
                here = records[(records >= first) & (records < first + cache.n_records)] - first
            sums = cache.assign_to(centroid_sets, here)
            total = [a + b for a, b in zip(total, sums, strict=True)]
        return total

    def sample(
        self, shards: Sequence[str], records: NDArray[np.int64], per_record: int, seed: int
    ) -> dict[int, NDArray[np.float32]]:
        """Feature vectors of those of `records` that lie in these shards, by record number."""
        found: dict[int, NDArray[np.float32]] = {}
        for shard in shards:
            first, cache = self._caches[shard]
            start, stop = cache.spans
            for r in records[(records >= first) & (records < first + cache.n_records)].tolist():
                steps = sampled_steps(r, per_record, int(start[r - first]), int(stop[r - first]), seed)
                found[r] = features_at(cache.rows(r - first), self._layout, steps)
        return found

    def _cache(self, shard: str, n: int) -> ActivationCache | DeviceCache:
        """Room for `n` records: on the GPU where that is the device, since its sums are others in the last bits."""
        dtype = self._request.cache_dtype
        if self._encoder.device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(self._encoder.device)
            free += torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
            needed = n * device_bytes_per_record(self._layout, dtype)
            if needed > GPU_SHARE * free:
                raise EcgscaleError(
                    f"the GPU has {free >> 20} MiB left, too little for the activations of {shard}, {needed >> 20} MiB:"
                    " give more --workers, fewer --records, --cache-dtype float16, or --device cpu"
                )
            return DeviceCache(self._layout, n, self._encoder.device, dtype)
        scratch = Path(self._request.scratch) if self._request.scratch else None
        cache = ActivationCache(self._layout, n, self._room, scratch, dtype)
        if self._room is not None:
            self._room -= cache.n_resident * bytes_per_record(self._layout, dtype)
        return cache

    def _give_back(self, cache: ActivationCache | DeviceCache) -> None:
        if self._room is not None and isinstance(cache, ActivationCache):
            self._room += cache.n_resident * bytes_per_record(self._layout, self._request.cache_dtype)
        cache.close()
