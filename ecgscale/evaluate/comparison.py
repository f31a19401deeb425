"""The scores that set forests, network, labels and the most frequent answer side by side.

Every score is a `Scorer`: it takes weights of the records that score, so that the same code gives the value and its
bootstrap distribution.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ecgscale.encoders.spec import OutputSpec
from ecgscale.evaluate.bootstrap import Scorer, macro_auroc, r_squared, weighted_mean
from ecgscale.evaluate.forests import forest_classes, forest_values
from ecgscale.evaluate.holdout import FEWEST_TRAIN, Holdout
from ecgscale.evaluate.outputs import decisions, probabilities
from ecgscale.evaluate.truth import Truth


@dataclass(frozen=True)
class ExplainedRecords:
    """Explained records: proportions (N, K), prediction (N, n), labels, and what fits and what scores."""

    proportions: NDArray[np.float32]
    prediction: NDArray[np.float32]
    truth: Truth
    holdout: Holdout
    output: OutputSpec
    seed: int

    @property
    def labelled_train(self) -> NDArray[np.bool_]:
        known = self.holdout.train & self.truth.known
        return known & (self.truth.y >= 0) if self.output.kind == "multiclass" else known

    @property
    def labelled_test(self) -> NDArray[np.bool_]:
        """(n_test,) which of the records that score have labels."""
        return self.truth.known[self.holdout.test]

    def forest_classes(
        self, fitting: NDArray[np.bool_], y: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """((n_test, n) probabilities, (n_test, n) 0/1 decisions) of a forest fitted on the rows `fitting`."""
        x, exclusive = self.proportions, self.output.kind == "multiclass"
        shares = forest_classes(x[fitting], y[fitting], x[self.holdout.test], exclusive=exclusive, seed=self.seed)
        if exclusive:
            return shares, _as_columns(shares.argmax(axis=1), y.shape[1])
        return shares, (shares > 0.5).astype(np.int64)

    def forest_values(self, fitting: NDArray[np.bool_], y: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n_test,) values of a forest fitted on the rows `fitting`."""
        x = self.proportions
        return forest_values(x[fitting], y[fitting], x[self.holdout.test], seed=self.seed)


def classification_scorers(data: ExplainedRecords) -> tuple[dict[str, Scorer | None], list[str]]:
    """Scorers over the records of the test part, and remarks."""
    train, test, names = data.holdout.train, data.holdout.test, data.output.names
    network = _as_columns(decisions(data.prediction, data.output), len(names))
    _, imitated = data.forest_classes(train, network)
    majority = _majority(network[train], data.output.kind)
    scorers = _matches(imitated, network[test], majority, data.output.kind)
    remarks: list[str] = []
    labelled = data.labelled_test
    if data.labelled_train.sum() < FEWEST_TRAIN or not labelled.any():
        return scorers, [f"too few records have labels: no scores against {', '.join(names)}"]
    truth = _as_columns(data.truth.y, len(names))
    shares, decided = data.forest_classes(data.labelled_train, truth)
    says = probabilities(data.prediction, data.output)[test]
    y = truth[test]
    correct = _only(labelled, _same(decided, y, data.output.kind))
    scorers |= {
        "accuracy": correct,
        "network_accuracy": _only(labelled, _same(network[test], y, data.output.kind)),
        "auroc": _labelled_auroc(labelled, y, shares),
        "network_auroc": _labelled_auroc(labelled, y, says),
    }
    single = [name for i, name in enumerate(names) if not 0 < y[labelled, i].sum() < labelled.sum()]
    if single:
        remarks.append(f"no AUROC for {', '.join(single)}: the labelled records scored hold one value only")
    if not labelled.all():
        remarks.append(f"{(~labelled).sum()} records scored have no label: they count for the agreement alone")
    return scorers, remarks


def regression_scorers(data: ExplainedRecords) -> tuple[dict[str, Scorer | None], list[str]]:
    train, test = data.holdout.train, data.holdout.test
    network = np.asarray(decisions(data.prediction, data.output), dtype=np.float64)
    imitated = data.forest_values(train, network)
    scorers: dict[str, Scorer | None] = {
        "r2": r_squared(network[test], imitated),
        "mae_to_network": weighted_mean(np.abs(imitated - network[test])),
    }
    labelled = data.labelled_test
    if data.labelled_train.sum() < FEWEST_TRAIN or not labelled.any():
        return scorers, ["too few records have labels: no scores against them"]
    y = np.where(labelled, data.truth.y[test], 0.0)
    told = data.forest_values(data.labelled_train, data.truth.y)
    mean = float(data.truth.y[data.labelled_train].mean())
    scorers |= {
        "mae": _only(labelled, np.abs(told - y)),
        "network_mae": _only(labelled, np.abs(network[test] - y)),
        "mean_mae": _only(labelled, np.abs(mean - y)),
    }
    unlabelled = int((~labelled).sum())
    return scorers, [f"{unlabelled} records scored have no label"] if unlabelled else []


def _matches(
    imitated: NDArray[np.int64], network: NDArray[np.int64], majority: NDArray[np.int64], kind: str
) -> dict[str, Scorer | None]:
    """How far the forest, and the most frequent answers, are what the network decided."""
    always = np.broadcast_to(majority, network.shape)
    return {
        "agreement": weighted_mean(_same(imitated, network, kind)),
        "majority_agreement": weighted_mean(_same(always, network, kind)),
        "exact_match": weighted_mean((imitated == network).all(axis=1)),
        "majority_exact_match": weighted_mean((always == network).all(axis=1)),
    }


def _same(a: NDArray[np.int64], b: NDArray[np.int64], kind: str) -> NDArray[np.float64]:
    """(N,) the share of labels that are equal; for exclusive classes whether the class is."""
    equal = a == b
    return (equal.all(axis=1) if kind == "multiclass" else equal.mean(axis=1)).astype(np.float64)


def _majority(decided: NDArray[np.int64], kind: str) -> NDArray[np.int64]:
    """(n,) the most frequent decision: label by label, or the most frequent class."""
    if kind == "multiclass":
        return np.eye(decided.shape[1], dtype=np.int64)[decided.sum(axis=0).argmax()]
    return (decided.mean(axis=0) > 0.5).astype(np.int64)


def _as_columns(decided: NDArray, n: int) -> NDArray[np.int64]:
    """Classes (N,) as (N, n) 0/1, an unknown class (-1) as zeros; 0/1 columns as they are."""
    return decided if decided.ndim == 2 else (decided[:, None] == np.arange(n)).astype(np.int64)


def _only(labelled: NDArray[np.bool_], values: NDArray[np.floating]) -> Scorer:
    """Scorer of the mean over the labelled records."""
    mean = weighted_mean(values[labelled])
    return lambda weights: mean(weights[:, labelled])


def _labelled_auroc(labelled: NDArray[np.bool_], y: NDArray[np.int64], scores: NDArray[np.floating]) -> Scorer | None:
    macro = macro_auroc(y[labelled], scores[labelled])
    return (lambda weights: macro(weights[:, labelled])) if macro else None
