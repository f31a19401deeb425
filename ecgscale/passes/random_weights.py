"""The same network with random weights, fitted the same way: what architecture alone gives."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from ecgscale.archive.reader import Archive
from ecgscale.clusters.cache import ActivationCache
from ecgscale.clusters.kmeans import fit_kmeans
from ecgscale.encoders.spec import load_spec
from ecgscale.encoders.taps import Encoder
from ecgscale.encoders.weights import build_module
from ecgscale.passes.activations import encoder_layout, fill_cache
from ecgscale.passes.request import FitRequest
from ecgscale.passes.selection import select
from ecgscale.progress import SILENT, Progress

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
        fill_cache(cache, archive, encoder, selection, request.include_padding, progress)
        fits = fit_kmeans(cache, request.clusters, request.settings, progress)
    return {k: fit.explained_variance for k, fit in zip(request.clusters, fits, strict=True)}
