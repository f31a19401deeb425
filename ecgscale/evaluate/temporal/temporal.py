"""Does it matter in which order the clusters come? Labels from features with and without order, by records held out.

Forests learn a label from the bag (share of time in each cluster), from the bag with dwell, and from the bag with
ngrams (see `sequences`); a hidden Markov model a class, and a Markov chain a class, tell it from their likelihoods
alone. Everything is cross-validated in parts by patient. The control of each is the same on records whose segments were
put into a random order: what it still tells is no order.

AUROC is the mean over classes, one against the others. `gain_…` are differences to the bag, `order_…` to the control:
what order alone gives. Differences are paired over resampled patients.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import GroupKFold

from ecgscale.errors import UsageError
from ecgscale.evaluate.bootstrap import Scorer, intervals, macro_auroc, weighted_mean
from ecgscale.evaluate.forests import ForestSettings, SurrogateForest
from ecgscale.evaluate.metrics import difference
from ecgscale.evaluate.temporal.order import (
    KINDS,
    Sequences,
    bag,
    bits_per_segment,
    dwell,
    fit_order,
    has_hmmlearn,
    ngrams,
    shuffled,
)
from ecgscale.passes.spread import HERE, Spread
from ecgscale.progress import SILENT, Progress

PARTS = 5
TREES = 300
FEWEST_RECORDS = 10
"""Of a class, to be told from the others."""

Interval = tuple[float, float] | None
Part = tuple[NDArray[np.int64], NDArray[np.int64]]
"""Numbers of the records that fit and of those that are scored."""


@dataclass(frozen=True)
class Labels:
    """What N records are labelled with: y (N, n) 0/1 in the order of `names`; `exclusive`: exactly one each."""

    names: tuple[str, ...]
    y: NDArray[np.int64]
    exclusive: bool


@dataclass(frozen=True)
class _Asked:
    """What all models share: (N, F) features by name, the sequences as they are and shuffled, and the labels."""

    features: dict[str, NDArray[np.float64]]
    sequences: dict[str, Sequences]
    labels: Labels
    settings: ForestSettings


@dataclass(frozen=True)
class Temporal:
    """Scores by name, their intervals, and those of each class: {"bag": {"AF": 0.8, …}, …}."""

    scores: dict[str, float | None]
    intervals: dict[str, Interval]
    by_class: dict[str, dict[str, float | None]]
    records: int
    patients: int
    remarks: tuple[str, ...] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        """For `--json` and the report."""
        return {
            "records": self.records,
            "patients": self.patients,
            **self.scores,
            "intervals": self.intervals,
            "by_class": self.by_class,
            "remarks": list(self.remarks),
        }


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
    parts, mixed = _parts(patients, seed), shuffled(sequences, seed)
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
    alike = np.ones((1, len(sequences)))
    values = {name: _known(scorer(alike)[0]) if scorer else None for name, scorer in scorers.items()}
    return Temporal(
        scores=values,
        intervals={name: pairs[name] if values[name] is not None else None for name in values},
        by_class={name: _per_class(p, labels) for name, p in says.items()},
        records=len(sequences),
        patients=len(set(patients)),
        remarks=tuple(remarks),
    )


def _usable(labels: Labels, patients: Sequence[str]) -> tuple[Labels, list[str]]:
    """Without the classes that cannot be learnt and scored; and what to say about them."""
    owners = np.asarray(patients, dtype=str)
    kept: list[tuple[int, str]] = []
    left_out: list[tuple[int, str]] = []
    for i, name in enumerate(labels.names):
        there, others = labels.y[:, i] > 0, labels.y[:, i] == 0
        enough = there.sum() >= FEWEST_RECORDS and len(np.unique(owners[there])) >= 2 and others.any()
        (kept if enough else left_out).append((i, f"{name} ({int(there.sum())})"))
    if len(kept) < (2 if labels.exclusive else 1):
        told = ", ".join(text for _, text in left_out) or "none"
        raise UsageError(
            f"order takes two classes of {FEWEST_RECORDS} records or more, of two patients or more; too small: {told}"
        )
    remarks = (
        [f"too few records for a score of their own: {', '.join(text for _, text in left_out)}"] if left_out else []
    )
    columns = [i for i, _ in kept]
    return replace(labels, names=tuple(labels.names[i] for i in columns), y=labels.y[:, columns]), remarks


def _parts(patients: Sequence[str], seed: int) -> list[Part]:
    owners = np.asarray(patients, dtype=str)
    n = min(PARTS, len(np.unique(owners)))
    return list(GroupKFold(n, shuffle=True, random_state=seed).split(owners, groups=owners))


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
    lengths = np.maximum(sequences.lengths[scored], 1)
    everybody = fit_order(kind, sequences, fitting, seed).log_likelihood(sequences, scored)
    for i in range(len(labels.names)):
        own = fitting[labels.y[fitting, i] > 0]
        if len(own) and kind != "bag":
            ratio = fit_order(kind, sequences, own, seed).log_likelihood(sequences, scored) - everybody
            says[:, i] = ratio / lengths
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
    if not known.any():
        return None
    mean = weighted_mean(values[known])
    return lambda weights: mean(weights[:, known])


def _per_class(says: NDArray[np.float64], labels: Labels) -> dict[str, float | None]:
    alike = np.ones((1, len(says)))
    scorers = {name: macro_auroc(labels.y[:, [i]], says[:, [i]]) for i, name in enumerate(labels.names)}
    return {name: _known(scorer(alike)[0]) if scorer else None for name, scorer in scorers.items()}


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
