"""Explained records made by hand: labels, a network that errs in some, and proportions that tell all or nothing."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from ecgscale.encoders.spec import OutputSpec
from ecgscale.evaluate.forests import ForestSettings

NAMES = ("CD", "MI", "NORM")
LABELS = OutputSpec(kind="multilabel", scale="logit", names=NAMES)
CLASSES = OutputSpec(kind="multiclass", scale="logit", names=NAMES)
YEARS = OutputSpec(kind="regression", scale="value", names=("years",))
N, K = 240, 5
SMALL = ForestSettings(trees=60, n_jobs=1)


def explanations(informative: bool = True, quarantined: int = 0, n: int = N) -> pa.Table:
    """Two records a patient, ten folds. `value` is what a network of years would say, `group` one class a record."""
    rng = np.random.default_rng(7)
    truth = rng.random((n, 3)) < (0.3, 0.4, 0.5)
    network = np.where(rng.random((n, 3)) < 0.1, ~truth, truth)
    basis = np.column_stack([network, np.ones((n, 2))]) if informative else np.ones((n, K))
    weights = basis * 2 + rng.random((n, K))
    ok = np.arange(n) >= quarantined
    proportions = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    logits = np.where(network, 2.0, -2.0) + rng.normal(0, 0.3, (n, 3))
    years = 50 + 20 * proportions[:, 0].astype(float) * 5
    return pa.table(
        {
            "record_id": [f"r{i}" for i in range(n)],
            "patient_id": [f"p{i // 2}" for i in range(n)],
            "fold": pa.array(1 + np.arange(n) // 2 % 10, pa.int16()),
            "status": ["ok" if there else "flat_signal" for there in ok],
            "proportions": pa.array(
                [row if there else None for row, there in zip(proportions.tolist(), ok, strict=True)],
                pa.list_(pa.float32(), K),
            ),
            "prediction": [row if there else None for row, there in zip(logits.tolist(), ok, strict=True)],
            "labels": [[name for name, has in zip(NAMES, row, strict=True) if has] or ["OTHER"] for row in truth],
            "years": years + rng.normal(0, 2, n),
            "value": [[year] if there else None for year, there in zip(years.tolist(), ok, strict=True)],
            "group": [NAMES[i] for i in network.argmax(axis=1)],
        }
    )


def replaced(table: pa.Table, name: str, values: list) -> pa.Table:
    """`table` with another column of that name."""
    return table.set_column(table.schema.get_field_index(name), name, pa.array(values))
