"""The kernels and the tensor form against the dense definition, on activations of real recordings.

The oracle is `dense_features` and `dense_assign` in float64, some timesteps at a time: a record of a CODE network is
25 MB that way.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray

from ecgscale.archive.reader import Archive
from ecgscale.archive.validate import OK, check_batch
from ecgscale.clusters.accumulate import accumulate
from ecgscale.clusters.features import BlockLayout, dense_assign, dense_features
from ecgscale.clusters.model import ClusterModel
from ecgscale.clusters.packed import Packed, pack
from ecgscale.clusters.soft import soft_assign, tensor_assign
from ecgscale.clusters.tensors import tensor_square_distances, tensor_sums
from ecgscale.encoders.preprocess import prepare
from ecgscale.encoders.taps import Encoder

TIE = 1e-5
AT_ONCE = 256
"""Timesteps for which (T, K, C) differences are in memory."""
PROBED = 48
"""Timesteps of a record whose squared distance to every centroid is asked of the kernels."""


@dataclass(frozen=True)
class Agreement:
    """Over real timesteps; the largest of everything.

    differing: labels that are not the float64 oracle's, and not_ties: those that lose more than TIE by it
    square_distance: absolute; sums: relative, to what was added up; entropy: absolute
    """

    records: int = 0
    timesteps: int = 0
    differing: int = 0
    not_ties: int = 0
    square_distance: float = 0.0
    sums: float = 0.0
    entropy: float = 0.0

    def __add__(self, other: Agreement) -> Agreement:
        counts = ("records", "timesteps", "differing", "not_ties")
        both = {f.name: (getattr(self, f.name), getattr(other, f.name)) for f in fields(self)}
        return Agreement(**{name: sum(pair) if name in counts else max(pair) for name, pair in both.items()})

    @property
    def agreement(self) -> float:
        """Share of labels that are the oracle's."""
        return 1.0 - self.differing / max(self.timesteps, 1)

    def holds(self, tie: float = TIE) -> bool:
        """Labels identical but for ties, squared distances within `tie` absolute, sums within `tie` relative."""
        return self.not_ties == 0 and self.square_distance <= tie and self.sums <= tie


@dataclass(frozen=True)
class Record:
    """Activations (1, C_b, L_b) of one record and its valid span."""

    blocks: list[torch.Tensor]
    start: int
    stop: int

    @property
    def span(self) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """As the kernels take it."""
        return np.array([self.start], np.int32), np.array([self.stop], np.int32)


def real_activations(archive: Archive, encoder: Encoder, records: int) -> Iterator[Record]:
    """The first `records` usable recordings of an archive, through the network."""
    found = 0
    for shard in archive.shards:
        seen: set[str] = set()
        for raw in archive.batches(shard, (), batch_records=encoder.batch):
            prepared = prepare(raw, *check_batch(raw, seen), encoder.spec.input, encoder.hop)
            blocks = encoder.forward(prepared.x).blocks
            for i in (i for i, status in enumerate(prepared.status) if status == OK):
                if found == records:
                    return
                found += 1
                one = [block[i : i + 1].float().cpu() for block in blocks]
                yield Record(one, int(prepared.valid_start[i]), int(prepared.valid_stop[i]))


def compare(records: Iterable[Record], model: ClusterModel) -> dict[str, Agreement]:
    """What "kernels" (float32), "tensors64" and "dense32" say of the valid timesteps, against dense float64."""
    total = {"kernels": Agreement(), "tensors64": Agreement(), "dense32": Agreement()}
    for record in records:
        features, d2, entropy = _oracle(record, model, np.float64)
        for name, found in (
            ("kernels", _kernels(record, model, features, d2, entropy)),
            ("tensors64", _tensors(record, model, features, d2, entropy)),
            ("dense32", _dense32(record, model, d2, entropy)),
        ):
            total[name] = total[name] + found
    return total


def _oracle(record: Record, model: ClusterModel, dtype: type[np.floating]) -> tuple[NDArray, NDArray, NDArray]:
    """Features (T, C), squared distances (T, K) and entropy (T,) of the valid timesteps."""
    features = dense_features([block.numpy().astype(dtype) for block in record.blocks], model.layout)
    features = features[:, record.start : record.stop]
    centroids = model.centroids.astype(dtype)
    parts = [
        dense_assign(features[:, at : at + AT_ONCE], centroids, model.gamma, model.tau)
        for at in range(0, features.shape[1], AT_ONCE)
    ]
    d2 = np.concatenate([part.square_distances[0] for part in parts])
    return features[0], d2, np.concatenate([part.entropy[0] for part in parts])


