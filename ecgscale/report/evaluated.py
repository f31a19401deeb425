"""Evaluations as blocks of the page: the known kinds in a form of their own, any other plainly and whole.

Facts of any shape as name–value pairs, tables and remarks.

Evaluations grow new facts; a page that knows the main ones shows the others too, plainly, instead of dropping them.
What it looks for: `intervals` beside scores of the same names, `scores` and `intervals` within rows, `score_sd` beside
`score`, and `{"value": …, "interval": …}` for a score of its own; an interval or a spread becomes the score's note.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from ecgscale.errors import EcgscaleError
from ecgscale.evaluate.written import Evaluation
from ecgscale.report.atlas import CYCLE
from ecgscale.report.blocks import Block, Chart, Columns, Folded, Paragraph, Remark, TableBlock, share_matrix
from ecgscale.report.charts import Series, line_chart
from ecgscale.report.sweeps import sweep_series, sweep_tables
from ecgscale.tables import Cell, Row, Table, between, number, percent, readable, scored, written

MOST_ROWS, MOST_COLUMNS = 200, 40
HIDDEN = ("patient_id",)
"""Columns that a page does not need to name."""
_DEEPEST = 3

Words = Mapping[str, str]


@dataclass
class Facts:
    """What facts of any shape come to. `words` says what keys are called; others are their own name."""

    words: Words = field(default_factory=dict)
    pairs: list[tuple[str, str]] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def called(self, key: str) -> str:
        """A key in words."""
        return self.words.get(key, readable(key))


def facts_of(facts: Mapping[str, Any], skip: Iterable[str] = (), words: Words | None = None) -> Facts:
    """Everything in `facts` but the keys to `skip`."""
    found = Facts(words or {})
    left = {str(key): value for key, value in facts.items() if key not in set(skip)}
    spread = left.get("intervals")
    rows = []
    if isinstance(spread, Mapping) and spread:
        rows = [Row(found.called(key), (scored(left.pop(key), spread[key]),)) for key in list(left) if key in spread]
        del left["intervals"]
    alone = [key for key, value in left.items() if _is_score(value)]
    rows += [Row(found.called(key), (_cell(left.pop(key)),)) for key in alone]
    if rows:
        found.tables.append(Table("Scores, with 95 % intervals", ("score",), tuple(rows)))
    _collect(left, (), found)
    return found


def arrow_table(table: pa.Table, caption: str, words: Words | None = None) -> Table:
    """The first rows and columns of an evaluation's table."""
    called = Facts(words or {}).called
    names = [name for name in table.column_names if name not in HIDDEN][:MOST_COLUMNS]
    shown = table.select(names).slice(0, MOST_ROWS).to_pylist()
    more = f" (first {MOST_ROWS} of {table.num_rows:,} rows)" if table.num_rows > MOST_ROWS else ""
    rows = tuple(Row(written(row[names[0]]), tuple(_cell(row[name]) for name in names[1:])) for row in shown)
    return Table(caption + more, tuple(map(called, names[1:])), rows, called(names[0]) if names else "")


def _collect(facts: Mapping[str, Any], path: tuple[str, ...], found: Facts) -> None:
    for key, value in facts.items():
        here = (*path, found.called(str(key)))
        caption = ", ".join(here)
        if key == "remarks" and isinstance(value, Sequence) and not isinstance(value, str):
            found.remarks.extend(str(remark) for remark in value)
        elif _is_rows(value):
            found.tables.append(_from_rows(value, caption, found))
        elif isinstance(value, Mapping) and value:
            inner = list(value.values())
            if all(isinstance(one, Mapping) and not _is_deep(_spread(one)) for one in inner):
                found.tables.append(_from_named(value, caption, found))
            elif len(here) < _DEEPEST and any(isinstance(one, Mapping) or _is_rows(one) for one in inner):
                _collect(value, here, found)
            else:
                found.pairs.append((caption, written(value)))
        else:
            found.pairs.append((caption, written(value)))


def _is_rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, Mapping) for one in value)


def _is_score(value: Any) -> bool:
    return isinstance(value, Mapping) and "value" in value and "interval" in value


def _is_deep(value: Mapping[str, Any]) -> bool:
    inner = (one for one in value.values() if isinstance(one, Mapping) and not _is_score(one))
    return any(isinstance(leaf, Mapping) for one in inner for leaf in one.values())


def _spread(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row with scores in a mapping of their own, or with SDs beside them, as one row of cells."""
    scores, intervals = row.get("scores"), row.get("intervals")
    if isinstance(scores, Mapping):
        notes = intervals if isinstance(intervals, Mapping) else {}
        kept = {key: value for key, value in row.items() if key not in ("scores", "intervals")}
        return {**kept, **{str(key): scored(value, notes.get(key)) for key, value in scores.items()}}
    beside = {key.removesuffix("_sd"): value for key, value in row.items() if key.endswith("_sd")}
    return {
        key: number(value, f"± {written(beside[key])}") if beside.get(key) is not None else value
        for key, value in row.items()
        if not (key.endswith("_sd") and key.removesuffix("_sd") in row)
    }


def _from_rows(given: list[Mapping[str, Any]], caption: str, found: Facts) -> Table:
    rows = [_spread(row) for row in given]
    names = _facts_names(rows)
    shown = tuple(Row(written(row.get(names[0])), _cells(row, names[1:])) for row in rows[:MOST_ROWS])
    more = f" (first {MOST_ROWS} of {len(rows)})" if len(rows) > MOST_ROWS else ""
    return Table(caption + more, _columns(names[1:], found), shown, found.called(names[0]))


def _from_named(given: Mapping[str, Mapping[str, Any]], caption: str, found: Facts) -> Table:
    rows = {str(name): _spread(row) for name, row in given.items()}
    names = _facts_names(list(rows.values()))
    shown = tuple(Row(found.called(name), _cells(row, names)) for name, row in list(rows.items())[:MOST_ROWS])
    return Table(caption, _columns(names, found), shown)


def _facts_names(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(str(key) for row in rows for key in row if key not in HIDDEN))[:MOST_COLUMNS]


def _cells(row: Mapping[str, Any], names: Sequence[str]) -> tuple[Cell, ...]:
    """An interval beside a value is that value's note, not a column."""
    paired = "value" in names
    return tuple(
        number(row.get(name), between(row.get("interval"))) if paired and name == "value" else _cell(row.get(name))
        for name in names
        if not (paired and name == "interval")
    )


def _columns(names: Sequence[str], found: Facts) -> tuple[str, ...]:
    return tuple(found.called(name) for name in names if not (name == "interval" and "value" in names))


def _cell(value: Any) -> Cell:
    if isinstance(value, Cell):
        return value
    if _is_score(value):
        return scored(value["value"], value["interval"])
    is_number = value is None or (isinstance(value, int | float) and not isinstance(value, bool))
    return Cell(written(value), number=is_number)


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
    blocks: list[Block] = [TableBlock(Table.of_facts("", facts.pairs))] if facts.pairs else []
    for table in facts.tables:
        long = len(table.rows) > _LONG
        blocks.append(Folded(f"Table: {table.caption}", [TableBlock(table)]) if long else TableBlock(table))
    return blocks
