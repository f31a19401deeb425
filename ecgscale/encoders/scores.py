"""Losses a network is trained with, and the scores that say how good it is, by kind of target."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from torch.nn import functional

from ecgscale.encoders.targets import Kind

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

LOSSES: dict[Kind, Loss] = {
    "multilabel": functional.binary_cross_entropy_with_logits,
    "multiclass": partial(functional.cross_entropy, ignore_index=-1),  # a class that training never saw
    "regression": functional.mse_loss,
}

HEADLINE: dict[Kind, str] = {"multilabel": "auroc_macro", "multiclass": "auroc_macro", "regression": "mae"}


def score(kind: Kind, names: Sequence[str], predicted: NDArray, y: NDArray) -> dict[str, float]:
    """Scores of outputs (N, n) against a target as `targets.encode` gives it; keys depend on the kind.

    multilabel: auroc_macro and auroc:NAME. multiclass: those and accuracy. regression: mae, rmse, r2. A class without
    both positives and negatives has no AUROC and is left out of the mean; a class unknown to the network (-1) counts
    as wrong. Outputs that are not finite have no scores at all.
    """
    if not np.isfinite(predicted).all():
        return {}
    if kind == "regression":
        error = predicted.astype(np.float64) - y
        spread = float(np.sum((y - y.mean()) ** 2, dtype=np.float64))
        scores = {"mae": float(np.abs(error).mean()), "rmse": float(np.sqrt((error**2).mean()))}
        return scores | ({"r2": 1 - float((error**2).sum()) / spread} if spread > 0 else {})
    truth = y if kind == "multilabel" else (y[:, None] == np.arange(len(names))).astype(np.float32)
    each = {
        f"auroc:{name}": float(roc_auc_score(truth[:, i], predicted[:, i]))
        for i, name in enumerate(names)
        if 0 < truth[:, i].sum() < len(truth)
    }
    scores = {"auroc_macro": float(np.mean(list(each.values())))} if each else {}
    if kind == "multiclass":
        scores["accuracy"] = float((predicted.argmax(axis=1) == y).mean())
    return scores | each


def told(kind: Kind, scores: dict[str, float]) -> str:
    """The headline in words: "AUROC 0.887", "mean absolute error 8.10"."""
    value = scores.get(HEADLINE[kind])
    if value is None:
        return f"{HEADLINE[kind]} undefined"
    return f"mean absolute error {value:.2f}" if kind == "regression" else f"macro AUROC {value:.3f}"
