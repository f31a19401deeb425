"""Does the entropy of a recording's clusters say when the network errs, and when its probabilities are not true?

error    share of labels that the network gets wrong; |value − label| for a regression
rho      rank correlation of mean entropy and error; beside it that of the network's own entropy (of its probabilities),
         the difference, and what is left of rho when the network's own entropy is held fixed
auroc    can the entropy tell recordings with any wrong label from the others?
brier, ece    how true the probabilities are, where the entropy is low, middling and high (thirds), and the difference

    ECE = Σ_bin |Σ (p − y)| / Σ 1        over all labels of all records, bins of equal width in p

A finite sample has an ECE above zero even for perfect probabilities, the more so the smaller it is: compare strata of
about equal size, and look at the intervals.

Each for all records, within decades of age, and by class, with 95 % intervals over resampled patients. Age goes with
entropy and with disease, so `rho_within_age` is the mean of the decades' correlations, weighted by their records.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ecgscale.errors import UsageError
from ecgscale.evaluate.metrics import (
    Scorer,
    Weights,
    among,
    auroc,
    difference,
    intervals,
    partial_spearman,
    spearman,
    weighted_mean,
)
from ecgscale.evaluate.published import open_published
from ecgscale.evaluate.questions import Questions, list_matrix, pose, read_truth, suitable_columns
from ecgscale.evaluate.seen import ALL, Seen, groups_of, headline_of, kept_apart_by, patients_of
from ecgscale.evaluate.written import Written, evaluation_name, write_evaluation
from ecgscale.passes.spread import HERE, Spread
from ecgscale.progress import SILENT, Progress
from ecgscale.store.presence import announced

FEWEST = 20
"""Records that a stratum needs to be scored."""

THIRDS = ("low", "middle", "high")
BINS = 10

_STRATA = pa.schema(
    [
        *((name, pa.string()) for name in ("kind", "stratum", "score")),
        *((name, pa.int64()) for name in ("records", "patients")),
        *((name, pa.float64()) for name in ("value", "low", "high")),
    ]
)


@dataclass(frozen=True)
class Stratum:
    """Scores of some of the records; `scores` and `intervals` have the same names, None where nothing can be said."""

    kind: str
    name: str
    records: int
    patients: int
    scores: dict[str, float | None]
    intervals: dict[str, tuple[float, float] | None]


@dataclass(frozen=True)
class Uncertainty:
    """What entropy is worth, for all records (the first stratum), by third of entropy, by decade of age, by class."""

    strata: tuple[Stratum, ...]
    curves: pa.Table
    remarks: tuple[str, ...] = ()
    resampled: str = ""

    def table(self) -> pa.Table:
        """One row a stratum and score."""
        rows = [
            (s.kind, s.name, name, s.records, s.patients, value, *(s.intervals[name] or (None, None)))
            for s in self.strata
            for name, value in s.scores.items()
        ]
        return pa.Table.from_pylist([dict(zip(_STRATA.names, row, strict=True)) for row in rows], _STRATA)

    def to_dict(self) -> dict[str, Any]:
        """For `--json` and the report: the scores of all records by name, and every stratum."""
        first, *others = self.strata
        counts = {"records": first.records, "patients": first.patients, "resampled": self.resampled}
        return {**counts, **first.scores, "intervals": first.intervals, "strata": others, "remarks": list(self.remarks)}


@announced("ecgscale uncertainty", existing=True)
def uncertainty_published(
    root: str | Path,
    target: str | None = None,
    *,
    dataset: str | None = None,
    everyone: bool = False,
    n_bootstrap: int = 1000,
    seed: int = 0,
    spread: Spread = HERE,
    progress: Progress = SILENT,
) -> Written[Uncertainty]:
    """Set entropy against error and calibration on the newest explanations below `root` (or those of `dataset`).

    Measured on records that neither encoder nor K-means had seen, as far as that is known and there are enough;
    `everyone` takes all of them. `target` is by default what the encoder was trained on. Writes
    ROOT/evaluations/<dataset>/uncertainty-<target>.json with its tables (strata, curves). Raises `UsageError` when
    nothing is published, the target is not there, or fewer than 20 records have a label.
    """
    published = open_published(root, dataset)
    spec, asked = published.spec, published.target(target)
    labels = suitable_columns(published.schema, asked, spec)
    table = published.table(["record_id", "patient_id", "prediction", "mean_entropy", *labels], if_there=["age"])
    truth, seen = read_truth(table, asked, spec.output), published.seen(table)
    questions = pose(list_matrix(table, "prediction"), truth, spec.output, seen.validation)
    if questions.can_fit.sum() < FEWEST:
        raise UsageError(f"{questions.can_fit.sum()} explained records have a label of {asked}; {FEWEST} are needed")
    group, scored, notes = _measured_on(questions.can_fit, None if everyone else seen)
    progress.say(f"entropy against error of {spec.name} on {asked}: {int(scored.sum())} records")
    table = table.filter(pa.array(scored))
    result = measure_uncertainty(
        questions.of(scored),
        table.column("mean_entropy").to_numpy(),
        patients_of(table).tolist(),
        table.column("age").cast(pa.float64()).to_numpy() if "age" in table.column_names else None,
        n_bootstrap=n_bootstrap,
        seed=seed,
        spread=spread,
        progress=progress,
    )
    if unlabelled := int((~questions.can_fit).sum()):
        notes.append(f"{unlabelled} explained records have no label that the network knows")
    facts = {
        "target": asked,
        "kind": spec.output.kind,
        "measured_on": group,
        **result.to_dict(),
        "remarks": [*published.left_out(), *notes, *result.remarks],
    }
    tables = {"strata": result.table(), "curves": result.curves}
    settings = {"target": asked, "everyone": everyone, "n_bootstrap": n_bootstrap, "seed": seed}
    name = evaluation_name("uncertainty", asked)
    return Written(result, facts, write_evaluation(root, published.dataset_id, name, facts, tables, settings=settings))


def _measured_on(labelled: NDArray[np.bool_], seen: Seen | None) -> tuple[str, NDArray[np.bool_], list[str]]:
    """(the group that is measured, which records those are, remarks): unseen ones if there are enough; None: all."""
    groups = groups_of(labelled, seen)
    name, remark = (ALL, None) if seen is None else headline_of(groups)
    if groups[name].sum() >= FEWEST:
        return name, groups[name], [remark] if remark else []
    note = f"only {groups[name].sum()} records are new to encoder and K-means: measured on all, most of them seen"
    return ALL, groups[ALL], [note]


@dataclass(frozen=True)
class _Asked:
    """What all strata share, of N records each: third of entropy (0 … 2), decade of age (30: 30 to 39; −1 unknown)."""

    questions: Questions
    entropy: NDArray[np.float64]
    patients: NDArray[np.str_]
    thirds: NDArray[np.integer]
    decade: NDArray[np.int64]
    n_bootstrap: int
    seed: int


def measure_uncertainty(
    questions: Questions,
    entropy: NDArray[np.floating],
    patients: Sequence[str],
    age: NDArray[np.floating] | None,
    *,
    n_bootstrap: int = 1000,
    seed: int = 0,
    spread: Spread = HERE,
    progress: Progress = SILENT,
) -> Uncertainty:
    """Set (N,) mean entropies beside what the network says of N labelled records, a stratum a task of `spread`.

    `age` (N,) in years, NaN where unknown, or None. All records must have labels.
    """
    n, remarks = len(questions), []
    age = np.full(n, np.nan) if age is None else age
    if missing := n - int(np.isfinite(age).sum()):
        everybody = missing == n
        remarks.append(
            "the records have no age: nothing by decade"
            if everybody
            else f"{missing} records have no age: they are in no decade"
        )
    decade = np.nan_to_num(np.floor(age / 10) * 10, nan=-1, posinf=-1, neginf=-1).astype(np.int64)
    known = np.asarray(entropy, np.float64)
    thirds = np.digitize(known, np.quantile(known, [1 / 3, 2 / 3]))
    owners = np.asarray(patients, dtype=str)
    asked = _Asked(questions, known, owners, thirds, decade, n_bootstrap, seed)
    chosen = [("all", "all", np.ones(n, bool))]
    curves = [reliability(np.zeros((0, 1)), np.zeros((0, 1), np.int64), "all")]
    decades = [("age", f"{d}–{d + 9}", decade == d) for d in np.unique(decade[decade >= 0]).tolist()]
    if questions.kind == "regression":
        chosen += decades
    else:
        by_third = [("entropy", name, thirds == i) for i, name in enumerate(THIRDS)]
        by_class = [("class", name, questions.y[:, i] > 0) for i, name in enumerate(questions.names)]
        curves = [reliability(questions.says[mask], questions.y[mask], name) for _, name, mask in [*chosen, *by_third]]
        chosen += by_third + decades + by_class
    with progress.stage("entropy", len(chosen), "groups") as stage:
        strata = spread.map(_measured, asked, chosen, stage, names=[f"{kind} {name}" for kind, name, _ in chosen])
    small = [f"{stratum.name} ({stratum.records})" for stratum in strata if not stratum.scores]
    if small:
        remarks.append(f"no scores for fewer than {FEWEST} records: {', '.join(small)}")
    return Uncertainty(tuple(strata), pa.concat_tables(curves), (*questions.remarks, *remarks), kept_apart_by(patients))


def _measured(asked: _Asked, one: tuple[str, str, NDArray[np.bool_]]) -> Stratum:
    """One stratum: its kind and name, and which records (N,) it is."""
    kind, name, mask = one
    scorers = _scorers(asked.questions.of(mask), asked.entropy[mask]) if mask.sum() >= FEWEST else {}
    if kind == "all":
        scorers |= _over_all(asked)
    patients = asked.patients[mask]
    alike = np.ones((1, len(patients)))
    pairs = intervals(scorers, patients.tolist(), asked.n_bootstrap, asked.seed) if scorers else {}
    values = {key: float(scorer(alike)[0]) if scorer else float("nan") for key, scorer in scorers.items()}
    known = {key: value if np.isfinite(value) else None for key, value in values.items()}
    shown = {key: pairs[key] if known[key] is not None else None for key in known}
    return Stratum(kind, name, int(mask.sum()), len(np.unique(patients)), known, shown)


def _scorers(q: Questions, entropy: NDArray[np.float64]) -> dict[str, Scorer | None]:
    error = _error(q)
    rho = spearman(entropy, error)
    scorers: dict[str, Scorer | None] = {
        "mean_entropy": weighted_mean(entropy),
        "error": weighted_mean(error),
        "rho": rho,
    }
    if q.kind == "regression":
        return scorers
    own, wrong = _own_entropy(q), (error > 0).astype(np.int64)
    rho_own, tells, tells_own = spearman(own, error), auroc(wrong, entropy), auroc(wrong, own)
    return scorers | {
        "rho_own": rho_own,
        "rho_difference": difference(rho, rho_own),
        "rho_given_own": partial_spearman(entropy, error, own),
        "auroc": tells,
        "auroc_own": tells_own,
        "auroc_difference": difference(tells, tells_own) if tells and tells_own else None,
        "brier": brier(q.says, q.y),
        "ece": calibration_error(q.says, q.y),
    }


def _error(q: Questions) -> NDArray[np.float64]:
    """(N,) wrong labels over labels; a wrong class is 1; the distance of a regression."""
    if q.kind == "regression":
        return np.asarray(np.abs(q.network - q.y), np.float64)
    wrong = q.network != q.y
    return np.asarray(wrong.any(axis=1) if q.kind == "multiclass" else wrong.mean(axis=1), np.float64)


def _own_entropy(q: Questions) -> NDArray[np.float64]:
    """(N,) entropy of the network's probabilities, 0 to 1."""
    p = np.clip(q.says, 1e-12, 1 - 1e-12)
    if q.kind == "multiclass":
        return np.asarray(-(p * np.log(p)).sum(axis=1) / np.log(max(p.shape[1], 2)))
    return np.asarray(-(p * np.log(p) + (1 - p) * np.log(1 - p)).mean(axis=1) / np.log(2))


