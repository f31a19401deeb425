"""Labels at every timestep → segments: half-open runs of one cluster, contiguous over the valid span.

A whole batch at once: runs are found by comparing neighbours, their mean entropy by one `reduceat`. `summarise` tells a
record in a few numbers, divided in float64 and rounded to float32 once, so shares sum to 1 within 1e-7.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

if TYPE_CHECKING:
    from ecgscale.clusters.soft import Assignment


SEGMENT_TYPE = pa.struct(
    [
        pa.field("start", pa.int32()),
        pa.field("stop", pa.int32()),
        pa.field("cluster", pa.int16()),
        pa.field("entropy", pa.float32()),
    ]
)


@dataclass(frozen=True)
class Segments:
    """The segments of N records, one after the other; record i has those at offsets[i]:offsets[i + 1].

    start, stop: int32, timesteps of the encoder's axis; cluster: int16; entropy: float32, mean over the segment
    """

    offsets: NDArray[np.int64]
    start: NDArray[np.int32]
    stop: NDArray[np.int32]
    cluster: NDArray[np.int16]
    entropy: NDArray[np.float32]


def find_segments(labels: NDArray[np.int16], entropy: NDArray[np.float32]) -> Segments:
    """Segments of `labels` (N, D), −1 outside the valid span, with the means of `entropy` (N, D)."""
    n_records, n_steps = labels.shape
    changes = np.ones((n_records, n_steps + 1), dtype=bool)
    changes[:, 1:-1] = labels[:, 1:] != labels[:, :-1]
    # Every record has changes at 0 and D, so a run starts at each change but the last, and stops at the next one.
    record, step = np.nonzero(changes)
    starts, stops = step[:-1], step[1:]
    whole = starts < n_steps
    record, starts, stops = record[:-1][whole], starts[whole], stops[whole]
    cluster = labels[record, starts]
    valid = cluster >= 0
    record, starts, stops, cluster = record[valid], starts[valid], stops[valid], cluster[valid]
    # Pairs (start, stop) in the flattened batch; the last stop may be its very end, hence the extra zero.
    flat = np.append(entropy.astype(np.float64).ravel(), 0.0)
    pairs = np.stack([record * n_steps + starts, record * n_steps + stops], axis=1).ravel()
    sums = np.add.reduceat(flat, pairs)[::2] if len(pairs) else np.zeros(0)
    offsets = np.zeros(n_records + 1, dtype=np.int64)
    np.cumsum(np.bincount(record, minlength=n_records), out=offsets[1:])
    return Segments(
        offsets=offsets,
        start=starts.astype(np.int32),
        stop=stops.astype(np.int32),
        cluster=cluster.astype(np.int16),
        entropy=(sums / (stops - starts)).astype(np.float32),
    )


def segment_array(segments: Segments, known: NDArray[np.bool_]) -> pa.Array:
    """list<struct<start, stop, cluster, entropy>> of len(known) rows; row by row the segments where `known`, else null.

    `segments` holds the records where `known` is True, in order.
    """
    columns = [pa.array(getattr(segments, field.name)) for field in SEGMENT_TYPE]
    values = pa.StructArray.from_arrays(columns, fields=list(SEGMENT_TYPE))
    return list_array(values, np.diff(segments.offsets), known)


def list_array(values: pa.Array, lengths: NDArray[np.integer], known: NDArray[np.bool_]) -> pa.Array:
    """A list column of len(known) rows: the next `lengths` of `values` where `known`, null elsewhere."""
    sizes = np.zeros(len(known), dtype=np.int32)
    sizes[known] = lengths
    offsets = np.zeros(len(known) + 1, dtype=np.int32)
    np.cumsum(sizes, out=offsets[1:])
    return pa.ListArray.from_arrays(pa.array(offsets), values, mask=pa.array(~known))


@dataclass(frozen=True)
class Summary:
    """N records: `proportions` and `soft_proportions` (N, K), `mean_entropy` and `distortion` (N,), all float32."""

    proportions: NDArray[np.float32]
    soft_proportions: NDArray[np.float32]
    mean_entropy: NDArray[np.float32]
    distortion: NDArray[np.float32]


def summarise(assignment: Assignment) -> Summary:
    """The summary of assigned records; each has at least one valid timestep."""
    return Summary(
        proportions=shares(assignment.counts),
        soft_proportions=shares(assignment.soft),
        mean_entropy=np.clip(assignment.mean_entropy, 0.0, 1.0).astype(np.float32),
        distortion=assignment.distortion.astype(np.float32),
    )


def shares(amounts: NDArray[np.number]) -> NDArray[np.float32]:
    """Non-negative (N, K) amounts as shares of their row: (N, K) float32."""
    exact = amounts.astype(np.float64)
    return (exact / exact.sum(axis=1, keepdims=True)).astype(np.float32)
