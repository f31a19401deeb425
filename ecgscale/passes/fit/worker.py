"""The worker of a fit: runs the network once, keeps low-resolution activations, answers with integer sums.

A selection is numbered as a whole; a lot's cache numbers its own records from 0. What a worker answers is added up
over the lots it was asked for, so that an answer is one partial sum whatever it holds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ecgscale.archive.reader import Archive
from ecgscale.archive.validate import OK
from ecgscale.clusters.accumulate import PartialSums
from ecgscale.clusters.cache import ActivationCache, DeviceCache, bytes_per_record, device_bytes_per_record
from ecgscale.clusters.init import features_at, sampled_steps
from ecgscale.clusters.kmeans import fit_kmeans
from ecgscale.encoders.network import build_module
from ecgscale.encoders.preprocess import CROPPED
from ecgscale.encoders.spec import load_spec
from ecgscale.encoders.taps import Encoder
from ecgscale.errors import EcgscaleError, ShardError
from ecgscale.explain.facts import encoder_layout
from ecgscale.io.places import local_copy
from ecgscale.passes.fit.request import FitRequest, select
from ecgscale.passes.stream import Wanted, activate, prefetch
from ecgscale.passes.workers import device_kind
from ecgscale.progress import SILENT, UNSEEN, Progress, Stage


def fill_cache(
    cache: ActivationCache | DeviceCache,
    archive: Archive,
    encoder: Encoder,
    rows: Mapping[str, NDArray[np.int64]],
    request: FitRequest,
    stage: Stage,
    say: Callable[[str], None],
) -> Counter[str]:
    """Run the network over the chosen rows of each shard and keep their activations, numbered in the archive's order.

    Returns how many were left out, by status, and how many of the others are longer than the network sees (`CROPPED`).
    """
    left_out: Counter[str] = Counter()
    with closing(prefetch(_wanted(archive, encoder, rows, request.fill_gaps, left_out, say))) as batches:
        for numbers, wanted in batches:
            left_out[CROPPED] += wanted.cropped
            for done in activate(encoder, wanted, request.include_padding):
                left_out["non_finite_output"] += len(done.rows) - len(done.kept)
                if len(done.kept):
                    at = np.searchsorted(wanted.rows, done.kept)
                    cache.put(numbers[at], done.activations.blocks, done.valid_start, done.valid_stop)
                stage.advance(len(done.rows))
    return +left_out


def _wanted(
    archive: Archive,
    encoder: Encoder,
    chosen: Mapping[str, NDArray[np.int64]],
    gaps_ms: float,
    left_out: Counter[str],
    say: Callable[[str], None],
) -> Iterator[tuple[NDArray[np.int64], Wanted]]:
    """Chosen records in batches, with their numbers."""
    number = 0
    for shard in archive.shards:
        rows = chosen.get(shard.key)
        if rows is None:
            continue
        first, number = number, number + len(rows)
        seen: set[str] = set()
        reached = 0
        try:
            for raw in archive.batches(shard, (), batch_records=encoder.batch):
                here = slice(*np.searchsorted(rows, (raw.first_row, raw.first_row + len(raw))))
                wanted = Wanted.of(raw, encoder, rows[here] - raw.first_row, seen, gaps_ms)
                status = wanted.prepared.status
                left_out.update(status[i] for i in wanted.rows if status[i] != OK)
                reached = int(here.stop)
                yield first + np.arange(here.start, here.stop), wanted
        except ShardError as error:
            say(f"left out of the fit: {error}")
            # What came before the break is whole, and was used.
            left_out["unreadable_shard"] += len(rows) - reached


AT_MOST = 200
"""Records: enough for a number to stand beside another."""


def random_encoder(directory: str | Path, seed: int, device: str, batch: int) -> Encoder:
    """The encoder's architecture as its factory initialises it under `seed`, without its weights."""
    spec = load_spec(directory)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = build_module(spec, local_copy(directory))
    return Encoder(module, spec, device=device, batch=batch)


def random_weights_variance(
    archive: Archive, encoder_dir: str | Path, request: FitRequest, progress: Progress = SILENT
) -> dict[int, float]:
    """Explained variance for each K of `request` when the weights are random, on at most AT_MOST of its records."""
    encoder = random_encoder(encoder_dir, request.settings.seed, request.device, request.batch)
    records = min(request.records or AT_MOST, AT_MOST)
    selection = select(archive, request.folds, records, request.settings.seed)
    request = replace(request, records=records)
    with ActivationCache(encoder_layout(encoder), len(selection)) as cache:
        with progress.stage("activations", len(selection), "records") as stage:
            fill_cache(cache, archive, encoder, selection.rows, request, stage, progress.say)
        fits = fit_kmeans(cache, request.clusters, request.settings, progress)
    return {k: fit.explained_variance for k, fit in zip(request.clusters, fits, strict=True)}


