"""How likely a given label is, by probabilities that did not come from it: cleanlab's scores, one a record.

Northcutt et al. 2021 (confident learning); Thyagarajan et al. 2023 for several labels a record. Of a record's labels
the worst one decides (a soft minimum): one wrong label among five has to be found.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ecgscale.errors import UsageError
from ecgscale.evaluate.forests import Kind

_TEMPERATURE = 0.1
_LEAST = 1e-6


def require_cleanlab() -> None:
    """Raise UsageError where cleanlab is not installed."""
    try:
        import cleanlab  # noqa: F401
    except ImportError as error:
        raise UsageError("ranking labels takes cleanlab: pip install 'ecgscale[evaluate]'") from error


def label_quality(y: NDArray, says: NDArray[np.floating], kind: Kind) -> NDArray[np.float64]:
    """(N,) in 0…1, the lower the more suspicious: labels y and out-of-sample probabilities `says`, both (N, n) (0/1; of
    exclusive classes one a record), or (N,) values of a regression."""
    if not len(y):
        return np.empty(0)
    if kind == "regression":
        from cleanlab.regression.rank import get_label_quality_scores as of_values

        return np.asarray(of_values(y.astype(np.float64), says.astype(np.float64), method="residual"))
    sure = np.clip(says.astype(np.float64), _LEAST, 1 - _LEAST)
    if kind == "multiclass":
        # cleanlab wants every class among the labels; self-confidence is the probability of the class given.
        return np.asarray((sure * y).sum(axis=1) / np.maximum(sure.sum(axis=1), _LEAST))
    from cleanlab.multilabel_classification import get_label_quality_scores as of_sets

    names = [np.flatnonzero(row).tolist() for row in y]
    aggregate = {"method": "softmin", "temperature": _TEMPERATURE}
    return np.asarray(of_sets(names, sure, aggregator_kwargs=aggregate))
