"""Clusters and waves of many records on one axis of timesteps: what localisation compares.

A source sample n lies at n / source_sampling_rate seconds, a timestep i of the encoder at start_s + i / sampling_rate.
A timestep is in a wave if its time lies between the wave's onset and offset, both included. Between waves, the pair of
neighbours says what a timestep is:

    T → P, T → QRS    TP, the rest between beats
    P → QRS           PQ segment
    QRS → T           ST segment
    anything else     unknown (a wave in between was not annotated), and left out

Before a record's first wave and behind its last one nothing is known.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ecgscale.archive.waves import QRS, WAVES, P, T, Waves, on_axis, whole_steps

PARTS = (*WAVES, "TP", "PQ", "ST")
TP, PQ, ST = range(3, 6)
UNKNOWN = -1
MAIN_PARTS = 4
"""P, QRS, T and TP, the parts whose entropy mutual information is measured against."""

_GAPS = np.full((len(WAVES), len(WAVES)), UNKNOWN, np.int8)
_GAPS[T, P] = _GAPS[T, QRS] = TP
_GAPS[P, QRS] = PQ
_GAPS[QRS, T] = ST


@dataclass(frozen=True)
class Timelines:
    """N records over D timesteps.

    labels: int16 (N, D), the cluster, −1 outside the explained span
    parts: int8 (N, D), index of PARTS, −1 where unknown
    start, stop: int64 (N,), timesteps from first to last annotation that were explained; equal where there are none
    boundaries, edges: where clusters change, and where waves begin and end, strictly inside that span: float64 seconds
    from its start, those of record i at offsets[i]:offsets[i + 1]
    rate: Hz of the timesteps
    """

    labels: NDArray[np.int16]
    parts: NDArray[np.int8]
    start: NDArray[np.int64]
    stop: NDArray[np.int64]
    boundaries: Ragged
    edges: Ragged
    rate: float

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: NDArray[np.int64]) -> Timelines:
        """Some of the records, in that order."""
        picked = {name: getattr(self, name)[rows] for name in ("labels", "parts", "start", "stop")}
        return replace(self, **picked, boundaries=self.boundaries.take(rows), edges=self.edges.take(rows))


@dataclass(frozen=True)
class Ragged:
    """Values of N records, one after the other: record i has values[offsets[i]:offsets[i + 1]]."""

    values: NDArray[np.float64]
    offsets: NDArray[np.int64]

    @classmethod
    def of(cls, record: NDArray[np.integer], values: NDArray[np.float64], n_records: int) -> Ragged:
        """From values in the order of their records."""
        offsets = np.zeros(n_records + 1, np.int64)
        np.cumsum(np.bincount(record, minlength=n_records), out=offsets[1:])
        return cls(values, offsets)

    def take(self, rows: NDArray[np.int64]) -> Ragged:
        """The values of some records."""
        lengths = np.diff(self.offsets)[rows]
        values = self.values[runs(self.offsets[rows], lengths)]
        return Ragged.of(np.repeat(np.arange(len(rows)), lengths), values, len(rows))


def runs(first: NDArray[np.integer], lengths: NDArray[np.integer]) -> NDArray[np.int64]:
    """first[0], first[0] + 1, … (lengths[0] of them), first[1], …"""
    ends = np.cumsum(lengths)
    return np.repeat(np.asarray(first, np.int64) - (ends - lengths), lengths) + np.arange(ends[-1] if len(ends) else 0)


def cluster_labels(segments: pa.ListArray | pa.ChunkedArray, n_steps: int) -> NDArray[np.int16]:
    """(N, n_steps) int16 from a column of segments; −1 where none is, as for a quarantined record."""
    record = np.asarray(pc.list_parent_indices(segments))
    each = pc.list_flatten(segments)
    start, stop, cluster = (np.asarray(pc.struct_field(each, name)) for name in ("start", "stop", "cluster"))
    labels = np.full(len(segments) * n_steps, -1, np.int16)
    labels[runs(record.astype(np.int64) * n_steps + start, stop - start)] = np.repeat(cluster, stop - start)
    return labels.reshape(len(segments), n_steps)


def explained_timelines(explanations: pa.Table, waves: Waves) -> Timelines:
    """Clusters and waves of N explained records.

    `explanations` has the columns segments, sampling_rate, length, start_s and source_sampling_rate, and a row at
    least; all records are of one encoder. `waves` are those of the same records.
    """
    length, rate, start_s, source_rate = (
        np.asarray(explanations.column(name)) for name in ("length", "sampling_rate", "start_s", "source_sampling_rate")
    )
    return timelines(
        cluster_labels(explanations.column("segments"), int(length[0])), waves, float(rate[0]), start_s, source_rate
    )


def timelines(
    labels: NDArray[np.int16],
    waves: Waves,
    rate: float,
    start_s: NDArray[np.floating],
    source_rate: NDArray[np.floating],
) -> Timelines:
    """Clusters (N, D) and waves of the same N records on the clusters' axis of `rate` Hz.

    start_s (N,): recording time of timestep 0 in seconds; source_rate (N,): Hz of the samples that waves are given in.
    """
    onset, offset = on_axis(waves, source_rate, start_s, rate)
    first, past = whole_steps(onset, offset)
    start, stop = _span(waves, first, past, labels)
    parts = _painted(waves, first, past, start, stop, labels.shape[1])
    # The timestep behind a change is where the new cluster begins: the boundary lies at its time, as in `segments`.
    record, step = np.nonzero(labels[:, 1:] != labels[:, :-1])
    boundaries = _within(record, step + 1, start, stop, rate)
    both, at = np.tile(waves.record, 2), np.concatenate([onset, offset])
    order = np.lexsort((at, both))
    edges = _within(both[order], at[order], start, stop - 1, rate)
    return Timelines(labels, parts, start, stop, boundaries, edges, rate)


def _within(
    record: NDArray[np.int64], at: NDArray, start: NDArray[np.int64], stop: NDArray[np.int64], rate: float
) -> Ragged:
    """The timesteps, in order, that lie strictly within their record's start … stop, in seconds from its start."""
    inside = (at > start[record]) & (at < stop[record])
    record, at = record[inside], at[inside]
    return Ragged.of(record, (at - start[record]) / rate, len(start))


