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

from ecgscale.clusters.accumulate import PartialSums
from ecgscale.clusters.checkpoint import Checkpoint, FitState
from ecgscale.clusters.features import BlockLayout
from ecgscale.clusters.init import Earlier, from_earlier, plus_plus
from ecgscale.config import FIT
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

    algorithm: Literal["minibatch", "lloyd"] = FIT.algorithm
    seed: int = FIT.seed
    batch_records: int = 64
    max_epochs: int = FIT.max_epochs
    max_iterations: int = FIT.max_iterations
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
    checkpoint: Checkpoint | None = None,
    earlier: Earlier | None = None,
) -> list[KMeansFit]:
    """Fit one K-means for each K in `n_clusters`, in one pass over the activations for all of them.

    With a `checkpoint`, goes on from what it holds, and ends with the bits of an undisturbed fit. With an `earlier`
    fit, starts at its centroids instead of k-means++.
    Raises UsageError when there are no valid timesteps, or fewer distinct ones in the sample than clusters.
    """
    settings = settings or FitSettings()
    whole = source.assign_to([np.zeros((1, source.layout.n_channels), np.float32)])[0]
    if whole.n_timesteps == 0:
        raise UsageError("no record has a valid timestep to fit on; see `ecgscale inspect ARCHIVE` for the reasons")
    # Around the origin the distortion is Σ‖f‖², so one pass with a single zero centroid gives the total variance.
    mean = whole.feature_sums[0] / whole.n_timesteps
    variance = max(whole.inertia - whole.n_timesteps * float(mean @ mean), 0.0)
    states = checkpoint.load(progress.say) if checkpoint else {}
    if sorted(states) != list(range(len(n_clusters))):
        sample = source.sample(settings.sample, settings.seed)
        starts = [
            from_earlier(earlier, sample, k, settings.seed)
            if earlier is not None
            else plus_plus(sample, k, settings.n_init, settings.seed)
            for k in n_clusters
        ]
        states = {at: FitState.at(start) for at, start in enumerate(starts)}
    lloyd = settings.algorithm == "lloyd"
    algorithm = _lloyd if lloyd else _minibatch
    fits = {at: algorithm(source, state, settings, variance, whole.n_timesteps) for at, state in states.items()}
    total = 1 + (settings.max_iterations if lloyd else _batches(source.n_records, settings)[1] * settings.max_epochs)
    with progress.stage("fit", total, "steps") as stage:
        done_before = max(state.step for state in states.values())
        if done_before:
            stage.advance(done_before)
            progress.say(f"going on from step {done_before}")
        found = _in_step(source, fits, states, stage, checkpoint)
        if all(fit.converged for fit in found):
            # The total is the most it may take; without this, a stage that ends before it looks cut short.
            stage.note("converged, no further steps needed")
        return found


def _in_step(
    source: ActivationSource,
    fits: dict[int, Fit],
    states: dict[int, FitState],
    stage: Stage,
    checkpoint: Checkpoint | None,
) -> list[KMeansFit]:
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
        if checkpoint is not None and checkpoint.due():
            checkpoint.save(states)
    return [done[at] for at in sorted(done)]


def _batches(n_records: int, settings: FitSettings) -> tuple[int, int]:
    """Records of a mini-batch, and batches of an epoch."""
    size = max(1, min(settings.batch_records, n_records // 10))
    return size, -(-n_records // size)


def _minibatch(
    source: ActivationSource, state: FitState, settings: FitSettings, variance: float, n_timesteps: int
) -> Fit:
    size, steps = _batches(source.n_records, settings)
    while not state.finishing:
        epoch, at = divmod(state.step, steps)
        order = np.random.default_rng([settings.seed, epoch]).permutation(source.n_records)
        sums = yield state.centres.astype(np.float32), np.sort(order[at * size :][:size])
        state.step += 1
        if sums.n_timesteps > 0:
            _learn(state, sums, n_timesteps)
            if at == steps - 1:
                state.centres, state.weights, n_split = split_empty(state.centres, state.weights, sums.distortion)
                state.repaired += n_split
        state.converged = state.since_best >= settings.patience
        state.finishing = state.converged or state.step >= steps * settings.max_epochs
    return (yield from _finish(state, variance))


def _learn(state: FitState, sums: PartialSums, n_timesteps: int) -> None:
    """Move the centres towards a batch, each by the share that the batch has of all it has seen."""
    state.weights = state.weights + sums.counts
    moved = sums.counts > 0
    towards = sums.feature_sums[moved] - sums.counts[moved, None] * state.centres[moved]
    state.centres = state.centres.copy()
    state.centres[moved] += towards / state.weights[moved, None]
    state.history.append(sums.inertia / sums.n_timesteps)
    share = min(1.0, 2.0 * sums.n_timesteps / (n_timesteps + 1))
    before = state.history[-1] if state.smoothed is None else state.smoothed
    state.smoothed = before + share * (state.history[-1] - before)
    if state.best is None or state.smoothed < state.best:
        state.best, state.since_best = state.smoothed, 0
    else:
        state.since_best += 1


def _lloyd(source: ActivationSource, state: FitState, settings: FitSettings, variance: float, n_timesteps: int) -> Fit:
    tol = settings.tol * variance / n_timesteps / source.layout.n_channels
    while not state.finishing:
        sums = yield state.centres.astype(np.float32), None
        state.step += 1
        state.history.append(sums.inertia / n_timesteps)
        repeats = state.previous_counts is not None and np.array_equal(sums.counts, state.previous_counts)
        if repeats and np.array_equal(sums.sums, state.previous_sums):  # type: ignore[arg-type]
            state.converged = True
        else:
            state.previous_counts, state.previous_sums = sums.counts, sums.sums
            mean = sums.feature_sums / np.maximum(sums.counts, 1)[:, None]
            moved = np.where((sums.counts > 0)[:, None], mean, state.centres)
            moved, _, n_split = split_empty(moved, sums.counts, sums.distortion)
            state.repaired += n_split
            shift = float(((moved - state.centres) ** 2).sum())
            state.centres = moved
            state.converged = n_split == 0 and shift <= tol
        state.finishing = state.converged or state.step >= settings.max_iterations
    return (yield from _finish(state, variance))


def _finish(state: FitState, variance: float) -> Fit:
    """The exact last pass; clusters that are still empty are split once more, a bounded number of times."""
    final = yield state.centres.astype(np.float32), None
    for _ in range(MAX_REPAIRS):
        if (final.counts > 0).all() or final.inertia == 0.0:
            break
        state.centres, _, n_split = split_empty(state.centres, final.counts, final.distortion)
        state.repaired += n_split
        final = yield state.centres.astype(np.float32), None
    centroids = state.centres.astype(np.float32)
    return KMeansFit(centroids, final, variance, state.step, state.converged, state.repaired, list(state.history))


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
