"""Does the entropy of a recording's clusters say when the network errs, and when its probabilities are not true?

error    share of labels that the network gets wrong; |value − label| for a regression
rho      rank correlation of mean entropy and error; beside it that of the network's own entropy (of its probabilities),
         the difference, and what is left of rho when the network's own entropy is held fixed
auroc    can the entropy tell recordings with any wrong label from the others?
brier, ece    how true the probabilities are, where the entropy is low, middling and high (thirds), and the difference

Each for all records, within decades of age, and by class, with 95 % intervals over resampled patients. Age goes with
entropy and with disease, so `rho_within_age` is the mean of the decades' correlations, weighted by their records.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ecgscale.evaluate.bootstrap import Scorer, auroc, intervals, partial_spearman, spearman, weighted_mean
from ecgscale.evaluate.metrics import among, difference
from ecgscale.evaluate.surrogate.questions import Questions
from ecgscale.evaluate.uncertainty.calibration import brier, calibration_error, reliability
from ecgscale.passes.spread import HERE, Spread
from ecgscale.progress import SILENT, Progress

FEWEST = 20
"""Records that a stratum needs to be scored."""

THIRDS = ("low", "middle", "high")

Interval = tuple[float, float] | None


@dataclass(frozen=True)
class Stratum:
    """Scores of some of the records; `scores` and `intervals` have the same names, None where nothing can be said."""

    kind: str
    name: str
    records: int
    patients: int
    scores: dict[str, float | None]
    intervals: dict[str, Interval]


@dataclass(frozen=True)
class Uncertainty:
    """What entropy is worth, for all records (the first stratum), by third of entropy, by decade of age, by class."""

    strata: tuple[Stratum, ...]
    curves: pa.Table
    remarks: tuple[str, ...] = field(default=())

    def table(self) -> pa.Table:
        """One row a stratum and score."""
        rows = [
            {
                "kind": stratum.kind,
                "stratum": stratum.name,
                "records": stratum.records,
                "patients": stratum.patients,
                "score": name,
                "value": value,
                "low": pair[0] if (pair := stratum.intervals[name]) else None,
                "high": pair[1] if pair else None,
            }
            for stratum in self.strata
            for name, value in stratum.scores.items()
        ]
        kinds = [(name, pa.string()) for name in ("kind", "stratum", "score")]
        numbers = [("records", pa.int64()), ("patients", pa.int64())]
        return pa.Table.from_pylist(
            rows, pa.schema([*kinds, *numbers, *((name, pa.float64()) for name in ("value", "low", "high"))])
        )


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
    records = _Records(questions, np.asarray(entropy, np.float64), np.asarray(patients, dtype=str))
    decade = _decades(age, len(questions))
    remarks = _age_remarks(age, len(questions))
    thirds = np.digitize(records.entropy, np.quantile(records.entropy, [1 / 3, 2 / 3]))
    whole = np.ones(len(questions), bool)
    chosen: list[tuple[str, str, NDArray[np.bool_]]] = [("all", "all", whole)]
    if questions.kind != "regression":
        chosen += [("entropy", name, thirds == i) for i, name in enumerate(THIRDS)]
    chosen += [("age", f"{d}–{d + 9}", decade == d) for d in np.unique(decade[decade >= 0]).tolist()]
    if questions.kind != "regression":
        chosen += [("class", name, questions.y[:, i] > 0) for i, name in enumerate(questions.names)]
    with progress.stage("entropy", len(chosen), "groups") as stage:
        asked = _Asked(records, thirds, decade, n_bootstrap, seed)
        strata = spread.map(_measured, asked, chosen, stage, names=[f"{kind} {name}" for kind, name, _ in chosen])
    small = [f"{stratum.name} ({stratum.records})" for stratum in strata if not stratum.scores]
    if small:
        remarks.append(f"no scores for fewer than {FEWEST} records: {', '.join(small)}")
    return Uncertainty(tuple(strata), _curves(records, thirds), (*questions.remarks, *remarks))


def questions_of(questions: Questions, mask: NDArray[np.bool_]) -> Questions:
    """The questions about some of the records."""
    parts = {name: getattr(questions, name)[mask] for name in ("network", "says", "known", "y")}
    return replace(questions, **parts)


@dataclass(frozen=True)
class _Records:
    questions: Questions
    entropy: NDArray[np.float64]
    patients: NDArray[np.str_]

    def of(self, mask: NDArray[np.bool_]) -> _Records:
        return _Records(questions_of(self.questions, mask), self.entropy[mask], self.patients[mask])

    @property
    def error(self) -> NDArray[np.float64]:
        """(N,) wrong labels over labels; a wrong class is 1; the distance of a regression."""
        q = self.questions
        if q.kind == "regression":
            return np.asarray(np.abs(q.network - q.y), np.float64)
        wrong = q.network != q.y
        return np.asarray(wrong.any(axis=1) if q.kind == "multiclass" else wrong.mean(axis=1), np.float64)

    @property
    def own_entropy(self) -> NDArray[np.float64] | None:
        """(N,) entropy of the network's probabilities, 0 to 1; None for a regression, which tells none."""
        q = self.questions
        if q.kind == "regression":
            return None
        p = np.clip(q.says, 1e-12, 1 - 1e-12)
        if q.kind == "multiclass":
            return np.asarray(-(p * np.log(p)).sum(axis=1) / np.log(max(p.shape[1], 2)))
        return np.asarray(-(p * np.log(p) + (1 - p) * np.log(1 - p)).mean(axis=1) / np.log(2))