def _span(
    waves: Waves, first: NDArray[np.int64], past: NDArray[np.int64], labels: NDArray[np.int16]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(start, stop) of each record from its first wave to its last one, within what was explained."""
    explained = labels >= 0
    valid_start, valid_stop = explained.argmax(axis=1), labels.shape[1] - explained[:, ::-1].argmax(axis=1)
    there = (waves.counts > 0) & explained.any(axis=1)
    start, stop = np.zeros(len(waves), np.int64), np.zeros(len(waves), np.int64)
    starts, of_record = waves.offsets[:-1][waves.counts > 0], np.flatnonzero(waves.counts > 0)
    if len(starts):
        start[of_record] = np.maximum(np.minimum.reduceat(first, starts), valid_start[of_record])
        stop[of_record] = np.minimum(np.maximum.reduceat(past, starts), valid_stop[of_record])
    return np.where(there, start, 0), np.where(there, np.maximum(stop, start), 0)


def _painted(
    waves: Waves,
    first: NDArray[np.int64],
    past: NDArray[np.int64],
    start: NDArray[np.int64],
    stop: NDArray[np.int64],
    n_steps: int,
) -> NDArray[np.int8]:
    """(N, n_steps): every timestep's part. Where waves overlap after merging, the later one begins where it begins."""
    record = waves.record
    follows = record[1:] == record[:-1] if len(record) else np.zeros(0, bool)
    past = past.copy()
    past[:-1] = np.where(follows, np.minimum(past[:-1], first[1:]), past[:-1])
    gap_kind = _GAPS[waves.kind[:-1], waves.kind[1:]]
    begin = np.concatenate([first, past[:-1][follows]])
    end = np.concatenate([past, first[1:][follows]])
    kind = np.concatenate([waves.kind, gap_kind[follows]])
    owner = np.concatenate([record, record[:-1][follows]])
    begin, end = np.maximum(begin, start[owner]), np.minimum(end, stop[owner])
    some = end > begin
    begin, length, kind, owner = begin[some], (end - begin)[some], kind[some], owner[some]
    parts = np.full(len(waves) * n_steps, UNKNOWN, np.int8)
    parts[runs(owner * n_steps + begin, length)] = np.repeat(kind, length)
    return parts.reshape(len(waves), n_steps)
