"""What a fit will take in memory, said before it starts; what does not fit is spilled, or refused.

The fixed part is measured, not guessed: the process has by then loaded its libraries and run the network once on a full
batch, so its peak so far holds them. What grows with the work is added: cached activations, the kernels' scratch,
batches that are read ahead.
"""

from __future__ import annotations

import resource
import sys
from dataclasses import dataclass
from typing import Literal

from ecgscale.clusters.accumulate import kernel_threads
from ecgscale.clusters.cache import AT_ONCE, bytes_per_record
from ecgscale.clusters.features import BlockLayout
from ecgscale.clusters.packed import row_length
from ecgscale.encoders.taps import Encoder
from ecgscale.errors import UsageError

READ_AHEAD = 256 << 20
"""A row group of 128 long recordings, decoded, and the batches prepared ahead of the network."""

COMPILER = 192 << 20
"""What compiling or loading the kernels takes on first use."""


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes: `fixed` by libraries, network and reading; `scratch` of the kernels; the cache's resident part."""

    fixed: int
    scratch: int
    cache_resident: int
    cache_spilled: int
    cache_budget: int | None

    @property
    def peak(self) -> int:
        """The projected peak of anonymous and shared memory."""
        return self.fixed + self.scratch + self.cache_resident

    def summary(self, workers: bool = False) -> str:
        """One line for the user."""
        each = " a worker" if workers else ""
        line = f"memory: at most {mebibytes(self.peak)}{each} (activations {mebibytes(self.cache_resident)})"
        return line + (f", {mebibytes(self.cache_spilled)} on disk" if self.cache_spilled else "")


def mebibytes(n: int) -> str:
    """1536 MiB as a person reads it."""
    return f"{n / 2**30:.1f} GiB" if n >= 2**30 else f"{n / 2**20:.0f} MiB"


def peak_resident() -> int:
    """Bytes of the largest resident set of this process so far.

    Linux's `ru_maxrss` also remembers whoever started this process; /proc does not.
    """
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            lines = dict(line.split(":", 1) for line in status)
        return int(lines["VmHWM"].split()[0]) * 1024
    except (OSError, KeyError):
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def plan_memory(
    layout: BlockLayout,
    n_records: int,
    largest_k: int,
    total_k: int,
    encoder: Encoder,
    dtype: Literal["float32", "float16"],
    limit: int | None,
) -> MemoryPlan:
    """Project the peak for a fit of `n_records`; with a `limit` in bytes the cache spills to disk to stay below it.

    Raises UsageError when even an empty cache does not fit.
    """
    peak_so_far = peak_resident()
    batch = encoder.batch * (
        row_length(layout) * 4 * 3 + encoder.spec.input.length * len(encoder.spec.input.leads) * 16
    )
    fixed = peak_so_far + READ_AHEAD + COMPILER + batch
    threads = kernel_threads()
    sums = 3 * total_k * (layout.n_channels + 16 * layout.n_blocks) * 8 * threads
    projection = threads * layout.n_low * total_k * 8
    each = bytes_per_record(layout, dtype)
    small = n_records * (2 * layout.n_low * 8 + 8)
    widened = AT_ONCE * row_length(layout) * 4 * 2
    sample = 20_000 * layout.n_channels * 4 * 4
    scratch = sums + projection + sample
    if limit is None:
        return MemoryPlan(fixed, scratch + (widened if dtype == "float16" else 0), n_records * each, 0, None)
    scratch += widened
    room = limit - fixed - scratch
    if room >= n_records * each:
        return MemoryPlan(fixed, scratch, n_records * each, 0, n_records * each)
    # Gram terms and spans of every record stay in memory; only activations go to disk.
    budget = room - small
    if budget < 0:
        raise UsageError(
            f"--memory {mebibytes(limit)} cannot hold the fit: {mebibytes(fixed + scratch + small)} are needed before"
            f" any activation is kept; raise --memory, or take fewer --records (there are {n_records})"
        )
    resident = budget // each
    return MemoryPlan(fixed, scratch, resident * each + small, (n_records - resident) * each, budget)