@dataclass(frozen=True)
class _Asked:
    """What all strata share."""

    records: _Records
    thirds: NDArray[np.integer]
    decade: NDArray[np.int64]
    n_bootstrap: int
    seed: int


def _measured(asked: _Asked, one: tuple[str, str, NDArray[np.bool_]]) -> Stratum:
    """One stratum: its kind and name, and which records (N,) it is."""
    kind, name, mask = one
    scorers = _scorers(asked.records.of(mask)) if mask.sum() >= FEWEST else {}
    if kind == "all":
        scorers |= _over_all(asked.records, asked.thirds, asked.decade)
    return _stratum(kind, name, mask, asked.records, scorers, asked.n_bootstrap, asked.seed)


def _scorers(records: _Records) -> dict[str, Scorer | None]:
    error, own, q = records.error, records.own_entropy, records.questions
    scorers: dict[str, Scorer | None] = {
        "mean_entropy": weighted_mean(records.entropy),
        "error": weighted_mean(error),
        "rho": spearman(records.entropy, error),
    }
    if own is None:
        return scorers
    wrong = (error > 0).astype(np.int64)
    tells, tells_own = auroc(wrong, records.entropy), auroc(wrong, own)
    return scorers | {
        "rho_own": spearman(own, error),
        "rho_difference": difference(spearman(records.entropy, error), spearman(own, error)),
        "rho_given_own": partial_spearman(records.entropy, error, own),
        "auroc": tells,
        "auroc_own": tells_own,
        "auroc_difference": difference(tells, tells_own) if tells and tells_own else None,
        "brier": brier(q.says, q.y),
        "ece": calibration_error(q.says, q.y),
    }


def _over_all(records: _Records, thirds: NDArray[np.integer], decade: NDArray[np.int64]) -> dict[str, Scorer | None]:
    """What compares strata with each other."""
    q, scorers = records.questions, dict[str, Scorer | None]()
    decades = [decade == d for d in np.unique(decade[decade >= 0]) if (decade == d).sum() >= FEWEST]
    if decades:
        scorers["rho_within_age"] = _mean_within(
            [(mask, spearman(records.entropy[mask], records.error[mask])) for mask in decades]
        )
    low, high = thirds == 0, thirds == 2
    if q.kind != "regression" and min(low.sum(), high.sum()) >= FEWEST:
        for name, score in (("brier", brier), ("ece", calibration_error)):
            first, last = (among(mask, score(q.says[mask], q.y[mask])) for mask in (low, high))
            assert first is not None
            assert last is not None
            scorers[f"{name}_high_less_low"] = difference(last, first)
    return scorers


def _mean_within(parts: Sequence[tuple[NDArray[np.bool_], Scorer]]) -> Scorer:
    """Scorer of the mean over parts of the records, each counting by its records; parts without a value do not."""

    def score(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        values = np.stack([scorer(weights[:, mask]) for mask, scorer in parts])
        sizes = np.stack([weights[:, mask].sum(axis=1) for mask, _ in parts]) * np.isfinite(values)
        total = sizes.sum(axis=0)
        mean = (np.where(np.isfinite(values), values, 0) * sizes).sum(axis=0) / np.where(total > 0, total, 1)
        return np.where(total > 0, mean, np.nan)

    return score


def _stratum(
    kind: str,
    name: str,
    mask: NDArray[np.bool_],
    records: _Records,
    scorers: Mapping[str, Scorer | None],
    n_bootstrap: int,
    seed: int,
) -> Stratum:
    patients = records.patients[mask]
    alike = np.ones((1, len(patients)))
    pairs = intervals(scorers, patients.tolist(), n_bootstrap, seed) if scorers else {}
    values = {key: float(scorer(alike)[0]) if scorer else float("nan") for key, scorer in scorers.items()}
    known = {key: value if np.isfinite(value) else None for key, value in values.items()}
    told = {key: pairs[key] if known[key] is not None else None for key in known}
    return Stratum(kind, name, int(mask.sum()), len(np.unique(patients)), known, told)


def _curves(records: _Records, thirds: NDArray[np.integer]) -> pa.Table:
    """Reliability curves of all records and of each third of entropy; empty for a regression."""
    q = records.questions
    if q.kind == "regression":
        return reliability(np.zeros((0, 1)), np.zeros((0, 1), np.int64), "all")
    parts = [reliability(q.says, q.y, "all")]
    parts += [reliability(q.says[thirds == i], q.y[thirds == i], name) for i, name in enumerate(THIRDS)]
    return pa.concat_tables(parts)


def _decades(age: NDArray[np.floating] | None, n: int) -> NDArray[np.int64]:
    """(N,) 30 for 30 to 39, −1 where unknown."""
    if age is None:
        return np.full(n, -1, np.int64)
    known = np.isfinite(age)
    return np.where(known, np.floor(np.where(known, age, 0) / 10) * 10, -1).astype(np.int64)


def _age_remarks(age: NDArray[np.floating] | None, n: int) -> list[str]:
    if age is None or not np.isfinite(age).any():
        return ["the records have no age: nothing by decade"]
    missing = n - int(np.isfinite(age).sum())
    return [f"{missing} records have no age: they are in no decade"] if missing else []


def facts_of(found: Uncertainty) -> dict[str, Any]:
    """For `--json` and the report: the scores of all records by name, and every stratum."""
    first = found.strata[0]
    return {
        "records": first.records,
        "patients": first.patients,
        **first.scores,
        "intervals": first.intervals,
        "strata": found.strata[1:],
        "remarks": list(found.remarks),
    }
