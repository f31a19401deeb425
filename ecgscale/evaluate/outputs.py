"""A network's raw outputs as probabilities and decisions, by the kind and scale that its contract states."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ecgscale.encoders.spec import OutputSpec


def probabilities(prediction: NDArray[np.floating], output: OutputSpec) -> NDArray[np.float64]:
    """(..., n_outputs) raw outputs as probabilities; values of a regression as they are."""
    raw = prediction.astype(np.float64)
    if output.scale != "logit":
        return raw
    if output.kind == "multiclass":
        shifted = np.exp(raw - raw.max(axis=-1, keepdims=True))
        return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True))
    return np.asarray(0.5 * (1 + np.tanh(raw / 2)))  # the logistic function, without overflow


def decisions(prediction: NDArray[np.floating], output: OutputSpec) -> NDArray[np.int64] | NDArray[np.float64]:
    """What the network says about (N, n_outputs) raw outputs.

    multilabel: (N, n) 0/1, 1 where the probability exceeds a half; multiclass: (N,) the largest output; regression:
    (N,) the first value.
    """
    if output.kind == "regression":
        return prediction[:, 0].astype(np.float64)
    if output.kind == "multiclass":
        return prediction.argmax(axis=1).astype(np.int64)
    return (prediction > (0.0 if output.scale == "logit" else 0.5)).astype(np.int64)
