"""Activations as the kernels read them: one row of floats a record, and the Gram terms of neighbouring steps.

A record's row holds its blocks one after the other, each (L_b, C_b): a step's channels lie together, which is what
projections, norms and centroid sums all read, filled with zeros to a multiple of LANES so that no loop over channels
has a remainder. Beside it, in float64 because near-opposite neighbours cancel,

    q_l = ‖r_l‖²        x_l = ⟨r_l, r_{l+1}⟩   (x = q at the last step, whose right neighbour is itself)

so that ‖z(t)‖² = a² q_l + 2ab x_l + b² q_{l+1} for any timestep between l and l + 1.

How the kernels are compiled, and where the result is kept.

Numba's cache notices a change of the file that a function stands in, but not of functions it calls from other files. So
compiled code is kept under a digest of all files of this package, in the user's cache directory (NUMBA_CACHE_DIR, if
set, comes first): a new version never runs old code, and a read-only installation is compiled once.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numba
import numpy as np
import torch
from numba import prange
from numpy.typing import NDArray

from ecgscale.clusters.features import BlockLayout

FAST = {"reassoc", "contract", "nsz"}
"""Liberties that vector code needs: sums in any order, fused multiply-add, no signed zeros; NaN stays NaN."""


def kernel(*, parallel: bool = False, fast: bool = True) -> Callable[[Callable[..., Any]], Any]:
    """Compile on first use; division is NumPy's, since Python's check for zero keeps loops from becoming vectors."""

    def decorate(function: Callable[..., Any]) -> Any:
        config: Any = numba.config
        before = config.CACHE_DIR
        config.CACHE_DIR = before or str(cache_directory())
        try:
            # Inner kernels become part of the outer one. Otherwise a process that has just compiled them calls them
            # as they are, and one that loads the outer kernel calls copies that were optimised once more: other bits.
            return numba.njit(
                cache=True,
                parallel=parallel,
                forceinline=not parallel,
                error_model="numpy",
                fastmath=FAST if fast else False,
            )(function)
        finally:
            config.CACHE_DIR = before

    return decorate


@lru_cache(maxsize=1)
def cache_directory() -> Path:
    """Where this version's compiled kernels lie."""
    digest = hashlib.sha256(numba.__version__.encode())
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return caches / "ecgscale" / "kernels" / digest.hexdigest()[:16]


CHUNK = 16
"""Timesteps that the kernels work on at once: one AVX-512 vector, two AVX2 vectors, four NEON vectors."""


LANES = 16
"""Channels are filled with zeros to a multiple of this: one cache line, one AVX-512 vector."""


@dataclass(frozen=True)
class Packed:
    """B records: `values` (B, Σ C'_b L_b) float32 with C'_b the padded channels, `gram` (B, 2, Σ L_b) float64 holding q
    and x, and the valid span of each record on the time axis."""

    values: NDArray[np.float32]
    gram: NDArray[np.float64]
    valid_start: NDArray[np.int32]
    valid_stop: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.values)


