"""One exact K-means iteration by other means: the same activations, the same centroids, new centroids out.

Each peer gets the features in the layout it likes best, made before the clock starts; what it computes beyond new
centroids (labels of a second pass, checks for NaN) is switched off where it can be.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.cluster import MiniBatchKMeans
from threadpoolctl import threadpool_limits

from benchmarks.activations import filled_cache, made_activations, materialise, settled_centroids
from ecgscale.clusters.accumulate import PartialSums
from ecgscale.clusters.cache import ActivationCache
from ecgscale.clusters.features import BlockLayout


@dataclass(frozen=True)
class Problem:
    """Activations of `records` records, `n_clusters` centroids, `threads` threads."""

    layout: BlockLayout
    records: int
    n_clusters: int
    threads: int
    activations: list[torch.Tensor] = field(repr=False)
    cache: ActivationCache = field(repr=False)
    centroids: NDArray[np.float32] = field(repr=False)
    features: Features = field(repr=False)

    @classmethod
    def make(cls, layout: BlockLayout, records: int, n_clusters: int, threads: int, seed: int = 0) -> Problem:
        """Everything before the clock starts."""
        activations = made_activations(layout, records, seed)
        cache = filled_cache(layout, activations)
        centroids = settled_centroids(cache, n_clusters)
        return cls(layout, records, n_clusters, threads, activations, cache, centroids, Features(layout, activations))

    def with_clusters(self, n_clusters: int, threads: int) -> Problem:
        """The same activations under another number of centroids and threads."""
        centroids = settled_centroids(self.cache, n_clusters)
        return Problem(
            self.layout, self.records, n_clusters, threads, self.activations, self.cache, centroids, self.features
        )

    def ours(self) -> PartialSums:
        """One iteration from packed activations: projection, search, integer sums."""
        return self.cache.assign_to([self.centroids])[0]


class Features:
    """Dense features in both layouts, made when first asked for."""

    def __init__(self, layout: BlockLayout, activations: list[torch.Tensor]) -> None:
        self._layout, self._activations = layout, activations

    @cached_property
    def by_channel(self) -> torch.Tensor:
        """(records, C, D), as interpolation leaves them."""
        return materialise(self._layout, self._activations)

    @cached_property
    def by_timestep(self) -> torch.Tensor:
        """(records · D, C), as libraries of clustering want them."""
        return self.by_channel.transpose(1, 2).reshape(-1, self._layout.n_channels)


@dataclass(frozen=True)
class Peer:
    """`run` does one iteration after `prepare`.

    `centroids` takes the new centroids (K, C) out of what `run` gave, `counts` the sizes (K,) of the clusters, where
    the peer tells them.
    """

    name: str
    run: Callable[[], Any]
    centroids: Callable[[Any], NDArray[np.floating]]
    prepare: Callable[[], object] = lambda: None
    counts: Callable[[Any], NDArray[np.int64]] | None = None


Sums = tuple[torch.Tensor, torch.Tensor]
"""Counts (K,) and totals (K, C) of one iteration."""


def _means(sums: Sums) -> NDArray[np.floating]:
    counts, totals = sums
    means: NDArray[np.floating] = (totals / counts.clamp_min(1)[:, None]).numpy()
    return means


def _counts(sums: Sums) -> NDArray[np.int64]:
    counts: NDArray[np.int64] = sums[0].numpy()
    return counts


def _torch(name: str, run: Callable[[], Sums]) -> Peer:
    return Peer(name, run, _means, counts=_counts)


def dense(problem: Problem) -> Peer:
    """Dense torch on (records, C, D) features: two einsums, as one writes the formulas down."""
    c, n_clusters = torch.from_numpy(problem.centroids), problem.n_clusters
    half, features = c.square().sum(1) / 2, problem.features.by_channel
    return _torch("dense", lambda: _dense_step(features, c, half, n_clusters))


def dense_with_materialise(problem: Problem) -> Peer:
    """The same, from activations: what a pass over an archive costs when features do not fit in memory."""
    c, n_clusters = torch.from_numpy(problem.centroids), problem.n_clusters
    half, layout, activations = c.square().sum(1) / 2, problem.layout, problem.activations
    return _torch("dense_with_materialise", lambda: _dense_step(materialise(layout, activations), c, half, n_clusters))


def _dense_step(x_NCD: torch.Tensor, c_KC: torch.Tensor, half_K: torch.Tensor, n_clusters: int) -> Sums:
    labels_ND = (torch.einsum("kc,ncd->nkd", c_KC, x_NCD) - half_K[None, :, None]).argmax(1)
    one_hot = torch.nn.functional.one_hot(labels_ND, n_clusters).float()
    return torch.bincount(labels_ND.ravel(), minlength=n_clusters), torch.einsum("ntk,nct->kc", one_hot, x_NCD)


def dense_rows(problem: Problem) -> Peer:
    """The fastest dense torch found: features transposed beforehand, one matrix product, rows added by label."""
    c, n_clusters = torch.from_numpy(problem.centroids), problem.n_clusters
    half, rows = c.square().sum(1) / 2, problem.features.by_timestep

    def run() -> Sums:
        labels = torch.addmm(-half, rows, c.T).argmax(1)
        totals = torch.zeros(n_clusters, rows.shape[1]).index_add_(0, labels, rows)
        return torch.bincount(labels, minlength=n_clusters), totals

    return _torch("dense_rows", run)


def sklearn(problem: Problem) -> Peer:
    """scikit-learn's MiniBatchKMeans.partial_fit over all timesteps, without its second pass for labels."""
    rows = problem.features.by_timestep.numpy()
    estimator = MiniBatchKMeans(
        problem.n_clusters, init=problem.centroids, n_init=1, reassignment_ratio=0, compute_labels=False
    ).partial_fit(rows[: 8 * problem.n_clusters])

    def prepare() -> None:
        # From no counts, the learning rate makes the new centres the plain means: one Lloyd iteration.
        estimator.cluster_centers_ = problem.centroids.copy()
        estimator._counts[:] = 0
        estimator._n_threads = problem.threads

    return Peer("sklearn", lambda: estimator.partial_fit(rows).cluster_centers_, np.asarray, prepare)


