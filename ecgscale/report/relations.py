"""How cluster proportions go with labels, with the network's outputs, with age and sex, and how uncertainty does.

All numbers are over the explained records of a dataset; what cannot be computed (a class that nobody has, an age that
nobody gave) is NaN or left out, never zero.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ecgscale.report.subject import Subject

FEWEST = 5
"""A group of fewer records is not summarised."""
_AGES = tuple(range(0, 100, 10))
_CHUNK = 200_000


@dataclass(frozen=True)
class Correlations:
    """Pearson's r of each cluster's proportion with each of some variables: r is (n_variables, K), NaN if constant."""

    variables: tuple[str, ...]
    r: NDArray[np.float64]
    records: tuple[int, ...]
    """How many records each row rests on."""


@dataclass(frozen=True)
class Group:
    """A box of a plot: quantiles 5, 25, 50, 75 and 95 % of the mean entropy of some records."""

    name: str
    records: int
    quantiles: tuple[float, float, float, float, float]


def correlations(proportions: NDArray[np.float32], variables: dict[str, NDArray[np.floating]]) -> Correlations:
    """Pearson's r of proportions (M, K) with each variable (M,), over the records where the variable is finite."""
    rows, counts = [], []
    for values in variables.values():
        known = np.isfinite(values)
        counts.append(int(known.sum()))
        rows.append(_pearson(proportions, np.asarray(values, dtype=np.float64), known))
    r = np.array(rows).reshape(len(rows), proportions.shape[1])
    return Correlations(tuple(variables), r, tuple(counts))


def label_variables(subject: Subject) -> dict[str, NDArray[np.floating]]:
    """The true labels as numbers, by class, then age and sex where they are there; NaN where not known."""
    truth, found = subject.rows.truth, {}
    if truth is not None and subject.is_regression:
        found[subject.target or "label"] = np.where(truth.known, truth.y, np.nan)
    elif truth is not None:
        sets = np.where(truth.known[:, None], subject.labelled(), np.nan)
        found |= {name: sets[:, i] for i, name in enumerate(subject.classes)}
    age = subject.rows.numbers("age")
    if age is not None and "age" not in found:
        found["age"] = age
    if "sex" in subject.rows.table.column_names and subject.target != "sex":
        sexes = subject.rows.table.column("sex")
        known = pc.is_in(sexes, pa.array(["male", "female"])).to_numpy()
        male = np.where(known, pc.fill_null(pc.equal(sexes, "male"), False).to_numpy(), np.nan)
        if np.isfinite(male).any():
            found["male"] = male
    return found


def output_variables(subject: Subject) -> dict[str, NDArray[np.floating]]:
    """The network's outputs: probabilities by class, or the value of a regression."""
    if subject.is_regression:
        return {subject.classes[0]: subject.rows.outputs[:, 0]}
    return {name: subject.rows.outputs[:, i] for i, name in enumerate(subject.classes)}


def class_groups(subject: Subject) -> dict[str, NDArray[np.bool_]]:
    """Members (M,) of each class by the labels, or by the network where no labels are known; of thirds of a value."""
    if not subject.is_regression:
        known = subject.rows.truth is not None
        sets = subject.labelled() if known else subject.decided()
        return {name: sets[:, i] for i, name in enumerate(subject.classes)}
    truth = subject.rows.truth
    values = np.where(truth.known, truth.y, np.nan) if truth is not None else subject.rows.outputs[:, 0]
    low, high = np.nanquantile(values, [1 / 3, 2 / 3])
    name = subject.target if truth is not None else subject.classes[0]
    return {
        f"{name} up to {low:.3g}": values <= low,
        f"{low:.3g} to {high:.3g}": (values > low) & (values < high),
        f"{name} from {high:.3g}": values >= high,
    }


def group_means(proportions: NDArray[np.float32], groups: dict[str, NDArray[np.bool_]]) -> NDArray[np.float64]:
    """(n_groups, K) mean proportion within each group; NaN for an empty one."""
    means = [
        proportions[members].mean(axis=0, dtype=np.float64) if members.any() else np.full(proportions.shape[1], np.nan)
        for members in groups.values()
    ]
    return np.array(means).reshape(len(groups), proportions.shape[1])


def entropy_by(entropy: NDArray[np.floating], groups: dict[str, NDArray[np.bool_]]) -> list[Group]:
    """The distribution of the mean entropy (M,) in each group of at least `FEWEST` records."""
    found = []
    for name, members in groups.items():
        values = entropy[members & np.isfinite(entropy)].astype(np.float64)
        if len(values) >= FEWEST:
            low, first, middle, third, high = np.quantile(values, [0.05, 0.25, 0.5, 0.75, 0.95]).tolist()
            found.append(Group(name, len(values), (low, first, middle, third, high)))
    return found


def age_groups(subject: Subject) -> dict[str, NDArray[np.bool_]]:
    """Members (M,) of each decade of age; empty where no ages are known."""
    age = subject.rows.numbers("age")
    if age is None:
        return {}
    decades = {f"{start}–{start + 9}": (age >= start) & (age < start + 10) for start in _AGES[:-1]}
    return {**decades, f"{_AGES[-1]}+": age >= _AGES[-1]}


def right_groups(subject: Subject) -> dict[str, NDArray[np.bool_]]:
    """Records that the network calls right in every label, and those that it does not; empty without labels."""
    truth = subject.rows.truth
    if truth is None or subject.is_regression:
        return {}
    right = (subject.decided() == subject.labelled()).all(axis=1)
    return {"all labels right": truth.known & right, "some label wrong": truth.known & ~right}


def error_by_entropy(subject: Subject, members: NDArray[np.bool_], n_bins: int = 5) -> list[tuple[str, int, float]]:
    """(entropy from – to, records, error) in bins of equal size by mean entropy, over the labelled `members`.

    The error is the share of records with a wrong label, or the mean absolute error of a regression. Empty where a bin
    would hold fewer than `FEWEST` records.
    """
    truth, entropy = subject.rows.truth, subject.rows.mean_entropy
    if truth is None:
        return []
    if subject.is_regression:
        error = np.abs(subject.rows.outputs[:, 0] - truth.y)
    else:
        error = (subject.decided() != subject.labelled()).any(axis=1).astype(np.float64)
    rows = np.flatnonzero(members & truth.known)
    if len(rows) < FEWEST * n_bins:
        return []
    ordered = rows[np.argsort(entropy[rows], kind="stable")]
    return [
        (f"{entropy[part[0]]:.2f}–{entropy[part[-1]]:.2f}", len(part), float(error[part].mean()))
        for part in np.array_split(ordered, n_bins)
    ]


def _pearson(
    proportions: NDArray[np.float32], values: NDArray[np.float64], known: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """(K,) in two passes over stretches of records, so that a large dataset is never held as float64."""
    n, k = int(known.sum()), proportions.shape[1]
    if n < FEWEST:
        return np.full(k, np.nan)
    y = values[known] - values[known].mean()
    x = proportions[known]
    mean = x.mean(axis=0, dtype=np.float64)
    covariance, variance = np.zeros(k), np.zeros(k)
    for start in range(0, n, _CHUNK):
        centred = x[start : start + _CHUNK] - mean
        covariance += y[start : start + _CHUNK] @ centred
        variance += (centred**2).sum(axis=0)
    spread = np.sqrt(variance * (y**2).sum())
    return np.where(spread > 1e-12, covariance / np.where(spread > 1e-12, spread, 1), np.nan)
