"""Labels, entropy and proportions of a batch of records under a frozen cluster model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ecgscale.clusters.model import ClusterModel
from ecgscale.clusters.packed import pack
from ecgscale.clusters.soft import soft_assign
from ecgscale.clusters.tensors import span_mask, tensor_assign


@dataclass(frozen=True)
class Assignment:
    """What a model says of B records.

    `labels` (B, D) int16, −1 outside the valid span; `entropy` (B, D) float32 in [0, 1], 0 outside; `counts` (B, K)
    timesteps a cluster; `soft` (B, K) mean p_k, `mean_entropy` (B,) and `distortion` (B,), the mean squared distance
    to the nearest centroid, all over valid timesteps.
    """

    labels: NDArray[np.int16]
    entropy: NDArray[np.float32]
    counts: NDArray[np.int32]
    soft: NDArray[np.float64]
    mean_entropy: NDArray[np.float64]
    distortion: NDArray[np.float64]


def assign(
    blocks_BCL: Sequence[torch.Tensor],
    model: ClusterModel,
    valid_start: NDArray[np.int32],
    valid_stop: NDArray[np.int32],
) -> Assignment:
    """Assign every valid timestep of B records; compiled kernels for CPU activations, tensors for others."""
    if blocks_BCL[0].device.type == "cpu":
        packed = pack(blocks_BCL, model.layout, valid_start, valid_stop)
        return Assignment(*soft_assign(packed, model.layout, model.centroids, model.gamma, model.tau))
    return _assign_tensors(blocks_BCL, model, valid_start, valid_stop)


def _assign_tensors(
    blocks_BCL: Sequence[torch.Tensor],
    model: ClusterModel,
    valid_start: NDArray[np.int32],
    valid_stop: NDArray[np.int32],
) -> Assignment:
    found = tensor_assign(blocks_BCL, model.layout, model.centroids, model.gamma, model.tau)
    valid = span_mask(valid_start, valid_stop, model.layout.n_steps).to(found.labels.device)
    n_valid = valid.sum(1).clamp_min(1)
    one_hot = torch.nn.functional.one_hot(found.labels, model.n_clusters) * valid[..., None]
    inside = valid.double()
    return Assignment(
        torch.where(valid, found.labels, -1).to(torch.int16).cpu().numpy(),
        (found.entropy * valid).float().cpu().numpy(),
        one_hot.sum(1).to(torch.int32).cpu().numpy(),
        ((found.soft.double() * inside[..., None]).sum(1) / n_valid[:, None]).cpu().numpy(),
        ((found.entropy.double() * inside).sum(1) / n_valid).cpu().numpy(),
        ((found.nearest.double() * inside).sum(1) / n_valid).cpu().numpy(),
    )
