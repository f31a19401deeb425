"""The atlas: what every cluster looks like, when in the heartbeat it is on, in which classes, and how much it matters.

Beats aligned by phase come from the evaluation `localisation`; without it, the signal around the middle of segments,
averaged over a sample of recordings, takes their place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ecgscale.leads import CANONICAL_LEADS
from ecgscale.progress import SILENT, Progress
from ecgscale.report.averages import segment_averages
from ecgscale.report.charts import Beat
from ecgscale.report.relations import class_groups, group_means
from ecgscale.report.subject import Subject
from ecgscale.report.surrogate_tables import importance_of
from ecgscale.report.tables import percent

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
    beat_told: str = ""


@dataclass(frozen=True)
class Atlas:
    """All clusters, and whether their beats are aligned by phase."""

    clusters: tuple[ClusterFacts, ...]
    aligned: bool
    leads: tuple[str, ...]


def atlas_of(subject: Subject, progress: Progress = SILENT) -> Atlas:
    """The atlas of a dataset; clusters without a beat (too rare, or no archive) have their other facts."""
    rows, model = subject.rows, subject.model
    beats, told = _aligned_beats(subject)
    aligned = bool(beats)
    if not aligned:
        beats, told = _centred_beats(subject, progress)
    means = group_means(rows.proportions, groups := class_groups(subject))
    importance, cycles = _importance(subject), _cycles(subject)
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
            beat_told=told.get(k, ""),
        )
        for k in range(model.n_clusters)
    )
    return Atlas(facts, aligned, shown_leads(beats))


def shown_leads(beats: Mapping[int, Beat]) -> tuple[str, ...]:
    """Three leads that the beats have: the usual ones if they are there."""
    there = next((beat.leads for beat in beats.values()), CANONICAL_LEADS)
    usual = [lead for lead in SHOWN_LEADS if lead in there]
    return tuple([*usual, *(lead for lead in there if lead not in usual)][:3])


def surrogate_of(subject: Subject) -> str | None:
    """Name of the surrogate evaluation to show: that of the encoder's target, else the first."""
    names = [name for name in subject.evaluations if name.startswith("surrogate-")]
    own = [name for name in names if subject.evaluations[name].facts.get("target") == subject.target]
    return next(iter([*own, *names]), None)


def _importance(subject: Subject) -> dict[int, float]:
    name = surrogate_of(subject)
    return importance_of(subject.evaluations[name].facts) if name else {}


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
    beats, told = {}, {}
    clusters = table.column("cluster").to_numpy()
    for k in np.unique(clusters).tolist():
        part = table.filter(pa.array(clusters == k))
        leads = tuple(dict.fromkeys(str(lead) for lead in part.column("lead").to_pylist()))
        shape = (len(leads), -1)
        times, share = (_column(part, name).reshape(shape)[0] for name in ("time_s", "share"))
        signal = _column(part, "mean_mv").reshape(shape)
        peak = float(share.max())
        beats[k] = Beat(times, signal, leads, share / peak if peak > 0 else share)
        told[k] = f"at most {percent(peak)} of beats are in it at the same moment"
    return beats, told


def _centred_beats(subject: Subject, progress: Progress) -> tuple[dict[int, Beat], dict[int, str]]:
    beats, told = {}, {}
    for k, average in segment_averages(subject, progress).items():
        inside = (np.abs(average.times) <= average.median_s / 2).astype(np.float64)
        beats[k] = Beat(average.times, average.signal_mv, average.leads, inside)
        told[k] = (
            f"mean of {average.segments:,} segments in {average.records} recordings, half of them longer than "
            f"{1000 * average.median_s:.0f} ms"
        )
    return beats, told


def _column(table: pa.Table, name: str) -> NDArray[np.float64]:
    return np.asarray(table.column(name).to_numpy(zero_copy_only=False), dtype=np.float64)
