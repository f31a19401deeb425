"""Sections that explanations alone can fill: headline, correlations, uncertainty, quarantine, lineage."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc

from ecgscale.archive.validate import STATUS_MEANING
from ecgscale.report.atlas import surrogate_of
from ecgscale.report.blocks import Chart, Columns, Heading, Missing, Paragraph, Remark, Section, TableBlock
from ecgscale.report.blocks import correlation_matrix as matrix_of
from ecgscale.report.charts import Series, box_chart, line_chart
from ecgscale.report.lineage import command_for, lineage_tables, seen_table
from ecgscale.report.relations import (
    age_groups,
    class_groups,
    correlations,
    entropy_by,
    error_by_entropy,
    label_variables,
    output_variables,
    right_groups,
)
from ecgscale.report.subject import Subject
from ecgscale.tables import Cell, Row, Table, between, number, percent, written


@dataclass(frozen=True)
class Tile:
    """A headline number: what it is, its value, what to know about it."""

    name: str
    value: str
    note: str


def tiles(subject: Subject) -> list[Tile]:
    """The few numbers to see first."""
    rows, info = subject.rows, subject.model.info
    entropy = rows.mean_entropy[np.isfinite(rows.mean_entropy)]
    low, middle, high = np.quantile(entropy, [0.05, 0.5, 0.95]).tolist() if len(entropy) else (np.nan,) * 3
    aside = subject.quarantine.total - len(rows)
    found = [Tile("recordings explained", f"{len(rows):,}", f"{aside:,} quarantined of {subject.quarantine.total:,}")]
    neither = subject.seen.neither
    if neither is not None:
        found.append(
            Tile("of them new to network and K-means", f"{int(neither.sum()):,}", "scores on these count most")
        )
    found += _surrogate_tiles(subject)
    explained = info.get("explained_variance")
    largest = (info.get("diagnostics") or {}).get("largest_share")
    note = f"{percent(explained)} of the variance" if isinstance(explained, float) else ""
    if isinstance(largest, float):
        note += f"{', ' if note else ''}largest {percent(largest)} of the time"
    found.append(Tile("clusters", str(subject.model.n_clusters), note))
    found.append(Tile("mean entropy", f"{middle:.2f}", f"median; 5 to 95 % of recordings {low:.2f} to {high:.2f}"))
    return found


def _surrogate_tiles(subject: Subject) -> list[Tile]:
    name = surrogate_of(subject)
    if name is None:
        return [Tile("agreement of a forest with the network", "–", "not measured yet: see Surrogate forests")]
    facts = subject.evaluations[name].facts
    intervals = facts.get("intervals") or {}
    on = f"on {facts.get('records')} recordings"
    if facts.get("kind") == "regression":
        note = f"{between(intervals.get('r2'))} {on}"
        return [Tile("R² of a forest to the network", written(facts.get("r2")), note)]
    usual = written(facts.get("majority_agreement"))
    note = f"{between(intervals.get('agreement'))} {on}; usual answer {usual}"
    found = [Tile("agreement of a forest with the network", written(facts.get("agreement")), note)]
    if facts.get("auroc") is not None:
        note = f"{between(intervals.get('auroc'))}; the network {written(facts.get('network_auroc'))}"
        found.append(Tile("AUROC of a forest on proportions", written(facts["auroc"]), note))
    return found


def correlation_section(subject: Subject) -> Section:
    """Proportions against true labels and against what the network says."""
    section = Section(
        "labels",
        "Clusters and labels",
        "How the share of time in each cluster goes with the labels and with the network's outputs: Pearson's r over "
        "all explained recordings, in hundredths. A cluster that goes with an output as it goes with the label carries "
        "what the network decides on.",
    )
    x = subject.rows.proportions
    labels = label_variables(subject)
    if subject.rows.truth is None:
        section.blocks.append(Missing(f"No true labels: {subject.target_note or 'none are known'}."))
    if labels:
        found = correlations(x, labels)
        section.blocks += [Heading("True labels, age and sex"), matrix_of(found, "Pearson's r × 100, true labels")]
        constant = [name for name, row in zip(found.variables, found.r, strict=True) if not np.isfinite(row).any()]
        if constant:
            section.blocks.append(Remark(f"Not computed for {', '.join(constant)}: too few recordings, or all alike."))
    section.blocks += [
        Heading("The network's outputs"),
        matrix_of(correlations(x, output_variables(subject)), "Pearson's r × 100, the network's outputs"),
    ]
    return section


def uncertainty_section(subject: Subject) -> Section:
    """Mean entropy by class, by age, and against errors."""
    section = Section(
        "uncertainty",
        "Uncertainty",
        "Entropy says how close the call between clusters was, from 0 (sure) to 1 (undecided), averaged over each "
        "recording. It compares recordings under one model; it does not compare models.",
    )
    entropy = subject.rows.mean_entropy
    charts: list[Chart] = []
    by_label = subject.rows.truth is not None
    shown = [
        ("By class" + (" (true labels)" if by_label else " (as the network says)"), class_groups(subject), "class"),
        ("By age", age_groups(subject), "age"),
        ("Where the network is right, and where it is not", right_groups(subject), "group"),
    ]
    for title, members, what in shown:
        groups = entropy_by(entropy, members)
        if groups:
            chart = box_chart(groups, f"Mean entropy by {what}", "mean entropy")
            charts.append(Chart(title, chart, "Box: half of the recordings; whiskers: nine of ten; line: median."))
        elif what == "age":
            section.blocks.append(Missing("By age: no ages are known, or too few of any decade."))
    charts += _errors(subject)
    section.blocks.append(Columns(charts))
    return section


def _errors(subject: Subject) -> list[Chart]:
    neither, told, found = subject.seen.neither, "recordings that neither network nor K-means has seen", []
    if neither is not None:
        found = error_by_entropy(subject, neither)
    if not found:
        told = "explained recordings, seen before or not"
        found = error_by_entropy(subject, np.ones(len(subject.rows), dtype=bool))
    if not found:
        return []
    what = "mean absolute error" if subject.is_regression else "share with a wrong label"
    series = Series(what, list(range(len(found))), [error for _, _, error in found])
    axis = "mean entropy, five groups of equal size"
    chart = line_chart([series], f"{what} by entropy", axis, what, [name for name, _, _ in found], from_zero=True)
    caption = f"Does it err more where it is less sure? On {sum(n for _, n, _ in found):,} {told}."
    return [Chart("Entropy and error", chart, caption)]


def quarantine_section(subject: Subject) -> Section:
    """Records without facts, by reason; shards that were set aside."""
    section = Section(
        "quarantine",
        "Quarantine",
        "Recordings that could not be explained keep their row, with the reason. Nothing is dropped silently.",
    )
    counts, content = subject.quarantine.counts, subject.manifest.content
    if counts:
        rows = tuple(
            Row(
                status,
                (
                    number(n),
                    Cell(STATUS_MEANING.get(status, "")),
                    Cell(", ".join(subject.quarantine.examples.get(status, []))),
                ),
            )
            for status, n in counts.items()
        )
        told = f"{sum(counts.values()):,} of {subject.quarantine.total:,} recordings"
        section.blocks.append(TableBlock(Table(told, ("recordings", "why", "for example"), rows, "status")))
    else:
        section.blocks.append(Paragraph(f"None: all {subject.quarantine.total:,} recordings were explained."))
    if content.set_aside:
        aside = tuple(Row(shard.key, (number(shard.rows), Cell(shard.reason))) for shard in content.set_aside)
        section.blocks += [
            Heading("Shards that could not be read"),
            TableBlock(Table("Their recordings are not in the dataset", ("recordings", "why"), aside, "shard")),
        ]
    flagged: Counter[str] = Counter()
    for one in pc.value_counts(pc.list_flatten(subject.rows.table.column("flags"))).to_pylist():
        flagged[str(one["values"]).split(":")[0]] += one["counts"]
    if flagged:
        told = ", ".join(f"{n:,} × {name.replace('_', ' ')}" for name, n in sorted(flagged.items()))
        section.blocks.append(Paragraph(f"Odd but usable: {told}."))
    return section


def lineage_section(subject: Subject) -> Section:
    """What was run, on what, with what; and what had been seen."""
    section = Section("lineage", "What was run", "Everything that decides the numbers on this page.")
    section.blocks.append(Columns([TableBlock(table) for table in lineage_tables(subject)]))
    seen = seen_table(subject)
    if seen is not None:
        section.blocks.append(TableBlock(seen))
    else:
        unknown = "What network and K-means had seen of these recordings is not known"
        section.blocks.append(Remark(f"{unknown}{f': {subject.seen_note}' if subject.seen_note else '.'}", warn=True))
    if subject.evaluations:
        rows = tuple(
            Row(name, (Cell(found.created_at), Cell(written(found.settings))))
            for name, found in subject.evaluations.items()
        )
        section.blocks.append(TableBlock(Table("Evaluations shown here", ("made", "settings"), rows, "evaluation")))
    again = command_for(subject, f"report ROOT --dataset {subject.dataset_id}")
    section.blocks.append(Missing("This page is made again with", again))
    return section