def _over_all(asked: _Asked) -> dict[str, Scorer | None]:
    """What compares strata with each other."""
    q, decade, scorers = asked.questions, asked.decade, dict[str, Scorer | None]()
    decades = [decade == d for d in np.unique(decade[decade >= 0]) if (decade == d).sum() >= FEWEST]
    if decades:
        error = _error(q)
        scorers["rho_within_age"] = _mean_within([(d, spearman(asked.entropy[d], error[d])) for d in decades])
    low, high = asked.thirds == 0, asked.thirds == 2
    if q.kind != "regression" and min(low.sum(), high.sum()) >= FEWEST:
        for name, score in (("brier", brier), ("ece", calibration_error)):
            first, last = (among(mask, score(q.says[mask], q.y[mask])) for mask in (low, high))
            assert first is not None
            assert last is not None
            scorers[f"{name}_high_less_low"] = difference(last, first)
    return scorers


def _mean_within(parts: Sequence[tuple[NDArray[np.bool_], Scorer]]) -> Scorer:
    """Scorer of the mean over parts of the records, each counting by its records; parts without a value do not."""

    def score(weights: Weights) -> NDArray[np.float64]:
        values = np.stack([scorer(weights[:, mask]) for mask, scorer in parts])
        sizes = np.stack([weights[:, mask].sum(axis=1) for mask, _ in parts]) * np.isfinite(values)
        total = sizes.sum(axis=0)
        mean = (np.where(np.isfinite(values), values, 0) * sizes).sum(axis=0) / np.where(total > 0, total, 1)
        return np.where(total > 0, mean, np.nan)

    return score