def _labels(labels: NDArray, d2: NDArray) -> tuple[int, int]:
    """How many labels are not the oracle's, and how many of those are no ties."""
    best = d2.argmin(1)
    lost = d2[np.arange(len(d2)), labels] - d2[np.arange(len(d2)), best]
    return int((labels != best).sum()), int((lost > TIE).sum())


def _sums_error(sums: NDArray, counts: NDArray, labels: NDArray, features: NDArray) -> float:
    """Largest error of a centroid sum relative to Σ|f| of its cluster and channel.

    A channel that holds less than a thousandth of a unit vector on average counts as a thousandth: sums are integers at
    an absolute scale.
    """
    worst = 0.0
    for k in np.flatnonzero(counts):
        chosen = features[labels == k]
        size = np.abs(chosen).sum(0)
        worst = max(worst, float((np.abs(sums[k] - chosen.sum(0)) / np.maximum(size, 1e-3 * len(chosen))).max()))
    return worst


def _kernels(record: Record, model: ClusterModel, features: NDArray, d2: NDArray, entropy: NDArray) -> Agreement:
    layout, span = model.layout, slice(record.start, record.stop)
    packed = pack(record.blocks, layout, *record.span)
    found = soft_assign(packed, layout, model.centroids, model.gamma, model.tau)
    labels = found.labels[0, span].astype(np.int64)
    [sums] = accumulate(packed, layout, [model.centroids])
    assert np.array_equal(sums.counts, np.bincount(labels, minlength=model.n_clusters))
    return Agreement(
        1,
        len(labels),
        *_labels(labels, d2),
        _probed_distance(packed, layout, model.centroids, record, d2),
        _sums_error(sums.feature_sums, sums.counts, labels, features),
        float(np.abs(found.entropy[0, span] - entropy).max()),
    )


def _probed_distance(
    packed: Packed, layout: BlockLayout, centroids: NDArray[np.float32], record: Record, d2: NDArray
) -> float:
    """Largest error of the kernels' squared distance to any centroid, at timesteps spread over the record.

    The kernels give mean distances of a span to its nearest centroid: spans of one timestep, one centroid at a time.
    """
    steps = np.linspace(record.start, record.stop - 1, PROBED).astype(np.int32)
    one = Packed(
        np.repeat(packed.values, len(steps), 0), np.repeat(packed.gram, len(steps), 0), steps, steps + np.int32(1)
    )
    found = np.stack([soft_assign(one, layout, c[None], 2, 1.0).distortion for c in centroids], 1)
    return float(np.abs(found - d2[steps - record.start]).max())


def _tensors(record: Record, model: ClusterModel, features: NDArray, d2: NDArray, entropy: NDArray) -> Agreement:
    blocks, span = [block.double() for block in record.blocks], slice(record.start, record.stop)
    found = tensor_square_distances(blocks, model.layout, model.centroids)[0, span]
    labels = found.argmin(1).numpy()
    sums = tensor_sums(blocks, model.layout, model.centroids, *record.span)
    said = tensor_assign(blocks, model, *record.span)
    assert np.array_equal(said.labels[0, span], labels)
    return Agreement(
        1,
        len(labels),
        *_labels(labels, d2),
        float(np.abs(found.amin(1).numpy() - d2.min(1)).max()),
        _sums_error(sums.feature_sums, sums.counts, labels, features),
        float(np.abs(said.entropy[0, span] - entropy).max()),
    )


def _dense32(record: Record, model: ClusterModel, d2: NDArray, entropy: NDArray) -> Agreement:
    _, single, soft = _oracle(record, model, np.float32)
    labels = single.argmin(1)
    return Agreement(
        1, len(labels), *_labels(labels, d2), float(np.abs(single - d2).max()), 0.0, float(np.abs(soft - entropy).max())
    )


def summary(agreements: dict[str, Agreement]) -> dict[str, dict[str, float]]:
    """For JSON."""
    names = [f.name for f in fields(Agreement)]
    return {
        name: {**{key: getattr(found, key) for key in names}, "agreement": found.agreement}
        for name, found in agreements.items()
    }


def unlike(agreements: dict[str, Agreement]) -> list[str]:
    """Which of them do not hold."""
    return [name for name, found in agreements.items() if not found.holds()]
