"""Sections that explanations alone can fill: headline, correlations, uncertainty, quarantine, and what was run on what,
with what each had seen before."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pyarrow.compute as pc
from markupsafe import Markup

from ecgscale.archive.validate import STATUS_MEANING
from ecgscale.report.blocks import Section, boxed, chart, columns, correlation_matrix, heading, missing, remark
from ecgscale.report.charts import Series, box_chart, inline, line_chart
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
from ecgscale.report.surrogate import surrogate_of
from ecgscale.tables import Cell, Row, Table, between, number, percent, tag, written

Tile = tuple[str, str, str]
"""A headline number: what it is, its value, what to know about it."""


def glance_section(subject: Subject) -> Section:
    """The few numbers to see first."""
    rows, info = subject.rows, subject.model.info
    entropy = rows.mean_entropy[np.isfinite(rows.mean_entropy)]
    low, middle, high = np.quantile(entropy, [0.05, 0.5, 0.95]).tolist() if len(entropy) else (np.nan,) * 3
    aside, neither = subject.quarantine.total - len(rows), subject.seen.neither
    tiles = [("recordings explained", f"{len(rows):,}", f"{aside:,} quarantined of {subject.quarantine.total:,}")]
    if neither is not None:
        new = f"{int(neither.sum()):,}"
        tiles.append(("of them new to network and K-means", new, "scores on these count most"))
    tiles += _surrogate_tiles(subject)
    explained, largest = info.get("explained_variance"), (info.get("diagnostics") or {}).get("largest_share")
    notes = [f"{percent(explained)} of the variance"] if isinstance(explained, float) else []
    notes += [f"largest {percent(largest)} of the time"] if isinstance(largest, float) else []
    tiles.append(("clusters", str(subject.model.n_clusters), ", ".join(notes)))
    tiles.append(("mean entropy", f"{middle:.2f}", f"median; 5 to 95 % of recordings {low:.2f} to {high:.2f}"))
    drawn = (
        tag("div", tag("dt", name), tag("dd", value, class_="value"), tag("dd", note, class_="note"), class_="tile")
        for name, value, note in tiles
    )
    return Section("glance", "At a glance", "", [tag("dl", *drawn, class_="tiles")])


def _surrogate_tiles(subject: Subject) -> list[Tile]:
    name = surrogate_of(subject)
    if name is None:
        return [("agreement of a forest with the network", "–", "not measured yet: see Surrogate forests")]
    facts = subject.evaluations[name].facts
    intervals = {key: between(pair) for key, pair in (facts.get("intervals") or {}).items()}
    on = f"on {facts.get('records')} recordings"
    if facts.get("kind") == "regression":
        return [("R² of a forest to the network", written(facts.get("r2")), f"{intervals.get('r2', '')} {on}")]
    note = f"{intervals.get('agreement', '')} {on}; usual answer {written(facts.get('majority_agreement'))}"
    found = [("agreement of a forest with the network", written(facts.get("agreement")), note)]
    if facts.get("auroc") is not None:
        note = f"{intervals.get('auroc', '')}; the network {written(facts.get('network_auroc'))}"
        found.append(("AUROC of a forest on proportions", written(facts["auroc"]), note))
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
        section.blocks.append(missing(f"No true labels: {subject.target_note or 'none are known'}."))
    if labels:
        found = correlations(x, labels)
        section.blocks += [
            heading("True labels, age and sex"),
            correlation_matrix(found, "Pearson's r × 100, true labels"),
        ]
        constant = [name for name, row in zip(found.variables, found.r, strict=True) if not np.isfinite(row).any()]
        if constant:
            section.blocks.append(remark(f"Not computed for {', '.join(constant)}: too few recordings, or all alike."))
    section.blocks += [
        heading("The network's outputs"),
        correlation_matrix(correlations(x, output_variables(subject)), "Pearson's r × 100, the network's outputs"),
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
    charts: list[Markup] = []
    whose = "true labels" if subject.rows.truth is not None else "as the network says"
    for title, members, what in (
        (f"By class ({whose})", class_groups(subject), "class"),
        ("By age", age_groups(subject), "age"),
        ("Where the network is right, and where it is not", right_groups(subject), "group"),
    ):
        groups = entropy_by(entropy, members)
        if groups:
            drawn = inline(box_chart(groups, "mean entropy"), f"Mean entropy by {what}")
            charts.append(chart(title, drawn, "Box: half of the recordings; whiskers: nine of ten; line: median."))
        elif what == "age":
            section.blocks.append(missing("By age: no ages are known, or too few of any decade."))
    section.blocks.append(columns([*charts, *_errors(subject)]))
    return section


def _errors(subject: Subject) -> list[Markup]:
    neither, records, found = subject.seen.neither, "recordings that neither network nor K-means has seen", []
    if neither is not None:
        found = error_by_entropy(subject, neither)
    if not found:
        records = "explained recordings, seen before or not"
        found = error_by_entropy(subject, np.ones(len(subject.rows), dtype=bool))
    if not found:
        return []
    what = "mean absolute error" if subject.is_regression else "share with a wrong label"
    series = Series(what, list(range(len(found))), [error for _, _, error in found])
    axis = "mean entropy, five groups of equal size"
    drawn = line_chart([series], axis, what, [name for name, _, _ in found], from_zero=True)
    caption = f"Does it err more where it is less sure? On {sum(n for _, n, _ in found):,} {records}."
    return [chart("Entropy and error", inline(drawn, f"{what} by entropy"), caption)]


def quarantine_section(subject: Subject) -> Section:
    """Records without facts, by reason; shards that were set aside."""
    counts, content, total = subject.quarantine.counts, subject.manifest.content, subject.quarantine.total
    section = Section(
        "quarantine",
        "Quarantine",
        "Recordings that could not be explained keep their row, with the reason. Nothing is dropped silently.",
    )
    if counts:
        examples = {status: ", ".join(subject.quarantine.examples.get(status, [])) for status in counts}
        rows = tuple(
            Row(status, (number(n), Cell(STATUS_MEANING.get(status, "")), Cell(examples[status])))
            for status, n in counts.items()
        )
        caption = f"{sum(counts.values()):,} of {total:,} recordings"
        section.blocks.append(boxed(Table(caption, ("recordings", "why", "for example"), rows, "status")))
    else:
        section.blocks.append(tag("p", f"None: all {total:,} recordings were explained."))
    if content.set_aside:
        aside = tuple(Row(shard.key, (number(shard.rows), Cell(shard.reason))) for shard in content.set_aside)
        table = Table("Their recordings are not in the dataset", ("recordings", "why"), aside, "shard")
        section.blocks += [heading("Shards that could not be read"), boxed(table)]
    flagged: Counter[str] = Counter()
    for one in pc.value_counts(pc.list_flatten(subject.rows.table.column("flags"))).to_pylist():
        flagged[str(one["values"]).split(":")[0]] += one["counts"]
    if flagged:
        odd = ", ".join(f"{n:,} × {name.replace('_', ' ')}" for name, n in sorted(flagged.items()))
        section.blocks.append(tag("p", f"Odd but usable: {odd}."))
    return section


def lineage_section(subject: Subject) -> Section:
    """What was run, on what, with what; and what had been seen."""
    parts = (("Archive", _archive), ("Network", _network), ("Clusters", _clusters), ("Explanations", _explanations))
    tables = [
        boxed(Table.of_facts(title, [(name, written(value)) for name, value in pairs(subject) if value is not None]))
        for title, pairs in parts
    ]
    again = subject.command(f"report ROOT --dataset {subject.dataset_id}")
    section = Section("lineage", "What was run", "Everything that decides the numbers on this page.", [columns(tables)])
    seen = _seen(subject)
    if seen is not None:
        section.blocks.append(boxed(seen))
    else:
        unknown = "What network and K-means had seen of these recordings is not known"
        section.blocks.append(remark(f"{unknown}{f': {subject.seen_note}' if subject.seen_note else '.'}", warn=True))
    made = [Row(name, (Cell(one.created_at), Cell(written(one.settings)))) for name, one in subject.evaluations.items()]
    if made:
        section.blocks.append(boxed(Table("Evaluations shown here", ("made", "settings"), tuple(made), "evaluation")))
    section.blocks.append(missing("This page is made again with", again))
    return section


def _seen(subject: Subject) -> Table | None:
    """How many explained records network and K-means had seen; None where that is not known."""
    seen = subject.seen
    if seen.encoder is None or seen.clusters is None or seen.neither is None:
        return None
    rows = (
        ("the network, in training or when it was stopped", seen.encoder),
        ("K-means, in the fit", seen.clusters),
        ("neither", seen.neither),
    )
    return Table(
        "Explained recordings seen before (or another recording of the same patient) by",
        ("recordings", "share"),
        tuple(Row(name, (number(int(mask.sum())), number(percent(float(mask.mean()))))) for name, mask in rows),
    )


def _archive(subject: Subject) -> list[tuple[str, Any]]:
    facts, archive = subject.manifest.content.archive, subject.archive
    source: dict[str, Any] = dict(archive.info.get("source", {})) if archive else {}
    pairs = [("path when it was explained", facts.path), ("archive id", facts.archive_id)]
    if archive is not None:
        pairs += [
            ("path now", str(archive.path)),
            ("source", str(source.get("kind", "not told"))),
            ("made", str(archive.info.get("created_at", "not told"))),
            ("recordings, shards", f"{written(archive.info.get('records'))}, {len(archive.shards)}"),
        ]
    return pairs


def _network(subject: Subject) -> list[tuple[str, Any]]:
    spec, training = subject.spec, subject.spec.training
    pairs: list[tuple[str, Any]] = [
        ("name", spec.name),
        ("encoder id", subject.manifest.content.identity.encoder_id),
        ("sees", f"{', '.join(spec.input.leads)}; {spec.input.length} samples at {spec.input.sampling_rate:g} Hz"),
        ("tells", f"{spec.output.kind}: {', '.join(spec.output.names)}"),
        ("layers tapped", ", ".join(spec.layers)),
    ]
    words = {
        "target": "trained on",
        "train_folds": "folds it learnt from",
        "validation_folds": "folds it was stopped on",
        "train_records": "recordings it learnt from",
        "best_epoch": "epoch kept",
    }
    pairs += [(words[key], training[key]) for key in words if training.get(key) not in (None, [])]
    metrics = training.get("metrics", {}).get("validation", {}) if isinstance(training.get("metrics"), dict) else {}
    pairs += [(f"validation {name.replace('_', ' ')}", written(value)) for name, value in metrics.items()]
    if not training:
        pairs.append(("training", "the contract tells nothing of it"))
    return pairs


def _clusters(subject: Subject) -> list[tuple[str, Any]]:
    model, info = subject.model, subject.model.info
    fitted, diagnostics = info.get("fitted_on", {}), info.get("diagnostics", {})
    return [
        ("model id", model.model_id),
        ("clusters", model.n_clusters),
        ("γ, τ", f"{model.gamma}, {model.tau:.4g}"),
        ("depth factors", list(model.layout.scales)),
        ("explained variance", info.get("explained_variance")),
        ("largest cluster's share", diagnostics.get("largest_share")),
        ("nearly empty clusters", diagnostics.get("nearly_empty")),
        ("algorithm, seed", f"{info.get('algorithm', 'not told')}, {info.get('seed', 'not told')}"),
        ("steps, settled", f"{written(info.get('n_iter'))}, {written(info.get('converged'))}"),
        ("fitted on folds", fitted.get("folds")),
        ("fitted on recordings", fitted.get("records")),
    ]


def _explanations(subject: Subject) -> list[tuple[str, Any]]:
    manifest = subject.manifest
    run, content, versions = manifest.run, manifest.content, subject.model.info.get("versions") or {}
    return [
        ("dataset id", subject.dataset_id),
        ("manifest, published", f"{manifest.number}, {manifest.created}"),
        ("recordings, shards", f"{content.totals.records:,}, {content.totals.shards}"),
        ("settings", dict(content.identity.settings)),
        ("results version", content.identity.results_version),
        ("code", f"ecgscale {run.code_version}" + (f", commit {run.code_commit[:12]}" if run.code_commit else "")),
        ("device", run.device),
        ("versions in the fit", {name: str(version) for name, version in versions.items()} or None),
    ]
