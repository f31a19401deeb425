"""K-means through the seam: against scikit-learn on dense features, repair, several K, sampling, the cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.cluster import KMeans, MiniBatchKMeans

from ecgscale.clusters.accumulate import MAX_TIMESTEPS, PartialSums, sum_scale
from ecgscale.clusters.cache import ActivationCache, bytes_per_record
from ecgscale.clusters.checkpoint import Checkpoint, FitState
from ecgscale.clusters.features import BlockLayout, dense_assign, dense_features
from ecgscale.clusters.init import features_at, plus_plus, sampled_steps
from ecgscale.clusters.kmeans import FitSettings, fit_kmeans, split_empty
from ecgscale.errors import EcgscaleError, UsageError
from ecgscale.runtime.progress import make_progress
from tests.worlds.commands.explaining import Watching
from tests.worlds.formula.activations import CODE_LIKE, make


class DenseSource:
    """The oracle as a backend: dense features in float64, the seam of the fit."""

    def __init__(self, blocks: Sequence[NDArray], layout: BlockLayout) -> None:
        self.layout, self.n_records = layout, len(blocks[0])
        self.features = dense_features([b.astype(np.float64) for b in blocks], layout)

    def assign_to(
        self, centroid_sets: Sequence[NDArray[np.float32]], records: NDArray[np.int64] | None = None
    ) -> list[PartialSums]:
        features = self.features if records is None else self.features[records]
        scale, out = sum_scale(self.layout), []
        for centroids in centroid_sets:
            d2 = dense_assign(features, centroids.astype(np.float64), 2, 1.0).square_distances
            labels, k = d2.argmin(-1), len(centroids)
            ordered = np.sort(d2, -1)
            sums = np.stack([features[labels == c].sum(0) for c in range(k)])
            distortion = np.array([d2.min(-1)[labels == c].sum() for c in range(k)])
            margin = (ordered[..., 1] - ordered[..., 0]).sum() if k > 1 else 0.0
            out.append(
                PartialSums(
                    np.bincount(labels.ravel(), minlength=k),
                    np.rint(sums * scale.features).astype(np.int64),
                    np.rint(distortion * scale.distances).astype(np.int64),
                    int(np.rint(margin * scale.distances)),
                    scale,
                )
            )
        return out

    def sample(self, n: int, seed: int) -> NDArray[np.float32]:
        flat = self.features.reshape(-1, self.layout.n_channels)
        return flat[np.random.default_rng(seed).permutation(len(flat))[:n]].astype(np.float32)


def cached(n_records: int = 30, seed: int = 0, **options: object) -> ActivationCache:
    """A cache filled with made-up activations, all timesteps valid."""
    made = make(CODE_LIKE, n_records, 2, seed)
    cache = ActivationCache(CODE_LIKE, n_records, **options)  # type: ignore[arg-type]
    everything = np.full(n_records, CODE_LIKE.n_steps, np.int32)
    for first in range(0, n_records, 7):
        rows = np.arange(first, min(first + 7, n_records))
        cache.put(rows, [b[rows] for b in made.blocks], everything[rows] * 0, everything[rows])
    return cache


def test_lloyd_equals_scikit_learn_from_the_same_start() -> None:
    made = make(CODE_LIKE, 12, 2, 1)
    source = DenseSource(made.blocks, CODE_LIKE)
    with cached(12, 1) as cache:
        settings = FitSettings(algorithm="lloyd", tol=0.0, sample=500)
        start = plus_plus(cache.sample(500, 0), 6, settings.n_init, 0)
        [ours] = fit_kmeans(cache, [6], settings)
    theirs = KMeans(6, init=start.astype(np.float64), n_init=1, tol=0, max_iter=100, algorithm="lloyd")
    theirs.fit(source.features.reshape(-1, CODE_LIKE.n_channels))
    assert ours.converged
    assert ours.inertia == pytest.approx(theirs.inertia_, rel=1e-5)
    np.testing.assert_allclose(ours.centroids, theirs.cluster_centers_, atol=1e-4)


def test_minibatch_follows_scikit_learns_partial_fit() -> None:
    made = make(CODE_LIKE, 40, 2, 2)
    source = DenseSource(made.blocks, CODE_LIKE)
    with cached(40, 2) as cache:
        settings = FitSettings(batch_records=4, max_epochs=2, patience=10**6, sample=500)
        start = plus_plus(cache.sample(500, 0), 5, settings.n_init, 0)
        [ours] = fit_kmeans(cache, [5], settings)
    theirs = MiniBatchKMeans(5, init=start.astype(np.float64), n_init=1, reassignment_ratio=0, random_state=0)
    for epoch in range(2):
        order = np.random.default_rng([0, epoch]).permutation(40)
        for at in range(0, 40, 4):
            batch = source.features[np.sort(order[at : at + 4])]
            theirs.partial_fit(batch.reshape(-1, CODE_LIKE.n_channels))
    assert ours.n_iter == 20
    np.testing.assert_allclose(ours.centroids, theirs.cluster_centers_, atol=1e-4)


def test_the_oracle_is_a_backend_of_the_same_loop() -> None:
    made = make(CODE_LIKE, 10, 2, 3)
    settings = FitSettings(algorithm="lloyd", sample=400, max_iterations=8)
    dense = DenseSource(made.blocks, CODE_LIKE)
    with cached(10, 3) as cache:
        [ours] = fit_kmeans(cache, [4], settings)
        sample = cache.sample(settings.sample, settings.seed)
    dense.sample = lambda n, seed: sample  # type: ignore[method-assign]
    [oracle] = fit_kmeans(dense, [4], settings)
    assert ours.inertia == pytest.approx(oracle.inertia, rel=1e-6)
    assert ours.explained_variance == pytest.approx(oracle.explained_variance, abs=1e-6)
    np.testing.assert_allclose(ours.centroids, oracle.centroids, atol=1e-5)


@pytest.mark.parametrize("algorithm", ["minibatch", "lloyd"])
def test_several_k_in_one_pass_give_the_bits_of_each_alone(algorithm: str) -> None:
    settings = FitSettings(algorithm=algorithm, sample=600, max_epochs=3, max_iterations=12)  # type: ignore[arg-type]
    with cached() as cache:
        together = fit_kmeans(cache, [3, 5, 9], settings)
        for k, fit in zip([3, 5, 9], together, strict=True):
            [alone] = fit_kmeans(cache, [k], settings)
            assert np.array_equal(fit.centroids, alone.centroids)
            assert (fit.final.sums == alone.final.sums).all()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_budget_never_changes_a_bit(dtype: str, tmp_path: Path) -> None:
    settings = FitSettings(sample=300, max_epochs=4)
    fits = []
    for budget in (None, 0, 11 * bytes_per_record(CODE_LIKE, dtype)):  # type: ignore[arg-type]
        with cached(budget=budget, scratch=tmp_path, dtype=dtype) as cache:
            assert cache.n_spilled == {None: 0, 0: 30}.get(budget, 19)
            assert (str(tmp_path) in Path("/proc/self/maps").read_text()) == (cache.n_spilled > 0)
            fits.extend(fit_kmeans(cache, [4], settings))
        assert str(tmp_path) not in Path("/proc/self/maps").read_text()
    for fit in fits[1:]:
        assert np.array_equal(fit.centroids, fits[0].centroids)
        assert fit.final.margin == fits[0].final.margin


def test_the_seed_decides_and_nothing_else() -> None:
    with cached() as cache:
        one, two, other = (fit_kmeans(cache, [4], FitSettings(seed=s, sample=300, max_epochs=2))[0] for s in (1, 1, 2))
    assert np.array_equal(one.centroids, two.centroids)
    assert not np.array_equal(one.centroids, other.centroids)


def test_a_fit_that_needs_fewer_steps_than_it_may_take_says_so() -> None:
    for max_iterations, converged in ((1, False), (100, True)):
        message = StringIO()
        with cached(12, 1) as cache:
            settings = FitSettings(algorithm="lloyd", sample=500, max_iterations=max_iterations)
            fit_kmeans(cache, [6], settings, make_progress(message))
        assert ("(converged, no further steps needed)" in message.getvalue().splitlines()[-1]) == converged


def test_empty_clusters_are_split_from_the_worst() -> None:
    centres = np.array([[1.0, 1.0], [4.0, 4.0], [9.0, 9.0], [2.0, 2.0]])
    weights = np.array([10, 20, 0, 0])
    distortion = np.array([5, 100, 0, 0])
    split, given, n = split_empty(centres, weights, distortion)
    assert n == 2
    np.testing.assert_allclose(split[2], 4.0, rtol=0.01)
    np.testing.assert_allclose(split[3], 4.0, rtol=0.01)
    assert not np.array_equal(split[2], split[1])
    assert (given > 0).all()
    assert given.sum() <= 30


def test_no_cluster_ends_up_empty_or_not_finite() -> None:
    layout = BlockLayout((3,), (8,), 32, (1.0,))
    rng = np.random.default_rng(0)
    # Two directions only: k-means++ has to take near-duplicates, and clusters empty on the way.
    block = np.where(rng.random((20, 1, 8)) < 0.5, [[1.0], [0], [0]], [[0.0], [1], [0]]).astype(np.float32)
    with ActivationCache(layout, 20) as cache:
        cache.put(np.arange(20), [block], np.zeros(20, np.int32), np.full(20, 32, np.int32))
        for algorithm in ("lloyd", "minibatch"):
            [fit] = fit_kmeans(cache, [6], FitSettings(algorithm=algorithm, sample=400, max_epochs=5))  # type: ignore[arg-type]
            assert np.isfinite(fit.centroids).all()
            assert (fit.final.counts > 0).all()


def test_fewer_distinct_timesteps_than_clusters_is_an_error() -> None:
    layout = BlockLayout((2,), (1,), 8, (1.0,))
    with ActivationCache(layout, 3) as cache:
        cache.put(np.arange(3), [np.ones((3, 2, 1), np.float32)], np.zeros(3, np.int32), np.full(3, 8, np.int32))
        with pytest.raises(UsageError, match="distinct"):
            fit_kmeans(cache, [4])


def test_nothing_valid_is_an_error() -> None:
    with ActivationCache(CODE_LIKE, 2) as cache, pytest.raises(UsageError, match="valid timestep"):
        fit_kmeans(cache, [4])


def test_activations_that_are_not_finite_are_refused() -> None:
    layout = BlockLayout((2,), (2,), 8, (1.0,))
    with ActivationCache(layout, 1, dtype="float16") as cache, pytest.raises(EcgscaleError, match="float16"):
        cache.put(np.arange(1), [np.full((1, 2, 2), 1e6, np.float32)], np.zeros(1, np.int32), np.full(1, 8, np.int32))


def test_sampled_features_are_the_definition() -> None:
    made = make(CODE_LIKE, 3, 2, 4)
    dense = dense_features([b.astype(np.float64) for b in made.blocks], CODE_LIKE)
    with cached(3, 4) as cache:
        steps = sampled_steps(2, 50, 10, 900, seed=5)
        assert len(np.unique(steps)) == 50
        assert steps.min() >= 10
        assert steps.max() < 900
        np.testing.assert_allclose(features_at(cache.rows(2), CODE_LIKE, steps), dense[2, steps], atol=1e-6)


def test_integer_sums_hold_ten_billion_timesteps() -> None:
    for layout in (CODE_LIKE, BlockLayout((1,), (1,), 1, (3.0,))):
        scale = sum_scale(layout)
        assert MAX_TIMESTEPS * max(layout.scales) * scale.features <= 2.0**62
        assert MAX_TIMESTEPS * 4 * layout.square_norm * scale.distances <= 2.0**62
    assert sum_scale(CODE_LIKE).features >= 2.0**28


class Stopped(Exception):
    """The process was ended here."""


class StoppingSource:
    """A backend that breaks off after so many requests."""

    def __init__(self, cache: ActivationCache, requests: int) -> None:
        self.cache, self.left, self.layout, self.n_records = cache, requests, cache.layout, cache.n_records
        self.sample = cache.sample

    def assign_to(
        self, centroid_sets: Sequence[NDArray[np.float32]], records: NDArray[np.int64] | None = None
    ) -> list[PartialSums]:
        self.left -= 1
        if self.left < 0:
            raise Stopped
        return self.cache.assign_to(centroid_sets, records)


@pytest.mark.parametrize("algorithm", ["minibatch", "lloyd"])
def test_a_fit_that_was_stopped_anywhere_ends_with_the_same_bits(algorithm: str, tmp_path: Path) -> None:
    settings = FitSettings(algorithm=algorithm, sample=400, max_epochs=2, max_iterations=9, tol=0.0)  # type: ignore[arg-type]
    with cached() as cache:
        undisturbed = fit_kmeans(cache, [3, 6], settings)
        for requests in (1, 3, 8):
            checkpoint = Checkpoint(tmp_path / f"{requests}.npz", interval_s=0.0)
            with pytest.raises(Stopped):
                fit_kmeans(StoppingSource(cache, requests), [3, 6], settings, checkpoint=checkpoint)
            again = Checkpoint(checkpoint.path, interval_s=0.0)
            assert bool(again.load()) == (requests > 1)
            resumed = fit_kmeans(cache, [3, 6], settings, checkpoint=again)
            for one, other in zip(undisturbed, resumed, strict=True):
                assert np.array_equal(one.centroids, other.centroids)
                assert (one.n_iter, one.history, one.final.margin) == (other.n_iter, other.history, other.final.margin)


def test_a_damaged_checkpoint_is_as_good_as_none(tmp_path: Path) -> None:
    path = tmp_path / "state.npz"
    path.write_bytes(b"PK\x03\x04 not a zip")
    said: list[str] = []
    assert Checkpoint(path).load(said.append) == {}
    assert "state.npz is damaged" in said[0]
    assert "begins again" in said[0]
    with cached(12) as cache:
        settings = FitSettings(sample=200, max_epochs=1)
        [fit] = fit_kmeans(cache, [3], settings, checkpoint=Checkpoint(path, interval_s=0.0))
        assert np.array_equal(fit.centroids, fit_kmeans(cache, [3], settings)[0].centroids)
    Checkpoint(path).remove()
    assert not path.exists()


def changed(path: Path, name: str, change: Callable[[NDArray[Any]], NDArray[Any]]) -> None:
    """Rewrite an array of a checkpoint, in valid form."""
    with np.load(path) as file:
        arrays = {key: file[key] for key in file.files}
    np.savez(path, **{**arrays, name: change(arrays[name])})


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("0.centres", lambda array: np.full_like(array, np.nan)),
        ("0.weights", lambda array: array + 1),
        ("facts", lambda array: np.frombuffer(bytes(array).replace(b'"finishing": false', b'"finishing": true'), "u1")),
        ("facts", lambda array: np.frombuffer(bytes(array).replace(b'"step": ', b'"step": 1'), "u1")),
        ("digest", lambda array: array[::-1]),
        ("digest", lambda array: np.zeros(0, np.uint8)),
    ],
)
def test_a_changed_checkpoint_of_valid_form_is_told_and_never_used(
    tmp_path: Path, name: str, change: Callable[[NDArray[Any]], NDArray[Any]]
) -> None:
    path, settings, progress = tmp_path / "state.npz", FitSettings(sample=200, max_epochs=2), Watching()
    with cached(12) as cache:
        undisturbed = fit_kmeans(cache, [3], settings)[0]
        with pytest.raises(Stopped):
            fit_kmeans(StoppingSource(cache, 4), [3], settings, checkpoint=Checkpoint(path, interval_s=0.0))
        assert Checkpoint(path).load()
        changed(path, name, change)
        [fit] = fit_kmeans(cache, [3], settings, progress, checkpoint=Checkpoint(path))
    assert np.array_equal(fit.centroids, undisturbed.centroids)
    assert fit.history == undisturbed.history
    assert "state.npz is damaged (its digest is not that of its content)" in progress.said[0]


def test_a_checkpoint_of_other_code_is_told_and_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = Checkpoint(tmp_path / "state.npz")
    said: list[str] = []
    checkpoint.save({0: FitState.at(np.ones((2, 3), np.float32))})
    assert checkpoint.load()
    monkeypatch.setattr("ecgscale.clusters.checkpoint.code_digest", lambda: "another")
    assert checkpoint.load(said.append) == {}
    assert "written by other code" in said[0]
