"""The fits of a sweep as independent tasks: a K-means under one setting, and everything that is measured of it.

Whoever does them has the material: activations that were extracted once, the questions about the records, and which
records fit and which score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecgscale.clusters.kmeans import FitSettings, KMeansFit, fit_kmeans
from ecgscale.clusters.model import MIN_TAU
from ecgscale.errors import UsageError
from ecgscale.evaluate.breakdown import value_of
from ecgscale.evaluate.forests import ForestSettings
from ecgscale.evaluate.heartbeat import Heartbeat
from ecgscale.evaluate.holdout import Holdout
from ecgscale.evaluate.out_of_fold import InMemory, answer
from ecgscale.evaluate.questions import Questions
from ecgscale.evaluate.rotation import Rotation
from ecgscale.evaluate.scores import scorers
from ecgscale.evaluate.stability import effective_number
from ecgscale.passes.extracted import Extracted, Shares

KEPT = (
    "agreement",
    "majority_agreement",
    "kappa",
    "accuracy",
    "network_accuracy",
    "auroc",
    "network_auroc",
    "r2",
    "mae_to_network",
    "mae",
    "network_mae",
)


@dataclass(frozen=True)
class Material:
    """What is swept: activations of N records, the questions about them, and which of them fit and which score.

    `heartbeat` is what clusters are held against for localisation, None with the reason in `remarks`.
    """

    extracted: Extracted
    questions: Questions
    patients: NDArray[np.str_]
    train: NDArray[np.bool_]
    test: NDArray[np.bool_]
    layer_names: tuple[str, ...]
    heartbeat: Heartbeat | None = None
    told: str = ""
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Variant:
    """The activations that a fit sees: of some of the blocks, under some depth factors; None: as they were taken."""

    blocks: tuple[int, ...] | None = None
    scales: tuple[float, ...] | None = None

    def of(self, extracted: Extracted) -> Extracted:
        """These activations."""
        if self.blocks is not None:
            extracted = extracted.with_blocks(self.blocks)
        return extracted if self.scales is None else extracted.with_scales(self.scales)


@dataclass(frozen=True)
class FitTask:
    """K-means for every K of `clusters` on these records; `measured`: with what is measured of each."""

    variant: Variant
    records: NDArray[np.int64]
    clusters: tuple[int, ...]
    seed: int
    measured: bool = True


@dataclass(frozen=True)
class SoftTask:
    """Soft assignment under γ and τ by the centroids of one fit."""

    fit: KMeansFit
    gamma: int
    tau: float


@dataclass(frozen=True)
class Asked:
    """What all tasks of a sweep share."""

    material: Material
    fit: FitSettings
    forests: ForestSettings


@dataclass(frozen=True)
class Fits:
    """K → its fit, and what was measured of it; a K that the records were too few for is told in `remarks`."""

    fits: dict[int, KMeansFit] = field(default_factory=dict)
    facts: dict[int, dict[str, Any]] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()


def fit_and_measure(asked: Asked, task: FitTask) -> Fits:
    """Do one task."""
    extracted = task.variant.of(asked.material.extracted)
    fits, remarks = _fits(asked, extracted, task.records, task.clusters, task.seed)
    facts = {k: _facts(asked, extracted, fit) for k, fit in fits.items()} if task.measured else {}
    return Fits(fits, facts, remarks)


def soften(asked: Asked, task: SoftTask) -> dict[str, Any]:
    """The range of the entropy, and what soft proportions tell, under one γ and τ."""
    shares = asked.material.extracted.soft(task.fit.centroids, task.gamma, task.tau)
    return {
        "gamma": task.gamma,
        "tau": task.tau,
        "mean_entropy": float(shares.mean_entropy.mean()),
        "entropy_1_percent": float(shares.entropy_range[0]),
        "entropy_99_percent": float(shares.entropy_range[1]),
        **_surrogate(asked, shares.soft),
    }


def _fits(
    asked: Asked, extracted: Extracted, records: NDArray[np.int64], clusters: Sequence[int], seed: int
) -> tuple[dict[int, KMeansFit], tuple[str, ...]]:
    source, settings = extracted.of(records), replace(asked.fit, seed=seed)
    try:
        return dict(zip(clusters, fit_kmeans(source, clusters, settings), strict=True)), ()
    except UsageError as error:
        if len(clusters) == 1:
            return {}, (f"no clusters from {len(records)} records: {error}",)
    fits: dict[int, KMeansFit] = {}
    remarks: tuple[str, ...] = ()
    for one in clusters:
        found, told = _fits(asked, extracted, records, (one,), seed)
        fits, remarks = fits | found, remarks + told
    return fits, remarks


def _facts(asked: Asked, extracted: Extracted, fit: KMeansFit) -> dict[str, Any]:
    """Everything that is measured of one fit."""
    heartbeat = asked.material.heartbeat
    shares = extracted.soft(fit.centroids, 2, max(fit.final.mean_margin, MIN_TAU), labels=heartbeat is not None)
    return {
        "explained_variance": _explained(asked.material, extracted, fit),
        "explained_variance_fit": fit.explained_variance,
        "effective_clusters": effective_number(fit.final.counts),
        "largest_share": float((fit.final.counts / max(fit.final.n_timesteps, 1)).max()),
        "converged": fit.converged,
        **_surrogate(asked, shares.proportions),
        **_localisation(heartbeat, shares, len(fit.centroids)),
    }


def _surrogate(asked: Asked, proportions: NDArray[np.float32]) -> dict[str, float | None]:
    material = asked.material
    rotation = Rotation((Holdout(material.train, material.test, ""),), ("held out",), "")
    answers = answer(material.questions, InMemory(proportions), rotation, asked.forests)
    found = scorers(material.questions, answers, material.test)
    return {name: value_of(found[name], material.test) for name in KEPT if name in found}


def _localisation(heartbeat: Heartbeat | None, shares: Shares, n_clusters: int) -> dict[str, float | None]:
    return heartbeat.compare(shares.labels, n_clusters) if heartbeat else {}


def _explained(material: Material, extracted: Extracted, fit: KMeansFit) -> float | None:
    """1 − inertia / total variance, of the records that score."""
    source = extracted.of(np.flatnonzero(material.test))
    around, whole = source.assign_to([fit.centroids, np.zeros_like(fit.centroids[:1])])
    mean = whole.feature_sums[0] / max(whole.n_timesteps, 1)
    variance = whole.inertia - whole.n_timesteps * float(mean @ mean)
    return 1.0 - around.inertia / variance if variance > 0 else None