def padded_channels(layout: BlockLayout) -> tuple[int, ...]:
    """C_b rounded up to a multiple of LANES, for every block."""
    return tuple(-(-channels // LANES) * LANES for channels in layout.channels)


def row_length(layout: BlockLayout) -> int:
    """Floats of one packed record."""
    return sum(c * l for c, l in zip(padded_channels(layout), layout.lengths, strict=True))


def block_slices(layout: BlockLayout) -> Iterator[tuple[slice, slice]]:
    """For each block, where its values and where its low-resolution steps lie in a packed row."""
    value = low = 0
    for channels, length in zip(padded_channels(layout), layout.lengths, strict=True):
        yield slice(value, value + channels * length), slice(low, low + length)
        value, low = value + channels * length, low + length


def pack(
    blocks_BCL: Sequence[torch.Tensor | NDArray[np.float32]],
    layout: BlockLayout,
    valid_start: NDArray[np.int32],
    valid_stop: NDArray[np.int32],
) -> Packed:
    """Lay the tapped activations of B records out for the kernels; (B, C_b, L_b) each."""
    tensors = [torch.as_tensor(block).cpu() for block in blocks_BCL]
    values = np.zeros((len(tensors[0]), row_length(layout)), np.float32)
    for block, (where, _), length in zip(tensors, block_slices(layout), layout.lengths, strict=True):
        target = torch.from_numpy(values)[:, where].unflatten(1, (length, -1))
        target[:, :, : block.shape[1]].copy_(block.transpose(1, 2))
    return Packed(
        values, gram_terms(values, layout), np.asarray(valid_start, np.int32), np.asarray(valid_stop, np.int32)
    )


def gram_terms(values: NDArray[np.float32], layout: BlockLayout) -> NDArray[np.float64]:
    """q and x of every low-resolution step, (B, 2, Σ L_b) float64."""
    gram = np.empty((len(values), 2, layout.n_low), np.float64)
    _gram(values, np.array(padded_channels(layout)), np.array(layout.lengths), gram)
    return gram


@kernel(parallel=True)
def _gram(values, channels, lengths, gram):  # type: ignore[no-untyped-def]
    for n in prange(values.shape[0]):
        start, low = 0, 0
        for b in range(len(channels)):
            size = channels[b]
            for l in range(lengths[b]):
                here = values[n, start : start + size]
                there = values[n, start + size : start + 2 * size]
                q = 0.0
                for c in range(size):
                    q += np.float64(here[c]) * np.float64(here[c])
                x = q
                if l + 1 < lengths[b]:
                    x = 0.0
                    for c in range(size):
                        x += np.float64(here[c]) * np.float64(there[c])
                gram[n, 0, low + l], gram[n, 1, low + l] = q, x
                start += size
            low += lengths[b]


@dataclass(frozen=True)
class ChunkTable:
    """The time axis cut into runs of at most CHUNK timesteps in which every block keeps its two neighbours.

    `first` (J,) and `count` (J,): timesteps of a run; `rows` (J, 2B): packed low-resolution steps left and right of it,
    block by block; `fraction` (J, B · CHUNK) float32, zero beyond `count`. B is rounded up to a multiple of three, as
    the kernels want it; blocks that are added have no weight.
    """

    first: NDArray[np.int32]
    count: NDArray[np.int32]
    rows: NDArray[np.int32]
    fraction: NDArray[np.float32]


@lru_cache(maxsize=16)
def chunk_table(layout: BlockLayout) -> ChunkTable:
    """The runs of `layout`'s time axis: for the CODE shapes 335 of 8 or 16 timesteps, D of one where L_b = D."""
    tables = [layout.interpolation(block) for block in range(layout.n_blocks)]
    padded_blocks = -(-layout.n_blocks // 3) * 3
    breaks = {0, layout.n_steps}
    for left, _, _ in tables:
        breaks.update((np.flatnonzero(np.diff(left)) + 1).tolist())
    edges: list[int] = []
    for start, stop in pairwise(sorted(breaks)):
        edges.extend(range(start, stop, CHUNK))
    first = np.array(edges, np.int32)
    count = np.diff(np.append(first, layout.n_steps)).astype(np.int32)
    rows = np.zeros((len(first), 2 * padded_blocks), np.int32)
    fraction = np.zeros((len(first), padded_blocks, CHUNK), np.float32)
    steps = np.minimum(first[:, None] + np.arange(CHUNK), layout.n_steps - 1)
    inside = np.arange(CHUNK) < count[:, None]
    for b, ((left, right, part), (_, low)) in enumerate(zip(tables, block_slices(layout), strict=True)):
        rows[:, 2 * b], rows[:, 2 * b + 1] = low.start + left[first], low.start + right[first]
        fraction[:, b] = np.where(inside, part[steps], 0.0)
    return ChunkTable(first, count, rows, fraction.reshape(len(first), -1))
