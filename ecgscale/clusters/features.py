"""The definition: what a timestep's feature vector is, computed the slow and obvious way.

    z_b(t) = Σ_l U_b[t, l] r_b[:, l]          linear interpolation between the places of steps
    f_b(t) = w_b · z_b(t) / ‖z_b(t)‖          0 where the norm is 0
    f(t)   = concat_b f_b(t)

(docs/method.md). `dense_features` and `dense_assign` are the oracle of every fast path; nothing else calls them,
since a record of a CODE network is 12.65 MB this way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecgscale.errors import UsageError

Places = tuple[float, float]
"""Where the steps of a block sit on the time axis, in timesteps: step l at [0] + [1] · l."""


@dataclass(frozen=True)
class BlockLayout:
    """Shapes of the tapped blocks of one encoder: block b gives (C_b, L_b), upsampled to D timesteps, scaled by w_b.

    places: one a block, where its steps sit; None for half-pixel centres, ((hop − 1) / 2, hop) with hop = D / L_b, and
        () where all blocks have those
    Raises UsageError when a block is longer than the time axis or beside it, or a shape or scale is not positive.
    """

    channels: tuple[int, ...]
    lengths: tuple[int, ...]
    n_steps: int
    scales: tuple[float, ...]
    places: tuple[Places | None, ...] = ()

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
        self._require_places()

    def _require_places(self) -> None:
        if self.places and len(self.places) != self.n_blocks:
            raise UsageError(f"{len(self.places)} places of steps for {self.n_blocks} blocks; one each is needed")
        kept: list[Places | None] = []
        for block, (places, length) in enumerate(zip(self.places, self.lengths, strict=False)):
            if places is not None:
                start, step = places
                if not (np.isfinite(start) and np.isfinite(step) and step > 0):
                    raise UsageError(f"the steps of block {block} sit at {start} + {step} · l; the step is positive")
                if start > self.n_steps - 1 or start + step * (length - 1) < 0:
                    raise UsageError(
                        f"the {length} steps of block {block} sit at {start:g} + {step:g} · l, beside the time axis of "
                        f"{self.n_steps} timesteps"
                    )
                # Said in numbers, half-pixel centres are still themselves, to the last bit.
                default = step * length == self.n_steps and start == (step - 1) / 2
                places = None if default else (float(start), float(step))
            kept.append(places)
        object.__setattr__(self, "places", tuple(kept) if any(kept) else ())

    def hop(self, block: int) -> float:
        """Timesteps between two steps of a block."""
        places = self.places[block] if self.places else None
        return places[1] if places else self.n_steps / self.lengths[block]

    def borders(self, block: int) -> NDArray[np.float64]:
        """(L_b + 1,) timesteps: what lies nearest to step l is at or after the l-th and before the next."""
        places = self.places[block] if self.places else None
        steps = np.arange(self.lengths[block] + 1)
        half_pixels = steps * self.n_steps / self.lengths[block]
        return np.asarray(half_pixels if places is None else places[0] + places[1] * (steps - 0.5) + 0.5, np.float64)

    def interpolation(self, block: int) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float64]]:
        """(left, right, fraction) of a block, each (D,), as in `half_pixel`."""
        places = self.places[block] if self.places else None
        return interpolation(self.lengths[block], self.n_steps, places)

    def of_blocks(self, blocks: Sequence[int]) -> BlockLayout:
        """Some of these blocks alone."""

        def some(values: tuple[Any, ...]) -> tuple[Any, ...]:
            return tuple(values[b] for b in blocks) if values else ()

        return BlockLayout(some(self.channels), some(self.lengths), self.n_steps, some(self.scales), some(self.places))

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


GRID = 2**16
"""Parts of a step that the weights of stated places are rounded to."""


@lru_cache(maxsize=64)
def interpolation(
    length: int, n_steps: int, places: Places | None = None
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float64]]:
    """Linear interpolation from `length` steps at `places` (half-pixel centres by default) to `n_steps` timesteps.

    (left, right, fraction) as in `half_pixel`. Before the first step and behind the last, their values are held.
    """
    if places is None:
        return half_pixel(length, n_steps)
    position = np.clip((np.arange(n_steps) - places[0]) / places[1], 0, length - 1)
    # Weights are whole parts of GRID: exact in float32, and never so small that they vanish there.
    position = np.rint(position * GRID) / GRID
    left = np.floor(position)
    right = np.minimum(left + 1, length - 1)
    return left.astype(np.int32), right.astype(np.int32), position - left


def dense_features(blocks_BCL: Sequence[NDArray[np.floating]], layout: BlockLayout) -> NDArray[np.floating]:
    """f(t) for every record and timestep, (B, D, C), in the dtype of the activations. The oracle."""
    features = []
    for b, (block_BCL, scale) in enumerate(zip(blocks_BCL, layout.scales, strict=True)):
        left, right, fraction = layout.interpolation(b)
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
