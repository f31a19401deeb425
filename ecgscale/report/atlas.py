"""The atlas: what every cluster looks like, when in the heartbeat it is on, in which classes, how much it matters.

Beats aligned by phase come from the evaluation `localisation`. Without it a mean over a sample of recordings takes
their place: every segment is laid over the others with its middle at time 0, so that the signal at 0 is what the
network sees while it is in that cluster.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from markupsafe import Markup
from numpy.typing import NDArray

from ecgscale.evaluate.published import draw_records
from ecgscale.leads import CANONICAL_LEADS, MissingLeads, derive_limb_leads
from ecgscale.progress import SILENT, Progress
from ecgscale.report.blocks import Section, missing, swatch
from ecgscale.report.charts import Beat, beat_chart, reach_of
from ecgscale.report.page import PALETTE
from ecgscale.report.recordings import DISPLAY_RATE, Recording, by_shard, displayed, edges_of, read_recordings
from ecgscale.report.relations import class_groups, group_means
from ecgscale.report.subject import LONGEST_NAME, NAMES_FILE, Subject
from ecgscale.report.surrogate import COMMAND, importance_of, surrogate_of
from ecgscale.tables import percent

SAMPLE_RECORDS = 256
FEWEST_SEGMENTS = 10
HALF_WINDOW_S = 0.5
_CLASSES_ON_CARD = 8


@dataclass(frozen=True)
class Average:
    """Mean of a cluster's segments, NaN where no recording has the lead; the tint is as wide as half of them.

    `median_s` is how long a segment of the cluster is in the middle.
    """

    beat: Beat
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
    columns = ["segments", "start_s", "sampling_rate", "valid_stop"]
    explained = subject.explained((subject.rows.record_ids[row] for row in rows), columns)
    segments = {
        row["record_id"]: (edges_of(row), np.array([segment["cluster"] for segment in row["segments"]]))
        for row in explained
    }
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
                median_s = float(np.median(np.concatenate(self.durations[cluster])))
                times = self.offsets / DISPLAY_RATE
                beat = Beat(times, mean, CANONICAL_LEADS, (np.abs(times) <= median_s / 2).astype(np.float64))
                found[cluster] = Average(beat, median_s, int(counts.max()), len(self.durations[cluster]))
        return found


def _twelve_leads(recording: Recording) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """((12, T) mV at the display rate, each lead less its median; 0 where a lead is not there, (12,) which are)."""
    signal = recording.signal_mv - np.median(recording.signal_mv, axis=1, keepdims=True)
    signal, _ = displayed(signal, recording.rate)
    out, there = np.zeros((len(CANONICAL_LEADS), signal.shape[1])), np.ones(len(CANONICAL_LEADS), dtype=bool)
    for place, lead in enumerate(CANONICAL_LEADS):
        try:
            out[place] = derive_limb_leads(signal, recording.leads, [lead])[0]
        except MissingLeads:
            there[place] = False
    return out, there


SHOWN_LEADS = ("II", "V1", "V5")
PRESENT = 0.005
"""A cluster occurs in a recording if it has at least this share of its time."""

CYCLE = ("P", "PQ", "QRS", "ST", "T", "TP")


@dataclass(frozen=True)
class ClusterFacts:
    """One cluster. Shares are of explained time; `by_class` pairs a class with its mean share (NaN for an empty one);
    `cycle` has the share of the cluster's time in each part of the heartbeat, where that is known."""

    cluster: int
    name: str
    share: float
    present: float
    by_class: dict[str, float]
    importance: float | None
    cycle: dict[str, float] = field(default_factory=dict)
    beat: Beat | None = None
    beat_summary: str = ""


@dataclass(frozen=True)
class Atlas:
    """All clusters, and whether their beats are aligned by phase."""

    clusters: tuple[ClusterFacts, ...]
    aligned: bool
    leads: tuple[str, ...]


def atlas_of(subject: Subject, progress: Progress = SILENT) -> Atlas:
    """The atlas of a dataset; clusters without a beat (too rare, or no archive) have their other facts."""
    rows, model = subject.rows, subject.model
    beats, summaries = _aligned_beats(subject)
    aligned = bool(beats)
    if not aligned:
        beats, summaries = _centred_beats(subject, progress)
    means = group_means(rows.proportions, groups := class_groups(subject))
    surrogate, cycles = surrogate_of(subject), _cycles(subject)
    importance = importance_of(subject.evaluations[surrogate].facts) if surrogate else {}
    overall, present = rows.proportions.mean(axis=0, dtype=np.float64), (rows.proportions >= PRESENT).mean(axis=0)
    facts = tuple(
        ClusterFacts(
            cluster=k,
            name=subject.names.get(k, ""),
            share=float(overall[k]),
            present=float(present[k]),
            by_class=dict(zip(groups, means[:, k].tolist(), strict=True)),
            importance=importance.get(k),
            cycle=cycles.get(k, {}),
            beat=beats.get(k),
            beat_summary=summaries.get(k, ""),
        )
        for k in range(model.n_clusters)
    )
    return Atlas(facts, aligned, shown_leads(beats))


def shown_leads(beats: Mapping[int, Beat]) -> tuple[str, ...]:
    """Three leads that the beats have: those of `SHOWN_LEADS` first."""
    there = next((beat.leads for beat in beats.values()), CANONICAL_LEADS)
    first = [lead for lead in SHOWN_LEADS if lead in there]
    return tuple([*first, *(lead for lead in there if lead not in first)][:3])


