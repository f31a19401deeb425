"""Does it matter in which order the clusters come? Labels from features with and without order, by records held out.

Forests learn a label from the bag (share of time in each cluster), from the bag with dwell, and from the bag with
ngrams (see `order`); a hidden Markov model a class, and a Markov chain a class, tell it from their likelihoods alone.
Everything is cross-validated in parts by patient, where patients are known. The control of each is the same on records
whose segments were put into a random order: what it still tells is no order.

AUROC is the mean over classes, one against the others. `gain_…` are differences to the bag, `order_…` to the control:
what order alone gives. Differences are paired over resampled patients.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from sklearn.model_selection import GroupKFold

from ecgscale.errors import UsageError
from ecgscale.evaluate.forests import ForestSettings, SurrogateForest
from ecgscale.evaluate.metrics import Scorer, among, difference, intervals, macro_auroc, weighted_mean
from ecgscale.evaluate.order import (
    KINDS,
    Sequences,
    bag,
    bits_per_segment,
    dwell,
    fit_order,
    has_hmmlearn,
    ngrams,
    sequences_of,
    shuffled,
)
from ecgscale.evaluate.published import USABLE, draw_records, open_published
from ecgscale.evaluate.questions import label_columns, target_columns
from ecgscale.evaluate.seen import kept_apart_by, patients_of
from ecgscale.evaluate.written import Written, evaluation_name, write_evaluation
from ecgscale.passes.spread import HERE, Spread
from ecgscale.progress import SILENT, Progress
from ecgscale.store.presence import announced

PARTS = 5
TREES = 300
RECORDS = 20_000
MOST_CLASSES = 30
FEWEST_RECORDS = 10
"""Of a class, to be told from the others."""

Part = tuple[NDArray[np.int64], NDArray[np.int64]]
"""Numbers of the records that fit and of those that are scored."""


@dataclass(frozen=True)
class Labels:
    """What N records are labelled with: y (N, n) 0/1 in the order of `names`; `exclusive`: exactly one each."""

    names: tuple[str, ...]
    y: NDArray[np.int64]
    exclusive: bool


@dataclass(frozen=True)
class Temporal:
    """Scores by name, their intervals, and those of each class: {"bag": {"AF": 0.8, …}, …}."""

    scores: dict[str, float | None]
    intervals: dict[str, tuple[float, float] | None]
    by_class: dict[str, dict[str, float | None]]
    records: int
    patients: int
    remarks: tuple[str, ...] = ()
    split: str = ""

    def to_dict(self) -> dict[str, Any]:
        """For `--json` and the report."""
        counts = {"records": self.records, "patients": self.patients, "split": self.split}
        found = {"intervals": self.intervals, "by_class": self.by_class, "remarks": list(self.remarks)}
        return {**counts, **self.scores, **found}


@announced("ecgscale temporal", existing=True)
def temporal_published(
    root: str | Path,
    target: str,
    *,
    dataset: str | None = None,
    records: int | None = RECORDS,
    trees: int = TREES,
    n_bootstrap: int = 1000,
    seed: int = 0,
    spread: Spread = HERE,
    progress: Progress = SILENT,
) -> Written[Temporal]:
    """Measure what the order of clusters tells of the column `target`, on a seeded choice of labelled records.

    `target` holds a class (string, bool, integer) or a list of them. Writes ROOT/evaluations/<dataset>/
    temporal-<target>.json with the table by_class. Raises `UsageError` when nothing is published, and for a column that
    is not there (listing those there are), holds no classes, or holds one only.
    """
    published = open_published(root, dataset)
    asked = target_columns(published.schema, target)
    wanted = USABLE
    for column in asked:
        wanted &= ~pc.field(column).is_null()
    table = published.table(["record_id", "patient_id", "segments", "sampling_rate", *asked], wanted=wanted)
    table = table.take(pa.array(draw_records(table.num_rows, records, seed)))
    labels = labels_of(table, asked, [name for name in label_columns(published.schema) if name not in asked])
    result = measure_order(
        sequences_of(table, published.model.n_clusters),
        labels,
        patients_of(table).tolist(),
        trees=trees,
        n_bootstrap=n_bootstrap,
        seed=seed,
        spread=spread,
        progress=progress,
    )
    facts = {"target": target, **result.to_dict(), "remarks": [*published.left_out(), *result.remarks]}
    rows = [
        {"features": features, "class": name, "auroc": value}
        for features, values in result.by_class.items()
        for name, value in values.items()
    ]
    tables = {"by_class": pa.Table.from_pylist(rows)}
    settings = {"target": target, "records": records, "trees": trees, "n_bootstrap": n_bootstrap, "seed": seed}
    name = evaluation_name("temporal", target)
    return Written(result, facts, write_evaluation(root, published.dataset_id, name, facts, tables, settings=settings))


def labels_of(table: pa.Table, columns: list[str], others: list[str]) -> Labels:
    """The classes that N records are in: the values of a column, the names in its lists, or several bool columns.

    Raises `UsageError`, naming the `others`, for columns that hold no classes, one only, or too many.
    """
    there, kinds = ", ".join(others) or "none", [table.schema.field(column).type for column in columns]
    if len(columns) > 1 and all(pa.types.is_boolean(kind) for kind in kinds):
        flags = [table.column(column).to_numpy(zero_copy_only=False).astype(np.int64) for column in columns]
        return Labels(tuple(columns), np.stack(flags, axis=1), exclusive=False)
    is_list = pa.types.is_list(kinds[0]) or pa.types.is_large_list(kinds[0])
    value = kinds[0].value_type if is_list else kinds[0]
    if len(columns) > 1 or not any(
        is_kind(value)
        for is_kind in (pa.types.is_string, pa.types.is_large_string, pa.types.is_integer, pa.types.is_boolean)
    ):
        described = ", ".join(f"{name} ({kind})" for name, kind in zip(columns, kinds, strict=True))
        raise UsageError(f"{described} holds no classes; other label columns are: {there}")
    values = table.column(columns[0]).to_pylist()
    sets = [{str(name) for name in (names if is_list else [names]) if name is not None} for names in values]
    counts = Counter(name for own in sets for name in own)
    if len(counts) > MOST_CLASSES and not is_list:
        raise UsageError(f"{columns[0]} holds {len(counts)} different values; {MOST_CLASSES} classes are the most")
    # Lists of statement codes have a long tail; the commonest are those that can be learnt.
    names = tuple(sorted(sorted(counts, key=lambda name: (-counts[name], name))[:MOST_CLASSES]))
    if len(names) < 2:
        raise UsageError(f"{columns[0]} holds {names[0] if names else 'nothing'} throughout; others are: {there}")
    y = np.array([[name in own for name in names] for own in sets], dtype=np.int64)
    return Labels(names, y, exclusive=not is_list)


@dataclass(frozen=True)
class _Asked:
    """What all models share: (N, F) features by name, the sequences as they are and shuffled, and the labels."""

    features: dict[str, NDArray[np.float64]]
    sequences: dict[str, Sequences]
    labels: Labels
    settings: ForestSettings


def measure_order(
    sequences: Sequences,
    labels: Labels,
    patients: Sequence[str],
    *,
    trees: int = TREES,
    n_bootstrap: int = 1000,
    seed: int = 0,
    spread: Spread = HERE,
    progress: Progress = SILENT,
) -> Temporal:
    """Compare what tells the labels of N records, with order and without; see the module. A model and part is a task
    of `spread`.

    Raises `UsageError` for fewer than two patients a class, or a single class.
    """
    labels, remarks = _usable(labels, patients)
    mixed, owners = shuffled(sequences, seed), np.asarray(patients, dtype=str)
    folds = GroupKFold(min(PARTS, len(np.unique(owners))), shuffle=True, random_state=seed)
    parts: list[Part] = list(folds.split(owners, groups=owners))
    kinds = [kind for kind in KINDS if kind != "hmm" or has_hmmlearn()]
    if "hmm" not in kinds:
        remarks.append("no hidden Markov model: pip install 'ecgscale[evaluate]'")
    features = {
        "bag": bag(sequences),
        "dwell": np.concatenate([bag(sequences), dwell(sequences)], axis=1),
        "ngrams": np.concatenate([bag(sequences), ngrams(sequences)], axis=1),
        "ngrams_shuffled": np.concatenate([bag(sequences), ngrams(mixed)], axis=1),
    }
    says: dict[str, NDArray[np.float64]] = {}
    bits: dict[str, NDArray[np.float64]] = {}
    asked = _Asked(features, {"": sequences, "_shuffled": mixed}, labels, ForestSettings(trees=trees, seed=seed))
    forests = [(name, part) for name in features for part in parts]
    orders = [(kind, mix, part) for kind in kinds for mix in asked.sequences for part in parts]
    with progress.stage("order of clusters", len(forests) + len(orders), "models") as stage:
        for (name, (_, scored)), said in zip(forests, spread.map(_forest, asked, forests, stage), strict=True):
            says.setdefault(name, np.zeros(labels.y.shape))[scored] = said
        found = spread.map(_by_likelihood, asked, orders, stage)
    for (kind, mix, (_, scored)), (ratios, own_bits) in zip(orders, found, strict=True):
        bits.setdefault(f"{kind}{mix}", np.full(len(sequences), np.nan))[scored] = own_bits
        if kind != "bag":
            says.setdefault(f"{kind}{mix}", np.zeros(labels.y.shape))[scored] = ratios
    # The bag cannot tell orders apart: its likelihood of a shuffled record is that of the record.
    del bits["bag_shuffled"]
    scorers = _scorers(says, bits, labels)
    pairs = intervals(scorers, list(patients), n_bootstrap, seed)
    values = {name: _value(scorer, len(sequences)) for name, scorer in scorers.items()}
    columns = [(name, [i]) for i, name in enumerate(labels.names)]
    return Temporal(
        scores=values,
        intervals={name: pairs[name] if values[name] is not None else None for name in values},
        by_class={
            model: {name: _value(macro_auroc(labels.y[:, i], p[:, i]), len(sequences)) for name, i in columns}
            for model, p in says.items()
        },
        records=len(sequences),
        patients=len(set(patients)),
        remarks=tuple(remarks),
        split=kept_apart_by(patients),
    )


def _usable(labels: Labels, patients: Sequence[str]) -> tuple[Labels, list[str]]:
    """Without the classes that cannot be learnt and scored; and what to say about them."""
    owners, kept, small = np.asarray(patients, dtype=str), [], []
    for i, name in enumerate(labels.names):
        there = labels.y[:, i] > 0
        if there.sum() >= FEWEST_RECORDS and len(np.unique(owners[there])) >= 2 and not there.all():
            kept.append(i)
        else:
            small.append(f"{name} ({int(there.sum())})")
    if len(kept) < (2 if labels.exclusive else 1):
        raise UsageError(
            f"order takes two classes of {FEWEST_RECORDS} records or more, of two patients or more; "
            f"too small: {', '.join(small) or 'none'}"
        )
    remarks = [f"too few records for a score of their own: {', '.join(small)}"] if small else []
    return replace(labels, names=tuple(labels.names[i] for i in kept), y=labels.y[:, kept]), remarks


def _forest(asked: _Asked, one: tuple[str, Part]) -> NDArray[np.float64]:
    """(n scored, n) out-of-fold probabilities from features of this name. Each class for itself: the records of
    left-out classes belong to none."""
    name, (fitting, scored) = one
    x = asked.features[name]
    forest = SurrogateForest("multilabel", asked.settings).fit(x[fitting].astype(np.float32), asked.labels.y[fitting])
    return forest.predict(x[scored])


def _by_likelihood(asked: _Asked, one: tuple[str, str, Part]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """((n scored, n) log-likelihood ratios a segment: under a model of the class's records against one of all that
    fit, (n scored,) bits a segment under the latter)."""
    kind, mix, (fitting, scored) = one
    sequences, labels, seed = asked.sequences[mix], asked.labels, asked.settings.seed
    says = np.zeros((len(scored), len(labels.names)))
    everybody = fit_order(kind, sequences, fitting, seed)(sequences, scored)
    for i in range(len(labels.names)):
        own = fitting[labels.y[fitting, i] > 0]
        if len(own) and kind != "bag":
            ratio = fit_order(kind, sequences, own, seed)(sequences, scored) - everybody
            says[:, i] = ratio / np.maximum(sequences.lengths[scored], 1)
    return says, bits_per_segment(everybody, sequences, scored)


def _scorers(
    says: dict[str, NDArray[np.float64]], bits: dict[str, NDArray[np.float64]], labels: Labels
) -> dict[str, Scorer | None]:
    aurocs = {name: macro_auroc(labels.y, p) for name, p in says.items()}
    scorers: dict[str, Scorer | None] = {f"auroc_{name}": scorer for name, scorer in aurocs.items()}
    reference = aurocs["bag"]
    for name, scorer in aurocs.items():
        if name != "bag" and scorer and reference:
            scorers[f"gain_{name}"] = difference(scorer, reference)
        control = aurocs.get(f"{name}_shuffled")
        if scorer and control:
            scorers[f"order_{name}"] = difference(scorer, control)
    for name, each in bits.items():
        scorers[f"bits_{name}"] = _mean_of_known(each)
        if name != "bag":
            scorers[f"saved_{name}"] = _mean_of_known(bits["bag"] - each)
    return scorers


def _mean_of_known(values: NDArray[np.float64]) -> Scorer | None:
    known = np.isfinite(values)
    return among(known, weighted_mean(values[known])) if known.any() else None


def _value(scorer: Scorer | None, n: int) -> float | None:
    """A score of all N records, each counting once."""
    value = scorer(np.ones((1, n)))[0] if scorer else np.nan
    return float(value) if np.isfinite(value) else None
