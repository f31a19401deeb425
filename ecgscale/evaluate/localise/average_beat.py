"""The average heartbeat of every cluster, aligned by phase, and when in the heartbeat the network is in it.

Phase 0 is the R peak; from one R peak to the next phase grows by one, so that fast and slow hearts lie on each other.
A beat is drawn from phase −0.4 (with the interval before it) to 0.6 (with the one after it). Its signal is taken less
its median in that window, lead by lead. For cluster k

    mean_mv     the mean over beats, each weighted by the share of its time that it is in k: the beats that k occurs in
    active_mv   the mean at this phase over the beats that are in k there: what the network sees while it is in k
    n, share    how many beats that is, and of how many
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

FIRST_PHASE, LAST_PHASE, PHASES = -0.4, 0.6, 100
SHORTEST_RR_S, LONGEST_RR_S = 0.25, 3.0


class BeatSums:
    """Sums over beats, from which the averages come; memory does not grow with the beats."""

    def __init__(self, n_clusters: int, leads: Sequence[str]) -> None:
        self.leads = tuple(leads)
        width = (LAST_PHASE - FIRST_PHASE) / PHASES
        self.phases = FIRST_PHASE + width * (np.arange(PHASES) + 0.5)
        self.beats = 0
        self._rr_s = 0.0
        shape = (n_clusters, len(leads), PHASES)
        self._weighted, self._active = np.zeros(shape), np.zeros(shape)
        self._weight = np.zeros(n_clusters)
        self.n = np.zeros((n_clusters, PHASES), np.int64)

    def add(
        self,
        signal_mv: NDArray[np.float64],
        source_rate: float,
        r_peaks: NDArray[np.float64],
        labels: NDArray[np.int16],
        rate: float,
        start_s: float,
    ) -> None:
        """Add the beats of one record.

        signal_mv: (leads, samples) at `source_rate`; r_peaks: samples, ascending; labels: (D,) at `rate`, −1 where
        nothing is known, timestep 0 at `start_s` seconds. Beats without a neighbour on either side, with an interval
        that no heart has, or that reach out of signal or labels are left out.
        """
        peaks_s = r_peaks / source_rate
        if len(peaks_s) < 3:
            return
        before, after = peaks_s[1:-1] - peaks_s[:-2], peaks_s[2:] - peaks_s[1:-1]
        rr = np.where(self.phases[None] < 0, before[:, None], after[:, None])
        at_s = peaks_s[1:-1, None] + self.phases * rr
        samples, steps = at_s * source_rate, np.round((at_s - start_s) * rate).astype(np.int64)
        plausible = (np.minimum(before, after) >= SHORTEST_RR_S) & (np.maximum(before, after) <= LONGEST_RR_S)
        there = (samples[:, 0] >= 0) & (samples[:, -1] <= signal_mv.shape[1] - 1)
        there &= (steps[:, 0] >= 0) & (steps[:, -1] < len(labels))
        chosen = plausible & there
        beat_labels = labels[steps[chosen]]
        known = (beat_labels >= 0).all(axis=1)
        beat_labels, samples = beat_labels[known], samples[chosen][known]
        if not len(samples):
            return
        left = np.minimum(np.floor(samples).astype(np.int64), signal_mv.shape[1] - 2)
        part = samples - left
        beats_LBP = signal_mv[:, left] * (1 - part) + signal_mv[:, left + 1] * part
        beats_LBP -= np.median(beats_LBP, axis=2, keepdims=True)
        inside_BPK = beat_labels[:, :, None] == np.arange(len(self.n))
        share_BK = inside_BPK.mean(axis=1)
        self._weighted += np.einsum("bk,lbp->klp", share_BK, beats_LBP)
        self._active += np.einsum("bpk,lbp->klp", inside_BPK, beats_LBP)
        self._weight += share_BK.sum(axis=0)
        self.n += inside_BPK.sum(axis=0).T
        self.beats += len(samples)
        self._rr_s += float(after[chosen][known].sum())

    def include(self, others: BeatSums) -> None:
        """Add the beats that others hold."""
        for name in ("_weighted", "_active", "_weight", "n", "beats", "_rr_s"):
            setattr(self, name, getattr(self, name) + getattr(others, name))

    @property
    def mean_rr_s(self) -> float | None:
        """Mean interval between R peaks in seconds."""
        return self._rr_s / self.beats if self.beats else None

    def table(self) -> pa.Table:
        """One row a cluster that occurs in a beat, a lead and a phase; `time_s` is the phase at the mean interval."""
        occurring = np.flatnonzero(self._weight > 0)
        k, l, p = (
            axis.ravel()
            for axis in np.meshgrid(occurring, np.arange(len(self.leads)), np.arange(PHASES), indexing="ij")
        )
        n = self.n[k, p]
        return pa.table(
            {
                "cluster": k.astype(np.int16),
                "lead": pa.array([self.leads[i] for i in l], pa.string()),
                "phase": self.phases[p],
                "time_s": self.phases[p] * (self.mean_rr_s or 0.0),
                "mean_mv": self._weighted[k, l, p] / self._weight[k],
                "active_mv": pa.array(self._active[k, l, p] / np.maximum(n, 1), mask=n == 0),
                "n": n,
                "share": n / max(self.beats, 1),
            }
        )

    def where(self) -> list[dict[str, float | int]]:
        """For each cluster that occurs: the shortest stretch of phases that holds half of its time."""
        found: list[dict[str, float | int]] = []
        width = (LAST_PHASE - FIRST_PHASE) / PHASES
        for k in np.flatnonzero(self.n.sum(axis=1)):
            total = np.concatenate([[0], np.cumsum(self.n[k])])
            ends = np.searchsorted(total, total[:-1] + total[-1] / 2)
            lengths = np.where(ends <= PHASES, ends - np.arange(PHASES), PHASES + 1)
            first = int(lengths.argmin())
            begin, end = FIRST_PHASE + width * first, FIRST_PHASE + width * int(ends[first])
            found.append({"cluster": int(k), "phase_from": begin, "phase_to": end, "time_in_beats": int(total[-1])})
        return found
