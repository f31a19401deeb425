"""Evaluations as sections of the page: the known kinds in a form of their own, any other plainly and whole; what is
missing, with the command that makes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from ecgscale.evaluate.written import Evaluation
from ecgscale.report.atlas import CYCLE
from ecgscale.report.blocks import (
    Section,
    boxed,
    chart,
    columns,
    folded,
    heading,
    missing,
    remark,
    remarks_of,
    share_matrix,
)
from ecgscale.report.charts import Series, inline, line_chart
from ecgscale.report.facts import any_blocks, facts_of, tables_of
from ecgscale.report.subject import Subject
from ecgscale.report.sweeps import sweep_series, sweep_tables
from ecgscale.tables import Cell, Row, Table, number, percent, readable, scored, tag, written
from ecgscale.words import counted

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
_PROBES = {
    "gradcam_entropy": "Grad-CAM and entropy over time, rank correlation by layer",
    "occlusion": "without one lead: how far the output falls and moves, and the share of time in another cluster",
    "votes_entropy": "indecision under MC dropout and entropy, over time",
    "dropout_entropy": "spread under MC dropout and entropy, over recordings",
    "faithfulness": "Masking all segments of a cluster",
    "change": "the output changes by",
    "change_elsewhere": "with as much masked elsewhere by",
    "change_gain": "the one less the other",
    "with_share_of_time": "that change, and the cluster's share of time",
    "with_entropy": "that change, and the cluster's entropy",
    "randomisation": "What is left with random weights (rank correlation with the network as trained)",
    "waves": "Distance in the latent space and in shape (DTW), pairs of waves",
    "shifted_mean": "moved round: mean",
    "shifted_p99": "99 % below",
    "p_value": "p",
    "n": "recordings",
    "value": "score",
    "output_change": "output changes by",
    "output_loss": "output falls by",
    "time_changed": "time in another cluster",
}
_COMPARE = {
    "agreement": "time in matched clusters, or records with the same answer",
    "ami": "mutual information of the clusters, adjusted for chance",
    "shifted_mean": "B moved round: mean",
    "shifted_p99": "99 % below",
    "p_value": "p",
    "jaccard": "Jaccard",
    "of_a": "share of A's time",
    "of_b": "share of B's time",
    "apart": "share of its time in clusters that are no pair",
    "probability_apart": "probabilities apart by",
    "yes_a": "A says yes",
    "yes_b": "B says yes",
    "only_a": "A alone",
    "only_b": "B alone",
    "other_shard": "in other shards",
}
_ORDER = {
    "auroc": "AUROC",
    "gain": "more than the bag",
    "order": "more than shuffled",
    "bits": "bits a segment",
    "saved": "saved against the bag",
}
_FEATURES = {
    "bag": "proportions alone (the bag)",
    "dwell": "with dwell times",
    "ngrams": "with n-grams",
    "markov": "Markov chain a class",
    "hmm": "hidden Markov model a class",
}
_AUDITED, _NIGHTS = 30, 30
"""So many labels, so many nights are listed."""


def _localisation(found: Evaluation, n_clusters: int) -> list[Markup]:
    """Scores alongside what chance gives, and which clusters each part of the heartbeat is in."""
    facts, columns = found.facts, ("shifted_mean", "shifted_p99", "p_value")
    rows = tuple(
        Row(
            _SCORES.get(name, readable(name)),
            (scored(score["value"], score.get("interval")), *(number(score.get(key)) for key in columns)),
        )
        for name, score in (facts.get("scores") or {}).items()
        if isinstance(score, dict) and score.get("value") is not None
    )
    caption = f"{facts.get('records')} recordings with waves ({facts.get('waves_from')}), 95 % intervals over patients"
    heads = ("score", *(_PROBES[key] for key in columns))
    left = facts_of(facts, skip=("scores", "remarks", "clusters_in_beat", "purest", "timesteps_by_part"))
    return [
        *([boxed(Table(caption, heads, rows))] if rows else []),
        *_parts(found, n_clusters),
        *remarks_of(facts),
        folded("Unions of QRS clusters, checkerboards, and the rest", left.blocks()),
    ]


def _parts(found: Evaluation, n_clusters: int) -> list[Markup]:
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
    counts = [f"{percent(steps[i] / steps.sum())} of the time" for i in there]
    caption = "Of the time in each part of the heartbeat, the percentage in each cluster"
    return [share_matrix(shares[there], [CYCLE[i] for i in there], counts, caption)] if there else []


def _sweep(found: Evaluation, n_clusters: int) -> list[Markup]:
    """Curves over numbers of clusters and records, the main scores of every setting, everything else folded."""
    charts = [chart(sweep.title, inline(sweep.draw(), sweep.title), sweep.caption) for sweep in sweep_series(found)]
    shown = [*([columns(charts)] if charts else []), *map(boxed, sweep_tables(found)), *remarks_of(found.facts)]
    left = facts_of(found.facts, skip=("remarks", "summary") if len(shown) > 1 else ("remarks",))
    return [*shown, folded("How it was measured, and every run", [*left.blocks(), *tables_of(found)])]


def _audit(found: Evaluation, n_clusters: int) -> list[Markup]:
    """The most suspicious labels, how well wrong ones are found, then the rest."""
    facts, flipped = found.facts, found.facts.get("flipped")
    top = [row for row in facts.get("top") or [] if isinstance(row, Mapping) and row.get("record_id")]
    if not top:
        return any_blocks(found)
    rows = tuple(_audited(row) for row in top[:_AUDITED])
    opens = "names open the recording, if it is held here"
    caption = f"The {len(rows)} least believed labels of {facts.get('records')}; {opens}"
    heads = ("how far it is believed", "label", "network", "surrogate", "stands alone", "seen by the network")
    blocks = [boxed(Table(caption, heads, rows, "recording"))]
    if isinstance(flipped, Mapping) and isinstance(flipped.get("precision"), Mapping):
        hits, chance = percent(flipped["precision"].get("mean") or 0), percent(flipped.get("chance") or 0)
        tested = (
            f"Tested: {written(flipped.get('records'))} labels were flipped. Of as many recordings at the top of the"
        )
        blocks.append(tag("p", f"{tested} list, {hits} were among them; chance would be {chance}."))
    left = facts_of(facts, skip=("remarks", "top"))
    return [*blocks, *remarks_of(facts), folded("How it was done", left.blocks())]


def _audited(row: Mapping[str, Any]) -> Row:
    record = str(row["record_id"])
    given = [row.get(key) for key in ("label", "network", "surrogate")]
    said = [Cell((", ".join(map(str, one)) or "none") if isinstance(one, list) else written(one)) for one in given]
    rest = (Cell(str(row.get("stands_alone", ""))), Cell(written(row.get("seen_by_encoder"))))
    return Row(record, (number(row.get("quality")), *said, *rest), record=record)


def _probes(found: Evaluation, n_clusters: int) -> list[Markup]:
    """What the network said when it was asked again."""
    return any_blocks(found, _PROBES)


def _compare(found: Evaluation, n_clusters: int) -> list[Markup]:
    """Clusters and answers of two networks beside each other."""
    return any_blocks(found, _COMPARE)


def _uncertainty(found: Evaluation, n_clusters: int) -> list[Markup]:
    """How true the network's probabilities are, where the entropy is low, middling and high; then every score."""
    points: dict[str, list[tuple[float, float]]] = {}
    curves = found.table("curves") if "curves" in found.table_names else None
    if curves is not None and {"stratum", "mean_probability", "observed"} <= set(curves.column_names):
        for row in curves.to_pylist():
            if row["observed"] is not None:
                points.setdefault(str(row["stratum"]), []).append((row["mean_probability"], row["observed"]))
    blocks = []
    if points:
        series = [Series(name, *zip(*sorted(pairs), strict=True)) for name, pairs in list(points.items())[:4]]
        ideal = Series("as told", (0.0, 1.0), (0.0, 1.0))
        drawn = line_chart([*series, ideal], "probability told", "share that has it", from_zero=True)
        caption = (
            "On the line “as told”, of labels told with 0.3 three in ten are there. One curve a third of the entropy."
        )
        blocks = [chart("Calibration by entropy", inline(drawn, "Calibration"), caption)]
    return [*blocks, *any_blocks(found, _UNCERTAINTY)]


