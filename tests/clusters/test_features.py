"""The dense definition against torch, and the errors of a layout."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ecgscale.clusters.features import BlockLayout, dense_assign, dense_features, half_pixel, interpolation
from ecgscale.errors import UsageError


@given(st.integers(1, 64), st.integers(1, 300))
def test_half_pixel_is_torchs_interpolation(length: int, n_steps: int) -> None:
    length = min(length, n_steps)
    signal = np.random.default_rng(length).standard_normal(length)
    left, right, fraction = half_pixel(length, n_steps)
    ours = (1 - fraction) * signal[left] + fraction * signal[right]
    theirs = torch.nn.functional.interpolate(
        torch.from_numpy(signal)[None, None], size=n_steps, mode="linear", align_corners=False
    )
    np.testing.assert_allclose(ours, theirs[0, 0].numpy(), atol=1e-12)


def test_no_downsampling_leaves_values_alone() -> None:
    left, _, fraction = half_pixel(37, 37)
    assert (left == np.arange(37)).all()
    assert (fraction == 0).all()


@given(st.integers(1, 40), st.integers(1, 90), st.floats(-50, 80), st.floats(0.1, 20))
def test_interpolation_follows_the_places_of_steps(length: int, n_steps: int, start: float, step: float) -> None:
    signal = np.random.default_rng(length).standard_normal(length)
    left, right, fraction = interpolation(length, n_steps, (start, step))
    ours = (1 - fraction) * signal[left] + fraction * signal[right]
    # NumPy's holds the first and the last value beyond the ends too.
    theirs = np.interp(np.arange(n_steps), start + step * np.arange(length), signal)
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_borders_lie_halfway_between_steps() -> None:
    layout = BlockLayout((1, 1), (4, 4), 16, (1.0, 1.0), (None, (1.5, 3.0)))
    assert layout.borders(0).tolist() == [0, 4, 8, 12, 16]
    assert layout.borders(1).tolist() == [0.5, 3.5, 6.5, 9.5, 12.5]
    assert [layout.hop(b) for b in (0, 1)] == [4.0, 3.0]
    assert layout.of_blocks([1]).places == ((1.5, 3.0),)
    assert layout.of_blocks([0]).places == ()


def test_features_are_unit_vectors_times_scale_and_zero_where_the_norm_is_zero() -> None:
    layout = BlockLayout((3, 5), (4, 2), 16, (0.5, 2.0))
    rng = np.random.default_rng(0)
    blocks = [rng.standard_normal((2, 3, 4)), rng.standard_normal((2, 5, 2))]
    blocks[0][1] = 0
    features = dense_features(blocks, layout)
    assert features.shape == (2, 16, 8)
    np.testing.assert_allclose(np.linalg.norm(features[0, :, :3], axis=1), 0.5)
    np.testing.assert_allclose(np.linalg.norm(features[0, :, 3:], axis=1), 2.0)
    assert (features[1, :, :3] == 0).all()


def test_features_against_torch() -> None:
    layout = BlockLayout((7, 4), (25, 9), 100, (1.0, 0.3))
    rng = np.random.default_rng(1)
    blocks = [rng.standard_normal((3, c, length)) for c, length in zip(layout.channels, layout.lengths, strict=True)]
    expected = []
    for block, scale in zip(blocks, layout.scales, strict=True):
        z = torch.nn.functional.interpolate(torch.from_numpy(block), size=100, mode="linear", align_corners=False)
        expected.append(scale * torch.nn.functional.normalize(z, dim=1))
    np.testing.assert_allclose(
        dense_features(blocks, layout), torch.cat(expected, 1).transpose(1, 2).numpy(), atol=1e-12
    )


def test_dense_assignment_takes_the_lowest_cluster_on_a_tie_and_bounds_entropy() -> None:
    features = np.array([[[1.0, 0.0], [0.0, 1.0]]])
    centroids = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    found = dense_assign(features, centroids, gamma=2, tau=1.0)
    assert found.labels[0, 0] == 0
    assert found.soft.sum(-1) == pytest.approx(1)
    assert ((found.entropy >= 0) & (found.entropy <= 1)).all()
    equal = dense_assign(np.zeros((1, 1, 2)), np.array([[1.0, 0], [0, 1.0]]), gamma=1, tau=1.0)
    assert equal.entropy[0, 0] == pytest.approx(1)


@pytest.mark.parametrize(
    ("layout", "word"),
    [
        (((4,), (8,), 4, (1.0,)), "8"),
        (((4,), (2,), 4, (1.0, 1.0)), "depth scale"),
        (((4,), (2,), 4, (0.0,)), "positive"),
        (((0,), (2,), 4, (1.0,)), "channel"),
        (((1,), (2,), 4, (1.0,), ((0.0, 2.0), None)), "one each"),
        (((1,), (2,), 4, (1.0,), ((0.0, 0.0),)), "positive"),
        (((1,), (2,), 4, (1.0,), ((4.0, 1.0),)), "beside the time axis"),
        (((1,), (2,), 4, (1.0,), ((-3.0, 2.0),)), "beside the time axis"),
    ],
)
def test_impossible_layouts_are_refused(layout: tuple, word: str) -> None:
    with pytest.raises(UsageError, match=word):
        BlockLayout(*layout)
