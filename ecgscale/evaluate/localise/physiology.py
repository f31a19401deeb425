"""Localisation of what was published below a ROOT: scores, average beats, boundaries on the network's grid.

The average heartbeat of every cluster is aligned by phase, and says when in the heartbeat the network is in it. Phase 0
is the R peak; from one R peak to the next phase grows by one, so that fast and slow hearts lie on each other. A beat is
drawn from phase −0.4 (with the interval before it) to 0.6 (with the one after it). Its signal is taken less its median
in that window, lead by lead. For cluster k

    mean_mv     the mean over beats, each weighted by the share of its time that it is in k: the beats that k occurs in
    active_mv   the mean at this phase over the beats that are in k there: what the network sees while it is in k
    n, share    how many beats that is, and of how many
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ecgscale.archive import Archive
from ecgscale.archive.reader import chosen_batches, chunks
from ecgscale.archive.waves import QRS, WAVES, Waves
from ecgscale.encoders.preprocess import pick_leads
from ecgscale.errors import ArchiveError, ShardError, UsageError
from ecgscale.evaluate.localise.heartbeat import Chosen, FoundWaves, WaveSource, choose, find_waves
from ecgscale.evaluate.localise.localisation import Localisation, explained_entropy, localise
from ecgscale.evaluate.localise.shifts import HopTest, checkerboard, counts_by_record
from ecgscale.evaluate.localise.timelines import MAIN_PARTS, Timelines, explained_timelines
from ecgscale.evaluate.published import by_shard
from ecgscale.evaluate.seen import kept_apart_by, patients_of
from ecgscale.evaluate.written import Written, write_evaluation
from ecgscale.io.places import absolute
from ecgscale.leads import MissingLeads
from ecgscale.passes.spread import HERE, Spread
from ecgscale.progress import SILENT, Progress
from ecgscale.store.presence import announced

RECORDS = 1000
NAME = "localisation"

FIRST_PHASE, LAST_PHASE, PHASES = -0.4, 0.6, 100
SHORTEST_RR_S, LONGEST_RR_S = 0.25, 3.0
_PHASE = (LAST_PHASE - FIRST_PHASE) / PHASES


@dataclass(frozen=True)
class PublishedLocalisation(Written[Localisation]):
    """Localisation of one dataset, and the tests for checkerboards."""

    checkerboard: tuple[HopTest, ...]


@announced("ecgscale localise", existing=True)
def localise_published(
    root: str | Path,
    *,
    dataset: str | None = None,
    archive: str | Path | None = None,
    records: int | None = RECORDS,
    waves: WaveSource = "auto",
    seed: int = 0,
    spread: Spread = HERE,
    progress: Progress = SILENT,
) -> PublishedLocalisation:
    """Compare the newest explanations below `root` with the heartbeat, on a seeded choice of `records` (None: all).

    `waves` "auto" takes annotations where any record has some, else NeuroKit2. Signals are read by the workers of
    `spread`. Writes ROOT/evaluations/<dataset>/localisation.json with its tables (shares, beats, boundaries, records).
    Raises `UsageError` when nothing is published, when no record has waves, and when NeuroKit2 or the archive is needed
    and not there.
    """
    chosen = choose(root, dataset, archive, records, waves, seed)
    published, spec, model = chosen.published, chosen.published.spec, chosen.published.model
    found = find_waves(chosen, progress, spread)
    lines = explained_timelines(chosen.table, found.waves)
    used = lines.stop > lines.start
    if not used.any():
        why = Counter(reason for reason in found.reasons if reason).most_common(1)
        raise UsageError(
            f"none of {len(lines)} records has waves within what was explained"
            + (f"; most often: {why[0][0]}" if why else "")
        )
    progress.say(f"comparing clusters and waves of {used.sum()} records")
    result = localise(lines, model.n_clusters, patients_of(chosen.table).tolist(), seed=seed)
    hops = tuple(model.layout.hop(block) for block in range(model.layout.n_blocks))
    tests, histogram = checkerboard(lines.labels, spec.layers, hops, seed)
    beats, notes = _average_beats(chosen, found.waves, lines, spread, progress)
    seen = published.seen(chosen.table)
    facts = {
        **result.to_dict(),
        "waves_from": chosen.source,
        "split": kept_apart_by(patients_of(chosen.table)),
        "without_waves": int((~used).sum()),
        "checkerboard": tests,
        "beats": beats.beats,
        "mean_rr_s": beats.mean_rr_s,
        "clusters_in_beat": beats.where(),
        "seen_by_encoder": None if seen.encoder is None else int(seen.encoder[used].sum()),
        "seen_by_clusters": None if seen.clusters is None else int(seen.clusters[used].sum()),
        "remarks": [*published.left_out(), *found.remarks, *result.remarks, *notes],
    }
    tables = {
        "shares": result.shares,
        "boundaries": histogram,
        "records": _record_table(chosen, found, lines),
        **({"beats": beats.table()} if beats.beats else {}),
    }
    settings = {"records": records, "waves": waves, "seed": seed}
    path = write_evaluation(root, published.dataset_id, NAME, facts, tables, settings=settings)
    return PublishedLocalisation(result, facts, path, tests)


def _record_table(chosen: Chosen, found: FoundWaves, lines: Timelines) -> pa.Table:
    """One row a chosen record: what is known of its waves, and its own mutual information."""
    counts = counts_by_record(lines, chosen.published.model.n_clusters)[..., :MAIN_PARTS]
    columns: dict[str, Any] = {
        "record_id": chosen.table.column("record_id"),
        "reason": pa.array([reason or None for reason in found.reasons], pa.string()),
        "timesteps": counts.sum((1, 2)),
        "information": pa.array(explained_entropy(counts), pa.float64(), from_pandas=True),
    }
    for kind, name in enumerate(WAVES):
        record = found.waves.record[found.waves.kind == kind]
        columns[f"{name.lower()}_waves"] = np.bincount(record, minlength=len(lines))
    return pa.table(columns)


class BeatSums:
    """Sums over beats, from which the averages come; memory does not grow with the beats."""

    def __init__(self, n_clusters: int, leads: Sequence[str]) -> None:
        self.leads = tuple(leads)
        self.phases = FIRST_PHASE + _PHASE * (np.arange(PHASES) + 0.5)
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
        chosen = np.flatnonzero(plausible & there)
        chosen = chosen[(labels[steps[chosen]] >= 0).all(axis=1)]
        if not len(chosen):
            return
        samples, beat_labels = samples[chosen], labels[steps[chosen]]
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
        self._rr_s += float(after[chosen].sum())

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
        k, l, p = np.nonzero(np.broadcast_to(self._weight[:, None, None] > 0, self._weighted.shape))
        n = self.n[k, p]
        return pa.table(
            {
                "cluster": k.astype(np.int16),
                "lead": pa.array(self.leads, pa.string()).take(pa.array(l)),
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
        for k in np.flatnonzero(self.n.sum(axis=1)):
            total = np.concatenate([[0], np.cumsum(self.n[k])])
            ends = np.searchsorted(total, total[:-1] + total[-1] / 2)
            first = int(np.where(ends <= PHASES, ends - np.arange(PHASES), PHASES + 1).argmin())
            begin, end = FIRST_PHASE + _PHASE * first, FIRST_PHASE + _PHASE * int(ends[first])
            found.append({"cluster": int(k), "phase_from": begin, "phase_to": end, "time_in_beats": int(total[-1])})
        return found


@dataclass(frozen=True)
class _Network:
    """What all stretches of recordings share: where their signals are, and what the network sees of them."""

    archive: Archive
    leads: tuple[str, ...]
    n_clusters: int
    rate: float


@dataclass(frozen=True)
class _Stretch:
    """Some records of one shard: for each its R peaks in samples, labels (D,), and seconds before timestep 0, by id."""

    shard: str
    records: dict[str, tuple[NDArray[np.float64], NDArray[np.int16], float]]


def _average_beats(
    chosen: Chosen, waves: Waves, lines: Timelines, spread: Spread, progress: Progress
) -> tuple[BeatSums, list[str]]:
    """Beats of all records with waves, in the leads that the network sees; and remarks."""
    leads, n_clusters = chosen.published.spec.input.leads, chosen.published.model.n_clusters
    sums = BeatSums(n_clusters, leads)
    if chosen.archive is None:
        return sums, [f"no average beats: {chosen.archive_note}"]
    network = _Network(Archive.open(absolute(chosen.archive.path)), leads, n_clusters, lines.rate)
    names, start_s = chosen.table.column("record_id").to_pylist(), chosen.table.column("start_s").to_numpy()
    peaks = np.where(waves.kind == QRS, waves.peak, np.nan)
    records = {}
    for i, name in enumerate(names):
        own = peaks[waves.offsets[i] : waves.offsets[i + 1]]
        records[str(name)] = np.sort(own[np.isfinite(own)]), lines.labels[i], start_s[i]
    tasks = [_Stretch(shard, {name: records[name] for name in own}) for shard, own in chunks(by_shard(chosen.table))]
    with progress.stage("average beats", len(records), "records") as stage:
        sizes, keys = [len(task.records) for task in tasks], [task.shard for task in tasks]
        done = spread.map(_beats_of, network, tasks, stage, sizes, keys)
    for own_sums, _, _ in done:
        sums.include(own_sums)
    errors = dict.fromkeys(error for _, _, error in done if error)
    remarks = [f"average beats are of a part of the records: {error}" for error in errors]
    if lacking := sum(lacks for _, lacks, _ in done):
        remarks.append(f"{lacking} records no longer have the network's leads: not in the average beats")
    if not sums.beats:
        remarks.append("no average beats: no record has three QRS complexes in a row within what was explained")
    return sums, remarks


def _beats_of(network: _Network, stretch: _Stretch) -> tuple[BeatSums, int, str]:
    """(beats of some records of one shard, how many lack leads, an error of the shard or "")."""
    sums, lacking = BeatSums(network.n_clusters, network.leads), 0
    try:
        for raw, rows in chosen_batches(network.archive, {stretch.shard: tuple(stretch.records)}):
            for row in rows:
                peaks, labels, start_s = stretch.records[str(raw.record_ids[row])]
                try:
                    signal = pick_leads(raw.signal(row)[None], raw.leads[row], network.leads)[0]
                except MissingLeads:
                    lacking += 1
                    continue
                signal /= float(raw.units_per_mv[row])
                sums.add(signal, float(raw.sampling_rate[row]), peaks, labels, network.rate, start_s)
    except (ShardError, ArchiveError) as error:
        return sums, lacking, str(error)
    return sums, lacking, ""
