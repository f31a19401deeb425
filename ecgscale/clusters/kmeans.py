"""Mini-batch and Lloyd K-means over timesteps: one loop, any backend, several K in step.

A backend is anything with the seam below: activations in this process, a GPU, a pool of workers, or the dense
oracle. A fit asks it for integer sums of the timesteps of some records under some centroids, and moves the centroids;
nothing else ever leaves the backend. Fits are generators that ask, so that several K share one pass over the
activations.

    mini-batch   Sculley 2010 with per-centre counts as the learning rate (scikit-learn's `partial_fit` rule without
                 reassignment); batches are seeded random sets of records; ends when the smoothed inertia has not
                 improved for `patience` batches, or after `max_epochs`
    Lloyd        full batch; ends when counts and sums repeat, or when the centre shift is at most `tol` times the
                 mean variance of a feature (scikit-learn's rule)

Both end with one exact pass. An empty cluster takes half of the one with the largest distortion (faiss's repair).
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from ecgscale.clusters.features import BlockLayout
from ecgscale.clusters.init import plus_plus
from ecgscale.clusters.sums import PartialSums
from ecgscale.errors import UsageError
from ecgscale.progress import SILENT, Progress, Stage

SPLIT = 1.0 / 1024
"""Relative distance between the two halves of a split cluster."""

MAX_REPAIRS = 10


class ActivationSource(Protocol):
    """The seam that carries every backend of a fit."""

    @property
    def layout(self) -> BlockLayout:
        """Shapes of the tapped blocks."""

    @property
    def n_records(self) -> int:
        """Records, numbered 0..n−1 in an order that no backend changes."""

    def assign_to(
        self, centroid_sets: Sequence[NDArray[np.float32]], records: NDArray[np.int64] | None = None
    ) -> list[PartialSums]:
        """Sums over the valid timesteps of `records` (all by default) for each set of centroids (K_i, C)."""

    def sample(self, n: int, seed: int) -> NDArray[np.float32]:
        """About `n` feature vectors (n, C), a few a record, the same for every backend."""


@dataclass(frozen=True)
class FitSettings:
    """What a fit is asked to do. `sample` is the size of the initialisation's sample.

    A mini-batch holds `batch_records` records, fewer on a small archive, so that an epoch has ten steps.
    """

    algorithm: Literal["minibatch", "lloyd"] = "minibatch"
    seed: int = 0
    batch_records: int = 64
    max_epochs: int = 30
    max_iterations: int = 100
    tol: float = 1e-4
    patience: int = 20
    n_init: int = 3
    sample: int = 20_000


@dataclass(frozen=True)
class KMeansFit:
    """A finished fit: centroids (K, C) float32, the exact final sums, and how it went."""

    centroids: NDArray[np.float32]
    final: PartialSums
    total_variance: float
    n_iter: int
    converged: bool
    repaired: int
    history: list[float] = field(repr=False)

    @property
    def inertia(self) -> float:
        """Σ over timesteps of the squared distance to the nearest centroid, exact."""
        return self.final.inertia

    @property
    def explained_variance(self) -> float:
        """1 − inertia / total variance."""
        return 1.0 - self.inertia / self.total_variance if self.total_variance > 0 else 0.0


Request = tuple[NDArray[np.float32], NDArray[np.int64] | None]
Fit = Generator[Request, PartialSums, KMeansFit]


def fit_kmeans(
    source: ActivationSource,
    n_clusters: Sequence[int],
    settings: FitSettings | None = None,
    progress: Progress = SILENT,
) -> list[KMeansFit]:
    """Fit one K-means for each K in `n_clusters`, in one pass over the activations for all of them.

    Raises UsageError when there are no valid timesteps, or fewer distinct ones in the sample than clusters.
    """
    settings = settings or FitSettings()
    whole = source.assign_to([np.zeros((1, source.layout.n_channels), np.float32)])[0]
    if whole.n_timesteps == 0:
        raise UsageError("no record has a valid timestep to fit on; see `ecgscale inspect ARCHIVE` for the reasons")
    # Around the origin the distortion is Σ‖f‖², so one pass with a single zero centroid gives the total variance.
    mean = whole.feature_sums[0] / whole.n_timesteps
    variance = max(whole.inertia - whole.n_timesteps * float(mean @ mean), 0.0)
    sample = source.sample(settings.sample, settings.seed)
    algorithm = _lloyd if settings.algorithm == "lloyd" else _minibatch
    fits: dict[int, Fit] = {}
    for at, k in enumerate(n_clusters):
        start = plus_plus(sample, k, settings.n_init, settings.seed)
        fits[at] = algorithm(source, start, settings, variance, whole.n_timesteps)
    total = settings.max_iterations if settings.algorithm == "lloyd" else _minibatch_steps(source, settings)
    with progress.stage("fit", total, "steps") as stage:
        return _in_step(source, fits, stage)


def _in_step(source: ActivationSource, fits: dict[int, Fit], stage: Stage) -> list[KMeansFit]:
    """Run all fits, answering requests for the same records together."""
    done: dict[int, KMeansFit] = {}
    asked = {at: next(fit) for at, fit in fits.items()}
    while asked:
        # Fits that are at different stages ask for different records; each set of records is one reading.
        groups: dict[Any, list[int]] = {}
        for at, (_, records) in asked.items():
            groups.setdefault(None if records is None else records.tobytes(), []).append(at)
        for members in groups.values():
            sums = source.assign_to([asked[at][0] for at in members], asked[members[0]][1])
            for at, answer in zip(members, sums, strict=True):
                try:
                    asked[at] = fits[at].send(answer)
                except StopIteration as finished:
                    done[at] = finished.value
                    del asked[at]
        stage.advance()
    return [done[at] for at in sorted(done)]


def _batch_size(n_records: int, settings: FitSettings) -> int:
    return max(1, min(settings.batch_records, n_records // 10))


def _minibatch_steps(source: ActivationSource, settings: FitSettings) -> int:
    return -(-source.n_records // _batch_size(source.n_records, settings)) * settings.max_epochs + 1


def _minibatch(
    source: ActivationSource, start: NDArray[np.float32], settings: FitSettings, variance: float, n_timesteps: int
) -> Fit:
    centres = start.astype(np.float64)
    weights = np.zeros(len(start), np.int64)
    history: list[float] = []
    smoothed: float | None = None
    best, since_best, repaired, converged = np.inf, 0, 0, False
    size = _batch_size(source.n_records, settings)
    steps = -(-source.n_records // size)
    for step in range(steps * settings.max_epochs):
        if step % steps == 0:
            order = np.random.default_rng([settings.seed, step // steps]).permutation(source.n_records)
        records = np.sort(order[(step % steps) * size :][:size])
        sums = yield centres.astype(np.float32), records
        if sums.n_timesteps == 0:
            continue
        weights += sums.counts
        moved = sums.counts > 0
        centres[moved] += (sums.feature_sums[moved] - sums.counts[moved, None] * centres[moved]) / weights[moved, None]
        history.append(sums.inertia / sums.n_timesteps)
        share = min(1.0, 2.0 * sums.n_timesteps / (n_timesteps + 1))
        smoothed = history[-1] if smoothed is None else smoothed + share * (history[-1] - smoothed)
        best, since_best = (smoothed, 0) if smoothed < best else (best, since_best + 1)
        if step % steps == steps - 1:
            centres, weights, n_split = split_empty(centres, weights, sums.distortion)
            repaired += n_split
        if since_best >= settings.patience:
            converged = True
            break
    return (yield from _finish(centres, variance, history, converged, repaired))


def _lloyd(
    source: ActivationSource, start: NDArray[np.float32], settings: FitSettings, variance: float, n_timesteps: int
) -> Fit:
    centres = start.astype(np.float64)
    tol = settings.tol * variance / n_timesteps / source.layout.n_channels
    history: list[float] = []
    previous: PartialSums | None = None
    repaired, converged = 0, False
    for _ in range(settings.max_iterations):
        sums = yield centres.astype(np.float32), None
        history.append(sums.inertia / n_timesteps)
        if previous is not None and _repeats(sums, previous):
            converged = True
            break
        previous = sums
        moved = np.where((sums.counts > 0)[:, None], sums.feature_sums / np.maximum(sums.counts, 1)[:, None], centres)
        moved, _, n_split = split_empty(moved, sums.counts.copy(), sums.distortion)
        repaired += n_split
        shift = float(((moved - centres) ** 2).sum())
        centres = moved
        if n_split == 0 and shift <= tol:
            converged = True
            break
    return (yield from _finish(centres, variance, history, converged, repaired))


def _finish(centres: NDArray[np.float64], variance: float, history: list[float], converged: bool, repaired: int) -> Fit:
    """The exact last pass; clusters that are still empty are split once more, a bounded number of times."""
    final = yield centres.astype(np.float32), None
    for _ in range(MAX_REPAIRS):
        if (final.counts > 0).all() or final.inertia == 0.0:
            break
        centres, _, n_split = split_empty(centres, final.counts.copy(), final.distortion)
        repaired += n_split
        final = yield centres.astype(np.float32), None
    return KMeansFit(
        centres.astype(np.float32), final, variance, len(history), converged, repaired, [float(h) for h in history]
    )


def _repeats(sums: PartialSums, previous: PartialSums) -> bool:
    return np.array_equal(sums.counts, previous.counts) and np.array_equal(sums.sums, previous.sums)


def split_empty(
    centres: NDArray[np.float64], weights: NDArray[np.int64], distortion: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.int64], int]:
    """Give every cluster of weight 0 half of the one with the largest distortion; deterministic, lowest index first.

    Returns new centres (K, C), new weights (K,), and how many were split.
    """
    centres, weights, left = centres.copy(), weights.copy(), distortion.astype(np.float64)
    sign = np.where(np.arange(centres.shape[1]) % 2 == 0, SPLIT, -SPLIT)
    empty = np.flatnonzero(weights == 0)
    for k in empty:
        donor = int(np.argmax(left))
        centres[k] = centres[donor] * (1 + sign)
        centres[donor] = centres[donor] * (1 - sign)
        left[k] = left[donor] = left[donor] / 2
        weights[k] = weights[donor] = weights[donor] // 2
    return centres, weights, len(empty)
