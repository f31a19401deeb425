"""Sections that evaluations fill: what was written is shown, what was not says which command makes it.

The last nights: what came, what the gates said.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ecgscale.evaluate.written import Evaluation
from ecgscale.report.atlas import surrogate_of
from ecgscale.report.blocks import Block, Folded, Heading, Missing, Remark, Section, TableBlock
from ecgscale.report.evaluated import (
    any_blocks,
    audit_blocks,
    localisation_blocks,
    probe_blocks,
    sweep_blocks,
    temporal_blocks,
    uncertainty_blocks,
)
from ecgscale.report.lineage import command_for
from ecgscale.report.subject import Subject
from ecgscale.report.surrogate_tables import surrogate_tables
from ecgscale.tables import Cell, Row, Table, number, readable

SHOWN = 30


def night_blocks(evaluation: Evaluation) -> list[Block]:
    """A table of the newest nights, newest first, and a sentence for every alarm among them."""
    nights = sorted(evaluation.facts["nights"], key=lambda night: night["started"], reverse=True)[:SHOWN]
    if not nights:
        return []
    table = Table(
        caption="What came in each night, and whether it looked like what was published before.",
        columns=("recordings", "quarantined", "gates", "shards held back"),
        rows=tuple(_row(night) for night in nights),
        corner="night (UTC)",
    )
    alarms = [(night, finding) for night in nights for finding in night["findings"] if finding["alarm"]]
    return [
        TableBlock(table),
        *(Remark(f"{night['started'][:10]}: {finding['message']}", warn=True) for night, finding in alarms),
    ]


def _row(night: Mapping[str, Any]) -> Row:
    alarms = sum(bool(finding["alarm"]) for finding in night["findings"])
    verdict = "passed" if night["passed"] else f"{alarms} alarm" + ("s" if alarms != 1 else "")
    counts = [number(night[name]) for name in ("records", "quarantined")]
    return Row(night["started"][:16].replace("T", " "), (*counts, Cell(verdict), number(len(night["held"]))))


@dataclass(frozen=True)
class Kind:
    """A kind of evaluation: `prefix` of its names, where it stands on the page, and the command that writes it."""

    prefix: str
    title: str
    intro: str
    command: str
    always: bool = True
    """Whether the page says how to make it where it is missing."""


UNCERTAINTY = Kind("uncertainty", "", "", "uncertainty ROOT --target TARGET")
"""Stands with what the explanations say of uncertainty by themselves."""

KINDS = (
    Kind(
        "localisation",
        "Clusters and the heartbeat",
        "Is a cluster on during P, QRS, T, or between beats? Every score stands beside what it is when each "
        "recording's clusters are moved round in time by chance.",
        "localise ROOT",
    ),
    Kind(
        "sweep",
        "Sweeps",
        "The same with other numbers of clusters, other training records, other layers, other weights.",
        "sweep ROOT --target TARGET",
    ),
    Kind(
        "temporal",
        "Order in time",
        "Does the order of clusters say more than how long each is on? On rhythms, against shuffled segments.",
        "temporal ROOT --target TARGET",
        always=False,
    ),
    Kind(
        "probes",
        "Probes",
        "Asked of the network again, on a sample: Grad-CAM, dropout, masking of clusters, random weights.",
        "probe ROOT",
        always=False,
    ),
    Kind(
        "audit",
        "Label audit",
        "Recordings whose label, network and surrogate disagree, the most suspicious first.",
        "audit ROOT --target TARGET",
    ),
    Kind("drift", "Drift", "The last nights against what was published first.", "", always=False),
)


def surrogate_section(subject: Subject) -> Section:
    """The surrogate check with its baselines, or how to make it."""
    section = Section(
        "surrogate",
        "Surrogate forests",
        "A random forest that sees nothing of a recording but the share of time in each cluster tries to say what the "
        "network says. Another learns the true labels. If both come near the network, the clusters hold what it "
        "decides on; other features stand beside them to compare with.",
    )
    shown = surrogate_of(subject)
    if shown is None:
        command = command_for(subject, f"surrogate ROOT --target {subject.target or 'COLUMN'}")
        section.blocks.append(Missing("Not measured yet. The table is made by", command))
        return section
    names = [shown, *(name for name in _named(subject, "surrogate") if name != shown)]
    for name in names:
        facts = subject.evaluations[name].facts
        main, *others = surrogate_tables(facts, subject.model.n_clusters)
        if len(names) > 1:
            section.blocks.append(Heading(str(facts.get("target", name))))
        section.blocks.append(TableBlock(main))
        section.blocks += [Remark(str(remark)) for remark in facts.get("remarks") or []]
        if others:
            folded = [TableBlock(table) for table in others]
            section.blocks.append(Folded("By class, by fold, by what had been seen; differences", folded))
    return section


def further_sections(subject: Subject) -> list[Section]:
    """One section a kind of evaluation, those that are neither there nor to be asked for left out."""
    sections = [Section(kind.prefix, kind.title, kind.intro, evaluated(subject, kind)) for kind in KINDS]
    known = ("surrogate", UNCERTAINTY.prefix, *(kind.prefix for kind in KINDS))
    others = [name for name in subject.evaluations if name.split("-")[0] not in known]
    for name in others:
        found = subject.evaluations[name]
        sections.append(Section(f"evaluation-{len(sections)}", readable(name), "", any_blocks(found)))
    return [section for section in sections if section.blocks]


def evaluated(subject: Subject, kind: Kind) -> list[Block]:
    """What was evaluated of a kind, or how to make it; nothing where it need not be there."""
    blocks: list[Block] = []
    names = _named(subject, kind.prefix)
    if not names and kind.always:
        words = kind.command.replace("TARGET", subject.target or "COLUMN")
        blocks.append(Missing("Not measured yet. It is made by", command_for(subject, words)))
    for name in names:
        if len(names) > 1:
            blocks.append(Heading(readable(name.removeprefix(f"{kind.prefix}-"))))
        blocks += _drawn(subject, kind, subject.evaluations[name])
    return blocks


def _drawn(subject: Subject, kind: Kind, found: Evaluation) -> list[Block]:
    if kind.prefix == "localisation":
        return localisation_blocks(found, subject.model.n_clusters)
    known = {
        "sweep": sweep_blocks,
        "audit": audit_blocks,
        "uncertainty": uncertainty_blocks,
        "temporal": temporal_blocks,
        "probes": probe_blocks,
        "drift": night_blocks,
    }
    return known.get(kind.prefix, any_blocks)(found)


def _named(subject: Subject, prefix: str) -> list[str]:
    return [name for name in subject.evaluations if name == prefix or name.startswith(f"{prefix}-")]