def brier(says: NDArray[np.float64], y: NDArray[np.integer]) -> Scorer:
    """Scorer of the mean of (p − y)² over (N, n) probabilities and labels in 0/1."""
    return weighted_mean(((says - y) ** 2).mean(axis=1))


def calibration_error(says: NDArray[np.float64], y: NDArray[np.integer]) -> Scorer:
    """Scorer of the expected calibration error of (N, n) probabilities of labels in 0/1."""
    n_labels = says.shape[1]
    excess = np.zeros((len(says), BINS))
    np.add.at(excess, (np.arange(len(says))[:, None], bins_of(says)), says - y)

    def score(weights: Weights) -> NDArray[np.float64]:
        total = weights.sum(axis=1) * n_labels
        error = np.abs(weights @ excess).sum(axis=1)
        return np.where(total > 0, error / np.where(total > 0, total, 1), np.nan)

    return score


def bins_of(says: NDArray[np.float64]) -> NDArray[np.int64]:
    """The bin of each probability, 0 … BINS − 1."""
    return np.clip((says * BINS).astype(np.int64), 0, BINS - 1)


def reliability(says: NDArray[np.float64], y: NDArray[np.integer], stratum: str) -> pa.Table:
    """One row a bin that has probabilities: how many, their mean, and how often the label was there."""
    at, p, truth = bins_of(says).ravel(), says.ravel(), y.ravel().astype(np.float64)
    n, said, seen = (np.bincount(at, weights, minlength=BINS) for weights in (None, p, truth))
    some = n > 0
    return pa.table(
        {
            "stratum": pa.array([stratum] * int(some.sum()), pa.string()),
            "bin": np.flatnonzero(some),
            "labels": n[some].astype(np.int64),
            "mean_probability": said[some] / n[some],
            "observed": seen[some] / n[some],
        }
    )
