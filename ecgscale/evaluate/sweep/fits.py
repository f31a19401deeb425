"""The fits of a sweep as independent tasks: a K-means under one setting, and everything that is measured of it.

Whoever does them has the material: activations that were extracted once, the questions about the records, and which
records fit and which score.

How alike clusterings of the same timesteps are: adjusted Rand index, distance of matched centroids, and how many
clusters count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_rand_score

from ecgscale.clusters.kmeans import FitSettings, KMeansFit, fit_kmeans
from ecgscale.clusters.model import MIN_TAU
from ecgscale.errors import UsageError
from ecgscale.evaluate.forests import ForestSettings, InMemory
from ecgscale.evaluate.localise.heartbeat import Heartbeat
from ecgscale.evaluate.questions import Questions
from ecgscale.evaluate.surrogate.out_of_fold import answer
from ecgscale.evaluate.surrogate.rotation import Holdout, Rotation
from ecgscale.evaluate.surrogate.scores import scorers, values_of
from ecgscale.passes.features import Extracted, Shares


@dataclass(frozen=True)
class Stability:
    """Over all pairs of several clusterings: mean and smallest adjusted Rand index (1 the same, 0 chance), and the mean
    distance of matched centroids in units of the features' spread."""

    pairs: int
    ari: float
    ari_min: float
    centroid_distance: float


def stability(centroid_sets: Sequence[NDArray[np.floating]], sample: NDArray[np.floating]) -> Stability | None:
    """Compare sets of centroids (K, C) on a sample of features (n, C) that none was fitted on; None for fewer than two
    sets, or an empty sample."""
    if len(centroid_sets) < 2 or not len(sample):
        return None
    labels = [nearest(sample, centroids) for centroids in centroid_sets]
    spread = float(np.sqrt(((sample - sample.mean(axis=0)) ** 2).sum(axis=1).mean())) or 1.0
    pairs = list(combinations(range(len(centroid_sets)), 2))
    rand = [float(adjusted_rand_score(labels[a], labels[b])) for a, b in pairs]
    apart = [matched_distance(centroid_sets[a], centroid_sets[b]) / spread for a, b in pairs]
    return Stability(len(pairs), float(np.mean(rand)), min(rand), float(np.mean(apart)))


def nearest(features: NDArray[np.floating], centroids: NDArray[np.floating]) -> NDArray[np.int64]:
    """(n,) the nearest centroid of each feature vector, the lowest index on ties."""
    x, c = features.astype(np.float64), centroids.astype(np.float64)
    return np.asarray(((c**2).sum(axis=1) - 2 * x @ c.T).argmin(axis=1))


def matched_distance(one: NDArray[np.floating], other: NDArray[np.floating]) -> float:
    """Mean Euclidean distance between centroids (K, C) matched one to one at the least total (Kuhn 1955)."""
    apart = np.sqrt(
        np.maximum(((one[:, None].astype(np.float64) - other[None].astype(np.float64)) ** 2).sum(axis=2), 0)
    )
    rows, columns = linear_sum_assignment(apart)
    return float(apart[rows, columns].mean())


def effective_number(counts: NDArray[np.integer]) -> float:
    """exp(entropy) of the shares of clusters: K when all are equally large, 1 when one has everything."""
    share = counts[counts > 0] / max(counts.sum(), 1)
    return float(np.exp(-(share * np.log(share)).sum())) if len(share) else 0.0


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
    [answers] = answer([material.questions], InMemory(proportions), rotation, asked.forests)
    found = scorers(material.questions, answers, material.test)
    return values_of({name: found[name] for name in KEPT if name in found}, int(material.test.sum()))


def _localisation(heartbeat: Heartbeat | None, shares: Shares, n_clusters: int) -> dict[str, float | None]:
    return heartbeat.compare(shares.labels, n_clusters) if heartbeat else {}


def _explained(material: Material, extracted: Extracted, fit: KMeansFit) -> float | None:
    """1 − inertia / total variance, of the records that score."""
    source = extracted.of(np.flatnonzero(material.test))
    around, whole = source.assign_to([fit.centroids, np.zeros_like(fit.centroids[:1])])
    mean = whole.feature_sums[0] / max(whole.n_timesteps, 1)
    variance = whole.inertia - whole.n_timesteps * float(mean @ mean)
    return 1.0 - around.inertia / variance if variance > 0 else None
