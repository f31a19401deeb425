"""Scores by kind of target, and what has none."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ecgscale.encoders.optimise import LoopSettings, optimise
from ecgscale.encoders.targets import Target, headline, score
from ecgscale.errors import EcgscaleError
from tests.worlds.formula.small_networks import noise, small_resnet


def test_multilabel_leaves_out_what_has_no_auroc() -> None:
    y = np.array([[0, 1, 0], [1, 1, 0], [0, 1, 1], [1, 1, 0]], np.float32)
    predicted = np.array([[-1, 0, 0], [2, 0, 1], [-3, 0, 2], [1, 0, 3]], np.float32)
    found = score("multilabel", ["a", "b", "c"], predicted, y)
    assert found == {"auroc_macro": pytest.approx((1 + 2 / 3) / 2), "auroc:a": 1.0, "auroc:c": pytest.approx(2 / 3)}
    assert headline("multilabel", found) == "macro AUROC 0.833"
    assert score("multilabel", ["b"], predicted[:, 1:2], y[:, 1:2]) == {}
    assert headline("multilabel", {}) == "auroc_macro undefined"


def test_multiclass_counts_an_unknown_class_as_wrong() -> None:
    predicted = np.array([[2, 1], [0, 1], [3, 1], [0, 2]], np.float32)
    found = score("multiclass", ["x", "y"], predicted, np.array([0, 1, -1, 1]))
    assert found["accuracy"] == 0.75
    assert found["auroc:y"] == 0.75  # two ties of four


def test_regression_and_outputs_that_are_no_numbers() -> None:
    y = np.array([[1.0], [3.0]], np.float32)
    assert score("regression", ["age"], y + 1, y) == {"mae": 1.0, "rmse": 1.0, "r2": 0.0}
    assert "r2" not in score("regression", ["age"], y[:1], y[:1])
    assert score("regression", ["age"], y * np.nan, y) == {}


def test_a_loss_that_is_never_finite_is_an_error() -> None:
    x = np.stack([noise(256, seed=i) for i in range(8)])
    target = Target("multilabel", ("a", "b"), np.ones((8, 2), np.float32))
    net = small_resnet()
    with torch.no_grad():
        net.lin.bias.fill_(torch.nan)
    rows = np.arange(8)
    with pytest.raises(EcgscaleError, match="never finite"):
        optimise(net, x, target, rows[:6], rows[6:], LoopSettings(epochs=3), device=torch.device("cpu"))
