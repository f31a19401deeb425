"""Made-up activations for the tests of clusters."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from ecgscale.clusters.features import BlockLayout


@dataclass(frozen=True)
class Made:
    """Activations of a few records, their valid spans, and centroids."""

    layout: BlockLayout
    blocks: list[NDArray[np.float32]]
    start: NDArray[np.int32]
    stop: NDArray[np.int32]
    centroids: NDArray[np.float32]


def make(layout: BlockLayout, n_records: int, n_clusters: int, seed: int, rectified: bool = True) -> Made:
    """Smooth-ish random activations; rectified ones have zero steps now and then, others have opposite neighbours."""
    rng = np.random.default_rng(seed)
    blocks = []
    for channels, length in zip(layout.channels, layout.lengths, strict=True):
        mix = rng.standard_normal((channels, 4))
        block = np.einsum("ck,nkl->ncl", mix, rng.standard_normal((n_records, 4, length)))
        block += 0.3 * rng.standard_normal(block.shape)
        if rectified:
            block = np.maximum(block, 0)
            block[:, :, rng.random(length) < 0.1] = 0
        elif length > 1:
            block[0, :, 1] = -block[0, :, 0]
        blocks.append(block.astype(np.float32))
    start = rng.integers(0, layout.n_steps // 2 + 1, n_records)
    stop = rng.integers(layout.n_steps // 2, layout.n_steps + 1, n_records)
    if n_records > 2:
        start[0], stop[0] = 0, layout.n_steps
        start[1] = stop[1] = 0
    scale = np.repeat(layout.scales, layout.channels)
    centroids = rng.standard_normal((n_clusters, layout.n_channels)) * scale / np.sqrt(layout.n_channels)
    return Made(layout, blocks, start.astype(np.int32), stop.astype(np.int32), centroids.astype(np.float32))


@st.composite
def layouts(draw: st.DrawFn) -> BlockLayout:
    """One to four blocks of any length up to D: whole ratios, odd ones, and no downsampling at all; and their steps
    anywhere on the time axis: at half-pixel centres, shifted, with another stride than D / L, beyond its ends."""
    n_steps = draw(st.integers(1, 90))
    n_blocks = draw(st.integers(1, 4))
    lengths = [draw(st.one_of(st.integers(1, n_steps), st.just(n_steps))) for _ in range(n_blocks)]
    channels = [draw(st.integers(1, 21)) for _ in range(n_blocks)]
    scales = [draw(st.sampled_from([0.25, 0.5, 1.0, 1.7])) for _ in range(n_blocks)]
    places = [draw(st.one_of(st.none(), places_of(length, n_steps))) for length in lengths]
    return BlockLayout(tuple(channels), tuple(lengths), n_steps, tuple(scales), tuple(places))


@st.composite
def places_of(draw: st.DrawFn, length: int, n_steps: int) -> tuple[float, float]:
    """Where the steps of a block sit, some of them at least on the time axis."""
    step = draw(st.sampled_from([n_steps / length, 1.0, 2.0, 3.7]))
    first = -step * (length - 1)
    return draw(st.floats(first, n_steps - 1)), step


CODE_LIKE = BlockLayout((20, 26, 32), (64, 16, 4), 1024, (0.5, 0.75, 1.0))
