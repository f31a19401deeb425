"""Recordings as sequences of clusters, one symbol a segment, and what can be counted in them.

bag       share of time in each cluster: no order at all
dwell     mean length of a cluster's segments in seconds, and how many there are a second
ngrams    how often cluster b comes after a (all pairs), and c after a, b (the commonest triples), over segments

`shuffled` puts the segments of every record into a random order: bag and dwell stay as they are, and what ngrams tell
of the shuffled sequences is what they tell without any order in time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

TRIPLES = 200
"""Triples of clusters that are counted: the commonest over all records, whatever their labels."""


@dataclass(frozen=True)
class Sequences:
    """N records: clusters and seconds of their segments, those of record i at offsets[i]:offsets[i + 1]."""

    cluster: NDArray[np.int64]
    seconds: NDArray[np.float64]
    offsets: NDArray[np.int64]
    n_clusters: int

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(N,) segments a record."""
        return np.diff(self.offsets)

    @property
    def record(self) -> NDArray[np.int64]:
        """Which record each segment belongs to."""
        return np.repeat(np.arange(len(self)), self.lengths)

    def of(self, record: int) -> NDArray[np.int64]:
        """The clusters of one record in order."""
        return self.cluster[self.offsets[record] : self.offsets[record + 1]]


def sequences_of(explanations: pa.Table, n_clusters: int) -> Sequences:
    """The segments of N explained records (columns segments, sampling_rate)."""
    column = explanations.column("segments")
    each = pc.list_flatten(column)
    start, stop, cluster = (pc.struct_field(each, name).to_numpy() for name in ("start", "stop", "cluster"))
    lengths = pc.list_value_length(column).to_numpy()
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    rate = np.repeat(explanations.column("sampling_rate").to_numpy().astype(np.float64), lengths)
    return Sequences(cluster.astype(np.int64), (stop - start) / rate, offsets, n_clusters)


def shuffled(sequences: Sequences, seed: int) -> Sequences:
    """The segments of every record in a random order, each with its length."""
    draw = np.random.default_rng([seed, 8]).random(len(sequences.cluster))
    order = np.lexsort((draw, sequences.record))
    return replace(sequences, cluster=sequences.cluster[order], seconds=sequences.seconds[order])


def bag(sequences: Sequences) -> NDArray[np.float64]:
    """(N, K): share of time in each cluster."""
    time = _sums(sequences, sequences.seconds)
    return time / np.maximum(time.sum(axis=1, keepdims=True), 1e-12)


def dwell(sequences: Sequences) -> NDArray[np.float64]:
    """(N, 2K): mean seconds of a cluster's segments (0 where it does not occur), and segments a second."""
    time, count = _sums(sequences, sequences.seconds), _sums(sequences, np.ones_like(sequences.seconds))
    return np.concatenate([time / np.maximum(count, 1), count / np.maximum(time.sum(axis=1, keepdims=True), 1e-12)], 1)


def ngrams(sequences: Sequences) -> NDArray[np.float64]:
    """(N, K² + triples): shares of a record's neighbouring pairs and triples of segments; for triples see TRIPLES."""
    return np.concatenate([_grams(sequences, 2, None), _grams(sequences, 3, TRIPLES)], axis=1)


def _grams(sequences: Sequences, n: int, most: int | None) -> NDArray[np.float64]:
    k, total = sequences.n_clusters, len(sequences.cluster)
    starts = np.arange(max(total - n + 1, 0))
    starts = starts[sequences.record[starts] == sequences.record[starts + n - 1]]
    code = sum(sequences.cluster[starts + i] * k ** (n - 1 - i) for i in range(n))
    record = sequences.record[starts]
    code = np.asarray(code, np.int64)
    kept = np.arange(k**n)
    if most is not None and k**n > most:
        kept = np.sort(np.argsort(-np.bincount(code, minlength=k**n), kind="stable")[:most])
    place = np.full(k**n, -1, np.int64)
    place[kept] = np.arange(len(kept))
    some = place[code] >= 0
    cells = record[some] * len(kept) + place[code[some]]
    counts = np.bincount(cells, minlength=len(sequences) * len(kept)).reshape(len(sequences), len(kept))
    return np.asarray(counts / np.maximum(sequences.lengths - n + 1, 1)[:, None])


def _sums(sequences: Sequences, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, K): sums of `weights` over the segments of each record and cluster."""
    cells = sequences.record * sequences.n_clusters + sequences.cluster
    size = len(sequences) * sequences.n_clusters
    return np.asarray(np.bincount(cells, weights, minlength=size).reshape(len(sequences), -1), np.float64)
