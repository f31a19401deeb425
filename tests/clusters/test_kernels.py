"""The compiled kernels and the tensor form against the dense definition in float64."""

from __future__ import annotations

from dataclasses import astuple, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ecgscale.clusters.accumulate import PartialSums, accumulate
from ecgscale.clusters.features import BlockLayout, dense_assign, dense_features
from ecgscale.clusters.packed import chunk_table, gram_terms, pack, padded_channels
from ecgscale.clusters.soft import soft_assign
from ecgscale.clusters.tensors import tensor_square_distances, tensor_sums
from tests.worlds.formula.activations import CODE_LIKE, Made, layouts, make

TIE = 1e-5


def oracle(made: Made) -> tuple[NDArray, NDArray, NDArray]:
    """Features (B, D, C), squared distances (B, D, K) and the mask of valid timesteps (B, D), in float64."""
    features = dense_features([b.astype(np.float64) for b in made.blocks], made.layout)
    d2 = dense_assign(features, made.centroids.astype(np.float64), 2, 1.0).square_distances
    steps = np.arange(made.layout.n_steps)
    return features, d2, (steps >= made.start[:, None]) & (steps < made.stop[:, None])


def cancels(made: Made) -> NDArray[np.bool_]:
    """(B, D) where two neighbours nearly cancel: what float32 leaves of them is rounding, however it is computed."""
    found = np.zeros((len(made.start), made.layout.n_steps), bool)
    for b, block in enumerate(made.blocks):
        left, right, fraction = made.layout.interpolation(b)
        wide = block.astype(np.float64)
        one, two = wide[:, :, left] * (1 - fraction), wide[:, :, right] * fraction
        size = np.linalg.norm(one, axis=1) + np.linalg.norm(two, axis=1)
        found |= np.linalg.norm(one + two, axis=1) < 0.05 * size
    return found


def check_sums(sums: PartialSums, made: Made, tolerance: float = 1e-5) -> None:
    """Counts, sums, distortion and margin against the oracle, but for what ties may move."""
    features, d2, valid = oracle(made)
    assert sums.n_timesteps == valid.sum()
    if cancels(made)[valid].any():
        return
    ordered = np.sort(d2, -1)
    labels = d2.argmin(-1)
    k = len(made.centroids)
    ties = valid & (ordered[..., min(1, k - 1)] - ordered[..., 0] < TIE) if k > 1 else np.zeros_like(valid)
    counts = np.bincount(labels[valid], minlength=k)
    assert np.abs(sums.counts - counts).sum() <= 2 * ties.sum()
    assert sums.inertia == pytest.approx(ordered[..., 0][valid].sum(), rel=tolerance, abs=TIE * max(valid.sum(), 1))
    if k > 1:
        margin = (ordered[..., 1] - ordered[..., 0])[valid].mean() if valid.any() else 0.0
        assert sums.mean_margin == pytest.approx(margin, abs=2 * TIE)
    if not ties.any():
        expected = np.stack([features[valid & (labels == c)].sum(0) for c in range(k)])
        # Relative to what is added, so that sums which cancel are not held to an impossible standard.
        size = np.stack([np.abs(features[valid & (labels == c)]).sum(0) for c in range(k)])
        assert (np.abs(sums.feature_sums - expected) <= tolerance * size + 1e-6).all()


@settings(max_examples=60, deadline=None)
@given(layouts(), st.integers(1, 4), st.integers(1, 9), st.integers(0, 999), st.booleans())
def test_sums_equal_the_dense_definition(
    layout: BlockLayout, n_records: int, n_clusters: int, seed: int, rectified: bool
) -> None:
    made = make(layout, n_records, n_clusters, seed, rectified)
    packed = pack(made.blocks, layout, made.start, made.stop)
    check_sums(accumulate(packed, layout, [made.centroids])[0], made)


@settings(max_examples=40, deadline=None)
@given(layouts(), st.integers(2, 9), st.integers(0, 999), st.sampled_from([(1, 1.0), (2, 0.3), (2, 1e-3)]))
def test_soft_assignment_equals_the_dense_definition(
    layout: BlockLayout, n_clusters: int, seed: int, softmax: tuple[int, float]
) -> None:
    gamma, tau = softmax
    made = make(layout, 3, n_clusters, seed)
    packed = pack(made.blocks, layout, made.start, made.stop)
    found = soft_assign(packed, layout, made.centroids, gamma, tau)
    labels, entropy, counts, soft, mean_entropy, distortion = astuple(found)
    features, d2, valid = oracle(made)
    dense = dense_assign(features, made.centroids.astype(np.float64), gamma, tau)
    ordered = np.sort(d2, -1)
    clear = valid & (ordered[..., 1] - ordered[..., 0] > TIE)
    assert (labels[clear] == dense.labels[clear]).all()
    assert (labels[~valid] == -1).all()
    assert (entropy[~valid] == 0).all()
    # An error of 1e-6 in a squared distance is one of 1e-6/τ in its energy, and of more in a small distance itself.
    near_zero = ordered[..., 0] < 1e-4
    loose = 2e-5 / min(tau, 1.0)
    assert np.abs(entropy - dense.entropy)[valid & ~near_zero].max(initial=0) < loose
    assert ((entropy >= 0) & (entropy <= 1)).all()
    assert (counts.sum(1) == valid.sum(1)).all()
    for n in np.flatnonzero(valid.any(1)):
        np.testing.assert_allclose(soft[n].sum(), 1, atol=1e-6)
        assert mean_entropy[n] == pytest.approx(entropy[n][valid[n]].mean(), abs=1e-6)
        assert distortion[n] == pytest.approx(ordered[n, valid[n], 0].mean(), abs=TIE)
        if not near_zero[n].any():
            np.testing.assert_allclose(soft[n], dense.soft[n, valid[n]].mean(0), atol=loose)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rectified", [True, False])
