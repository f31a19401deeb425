"""Summaries of probes that are made to say something, and of probes that say nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr

from ecgscale.encoders.spec import OutputSpec
from ecgscale.evaluate.localise.shifts import NOTHING, against_shifts
from ecgscale.evaluate.probe import (
    _shifted_correlations,
    masked_clusters,
    mean_over,
    rank_correlation,
    summarise_probes,
)
from ecgscale.passes.probe.schema import EMPTY

OUTPUT = OutputSpec(kind="multilabel", scale="logit", names=("a", "b"))
LAYERS = ("fine", "coarse")
N, STEPS, CLUSTERS = 12, 64, 6
RNG = np.random.default_rng(0)


def smooth(n: int = STEPS) -> np.ndarray:
    """A course that changes slowly, as clusters do."""
    return np.convolve(RNG.normal(size=n + 8), np.ones(9) / 9, mode="valid")


def row(number: int, follows: bool) -> dict[str, Any]:
    """A probed record; where Grad-CAM `follows` entropy, clusters with more of it also change more when masked."""
    entropy = smooth()
    course = np.where(np.arange(STEPS) < 4, np.nan, entropy)
    cam = entropy - entropy.min() if follows else smooth() + 5
    strength = np.arange(CLUSTERS) / CLUSTERS
    shares = RNG.permutation(np.arange(1, CLUSTERS + 1)) / 21
    masked = [
        {
            "cluster": k,
            "share": shares[k],
            "entropy": float(RNG.random()),
            "gradcam": [shares[k] * (strength[k] if follows else float(RNG.random()))] * 2,
            "prediction": [2.0 - (2 * strength[k] if follows else 0.5), -1.0],
            "moved": [[1.5, -1.0], [1.6, -1.0]],
        }
        for k in range(CLUSTERS)
    ]
    latents = [
        {"other": "x", "wave": "QRS", "dtw_mv": d, "latent": d + 0.1 * RNG.normal(), "shifted": RNG.random(20)}
        for d in RNG.random(4)
    ]
    return {
        **EMPTY,
        "record_id": f"r{number}",
        "patient_id": f"p{number}",
        "prediction": [2.0, -1.0],
        "target": 0,
        "mean_entropy": number / N,
        "entropy": course,
        "gradcam": [cam, cam.reshape(-1, 4).mean(axis=1)],
        "dropout": [[2.0 + number / N * x, -1.0] for x in (-1, 0, 1)],
        "votes": course + 0.01 * RNG.normal(size=STEPS),
        "masked": masked,
        "occluded": [
            {"lead": "I", "prediction": [0.0, 0.0], "changed": 0.5, "lost": [1.0, 0.25, np.nan]},
            {"lead": "II", "prediction": [2.0, -1.0], "changed": 0.0, "lost": [0.0, 0.0, np.nan]},
        ],
        "randomised": [
            {"stage": "head", "prediction": [0.0, 0.0], "entropy": course, "gradcam": [cam, smooth(16)]},
            {"stage": "everything", "prediction": [-2.0, 0.0], "entropy": smooth(), "gradcam": [smooth(), smooth(16)]},
        ],
        "pairs": latents if follows else [],
    }


def test_probes_that_agree_with_entropy() -> None:
    found = summarise_probes([row(i, True) for i in range(N)], LAYERS, OUTPUT, n_bootstrap=50)
    fine = found.gradcam_entropy["fine"]
    assert fine.value == pytest.approx(1.0)
    assert fine.p_value == pytest.approx(1 / 201)
    assert abs(fine.shifted_mean or 0) < 0.1
    assert (found.gradcam_entropy["coarse"].value or 0) > 0.8
    assert (found.votes_entropy or NOTHING).value == pytest.approx(1.0, abs=0.05)
    assert found.dropout_entropy is not None
    assert found.dropout_entropy.value == pytest.approx(1.0)
    assert found.faithfulness["with_gradcam:fine"].value == pytest.approx(1.0)
    assert found.faithfulness["change"].n == N
    assert (found.waves["QRS"].value or 0) > 0.8
    assert found.waves["QRS"].p_value == pytest.approx(1 / 21)
    head, everything = found.randomisation
    assert head["entropy"].value == pytest.approx(1.0)
    assert abs(everything["entropy"].value) < 0.3
    assert head["output_change"].value == pytest.approx(1 / (1 + np.exp(-2)) - 0.5)
    changes = found.clusters.column("change").to_pylist()
    assert changes == sorted(changes)
    assert found.clusters.column("gain").to_pylist()[0] < 0 < found.clusters.column("gain").to_pylist()[-1]


def test_what_leads_are_worth() -> None:
    found = summarise_probes([row(i, True) for i in range(N)], LAYERS, OUTPUT, n_bootstrap=20)
    used, unused = found.occlusion
    assert (used["lead"], unused["lead"]) == ("I", "II")
    assert used["output_loss"].value == pytest.approx(1 / (1 + np.exp(-2)) - 0.5)
    assert (used["time_changed"].value, used["time_changed"].n) == (0.5, N)
    assert [unused[name].value for name in ("output_loss", "output_change", "time_changed")] == [0.0, 0.0, 0.0]
    assert found.leads.select(["lead", "cluster", "records", "lost"]).to_pylist()[:3] == [
        {"lead": "I", "cluster": 0, "records": N, "lost": 1.0},
        {"lead": "I", "cluster": 1, "records": N, "lost": 0.25},
        {"lead": "I", "cluster": 2, "records": 0, "lost": None},
    ]
    assert set(found.tables) == {"clusters", "leads"}


def test_probes_that_know_nothing_of_entropy() -> None:
    found = summarise_probes([row(i, False) for i in range(N)], LAYERS, OUTPUT, n_bootstrap=50)
    p_value = found.gradcam_entropy["fine"].p_value
    assert p_value is not None
    assert p_value > 0.01
    assert found.faithfulness["with_gradcam:fine"].value is None  # every cluster changes as much
    assert found.waves == {}


def test_what_was_not_asked_for_is_not_there() -> None:
    bare = {
        **row(0, True),
        **dict.fromkeys(("gradcam", "dropout", "votes", "masked", "occluded", "randomised", "pairs")),
    }
    found = summarise_probes([bare] * 6, LAYERS, OUTPUT, n_bootstrap=20)
    assert (found.gradcam_entropy, found.votes_entropy, found.dropout_entropy) == ({}, None, None)
    assert (found.faithfulness, found.randomisation, found.waves) == ({}, [], {})
    assert (found.occlusion, found.tables) == ([], {})
    assert masked_clusters(bare, OUTPUT) is None


def test_too_few_records_have_no_scores() -> None:
    found = summarise_probes([row(0, True)], LAYERS, OUTPUT, n_bootstrap=20)
    assert found.gradcam_entropy == {}
    assert found.dropout_entropy is not None
    assert found.dropout_entropy.value is None
    assert "too few" in found.remarks[0]
    assert summarise_probes([], LAYERS, OUTPUT).records == 0


def test_every_shift_at_once_is_every_shift_by_itself() -> None:
    a, b = smooth(), smooth()
    a[:5] = np.nan
    found = _shifted_correlations(a, b, np.random.default_rng(1))
    shifts = np.random.default_rng(1).integers(1, 59, 200)
    assert found[0] == pytest.approx(spearmanr(a[5:], b[5:]).statistic)
    for value, shift in zip(found[1:], shifts, strict=True):
        assert value == pytest.approx(spearmanr(a[5:], np.roll(b[5:], shift)).statistic)
    assert np.isnan(_shifted_correlations(np.ones(STEPS), b, np.random.default_rng(1))).all()


def test_nulls() -> None:
    values = np.append(-0.9, np.linspace(-0.1, 0.1, 99))
    assert against_shifts(values).p_value == 1.0
    assert against_shifts(values, two_sided=True).p_value == pytest.approx(1 / 100)
    assert against_shifts(np.array([np.nan, 1.0])) == NOTHING
    assert against_shifts(np.array([0.5])).shifted_mean is None
    alike = np.ones((3, 6))
    assert mean_over(np.array([1.0, 2, 3, 4, 5, np.nan]), alike).value == 3.0
    assert mean_over(np.array([1.0, np.nan, np.nan, np.nan, np.nan, 2.0]), alike).value is None
    assert rank_correlation(np.arange(6.0), np.ones(6), alike).value is None
