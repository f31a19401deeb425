"""The definition: what a timestep's feature vector is, computed the slow and obvious way.

    z_b(t) = Σ_l U_b[t, l] r_b[:, l]          linear interpolation, half-pixel centres
    f_b(t) = w_b · z_b(t) / ‖z_b(t)‖          0 where the norm is 0
    f(t)   = concat_b f_b(t)

(docs/method.md). `dense_features` and `dense_assign` are the oracle of every fast path; nothing else calls them,
since a record of a CODE network is 12.65 MB this way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ecgscale.errors import UsageError


@dataclass(frozen=True)
class BlockLayout:
    """Shapes of the tapped blocks of one encoder: block b gives (C_b, L_b), upsampled to D timesteps, scaled by w_b.

    Raises UsageError when a block is longer than the time axis, or a shape or scale is not positive.
    """

    channels: tuple[int, ...]
    lengths: tuple[int, ...]
    n_steps: int
    scales: tuple[float, ...]

    def __post_init__(self) -> None:
        if not len(self.channels) == len(self.lengths) == len(self.scales) or not self.channels:
            raise UsageError(
                f"one depth scale a tapped block is needed: {len(self.channels)} blocks, {len(self.scales)} scales"
            )
        for block, (channels, length, scale) in enumerate(zip(self.channels, self.lengths, self.scales, strict=True)):
            if channels < 1 or not 1 <= length <= self.n_steps:
                raise UsageError(
                    f"tapped block {block} has shape ({channels}, {length}); expected at least one channel and"
                    f" 1..{self.n_steps} steps (the encoder's time axis)"
                )
            if not (np.isfinite(scale) and scale > 0):
                raise UsageError(f"depth scale of block {block} is {scale}; expected a positive number")

    @property
    def n_blocks(self) -> int:
        """How many blocks are tapped."""
        return len(self.channels)

    @property
    def n_channels(self) -> int:
        """C, the length of a feature vector."""
        return sum(self.channels)

    @property
    def n_values(self) -> int:
        """Σ_b C_b L_b, the activations of one record."""
        return sum(c * l for c, l in zip(self.channels, self.lengths, strict=True))

    @property
    def n_low(self) -> int:
        """Σ_b L_b, the low-resolution steps of one record."""
        return sum(self.lengths)

    @property
    def square_norm(self) -> float:
        """Σ_b w_b², the largest squared norm of a feature vector."""
        return float(sum(w * w for w in self.scales))


@lru_cache(maxsize=64)
def half_pixel(length: int, n_steps: int) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float64]]:
    """Linear interpolation from `length` to `n_steps` with half-pixel centres (torch `align_corners=False`).

    Returns (left, right, fraction), each (n_steps,): z(t) = (1 − fraction) r[left] + fraction r[right].
    The source position ((2t + 1) L − D) / 2D is split in integers, so index and fraction are exact at any length.
    """
    numerator = np.maximum((2 * np.arange(n_steps, dtype=np.int64) + 1) * length - n_steps, 0)
    left = numerator // (2 * n_steps)
    fraction = (numerator - left * 2 * n_steps) / (2.0 * n_steps)
    right = np.minimum(left + 1, length - 1)
    return left.astype(np.int32), right.astype(np.int32), fraction


def dense_features(blocks_BCL: Sequence[NDArray[np.floating]], layout: BlockLayout) -> NDArray[np.floating]:
    """f(t) for every record and timestep, (B, D, C), in the dtype of the activations. The oracle."""
    features = []
    for block_BCL, length, scale in zip(blocks_BCL, layout.lengths, layout.scales, strict=True):
        left, right, fraction = half_pixel(length, layout.n_steps)
        weight = fraction.astype(block_BCL.dtype)
        z_BCT = block_BCL[:, :, left] * (1 - weight) + block_BCL[:, :, right] * weight
        norm_B1T = np.sqrt((z_BCT * z_BCT).sum(1, keepdims=True))
        unit_BCT = np.divide(z_BCT, norm_B1T, out=np.zeros_like(z_BCT), where=norm_B1T > 0)
        features.append(unit_BCT * block_BCL.dtype.type(scale))
    return np.ascontiguousarray(np.concatenate(features, 1).transpose(0, 2, 1))


@dataclass(frozen=True)
class DenseAssignment:
    """What the oracle says of every timestep: labels (B, D), squared distances (B, D, K), entropy (B, D)."""

    labels: NDArray[np.int64]
    square_distances: NDArray[np.floating]
    soft: NDArray[np.floating]
    entropy: NDArray[np.floating]


def dense_assign(
    features_BTC: NDArray[np.floating], centroids_KC: NDArray[np.floating], gamma: int, tau: float
) -> DenseAssignment:
    """Nearest centroid (lowest index on ties), soft assignment and its normalised entropy. The oracle."""
    difference = features_BTC[:, :, None, :] - centroids_KC[None, None]
    d2_BTK = (difference * difference).sum(-1)
    energy = d2_BTK ** (gamma / 2) / tau
    weights = np.exp(energy.min(-1, keepdims=True) - energy)
    p_BTK = weights / weights.sum(-1, keepdims=True)
    logs = np.log(p_BTK, out=np.zeros_like(p_BTK), where=p_BTK > 0)
    n_clusters = centroids_KC.shape[0]
    entropy = -(p_BTK * logs).sum(-1) / np.log(n_clusters) if n_clusters > 1 else np.zeros(p_BTK.shape[:2])
    return DenseAssignment(d2_BTK.argmin(-1), d2_BTK, p_BTK, np.clip(entropy, 0, 1))