def _cycles(subject: Subject) -> dict[int, dict[str, float]]:
    """Cluster → part of the heartbeat → share of the cluster's time, from the localisation."""
    found = subject.evaluations.get("localisation")
    if found is None or "shares" not in found.table_names:
        return {}
    cycles: dict[int, dict[str, float]] = {}
    for row in found.table("shares").to_pylist():
        if row["share_of_cluster"] is not None and row["part"] in CYCLE:
            cycles.setdefault(int(row["cluster"]), {})[row["part"]] = float(row["share_of_cluster"])
    return {k: {part: shares[part] for part in CYCLE if part in shares} for k, shares in cycles.items()}


def _aligned_beats(subject: Subject) -> tuple[dict[int, Beat], dict[int, str]]:
    found = subject.evaluations.get("localisation")
    if found is None or "beats" not in found.table_names:
        return {}, {}
    table = found.table("beats")
    beats, summaries = {}, {}
    clusters = table.column("cluster").to_numpy()
    for k in np.unique(clusters).tolist():
        part = table.filter(pa.array(clusters == k))
        leads = tuple(dict.fromkeys(str(lead) for lead in part.column("lead").to_pylist()))
        shape = (len(leads), -1)
        times, share = (_column(part, name).reshape(shape)[0] for name in ("time_s", "share"))
        signal = _column(part, "mean_mv").reshape(shape)
        peak = float(share.max())
        beats[k] = Beat(times, signal, leads, share / peak if peak > 0 else share)
        summaries[k] = f"at most {percent(peak)} of beats are in it at the same moment"
    return beats, summaries


def _centred_beats(subject: Subject, progress: Progress) -> tuple[dict[int, Beat], dict[int, str]]:
    averages = segment_averages(subject, progress)
    summaries = {
        k: f"mean of {one.segments:,} segments in {one.records} recordings, half of them longer than "
        f"{1000 * one.median_s:.0f} ms"
        for k, one in averages.items()
    }
    return {k: one.beat for k, one in averages.items()}, summaries


def _column(table: pa.Table, name: str) -> NDArray[np.float64]:
    return np.asarray(table.column(name).to_numpy(zero_copy_only=False), dtype=np.float64)


def atlas_section(subject: Subject, atlas: Atlas) -> Section:
    """A card a cluster: its beat, where it occurs, what it is worth to the surrogate, and the name it was given."""
    beats = {facts.cluster: facts.beat for facts in atlas.clusters if facts.beat is not None}
    reach = reach_of(beats, atlas.leads) if beats else (-1.0, 1.0)
    measured = any(facts.importance is not None for facts in atlas.clusters)
    content = {
        "cards": [_card(facts, atlas, reach) for facts in atlas.clusters],
        "names_path": str(subject.root / "models" / subject.model.model_id / NAMES_FILE),
        "longest_name": LONGEST_NAME,
        "has_importance": measured,
        "no_beat": subject.archive_note or "Too few segments for an average beat.",
        "about_beats": (
            "Beats are aligned at the R peak and averaged with the weight of the cluster in them; the tint says how "
            "often the cluster is on at that moment. One large square is 0.2 s and 0.5 mV."
            if atlas.aligned
            else "The signal around the middle of the cluster's segments, averaged; the tint is as wide as half of the "
            "segments. One large square is 0.2 s and 0.5 mV."
        ),
    }
    section = Section(
        "atlas",
        "Atlas of clusters",
        "What the signal looks like while the network is in each cluster, and in which classes it spends its time "
        "there.",
        template="atlas.html",
        content=content,
    )
    if not atlas.aligned:
        what = "Beats aligned by phase, and where in the heartbeat each cluster is, come with"
        section.blocks.append(missing(what, subject.command("localise ROOT")))
    if not measured:
        what = "How much each cluster matters to the network's decisions comes with"
        section.blocks.append(missing(what, subject.command(COMMAND)))
    return section


def _card(facts: ClusterFacts, atlas: Atlas, reach: tuple[float, float]) -> Mapping[str, Any]:
    shares = [share for share in facts.by_class.values() if share == share]
    full = max([*shares, facts.share, 1e-9])
    text = f"{percent(facts.share, 1)} of the time; in {percent(facts.present)} of recordings"
    if facts.importance is not None:
        text += f"; importance {100 * facts.importance:+.1f} points of agreement".replace("-", "−")
    ranked = sorted(facts.by_class.items(), key=lambda pair: -(pair[1] if pair[1] == pair[1] else -1.0))
    shown = facts.by_class.items() if len(facts.by_class) <= _CLASSES_ON_CARD else ranked[:_CLASSES_ON_CARD]
    colour, beat = PALETTE[facts.cluster % len(PALETTE)], None
    all_leads: list[Markup] = []
    if facts.beat is not None:
        label = f"Average beat of cluster {facts.cluster} in leads "
        beat = beat_chart(facts.beat, atlas.leads, reach, colour, label + ", ".join(atlas.leads))
        leads = facts.beat.leads
        rows = [leads[i : i + 3] for i in range(0, len(leads), 3)] if len(leads) > len(atlas.leads) else []
        all_leads = [beat_chart(facts.beat, row, reach, colour, label + ", ".join(row)) for row in rows]
    return {
        "facts": facts,
        "swatch": swatch(facts.cluster),
        "colour": colour,
        "summary": text,
        "beat": beat,
        "classes": [(n, percent(s, 1) if s == s else "–", f"{100 * s / full if s == s else 0:.1f}") for n, s in shown],
        "overall": f"{100 * facts.share / full:.1f}",
        "all_leads": all_leads,
    }
