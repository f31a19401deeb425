"""Activations of chosen records in memory, read once through the network: what evaluations measure again and again.

A sample of records lies packed, normalised per block and scaled only when it is read (docs/method.md). So a sweep over
depth factors, layers and training records needs one forward pass, and each of its fits has the seam of
`clusters.kmeans.ActivationSource`. `network_features` is what forests could have been given instead of proportions:

    pooled             mean activation of every channel of every tapped block: what the network knows, less the time
    random_timesteps   proportions under centroids that are timesteps drawn at random: no K-means
    random_centroids   proportions under Gaussian centroids with the mean and SD of every channel: no timesteps either
    random_weights     proportions under K-means on the network with random weights: architecture alone
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ecgscale.archive.reader import Archive, chosen_batches, chunks
from ecgscale.clusters.accumulate import PartialSums, accumulate
from ecgscale.clusters.features import BlockLayout
from ecgscale.clusters.init import draw_sample
from ecgscale.clusters.kmeans import FitSettings, fit_kmeans
from ecgscale.clusters.packed import Packed, block_slices, pack
from ecgscale.clusters.soft import soft_assign
from ecgscale.encoders.spec import encoder_digest
from ecgscale.encoders.taps import Encoder
from ecgscale.errors import ArchiveError, ShardError, UsageError
from ecgscale.explain.facts import encoder_layout
from ecgscale.io.places import absolute, place
from ecgscale.passes.fit.worker import random_encoder
from ecgscale.passes.spread import Spread
from ecgscale.passes.stream import PLAIN, StreamSettings, Wanted, activate
from ecgscale.progress import SILENT, Progress

AT_ONCE = 256


@dataclass(frozen=True)
class Extracted:
    """Packed activations of N records in memory, and the network's `predictions` (N, n_outputs); `record_ids` stand in
    the order of the record numbers. `blocks`: which of the tapped blocks these are."""

    layout: BlockLayout
    packed: Packed
    record_ids: tuple[str, ...]
    predictions: NDArray[np.float32]
    blocks: tuple[int, ...]

    @property
    def n_records(self) -> int:
        """N."""
        return len(self.packed)

    def of(self, records: NDArray[np.int64]) -> Chosen:
        """A source of these record numbers alone, numbered 0… in their order."""
        return Chosen(self, np.asarray(records, np.int64))

    def with_scales(self, scales: Sequence[float]) -> Extracted:
        """The same activations under other depth factors; nothing is copied."""
        return replace(self, layout=replace(self.layout, scales=tuple(map(float, scales))))

    def with_blocks(self, blocks: Sequence[int]) -> Extracted:
        """Some of these blocks alone, by their place among them; their values are copied."""
        pieces = list(block_slices(self.layout))
        kept = self.layout.of_blocks(blocks)
        values = np.concatenate([self.packed.values[:, pieces[b][0]] for b in blocks], axis=1)
        gram = np.concatenate([self.packed.gram[:, :, pieces[b][1]] for b in blocks], axis=2)
        packed = replace(self.packed, values=values, gram=np.ascontiguousarray(gram))
        return replace(self, layout=kept, packed=packed, blocks=tuple(self.blocks[b] for b in blocks))

    def proportions(self, centroids: NDArray[np.float32]) -> NDArray[np.float32]:
        """(N, K) share of valid timesteps in each cluster."""
        return self.soft(centroids, 2, 1.0).proportions

    def soft(self, centroids: NDArray[np.float32], gamma: int, tau: float, labels: bool = False) -> Shares:
        """What a model of these centroids (K, C), γ and τ says of every record; `labels` keeps labels too."""
        found = []
        for first in range(0, self.n_records, AT_ONCE):
            some = slice(first, first + AT_ONCE)
            part = Packed(*(getattr(self.packed, name)[some] for name in Packed.__dataclass_fields__))
            one = soft_assign(part, self.layout, centroids, gamma, tau)
            label, entropy = one.labels, one.entropy
            spread = np.quantile(entropy[label >= 0], [0.01, 0.99]) if (label >= 0).any() else np.zeros(2)
            found.append((one.counts, one.soft, one.mean_entropy, label if labels else label[:, :0], spread[None]))
        counts, soft, mean_entropy, label, spread = (np.concatenate(column) for column in zip(*found, strict=True))
        share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        return Shares(share.astype(np.float32), soft.astype(np.float32), mean_entropy, label, spread.mean(axis=0))

    def pooled(self) -> NDArray[np.float32]:
        """(N, C) mean of every channel of every block over the steps that touch the valid span, unnormalised."""
        columns = []
        start, stop = self.packed.valid_start, self.packed.valid_stop
        layout = self.layout
        for b, ((where, _), length, channels) in enumerate(
            zip(block_slices(layout), layout.lengths, layout.channels, strict=True)
        ):
            borders = layout.borders(b)
            inside = (borders[1:] > start[:, None]) & (borders[:-1] < stop[:, None])
            weight = inside / np.maximum(inside.sum(axis=1, keepdims=True), 1)
            block_BLC = self.packed.values[:, where].reshape(self.n_records, length, -1)
            columns.append(np.einsum("nl,nlc->nc", weight.astype(np.float32), block_BLC)[:, :channels])
        return np.concatenate(columns, axis=1)


@dataclass(frozen=True)
class Shares:
    """Of N records: `proportions` and `soft` (N, K), `mean_entropy` (N,), `labels` (N, D) or (N, 0), and the 1 % and
    99 % quantile of the entropy over timesteps."""

    proportions: NDArray[np.float32]
    soft: NDArray[np.float32]
    mean_entropy: NDArray[np.float64]
    labels: NDArray[np.int16]
    entropy_range: NDArray[np.float64]


@dataclass(frozen=True)
class Chosen:
    """Some records of what was extracted, as a backend of a K-means fit."""

    whole: Extracted
    records: NDArray[np.int64]

    @property
    def layout(self) -> BlockLayout:
        """Shapes of the tapped blocks."""
        return self.whole.layout

    @property
    def n_records(self) -> int:
        """How many were chosen."""
        return len(self.records)

    def assign_to(
        self, centroid_sets: Sequence[NDArray[np.float32]], records: NDArray[np.int64] | None = None
    ) -> list[PartialSums]:
        """Sums over the valid timesteps of `records` (all of the chosen by default) for each set of centroids."""
        chosen = self.records if records is None else self.records[records]
        return accumulate(self.whole.packed, self.layout, centroid_sets, chosen)

    def sample(self, n: int, seed: int) -> NDArray[np.float32]:
        """About `n` feature vectors (n, C), a few a record."""
        packed = self.whole.packed
        start, stop = packed.valid_start[self.records], packed.valid_stop[self.records]
        return draw_sample(lambda r: packed.values[self.records[r]], self.layout, start, stop, n, seed)


@dataclass(frozen=True)
class _Part:
    """Packed activations of the records of one task, in the order of `record_ids`; `error` of its shard, "" without."""

    layout: BlockLayout
    record_ids: list[str] = field(default_factory=list)
    packed: list[Packed] = field(default_factory=list)
    predictions: list[NDArray[np.float32]] = field(default_factory=list)
    error: str = ""


@dataclass(frozen=True)
class _Asked:
    """What the workers of an extraction share."""

    archive: Archive
    encoder: str
    digest: str
    device: str
    settings: StreamSettings


def extract(
    archive: Archive,
    encoder: Encoder,
    wanted: Mapping[str, Sequence[str]],
    settings: StreamSettings = PLAIN,
    progress: Progress = SILENT,
) -> Extracted:
    """Run the network once over these records (shard key → record ids), reading no others.

    Records that cannot be used are left out, as are shards that cannot be read, which are told. Raises UsageError when
    no record is left.
    """
    parts = []
    with progress.stage("activations", sum(map(len, wanted.values())), "records") as stage:
        for key, names in chunks(wanted):
            parts.append(_part(archive, encoder, key, names, settings))
            stage.advance(len(names))
    return _joined(archive, parts, progress)


def extract_on(
    spread: Spread,
    archive: Archive,
    encoder_dir: Path,
    wanted: Mapping[str, Sequence[str]],
    settings: StreamSettings = PLAIN,
    device: str = "auto",
    progress: Progress = SILENT,
) -> Extracted:
    """`extract` on the workers of `spread`, each with a network of its own."""
    digest = encoder_digest(encoder_dir)
    asked = _Asked(Archive.open(absolute(archive.path)), absolute(encoder_dir), digest, device, settings)
    tasks = chunks(wanted)
    with progress.stage("activations", sum(map(len, wanted.values())), "records") as stage:
        sizes, keys = [len(names) for _, names in tasks], [key for key, _ in tasks]
        parts = spread.map(_part_of, asked, tasks, stage, sizes, keys)
    _loaded.cache_clear()
    return _joined(archive, parts, progress)


def _part_of(asked: _Asked, task: tuple[str, tuple[str, ...]]) -> _Part:
    encoder = _loaded(asked.encoder, asked.digest, asked.device)
    return _part(asked.archive, encoder, *task, asked.settings)


@lru_cache(maxsize=1)
def _loaded(directory: str, digest: str, device: str) -> Encoder:
    """The network, kept for the next task; of another digest it is another one, which is loaded."""
    return Encoder.load(place(directory), device=device)


def _part(archive: Archive, encoder: Encoder, key: str, names: Sequence[str], settings: StreamSettings) -> _Part:
    part = _Part(encoder_layout(encoder))
    try:
        for raw, rows in chosen_batches(archive, {key: names}):
            chosen = Wanted.of(raw, encoder, rows, gaps_ms=settings.gaps_ms)
            for done in activate(encoder, chosen, settings.include_padding):
                if len(done.kept):
                    part.packed.append(pack(done.activations.blocks, part.layout, done.valid_start, done.valid_stop))
                    part.predictions.append(done.activations.prediction.cpu().numpy())
                    part.record_ids.extend(str(raw.record_ids[i]) for i in done.kept)
    except (ShardError, ArchiveError) as error:
        return replace(part, error=str(error))
    return part


def _joined(archive: Archive, parts: Sequence[_Part], progress: Progress) -> Extracted:
    for error in dict.fromkeys(part.error for part in parts if part.error):
        progress.say(f"left out: {error}")
    packed = [one for part in parts for one in part.packed]
    if not packed:
        raise UsageError(f"{archive.path}: none of the chosen records could be used")
    joined = Packed(*(np.concatenate([getattr(one, name) for one in packed]) for name in Packed.__dataclass_fields__))
    ids = tuple(name for part in parts for name in part.record_ids)
    predictions = np.concatenate([one for part in parts for one in part.predictions])
    layout = parts[0].layout
    return Extracted(layout, joined, ids, predictions, tuple(range(layout.n_blocks)))


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
    settings: StreamSettings = PLAIN,
    progress: Progress = SILENT,
) -> list[NetworkFeatures]:
    """Features of these records (shard key → record ids), those of the network and those of random weights, each of the
    records it could use.

    Centroids are drawn from, and K-means is fitted on, the records `fitting` among them.
    """
    encoder = Encoder.load(encoder_dir, device=device)
    extracted = extract(archive, encoder, wanted, settings, progress)
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
    bare = extract(archive, random_encoder(encoder_dir, seed, device, encoder.batch), wanted, settings, progress)
    [fit] = fit_kmeans(bare.of(_numbers(bare, fitting)), [n_clusters], FitSettings(seed=seed), progress)
    return [own, NetworkFeatures(bare.record_ids, {"random_weights": bare.proportions(fit.centroids)})]


def _numbers(extracted: Extracted, wanted: Sequence[str]) -> NDArray[np.int64]:
    among = set(wanted)
    return np.flatnonzero([record in among for record in extracted.record_ids])
