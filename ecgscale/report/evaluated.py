"""Evaluations as blocks of the page: the known kinds in a form of their own, any other plainly and whole."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ecgscale.errors import EcgscaleError
from ecgscale.evaluate.written import Evaluation
from ecgscale.report.any_facts import Facts, Words, arrow_table, facts_of
from ecgscale.report.atlas import CYCLE
from ecgscale.report.blocks import Block, Chart, Columns, Folded, Pairs, Paragraph, Remark, TableBlock, share_matrix
from ecgscale.report.charts import Series, line_chart
from ecgscale.report.sweeps import sweep_series, sweep_tables
from ecgscale.report.tables import Cell, Row, Table, number, percent, readable, scored, written

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
}
_ORDER = (
    ("auroc", "AUROC"),
    ("gain", "more than the bag"),
    ("order", "more than shuffled"),
    ("bits", "bits a segment"),
    ("saved", "saved against the bag"),
)
_FEATURES = {
    "bag": "proportions alone (the bag)",
    "dwell": "with dwell times",
    "ngrams": "with n-grams",
    "markov": "Markov chain a class",
    "hmm": "hidden Markov model a class",
}
_LONG = 15
_AUDITED = 30


def localisation_blocks(found: Evaluation, n_clusters: int) -> list[Block]:
    """Scores beside what chance gives, and which clusters each part of the heartbeat is in."""
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
    counts = [f"{percent(steps[i] / steps.sum())} of the time" for i in there]
    caption = "Of the time in each part of the heartbeat, the percentage in each cluster"
    return [share_matrix(shares[there], [CYCLE[i] for i in there], counts, caption)] if there else []


def any_blocks(found: Evaluation, words: Words | None = None) -> list[Block]:
    """Any evaluation: its remarks, its facts, its tables (folded)."""
    blocks: list[Block] = [Remark(str(remark)) for remark in found.facts.get("remarks") or []]
    blocks += _of_facts(facts_of(found.facts, skip=("remarks",), words=words))
    return [*blocks, *_tables(found)]


def _tables(found: Evaluation) -> list[Block]:
    blocks: list[Block] = []
    for name in found.table_names:
        try:
            table = arrow_table(found.table(name), readable(name))
        except EcgscaleError as error:
            blocks.append(Remark(str(error), warn=True))
            continue
        blocks.append(Folded(f"Table: {readable(name)}", [TableBlock(table)]))
    return blocks


def sweep_blocks(found: Evaluation) -> list[Block]:
    """Curves over numbers of clusters and records, the main scores of every setting, everything else folded."""
    charts = [
        Chart(
            sweep.title, line_chart(sweep.series, sweep.title, sweep.x_axis, sweep.y_axis, sweep.x_names), sweep.caption
        )
        for sweep in sweep_series(found)
    ]
    blocks: list[Block] = [Columns(charts)] if charts else []
    blocks += [TableBlock(table) for table in sweep_tables(found)]
    blocks += [Remark(str(remark)) for remark in found.facts.get("remarks") or []]
    left = _of_facts(facts_of(found.facts, skip=("remarks", "summary") if len(blocks) > 1 else ("remarks",)))
    return [*blocks, Folded("How it was measured, and every run", [*left, *_tables(found)])]


def audit_blocks(found: Evaluation) -> list[Block]:
    """The most suspicious labels, how well wrong ones are found, then the rest."""
    facts = found.facts
    top = [row for row in facts.get("top") or [] if isinstance(row, Mapping) and row.get("record_id")]
    if not top:
        return any_blocks(found)
    rows = tuple(_audited(row) for row in top[:_AUDITED])
    told = (
        f"The {len(rows)} least believed labels of {facts.get('records')}; names open the recording, if it is held here"
    )
    columns = ("how far it is believed", "label", "network", "surrogate", "stands alone", "seen by the network")
    blocks: list[Block] = [TableBlock(Table(told, columns, rows, "recording"))]
    flipped = facts.get("flipped")
    if isinstance(flipped, Mapping) and isinstance(flipped.get("precision"), Mapping):
        blocks.append(Paragraph(_flip_test(flipped)))
    blocks += [Remark(str(remark)) for remark in facts.get("remarks") or []]
    left = _of_facts(facts_of(facts, skip=("remarks", "top")))
    return [*blocks, Folded("How it was done", left)]


def _audited(row: Mapping[str, Any]) -> Row:
    record = str(row["record_id"])
    said = (Cell(_names(row.get(key))) for key in ("label", "network", "surrogate"))
    seen = Cell(written(row.get("seen_by_encoder")))
    return Row(record, (number(row.get("quality")), *said, Cell(str(row.get("stands_alone", ""))), seen), record=record)


def _names(said: Any) -> str:
    return (", ".join(map(str, said)) or "none") if isinstance(said, list) else written(said)


def _flip_test(flipped: Mapping[str, Any]) -> str:
    share, chance = flipped["precision"].get("mean"), flipped.get("chance")
    told = (
        f"Tested: {written(flipped.get('records'))} labels were flipped. Of as many recordings at the top of the list"
    )
    return f"{told}, {percent(share or 0)} were among them; chance would be {percent(chance or 0)}."


def probe_blocks(found: Evaluation) -> list[Block]:
    """What the network said when it was asked again."""
    return any_blocks(found, _PROBES)


def uncertainty_blocks(found: Evaluation) -> list[Block]:
    """Calibration by entropy, then every score."""
    return [*_calibration(found), *any_blocks(found, _UNCERTAINTY)]


def temporal_blocks(found: Evaluation) -> list[Block]:
    """One row a way to look at order, its shuffled control below it; then the rest."""
    facts, spread = found.facts, found.facts.get("intervals") or {}
    features = [key.removeprefix("auroc_") for key in facts if key.startswith("auroc_")]
    columns = [(key, told) for key, told in _ORDER if any(f"{key}_{name}" in facts for name in features)]
    rows = tuple(
        Row(_feature(name), tuple(scored(facts.get(f"{k}_{name}"), spread.get(f"{k}_{name}")) for k, _ in columns))
        for name in features
    )
    told = {f"{key}_{name}" for key, _ in columns for name in features}
    caption = (
        f"{facts.get('target')}: {facts.get('records')} recordings of {facts.get('patients')} patients, 95 % intervals"
    )
    blocks: list[Block] = [TableBlock(Table(caption, tuple(t for _, t in columns), rows))] if rows else []
    blocks += [Remark(str(remark)) for remark in facts.get("remarks") or []]
    skip = {*told, "intervals", "remarks", "target", "records", "patients"} if rows else {"remarks"}
    return [*blocks, *_of_facts(facts_of(facts, skip=skip))]


def _feature(name: str) -> str:
    plain = name.removesuffix("_shuffled")
    return _FEATURES.get(plain, readable(plain)) + (", segments shuffled" if plain != name else "")


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


def _of_facts(facts: Facts) -> list[Block]:
    """Long tables are folded."""
    blocks: list[Block] = [Pairs("", facts.pairs)] if facts.pairs else []
    for table in facts.tables:
        long = len(table.rows) > _LONG
        blocks.append(Folded(f"Table: {table.caption}", [TableBlock(table)]) if long else TableBlock(table))
    return blocks