def faiss(problem: Problem) -> Peer:
    """faiss.Kmeans of one iteration from given centroids, on all points: its index's search and its sums."""
    import faiss

    rows = problem.features.by_timestep.numpy()
    faiss.omp_set_num_threads(problem.threads)
    kmeans = faiss.Kmeans(
        rows.shape[1],
        problem.n_clusters,
        niter=1,
        nredo=1,
        max_points_per_centroid=len(rows),
        min_points_per_centroid=1,
        check_input_data_for_NaNs=False,
    )

    def run() -> NDArray[np.float32]:
        kmeans.train(rows, init_centroids=problem.centroids)
        return np.asarray(kmeans.centroids)

    return Peer("faiss", run, np.asarray)


def dask_ml(problem: Problem) -> Peer:
    """One iteration of dask-ml's Lloyd loop, on threads, over two chunks a thread."""
    import dask
    import dask.array
    from dask_ml.cluster.k_means import _kmeans_single_lloyd

    rows = problem.features.by_timestep.numpy()
    chunk = -(-len(rows) // (2 * problem.threads))
    lazy = dask.array.from_array(rows, chunks=(chunk, rows.shape[1]), name=False)

    def run() -> NDArray[np.floating]:
        # One BLAS thread a chunk: dask already has the cores busy.
        with (
            threadpool_limits(1),
            dask.config.set(scheduler="threads", num_workers=problem.threads),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            found = _kmeans_single_lloyd(lazy, problem.n_clusters, max_iter=1, init=problem.centroids, tol=0.0)
        centroids: NDArray[np.floating] = found[2]
        return centroids

    return Peer("dask_ml", run, np.asarray)


PEERS: tuple[Callable[[Problem], Peer], ...] = (dense, dense_with_materialise, dense_rows, sklearn, faiss, dask_ml)
