"""Random forests from cluster proportions to what a network or a physician said."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

TREES = 500
LEAF_RECORDS = 2


def forest_classes(
    x: NDArray[np.float32], y: NDArray[np.int64], asked: NDArray[np.float32], *, exclusive: bool, seed: int
) -> NDArray[np.float64]:
    """(n_asked, n) probabilities of each of n labels, from proportions x (N, K) and labels y (N, n) in 0/1.

    `exclusive`: exactly one label a record, else each for itself. A label that never occurs in y gets 0. The forest
    depends on the seed, not on how many cores grow it.
    """
    forest = RandomForestClassifier(TREES, min_samples_leaf=LEAF_RECORDS, random_state=seed, n_jobs=-1)
    forest.fit(x, y.argmax(axis=1) if exclusive else y)
    told = forest.predict_proba(asked)
    shares = np.zeros((len(asked), y.shape[1]))
    if exclusive:
        shares[:, forest.classes_] = told
        return shares
    # One label is a plain array to scikit-learn, several are a list of arrays.
    columns, classes = ([told], [forest.classes_]) if y.shape[1] == 1 else (told, forest.classes_)
    for i, (column, seen) in enumerate(zip(columns, classes, strict=True)):
        if 1 in seen:
            shares[:, i] = column[:, list(seen).index(1)]
    return shares


def forest_values(
    x: NDArray[np.float32], y: NDArray[np.floating], asked: NDArray[np.float32], *, seed: int
) -> NDArray[np.float64]:
    """(n_asked,) values from proportions x (N, K) and values y (N,)."""
    forest = RandomForestRegressor(TREES, min_samples_leaf=LEAF_RECORDS, random_state=seed, n_jobs=-1)
    return np.asarray(forest.fit(x, y).predict(asked))