def _temporal(found: Evaluation, n_clusters: int) -> list[Markup]:
    """One row a way to look at order, its shuffled control below it; then the rest."""
    facts, spread = found.facts, found.facts.get("intervals") or {}
    features = [key.removeprefix("auroc_") for key in facts if key.startswith("auroc_")]
    if not features:
        return [*remarks_of(facts), *facts_of(facts, skip=("remarks",)).blocks()]
    heads = {key: head for key, head in _ORDER.items() if any(f"{key}_{name}" in facts for name in features)}
    rows = tuple(
        Row(_feature(name), tuple(scored(facts.get(f"{k}_{name}"), spread.get(f"{k}_{name}")) for k in heads))
        for name in features
    )
    shown = {f"{key}_{name}" for key in heads for name in features}
    caption = f"{facts.get('target')}: {facts.get('records')} recordings of {facts.get('patients')} patients"
    left = facts_of(facts, skip={*shown, "intervals", "remarks", "target", "records", "patients"})
    table = Table(f"{caption}, 95 % intervals", tuple(heads.values()), rows)
    return [boxed(table), *remarks_of(facts), *left.blocks()]


def _feature(name: str) -> str:
    plain = name.removesuffix("_shuffled")
    return _FEATURES.get(plain, readable(plain)) + (", segments shuffled" if plain != name else "")


