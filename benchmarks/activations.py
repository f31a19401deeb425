"""Made-up activations of the shapes that the CODE networks give.

Eight latent signals, mixed into channels, with noise, rectified: neighbouring channels correlate as they do in a
trained network. Steps do not correlate in time, which is the worst case: real recordings change cluster less often.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from ecgscale.clusters.cache import ActivationCache
from ecgscale.clusters.features import BlockLayout

CODE_LAYOUT = BlockLayout((196, 256, 320), (256, 64, 16), 4096, (0.5, 0.75, 1.0))
"""The last three blocks of the CODE ResNet: 71,680 activations a record, 772 channels, 4096 timesteps."""

LATENT, NOISE = 8, 0.3


def made_activations(layout: BlockLayout, records: int, seed: int = 0) -> list[torch.Tensor]:
    """(records, C_b, L_b) float32 for every block."""
    generator = torch.Generator().manual_seed(seed)
    blocks = []
    for channels, length in zip(layout.channels, layout.lengths, strict=True):
        latent = torch.randn(records, LATENT, length, generator=generator)
        mix = torch.randn(channels, LATENT, generator=generator)
        noise = torch.randn(records, channels, length, generator=generator)
        blocks.append(torch.relu(torch.einsum("ck,nkl->ncl", mix, latent) + NOISE * noise))
    return blocks


def whole_spans(layout: BlockLayout, records: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """valid_start and valid_stop of records without padding."""
    return np.zeros(records, np.int32), np.full(records, layout.n_steps, np.int32)


def filled_cache(layout: BlockLayout, blocks: list[torch.Tensor]) -> ActivationCache:
    """All records in memory, as a fit keeps them between epochs."""
    records = len(blocks[0])
    cache = ActivationCache(layout, records)
    cache.put(np.arange(records), blocks, *whole_spans(layout, records))
    return cache


def settled_centroids(
    cache: ActivationCache, n_clusters: int, iterations: int = 2, seed: int = 0
) -> NDArray[np.float32]:
    """(K, C) float32: distinct timesteps, then two Lloyd iterations, so that clusters are of the usual sizes."""
    sample = cache.sample(max(4 * n_clusters, cache.n_records), seed)
    chosen = np.random.default_rng(seed).permutation(len(sample))[:n_clusters]
    centroids = sample[chosen]
    for _ in range(2):
        sums = cache.assign_to([centroids])[0]
        some = sums.counts > 0
        moved = centroids.astype(np.float64)
        moved[some] = sums.feature_sums[some] / sums.counts[some, None]
        centroids = moved.astype(np.float32)
    return centroids


def materialise(layout: BlockLayout, blocks: list[torch.Tensor]) -> torch.Tensor:
    """Dense features (records, C, D) the usual way: interpolate, normalise, scale, concatenate."""
    features = []
    for block, scale in zip(blocks, layout.scales, strict=True):
        z = torch.nn.functional.interpolate(block, size=layout.n_steps, mode="linear", align_corners=False)
        features.append(z / z.norm(dim=1, keepdim=True).clamp_min(1e-12) * scale)
    return torch.cat(features, 1)


def multiply_adds(layout: BlockLayout, n_clusters: int) -> dict[str, int]:
    """Multiply-adds a record and iteration: dense, of assignment and sums; factored, of projection and search.

    The factored sums take at most what projection takes; most clusters touch few low-resolution steps.
    """
    return {
        "dense": 2 * layout.n_steps * layout.n_channels * n_clusters,
        "project": layout.n_values * n_clusters,
        "search": layout.n_steps * 2 * layout.n_blocks * n_clusters,
    }