GPU_SHARE = 0.7
"""Of the free GPU memory, what activations may take."""


@dataclass(frozen=True)
class Filled:
    """What filling a lot found: records left out by status, valid spans (N,) on the time axis, messages, and how many
    records are longer than the network sees."""

    left_out: Counter[str]
    valid_start: NDArray[np.int32]
    valid_stop: NDArray[np.int32]
    said: tuple[str, ...] = ()
    cropped: int = 0


class FitWorker:
    """Activations of the lots it was given: a shard each, or everything. Records have the numbers of the selection.

    A worker that is `alone` may keep on the host what a GPU has no room for: nobody else's sums are others.
    """

    def __init__(
        self,
        archive: Archive,
        encoder: Encoder,
        request: FitRequest,
        cache_budget: int | None,
        alone: bool = False,
    ) -> None:
        self._archive, self._encoder, self._request, self._alone = archive, encoder, request, alone
        self._layout = encoder_layout(encoder)
        self._room = cache_budget
        self._caches: dict[str, tuple[int, ActivationCache | DeviceCache]] = {}
        self.device = device_kind(encoder.device)
        self.stage = UNSEEN

    def fill(self, lot: str, rows: Mapping[str, NDArray[np.int64]], first: int) -> Filled:
        """Run the network over these rows of shards; their records are numbered from `first`, shard by shard."""
        self.drop(lot)
        cache = self._cache(lot, sum(map(len, rows.values())))
        said: list[str] = []
        try:
            left_out = fill_cache(cache, self._archive, self._encoder, rows, self._request, self.stage, said.append)
        except BaseException:
            self._give_back(cache)
            raise
        self._caches[lot] = (first, cache)
        cropped = left_out.pop(CROPPED, 0)
        return Filled(left_out, *cache.spans, tuple(said), cropped)

    def close(self) -> None:
        """Forget everything."""
        for lot in list(self._caches):
            self.drop(lot)

    def drop(self, lot: str) -> None:
        """Forget a lot, if it is there."""
        if lot in self._caches:
            _, cache = self._caches.pop(lot)
            self._give_back(cache)

    def assign(
        self, lots: Sequence[str], centroid_sets: Sequence[NDArray[np.float32]], records: NDArray[np.int64] | None
    ) -> list[PartialSums]:
        """Sums over `records` (all by default) of these lots for each set of centroids."""
        total = [PartialSums.zero(len(c), self._layout) for c in centroid_sets]
        for lot in lots:
            first, cache = self._caches[lot]
            here = None
            if records is not None:
                here = records[(records >= first) & (records < first + cache.n_records)] - first
            sums = cache.assign_to(centroid_sets, here)
            total = [a + b for a, b in zip(total, sums, strict=True)]
        return total

    def sample(
        self, lots: Sequence[str], records: NDArray[np.int64], per_record: int, seed: int
    ) -> dict[int, NDArray[np.float32]]:
        """Feature vectors of those of `records` that lie in these lots, by record number."""
        found: dict[int, NDArray[np.float32]] = {}
        for lot in lots:
            first, cache = self._caches[lot]
            start, stop = cache.spans
            for r in records[(records >= first) & (records < first + cache.n_records)].tolist():
                steps = sampled_steps(r, per_record, int(start[r - first]), int(stop[r - first]), seed)
                found[r] = features_at(cache.rows(r - first), self._layout, steps)
        return found

    def _cache(self, lot: str, n: int) -> ActivationCache | DeviceCache:
        """Room for `n` records: on the GPU where that is the device, since its sums are others in the last bits."""
        dtype = self._request.cache_dtype
        if self._encoder.device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(self._encoder.device)
            free += torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
            needed = n * device_bytes_per_record(self._layout, dtype)
            if needed <= GPU_SHARE * free:
                return DeviceCache(self._layout, n, self._encoder.device, dtype)
            if not self._alone:
                raise EcgscaleError(
                    f"the GPU has {free >> 20} MiB left, too little for the activations of {lot}, {needed >> 20} MiB:"
                    " give more --workers, fewer --records, --cache-dtype float16, or --device cpu"
                )
        cache = ActivationCache(self._layout, n, self._room, self._request.scratch, dtype)
        if self._room is not None:
            self._room -= cache.n_resident * bytes_per_record(self._layout, dtype)
        return cache

    def _give_back(self, cache: ActivationCache | DeviceCache) -> None:
        if self._room is not None and isinstance(cache, ActivationCache):
            self._room += cache.n_resident * bytes_per_record(self._layout, self._request.cache_dtype)
        cache.close()


def fit_worker(archive: str, encoder: str, request: FitRequest, cache_budget: int | None) -> FitWorker:
    """A worker that opens everything itself, and loads the network."""
    loaded = Encoder.load(encoder, device=request.device, batch=request.batch, precision=request.precision)
    return FitWorker(Archive.open(archive), loaded, request, cache_budget)
