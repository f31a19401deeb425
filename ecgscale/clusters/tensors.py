"""The same algebra in plain tensor form, on any torch device: the GPU path, and a second oracle for the kernels.

Projection, interpolation of the projections, and its transpose are matrix products and gathers; dense features never
exist. (B, D, K) values do, for the records of one batch: use small batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ecgscale.clusters.accumulate import PartialSums, sum_scale
from ecgscale.clusters.features import BlockLayout
from ecgscale.clusters.kernels import CANCELLED


@dataclass(frozen=True)
class _Block:
    """One block of a batch: activations, its two neighbours of every timestep, weights over ‖z‖."""

    values_BLC: torch.Tensor
    left_T: torch.Tensor
    right_T: torch.Tensor
    before_BT: torch.Tensor
    after_BT: torch.Tensor
    square_norm_BT: torch.Tensor


def _prepare(block_BCL: torch.Tensor, layout: BlockLayout, b: int) -> _Block:
    left, right, fraction = layout.interpolation(b)
    scale = layout.scales[b]
    device = block_BCL.device
    left_T = torch.from_numpy(left.astype(np.int64)).to(device)
    right_T = torch.from_numpy(right.astype(np.int64)).to(device)
    after = torch.from_numpy(fraction).to(device)
    before = 1 - after
    wide = block_BCL.double()
    q_BL = (wide * wide).sum(1)
    x_BL = torch.cat([(wide[:, :, :-1] * wide[:, :, 1:]).sum(1), q_BL[:, -1:]], 1)
    own, other = before**2 * q_BL[:, left_T], after**2 * q_BL[:, right_T]
    n2_BT = own + other + 2 * before * after * x_BL[:, left_T]
    alive = n2_BT > CANCELLED * (own + other) + 1e-36
    inverse = torch.where(alive, scale / n2_BT.clamp_min(1e-36).sqrt(), 0.0)
    dtype = block_BCL.dtype
    return _Block(
        block_BCL.transpose(1, 2),
        left_T,
        right_T,
        (before * inverse).to(dtype),
        (after * inverse).to(dtype),
        alive.to(dtype) * scale**2,
    )


def _prepared(blocks_BCL: Sequence[torch.Tensor], layout: BlockLayout) -> list[_Block]:
    return [_prepare(block, layout, b) for b, block in enumerate(blocks_BCL)]


def tensor_square_distances(
    blocks_BCL: Sequence[torch.Tensor], layout: BlockLayout, centroids_KC: NDArray[np.floating]
) -> torch.Tensor:
    """‖f(t) − c_k‖² of every timestep of B records, padding included: (B, D, K), never below 0."""
    return _square_distances(_prepared(blocks_BCL, layout), centroids_KC, layout)


def _square_distances(
    blocks: Sequence[_Block], centroids_KC: NDArray[np.floating], layout: BlockLayout
) -> torch.Tensor:
    like = blocks[0].values_BLC
    centroids = torch.as_tensor(centroids_KC).to(device=like.device, dtype=like.dtype)
    inner: torch.Tensor | float = 0.0
    norm: torch.Tensor | float = 0.0
    for block, part_KC in zip(blocks, centroids.split(list(layout.channels), 1), strict=True):
        g_BLK = block.values_BLC @ part_KC.T
        inner = inner + block.before_BT[..., None] * g_BLK[:, block.left_T]
        inner = inner + block.after_BT[..., None] * g_BLK[:, block.right_T]
        norm = norm + block.square_norm_BT
    assert isinstance(inner, torch.Tensor)
    assert isinstance(norm, torch.Tensor)
    return (norm[..., None] - 2 * inner + centroids.square().sum(1)).clamp_min(0)


def tensor_sums(
    blocks_BCL: Sequence[torch.Tensor],
    layout: BlockLayout,
    centroids_KC: NDArray[np.floating],
    valid_start: NDArray[np.int32],
    valid_stop: NDArray[np.int32],
) -> PartialSums:
    """One K-means step over B records; the arithmetic in the activations' dtype, integers added across records."""
    prepared = _prepared(blocks_BCL, layout)
    like, n_clusters, scale = blocks_BCL[0], len(centroids_KC), sum_scale(layout)
    d2_BTK = _square_distances(prepared, centroids_KC, layout)
    valid_BT = span_mask(valid_start, valid_stop, layout.n_steps).to(like.device)
    nearest = d2_BTK.topk(min(2, n_clusters), dim=2, largest=False, sorted=True).values
    # topk promises nothing about ties; argmin of a CPU or CUDA tensor returns the first.
    label_BT = d2_BTK.argmin(2)
    one_hot = torch.nn.functional.one_hot(label_BT, n_clusters).to(like.dtype) * valid_BT[..., None]
    sums = []
    for block, length in zip(prepared, layout.lengths, strict=True):
        back_BLK = torch.zeros(len(like), length, n_clusters, dtype=like.dtype, device=like.device)
        back_BLK.index_add_(1, block.left_T, one_hot * block.before_BT[..., None])
        back_BLK.index_add_(1, block.right_T, one_hot * block.after_BT[..., None])
        sums.append(back_BLK.transpose(1, 2) @ block.values_BLC)
    counts_BK = one_hot.sum(1)
    distortion_BK = (one_hot * nearest[..., :1]).double().sum(1)
    margin_B = ((nearest[..., -1] - nearest[..., 0]) * valid_BT).double().sum(1)

    def integers(values: torch.Tensor, factor: float) -> torch.Tensor:
        return (values.double() * factor).round().long()

    return PartialSums(
        counts_BK.double().round().long().sum(0).cpu().numpy(),
        integers(torch.cat(sums, 2), scale.features).sum(0).cpu().numpy(),
        integers(distortion_BK, scale.distances).sum(0).cpu().numpy(),
        int(integers(margin_B, scale.distances).sum()),
        scale,
    )


def span_mask(valid_start: NDArray[np.int32], valid_stop: NDArray[np.int32], n_steps: int) -> torch.Tensor:
    """True inside each record's valid span, (B, D)."""
    steps = np.arange(n_steps)
    return torch.from_numpy((steps >= valid_start[:, None]) & (steps < valid_stop[:, None]))
