"""What forests could have been given instead of cluster proportions, where it takes the network again: a sample of
records goes through it once more, and once through the same network with random weights.

    pooled             mean activation of every channel of every tapped block: what the network knows, less the time
    random_timesteps   proportions under centroids that are timesteps drawn at random: no K-means
    random_centroids   proportions under Gaussian centroids with the mean and SD of every channel: no timesteps either
    random_weights     proportions under K-means on the network with random weights: architecture alone
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ecgscale.archive.reader import Archive
from ecgscale.clusters.kmeans import FitSettings, fit_kmeans
from ecgscale.encoders.taps import Encoder
from ecgscale.passes.extracted import Extracted, extract
from ecgscale.passes.random_weights import random_encoder
from ecgscale.progress import SILENT, Progress

_SAMPLE = 20_000


@dataclass(frozen=True)
class NetworkFeatures:
    """Name → (n, F) features of the records `record_ids`."""

    record_ids: tuple[str, ...]
    by_name: dict[str, NDArray[np.float32]]


def network_features(
    archive: Archive,
    encoder_dir: str | Path,
    wanted: Mapping[str, Sequence[str]],
    fitting: Sequence[str],
    n_clusters: int,
    *,
    seed: int = 0,
    device: str = "auto",
    include_padding: bool = False,
    progress: Progress = SILENT,
) -> list[NetworkFeatures]:
    """Features of these records (shard key → record ids), those of the network and those of random weights, each of the
    records it could use.

    Centroids are drawn from, and K-means is fitted on, the records `fitting` among them.
    """
    encoder = Encoder.load(encoder_dir, device=device)
    extracted = extract(archive, encoder, wanted, include_padding, progress)
    source = extracted.of(_numbers(extracted, fitting))
    sample = source.sample(_SAMPLE, seed)
    rng = np.random.default_rng([seed, 8])
    drawn = sample[rng.permutation(len(sample))[:n_clusters]]
    gaussian = rng.normal(sample.mean(axis=0), sample.std(axis=0), (n_clusters, sample.shape[1])).astype(np.float32)
    own = NetworkFeatures(
        extracted.record_ids,
        {
            "pooled": extracted.pooled(),
            "random_timesteps": extracted.proportions(drawn),
            "random_centroids": extracted.proportions(gaussian),
        },
    )
    del extracted, source
    bare = extract(archive, random_encoder(encoder_dir, seed, device, encoder.batch), wanted, include_padding, progress)
    [fit] = fit_kmeans(bare.of(_numbers(bare, fitting)), [n_clusters], FitSettings(seed=seed), progress)
    return [own, NetworkFeatures(bare.record_ids, {"random_weights": bare.proportions(fit.centroids)})]


def _numbers(extracted: Extracted, wanted: Sequence[str]) -> NDArray[np.int64]:
    among = set(wanted)
    return np.flatnonzero([record in among for record in extracted.record_ids])