def _nights(found: Evaluation, n_clusters: int) -> list[Markup]:
    """A table of the newest nights, newest first, and a sentence for every alarm among them."""
    nights = sorted(found.facts["nights"], key=lambda night: night["started"], reverse=True)[:_NIGHTS]
    if not nights:
        return []
    alarms = [(night, [one["message"] for one in night["findings"] if one["alarm"]]) for night in nights]
    rows = tuple(
        Row(
            night["started"][:16].replace("T", " "),
            (
                number(night["records"]),
                number(night["quarantined"]),
                Cell("passed" if night["passed"] else counted(len(messages), "alarm")),
                number(len(night["held"])),
            ),
        )
        for night, messages in alarms
    )
    caption = "What came in each night, and whether it looked like what was published before."
    table = Table(caption, ("recordings", "quarantined", "gates", "shards held back"), rows, "night (UTC)")
    sentences = (f"{night['started'][:10]}: {message}" for night, messages in alarms for message in messages)
    return [boxed(table), *(remark(sentence, warn=True) for sentence in sentences)]


@dataclass(frozen=True)
class Kind:
    """A kind of evaluation: `prefix` of its names, where it stands on the page, and the command that writes it."""

    prefix: str
    title: str
    intro: str
    command: str
    """Of an evaluation that the page asks for where it is missing; empty for the others."""
    draw: Callable[[Evaluation, int], list[Markup]]
    """Its blocks, of an evaluation and the number of clusters."""


UNCERTAINTY = Kind("uncertainty", "", "", "uncertainty ROOT --target TARGET", _uncertainty)
"""Stands with what the explanations say of uncertainty by themselves."""

KINDS = (
    Kind(
        "localisation",
        "Clusters and the heartbeat",
        "Is a cluster on during P, QRS, T, or between beats? Every score stands beside what it is when each "
        "recording's clusters are moved round in time by chance.",
        "localise ROOT",
        _localisation,
    ),
    Kind(
        "sweep",
        "Sweeps",
        "The same with other numbers of clusters, other training records, other layers, other weights.",
        "sweep ROOT --target TARGET",
        _sweep,
    ),
    Kind(
        "temporal",
        "Order in time",
        "Does the order of clusters say more than how long each is on? On rhythms, against shuffled segments.",
        "",
        _temporal,
    ),
    Kind(
        "probes",
        "Probes",
        "Asked of the network again, on a sample: Grad-CAM, dropout, masking of clusters, leads silenced one by one, "
        "random weights.",
        "",
        _probes,
    ),
    Kind(
        "audit",
        "Label audit",
        "Recordings whose label, network and surrogate disagree, the most suspicious first.",
        "audit ROOT --target TARGET",
        _audit,
    ),
    Kind(
        "compare",
        "Another network",
        "The same recordings under another network or another fit (B): which clusters are the same ones, and which "
        "answers flip.",
        "",
        _compare,
    ),
    Kind("drift", "Drift", "The last nights against what was published first.", "", _nights),
)


def further_sections(subject: Subject) -> list[Section]:
    """One section a kind of evaluation, those that are neither there nor to be asked for left out."""
    sections = [Section(kind.prefix, kind.title, kind.intro, evaluated(subject, kind)) for kind in KINDS]
    known = ("surrogate", UNCERTAINTY.prefix, *(kind.prefix for kind in KINDS))
    for name, found in subject.evaluations.items():
        if name.split("-")[0] not in known:
            sections.append(Section(f"evaluation-{len(sections)}", readable(name), "", any_blocks(found)))
    return [section for section in sections if section.blocks]


def evaluated(subject: Subject, kind: Kind) -> list[Markup]:
    """What was evaluated of a kind, or how to make it; nothing where it need not be there."""
    names = [name for name in subject.evaluations if name.split("-")[0] == kind.prefix]
    if not names and kind.command:
        return [missing("Not measured yet. It is made by", subject.command(kind.command))]
    blocks = []
    for name in names:
        if len(names) > 1:
            blocks.append(heading(readable(name.removeprefix(f"{kind.prefix}-"))))
        blocks += kind.draw(subject.evaluations[name], subject.model.n_clusters)
    return blocks
