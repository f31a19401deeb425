"""Sections that evaluations fill: what was written is shown, what was not says which command makes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ecgscale.errors import EcgscaleError
from ecgscale.evaluate.written import Evaluation
from ecgscale.report.atlas import CYCLE, surrogate_of
from ecgscale.report.blocks import (
    Block,
    Chart,
    Folded,
    Heading,
    Missing,
    Pairs,
    Remark,
    Section,
    TableBlock,
    share_matrix,
)
from ecgscale.report.charts import Series, line_chart
from ecgscale.report.lineage import command_for
from ecgscale.report.published import Published
from ecgscale.report.surrogate_tables import surrogate_tables
from ecgscale.report.sweeps import sweep_series
from ecgscale.report.tables import Facts, Row, Table, arrow_table, facts_of, number, readable, scored

_SCORES = {
    "information": "of the waves' entropy, clusters explain",
    "adjusted": "mutual information, adjusted for chance",
    "purity": "time in the commonest part of its cluster",
    "boundary_f1_20ms": "changes of cluster at wave edges, within 20 ms (F1)",
    "boundary_f1_40ms": "changes of cluster at wave edges, within 40 ms (F1)",
    "qrs_f1": "QRS found by a union of clusters, on other patients (F1)",
}


_UNCERTAINTY = {
    "error": "labels that the network gets wrong (a regression: mean error)",
    "rho": "rank correlation of entropy and error",
    "rho_own": "the same for the network's own entropy",
    "rho_difference": "the one less the other",
    "rho_given_own": "of entropy and error, the network's own entropy held fixed",
    "rho_within_age": "of entropy and error, within decades of age",
    "auroc": "entropy finds recordings with a wrong label (AUROC)",
    "auroc_own": "the network's own entropy finds them",
    "auroc_difference": "the one less the other ",
    "brier": "Brier score",
    "ece": "calibration error (ECE)",
    "brier_high_less_low": "Brier score, high less low entropy",
    "ece_high_less_low": "calibration error, high less low entropy",
}
_LONG = 15


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
        "Probes of the network",
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
    Kind("drift", "Drift", "The last nights against the reference of the fit.", "", always=False),
)


def surrogate_section(published: Published) -> Section:
    """The surrogate check with its baselines, or how to make it."""
    section = Section(
        "surrogate",
        "Surrogate forests",
        "A random forest that sees nothing of a recording but the share of time in each cluster tries to say what the "
        "network says. Another learns the true labels. If both come near the network, the clusters hold what it "
        "decides on; other features stand beside them to compare with.",
    )
    shown = surrogate_of(published)
    if shown is None:
        command = command_for(published, f"surrogate ROOT --target {published.target or 'COLUMN'}")
        section.blocks.append(Missing("Not measured yet. The table is made by", command))
        return section
    names = [shown, *(name for name in _named(published, "surrogate") if name != shown)]
    for name in names:
        facts = published.evaluations[name].facts
        main, *others = surrogate_tables(facts, published.model.n_clusters)
        if len(names) > 1:
            section.blocks.append(Heading(str(facts.get("target", name))))
        section.blocks.append(TableBlock(main))
        section.blocks += [Remark(str(remark)) for remark in facts.get("remarks") or []]
        if others:
            folded = [TableBlock(table) for table in others]
            section.blocks.append(Folded("By class, by fold, by what had been seen; differences", folded))
    return section


def further_sections(published: Published) -> list[Section]:
    """One section a kind of evaluation, those that are neither there nor to be asked for left out."""
    sections = [Section(kind.prefix, kind.title, kind.intro, evaluated(published, kind)) for kind in KINDS]
    known = ("surrogate", UNCERTAINTY.prefix, *(kind.prefix for kind in KINDS))
    others = [name for name in published.evaluations if name.split("-")[0] not in known]
    for name in others:
        found = published.evaluations[name]
        sections.append(Section(f"evaluation-{len(sections)}", readable(name), "", _blocks(found)))
    return [section for section in sections if section.blocks]


def evaluated(published: Published, kind: Kind) -> list[Block]:
    """What was evaluated of a kind, or how to make it; nothing where it need not be there."""
    blocks: list[Block] = []
    names = _named(published, kind.prefix)
    if not names and kind.always:
        words = kind.command.replace("TARGET", published.target or "COLUMN")
        blocks.append(Missing("Not measured yet. It is made by", command_for(published, words)))
    for name in names:
        if len(names) > 1:
            blocks.append(Heading(readable(name.removeprefix(f"{kind.prefix}-"))))
        blocks += _drawn(published, kind, published.evaluations[name])
    return blocks


def _drawn(published: Published, kind: Kind, found: Evaluation) -> list[Block]:
    if kind.prefix == "localisation":
        return _localisation(found, published.model.n_clusters)
    if kind.prefix == "sweep":
        return [*_sweep(found), *_blocks(found)]
    if kind.prefix == "uncertainty":
        return [*_calibration(found), *_blocks(found, _UNCERTAINTY)]
    return _blocks(found)


def _named(published: Published, prefix: str) -> list[str]:
    return [name for name in published.evaluations if name == prefix or name.startswith(f"{prefix}-")]


def _localisation(found: Evaluation, n_clusters: int) -> list[Block]:
    facts = found.facts
    rows = []
    for name, score in (facts.get("scores") or {}).items():
        if isinstance(score, dict) and score.get("value") is not None:
            chance = [number(score.get(key)) for key in ("shifted_mean", "shifted_p99", "p_value")]
            rows.append(
                Row(_SCORES.get(name, readable(name)), (scored(score["value"], score.get("interval")), *chance))
            )
    caption = f"{facts.get('records')} recordings with waves ({facts.get('waves_from')}), 95 % intervals over patients"
    columns = ("score", "moved round: mean", "99 % below", "p")
    blocks: list[Block] = [TableBlock(Table(caption, columns, tuple(rows)))] if rows else []
    blocks += _parts(found, n_clusters)
    left = facts_of(facts, skip=("scores", "remarks", "clusters_in_beat", "purest", "timesteps_by_part"))
    blocks += [Remark(str(remark)) for remark in facts.get("remarks") or []]
    return [*blocks, Folded("Unions of QRS clusters, checkerboards, and the rest", _of_facts(left))]


def _parts(found: Evaluation, n_clusters: int) -> list[Block]:
    """Of each part of the heartbeat, the share in each cluster."""
    if "shares" not in found.table_names:
        return []
    shares, steps = np.full((len(CYCLE), n_clusters), np.nan), np.zeros(len(CYCLE))
    for row in found.table("shares").to_pylist():
        if row["part"] in CYCLE and row["share_of_part"] is not None:
            place = CYCLE.index(row["part"])
            shares[place, row["cluster"]] = row["share_of_part"]
            steps[place] += row["timesteps"]
    there = [i for i in range(len(CYCLE)) if steps[i] > 0]
    counts = [f"{steps[i] / steps.sum():.0%} of the time" for i in there]
    caption = "Of the time in each part of the heartbeat, the percentage in each cluster"
    return [share_matrix(shares[there], [CYCLE[i] for i in there], counts, caption)] if there else []


def _sweep(found: Evaluation) -> list[Block]:
    """A chart for every sweep that can be drawn."""
    blocks: list[Block] = []
    for sweep in sweep_series(found):
        chart = line_chart(sweep.series, sweep.title, sweep.x_axis, sweep.y_axis, sweep.x_names)
        blocks.append(Chart(sweep.title, chart, sweep.caption))
    return blocks


def _calibration(found: Evaluation) -> list[Block]:
    """How true the network's probabilities are, where the entropy is low, middling and high."""
    columns = {"stratum", "mean_probability", "observed"}
    if "curves" not in found.table_names or not columns <= set(found.table("curves").column_names):
        return []
    points: dict[str, list[tuple[float, float]]] = {}
    for row in found.table("curves").to_pylist():
        if row["observed"] is not None:
            points.setdefault(str(row["stratum"]), []).append((row["mean_probability"], row["observed"]))
    if not points:
        return []
    series = [Series(name, *zip(*sorted(pairs), strict=True)) for name, pairs in list(points.items())[:4]]
    ideal = Series("as told", (0.0, 1.0), (0.0, 1.0))
    chart = line_chart([*series, ideal], "Calibration", "probability told", "share that has it", from_zero=True)
    caption = "On the line “as told”, of labels told with 0.3 three in ten are there. One curve a third of the entropy."
    return [Chart("Calibration by entropy", chart, caption)]


def _blocks(found: Evaluation, words: Mapping[str, str] | None = None) -> list[Block]:
    """Any evaluation: its remarks, its facts, its tables (folded)."""
    blocks: list[Block] = [Remark(str(remark)) for remark in found.facts.get("remarks") or []]
    blocks += _of_facts(facts_of(found.facts, skip=("remarks",), words=words))
    for name in found.table_names:
        try:
            table = arrow_table(found.table(name), readable(name))
        except EcgscaleError as error:
            blocks.append(Remark(str(error), warn=True))
            continue
        blocks.append(Folded(f"Table: {readable(name)}", [TableBlock(table)]))
    return blocks


def _of_facts(facts: Facts) -> list[Block]:
    """Long tables are folded."""
    blocks: list[Block] = [Pairs("", facts.pairs)] if facts.pairs else []
    for table in facts.tables:
        long = len(table.rows) > _LONG
        blocks.append(Folded(f"Table: {table.caption}", [TableBlock(table)]) if long else TableBlock(table))
    return blocks
