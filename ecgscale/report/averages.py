"""What the signal looks like around the segments of each cluster: a mean over a sample of recordings.

The stand-in for beats aligned by their phase (which `ecgscale localise` computes): every segment is laid over the
others with its middle at time 0, so that the signal at 0 is what the network sees while it is in that cluster.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy.signal import resample_poly

from ecgscale.evaluate.source import draw_records
from ecgscale.leads import CANONICAL_LEADS, MissingLeads, derive_limb_leads
from ecgscale.progress import SILENT, Progress
from ecgscale.report.embedded import DISPLAY_RATE, as_ratio, by_shard
from ecgscale.report.signals import Recording, read_recordings
from ecgscale.report.subject import Subject
from ecgscale.store.dataset import open_explanations

SAMPLE_RECORDS = 256
FEWEST_SEGMENTS = 10
HALF_WINDOW_S = 0.5


@dataclass(frozen=True)
class Average:
    """Mean of a cluster's segments: (n_leads, n_times) mV, NaN where no recording has the lead; times in seconds.

    `median_s` is how long a segment of the cluster is in the middle.
    """

    times: NDArray[np.float64]
    signal_mv: NDArray[np.float64]
    leads: tuple[str, ...]
    median_s: float
    segments: int
    records: int


def segment_averages(subject: Subject, progress: Progress = SILENT) -> dict[int, Average]:
    """Cluster → average over a sample of recordings; clusters with too few segments in it are left out.

    Empty when the archive is not there; shards of it that cannot be read have no part in the averages.
    """
    unreadable: list[str] = []
    if subject.archive is None:
        return {}
    rows = draw_records(len(subject.rows), SAMPLE_RECORDS, seed=0)
    segments = _segments(subject, [subject.rows.record_ids[row] for row in rows])
    width = round(HALF_WINDOW_S * DISPLAY_RATE)
    sums = _Sums(subject.model.n_clusters, width)
    with progress.stage("average beats", len(rows), "recordings") as stage:
        for recording in read_recordings(subject.archive, by_shard(subject, rows), unreadable):
            if recording.record_id in segments:
                sums.add(recording, *segments[recording.record_id])
            stage.advance()
    return sums.averages()


class _Sums:
    """Sums over segments, lead by lead, with the counts that make means of them."""

    def __init__(self, n_clusters: int, width: int) -> None:
        self.offsets = np.arange(-width, width + 1)
        self.sums = np.zeros((n_clusters, len(CANONICAL_LEADS), len(self.offsets)))
        self.counts = np.zeros((n_clusters, len(CANONICAL_LEADS)), dtype=np.int64)
        self.durations: list[list[NDArray[np.float64]]] = [[] for _ in range(n_clusters)]

    def add(self, recording: Recording, edges: NDArray[np.float64], clusters: NDArray[np.int64]) -> None:
        """`edges` (S + 1,) seconds of the recording, `clusters` (S,)."""
        signal, there = _twelve_leads(recording)
        middles = np.round((edges[:-1] + edges[1:]) / 2 * DISPLAY_RATE).astype(np.int64)
        at = middles[:, None] + self.offsets
        inside = (at[:, 0] >= 0) & (at[:, -1] < signal.shape[1])
        for cluster in np.unique(clusters):
            members = clusters == cluster
            self.durations[cluster].append(np.diff(edges)[members])
            places = at[members & inside]
            self.sums[cluster] += signal[:, places].sum(axis=1)
            self.counts[cluster] += len(places) * there

    def averages(self) -> dict[int, Average]:
        """Those of clusters with at least `FEWEST_SEGMENTS` whole windows."""
        found = {}
        for cluster, counts in enumerate(self.counts):
            if counts.max() >= FEWEST_SEGMENTS:
                mean = self.sums[cluster] / np.where(counts > 0, counts, np.nan)[:, None]
                seconds = np.concatenate(self.durations[cluster])
                found[cluster] = Average(
                    times=self.offsets / DISPLAY_RATE,
                    signal_mv=mean,
                    leads=CANONICAL_LEADS,
                    median_s=float(np.median(seconds)),
                    segments=int(counts.max()),
                    records=len(self.durations[cluster]),
                )
        return found


def _twelve_leads(recording: Recording) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """((12, T) mV at the display rate, each lead less its median; 0 where a lead is not there, (12,) which are)."""
    signal = recording.signal_mv - np.median(recording.signal_mv, axis=1, keepdims=True)
    ratio = as_ratio(DISPLAY_RATE / recording.rate)
    signal = resample_poly(signal, ratio.numerator, ratio.denominator, axis=1, padtype="line")
    out, there = np.zeros((len(CANONICAL_LEADS), signal.shape[1])), np.ones(len(CANONICAL_LEADS), dtype=bool)
    for place, lead in enumerate(CANONICAL_LEADS):
        try:
            out[place] = derive_limb_leads(signal, recording.leads, [lead])[0]
        except MissingLeads:
            there[place] = False
    return out, there


def _segments(subject: Subject, record_ids: list[str]) -> dict[str, tuple[NDArray[np.float64], NDArray[np.int64]]]:
    """record id → (edges in seconds of the recording, cluster of each segment)."""
    columns = ["record_id", "segments", "start_s", "sampling_rate", "valid_stop"]
    wanted = (pc.field("status") == "ok") & pc.field("record_id").isin(pa.array(record_ids, pa.string()))
    table = open_explanations(subject.root, subject.dataset_id).to_table(columns=columns, filter=wanted)
    found: dict[str, Any] = {}
    for batch in table.to_batches():
        each = batch.column("segments")
        starts = each.flatten().field("start").to_numpy()
        clusters = each.flatten().field("cluster").to_numpy().astype(np.int64)
        offsets = each.offsets.to_numpy() - each.offsets[0].as_py()
        ids, stops = batch.column("record_id").to_pylist(), batch.column("valid_stop").to_numpy()
        start_s, rates = batch.column("start_s").to_numpy(), batch.column("sampling_rate").to_numpy().astype(float)
        for i, name in enumerate(ids):
            part = slice(offsets[i], offsets[i + 1])
            edges = start_s[i] + np.append(starts[part], stops[i]) / rates[i]
            found[name] = (edges, clusters[part])
    return found