@settings(max_examples=25, deadline=None)
@given(layouts(), st.integers(1, 6), st.integers(0, 999))
def test_the_tensor_form_equals_the_dense_definition(
    dtype: torch.dtype, rectified: bool, layout: BlockLayout, n_clusters: int, seed: int
) -> None:
    made = make(layout, 3, n_clusters, seed, rectified)
    blocks = [torch.from_numpy(b).to(dtype) for b in made.blocks]
    check_sums(tensor_sums(blocks, layout, made.centroids, made.start, made.stop), made)
    found = tensor_square_distances(blocks, layout, made.centroids)
    _, d2, _ = oracle(made)
    clear = ~cancels(made)
    assert np.abs(found.amin(2).double().numpy() - d2.min(-1))[clear].max(initial=0) < TIE


@pytest.mark.parametrize("n_clusters", [2, 3, 64, 512])
def test_any_number_of_clusters(n_clusters: int) -> None:
    made = make(CODE_LIKE, 3, n_clusters, 5)
    packed = pack(made.blocks, CODE_LIKE, made.start, made.stop)
    check_sums(accumulate(packed, CODE_LIKE, [made.centroids])[0], made)
    assert soft_assign(packed, CODE_LIKE, made.centroids, 2, 0.5).labels.max() < n_clusters


def test_bits_depend_neither_on_threads_nor_on_neighbours_nor_on_order() -> None:
    made = make(CODE_LIKE, 9, 7, 3)
    packed = pack(made.blocks, CODE_LIKE, made.start, made.stop)
    before = torch.get_num_threads()
    try:
        results, softs = [], []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(accumulate(packed, CODE_LIKE, [made.centroids])[0])
            softs.append(astuple(soft_assign(packed, CODE_LIKE, made.centroids, 2, 0.4)))
    finally:
        torch.set_num_threads(before)
    parts = [
        accumulate(packed, CODE_LIKE, [made.centroids], np.array(rows))[0] for rows in ([8, 2], [0, 1, 3], [7, 6, 5, 4])
    ]
    alone = [
        pack([b[i : i + 1] for b in made.blocks], CODE_LIKE, made.start[i : i + 1], made.stop[i : i + 1])
        for i in range(9)
    ]
    singles = [accumulate(one, CODE_LIKE, [made.centroids])[0] for one in alone]
    for other in (results[1], sum(parts[1:], parts[0]), sum(singles[1:], singles[0])):
        assert (other.counts == results[0].counts).all()
        assert (other.sums == results[0].sums).all()
        assert (other.distortion == results[0].distortion).all()
        assert other.margin == results[0].margin
    for one, two in zip(*softs, strict=True):
        assert np.array_equal(one, two)
    for i, one in enumerate(alone):
        for whole, single in zip(softs[0], astuple(soft_assign(one, CODE_LIKE, made.centroids, 2, 0.4)), strict=True):
            assert np.array_equal(whole[i], single[0])


def test_several_sets_of_centroids_share_one_pass() -> None:
    made = make(CODE_LIKE, 4, 12, 8)
    packed = pack(made.blocks, CODE_LIKE, made.start, made.stop)
    sets = [made.centroids[:3], made.centroids[3:8], made.centroids]
    together = accumulate(packed, CODE_LIKE, sets)
    for one, centroids in zip(together, sets, strict=True):
        alone = accumulate(packed, CODE_LIKE, [centroids])[0]
        assert (one.counts == alone.counts).all()
        assert (one.sums == alone.sums).all()
        assert one.margin == alone.margin


def test_runs_cover_the_time_axis_and_keep_their_neighbours() -> None:
    unpadded = BlockLayout((1, 2), (31, 200), 1000, (1.0, 1.0), ((20.5, 30.0), None))
    odd = BlockLayout((1, 1), (313, 5000), 5000, (1.0, 1.0))
    for layout in (CODE_LIKE, odd, BlockLayout((2,), (1,), 50, (1.0,)), unpadded):
        table = chunk_table(layout)
        assert table.first[0] == 0
        assert (table.first[1:] == table.first[:-1] + table.count[:-1]).all()
        assert table.first[-1] + table.count[-1] == layout.n_steps
        assert table.count.max() <= 16


def test_gram_terms_are_exact_in_float64() -> None:
    layout = BlockLayout((5,), (6,), 12, (1.0,))
    made = make(layout, 2, 2, 0, rectified=False)
    packed = pack(made.blocks, layout, made.start, made.stop)
    block = made.blocks[0].astype(np.float64)
    np.testing.assert_allclose(packed.gram[:, 0], (block**2).sum(1), rtol=1e-14)
    np.testing.assert_allclose(packed.gram[:, 1, :-1], (block[:, :, :-1] * block[:, :, 1:]).sum(1), rtol=1e-12)
    assert (packed.gram[:, 1, -1] == packed.gram[:, 0, -1]).all()
    assert np.array_equal(gram_terms(packed.values, layout), packed.gram)
    assert padded_channels(layout) == (16,)


def test_half_pixel_centres_said_in_numbers_are_the_same_bits() -> None:
    hops = [(CODE_LIKE.n_steps / length) for length in CODE_LIKE.lengths]
    said = replace(CODE_LIKE, places=tuple(((hop - 1) / 2, hop) for hop in hops))
    assert said == CODE_LIKE
    assert said.places == ()
    whole = BlockLayout((1,), (37,), 37, (1.0,), ((0.0, 1.0),))
    assert np.array_equal(whole.interpolation(0)[0], np.arange(37))
