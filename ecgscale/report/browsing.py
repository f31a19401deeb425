"""The two sections that people work with: the browser of recordings and the atlas of clusters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from ecgscale.report.atlas import Atlas, ClusterFacts
from ecgscale.report.blocks import Missing, Remark, Section
from ecgscale.report.charts import beat_chart, reach_of
from ecgscale.report.choice import AUDITED, DISAGREES, DRAWN, TYPICAL, UNCERTAIN
from ecgscale.report.lineage import command_for
from ecgscale.report.page import PALETTE
from ecgscale.report.subject import LONGEST_NAME, NAMES_FILE, Subject
from ecgscale.tables import percent

_CLASSES_ON_CARD = 8


def recordings_section(subject: Subject, recordings: list[dict[str, Any]], remarks: list[str]) -> Section:
    """The browser: which recordings are on the page and why, with warnings that belong to them."""
    there = {reason.split(":")[0] for record in recordings for reason in record["reasons"]}
    reasons = [reason for reason in (UNCERTAIN, DISAGREES, AUDITED, TYPICAL, DRAWN) if reason in there]
    classes = [] if subject.is_regression else list(subject.classes)
    section = Section(
        "recordings",
        "Recordings",
        f"{len(recordings)} of {len(subject.rows):,} explained recordings: the most uncertain, those where the "
        "network and the label disagree, and typical ones. Move over the paper to read time, cluster and entropy.",
        template="recordings.html",
        content={"reasons": reasons, "classes": classes, "recordings": len(recordings)},
    )
    section.blocks += [Remark(remark, warn=True) for remark in remarks]
    return section


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
        command = command_for(subject, "localise ROOT")
        section.blocks.append(
            Missing("Beats aligned by phase, and where in the heartbeat each cluster is, come with", command)
        )
    if not measured:
        command = command_for(subject, f"surrogate ROOT --target {subject.target or 'COLUMN'} --importance")
        section.blocks.append(Missing("How much each cluster matters to the network's decisions comes with", command))
    return section


def _card(facts: ClusterFacts, atlas: Atlas, reach: tuple[float, float]) -> Mapping[str, Any]:
    shares = [share for share in facts.by_class.values() if share == share]
    full = max([*shares, facts.share, 1e-9])
    told = f"{percent(facts.share, 1)} of the time; in {percent(facts.present)} of recordings"
    if facts.importance is not None:
        told += f"; importance {100 * facts.importance:+.1f} points of agreement".replace("-", "−")
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
        "told": told,
        "beat": beat,
        "beat_told": facts.beat_told,
        "classes": [(n, percent(s, 1) if s == s else "–", f"{100 * s / full if s == s else 0:.1f}") for n, s in shown],
        "overall": f"{100 * facts.share / full:.1f}",
        "all_leads": all_leads,
    }
