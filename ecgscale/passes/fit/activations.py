"""One forward pass over chosen records: their low-resolution activations go into a cache, nothing else is kept.

The same network with random weights, fitted the same way: what architecture alone gives.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ecgscale.archive.reader import Archive
from ecgscale.archive.validate import OK, check_batch
from ecgscale.clusters.cache import ActivationCache, DeviceCache
from ecgscale.clusters.features import BlockLayout
from ecgscale.clusters.kmeans import fit_kmeans
from ecgscale.encoders.preprocess import prepare
from ecgscale.encoders.spec import load_spec
from ecgscale.encoders.taps import Encoder, build_module
from ecgscale.errors import ShardError
from ecgscale.passes.fit.request import FitRequest, select
from ecgscale.passes.prefetch import prefetch
from ecgscale.progress import SILENT, Progress, Stage


def encoder_layout(encoder: Encoder) -> BlockLayout:
    """The shapes of an encoder's taps, its time axis and its depth scales."""
    channels, lengths = zip(*encoder.layout, strict=True)
    return BlockLayout(
        tuple(channels), tuple(lengths), encoder.spec.input.length, tuple(map(float, encoder.spec.depth_scales))
    )


def fill_cache(
    cache: ActivationCache | DeviceCache,
    archive: Archive,
    encoder: Encoder,
    rows: Mapping[str, NDArray[np.int64]],
    include_padding: bool,
    stage: Stage,
    say: Callable[[str], None],
) -> Counter[str]:
    """Run the network over the chosen rows of each shard and keep their activations, numbered in the archive's order.

    Returns how many were left out, by status.
    """
    left_out: Counter[str] = Counter()
    with closing(prefetch(_inputs(archive, encoder, rows, left_out, say))) as batches:
        for numbers, x, start, stop in batches:
            if len(x):
                activations = encoder.forward(x)
                finite = torch.stack([block.isfinite().flatten(1).all(1) for block in activations.blocks]).all(0)
                kept = finite.cpu().numpy()
                left_out["non_finite_output"] += int((~kept).sum())
                if include_padding:
                    start, stop = np.zeros_like(start), np.full_like(stop, encoder.spec.input.length)
                if kept.any():
                    blocks = [block[finite] for block in activations.blocks]
                    cache.put(numbers[kept], blocks, start[kept], stop[kept])
            stage.advance(len(x))
    return +left_out


Inputs = tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int32], NDArray[np.int32]]


def _inputs(
    archive: Archive,
    encoder: Encoder,
    chosen_rows: Mapping[str, NDArray[np.int64]],
    left_out: Counter[str],
    say: Callable[[str], None],
) -> Iterator[Inputs]:
    """Chosen, usable records in batches: their numbers, the encoder's input, and their valid spans."""
    number = 0
    for shard in archive.shards:
        rows = chosen_rows.get(shard.key)
        if rows is None:
            continue
        first, number = number, number + len(rows)
        seen: set[str] = set()
        reached = 0
        try:
            for raw in archive.batches(shard, (), batch_records=encoder.batch):
                here = slice(*np.searchsorted(rows, (raw.first_row, raw.first_row + len(raw))))
                status, flags = check_batch(raw, seen)
                chosen = rows[here] - raw.first_row
                # What was not chosen is not prepared either; its status only has to differ from "ok".
                wanted = np.full(len(raw), False)
                wanted[chosen] = True
                states = [s if w else "not_chosen" for s, w in zip(status, wanted, strict=True)]
                prepared = prepare(raw, states, flags, encoder.spec.input, encoder.hop)
                left_out.update(prepared.status[i] for i in chosen if prepared.status[i] != OK)
                usable = np.array([prepared.status[i] == OK for i in chosen], bool)
                at = chosen[usable]
                numbers = (first + np.arange(here.start, here.stop))[usable]
                reached = int(here.stop)
                yield numbers, prepared.x[at], prepared.valid_start[at], prepared.valid_stop[at]
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
        module = build_module(spec)
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
            fill_cache(cache, archive, encoder, selection.rows, request.include_padding, stage, progress.say)
        fits = fit_kmeans(cache, request.clusters, request.settings, progress)
    return {k: fit.explained_variance for k, fit in zip(request.clusters, fits, strict=True)}
