"""Low-resolution activations of many records between K-means epochs: the backends of a fit in one process.

`ActivationCache` holds packed records (ecgscale.clusters.packed): as many as the budget allows in memory, the rest in a
memory-mapped scratch file that the system may drop and read again. With float16, values are rounded before their first
use, so where they lie never changes a result. `DeviceCache` keeps them on a GPU, in tensor form; its batches have one
fixed shape, so that a record's sums do not depend on how many others are asked for.
"""

from __future__ import annotations

import tempfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray

from ecgscale.clusters.accumulate import PartialSums, accumulate
from ecgscale.clusters.features import BlockLayout
from ecgscale.clusters.init import draw_sample
from ecgscale.clusters.packed import Packed, gram_terms, pack, row_length
from ecgscale.clusters.tensors import tensor_sums
from ecgscale.errors import EcgscaleError

AT_ONCE = 256
"""Records that float16 rows are widened for, and a mapped file is read in, at a time."""


def bytes_per_record(layout: BlockLayout, dtype: Literal["float32", "float16"] = "float32") -> int:
    """Memory or disk that one cached record takes: activations, Gram terms and the valid span."""
    return row_length(layout) * np.dtype(dtype).itemsize + 2 * layout.n_low * 8 + 8


class _Cache(ABC):
    """Activations of `n_records` records, filled once by record number, then read by a fit. A context manager.

    A record that is never put has an empty span and takes no part.
    """

    def __init__(self, layout: BlockLayout, n_records: int) -> None:
        self.layout, self.n_records = layout, n_records
        # One more record, always empty, is what short batches are filled up with.
        self._start, self._stop = np.zeros(n_records + 1, np.int32), np.zeros(n_records + 1, np.int32)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None:
        """Give the memory back."""

    @property
    def spans(self) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """The valid span of every record, [start, stop), (N,) each; empty where nothing was put."""
        return self._start[:-1], self._stop[:-1]

    @abstractmethod
    def rows(self, record: int) -> NDArray[np.float32]:
        """One packed record in float32."""

    def sample(self, n: int, seed: int) -> NDArray[np.float32]:
        """About `n` feature vectors, the same for any budget and any backend."""
        return draw_sample(self.rows, self.layout, *self.spans, n, seed)


class ActivationCache(_Cache):
    """Packed activations: `budget` bytes stay in memory (None: everything), the rest in a file in `scratch`.

    The file has no name, so it is gone with the process, however that ends.
    """

    def __init__(
        self,
        layout: BlockLayout,
        n_records: int,
        budget: int | None = None,
        scratch: Path | None = None,
        dtype: Literal["float32", "float16"] = "float32",
    ) -> None:
        super().__init__(layout, n_records)
        self.dtype = np.dtype(dtype)
        each = bytes_per_record(layout, dtype)
        resident = n_records if budget is None else min(n_records, max(budget // each, 0))
        self.n_resident, self.n_spilled = resident, n_records - resident
        self._values: list[NDArray[np.floating]] = [np.empty((resident, row_length(layout)), self.dtype)]
        if self.n_spilled:
            with tempfile.TemporaryFile(dir=scratch) as file:
                self._values.append(np.memmap(file, self.dtype, mode="w+", shape=(self.n_spilled, row_length(layout))))
        self._gram = np.zeros((n_records, 2, layout.n_low), np.float64)

    def close(self) -> None:
        """Give the memory and the scratch file back."""
        self._values = []

    def put(
        self,
        records: NDArray[np.int64],
        blocks_BCL: Sequence[torch.Tensor | NDArray[np.float32]],
        valid_start: NDArray[np.int32],
        valid_stop: NDArray[np.int32],
    ) -> None:
        """Keep the activations (B, C_b, L_b) of these record numbers; EcgscaleError when some are not finite."""
        packed = pack(blocks_BCL, self.layout, valid_start, valid_stop)
        with np.errstate(over="ignore"):
            narrow = packed.values.astype(self.dtype)
        gram = packed.gram if self.dtype == np.float32 else gram_terms(narrow.astype(np.float32), self.layout)
        if not np.isfinite(gram).all():
            raise EcgscaleError(
                f"activations are not finite{'' if self.dtype == np.float32 else ' in float16; use float32'}"
            )
        resident = records < self.n_resident
        self._values[0][records[resident]] = narrow[resident]
        if self.n_spilled:
            self._values[1][records[~resident] - self.n_resident] = narrow[~resident]
        self._gram[records], self._start[records], self._stop[records] = gram, valid_start, valid_stop

    def rows(self, record: int) -> NDArray[np.float32]:
        """One packed record in float32."""
        part, at = (0, record) if record < self.n_resident else (1, record - self.n_resident)
        return np.asarray(self._values[part][at], np.float32)

    def assign_to(
        self, centroid_sets: Sequence[NDArray[np.float32]], records: NDArray[np.int64] | None = None
    ) -> list[PartialSums]:
        """Sums over the valid timesteps of `records` (all by default) for each set of centroids."""
        chosen = np.arange(self.n_records) if records is None else np.asarray(records, np.int64)
        total = [PartialSums.zero(len(c), self.layout) for c in centroid_sets]
        for part, first in enumerate((0, self.n_resident)[: len(self._values)]):
            values = self._values[part]
            here = chosen[(chosen >= first) & (chosen < first + len(values))] - first
            direct = part == 0 and self.dtype == np.float32
            size = max(len(here), 1) if direct else AT_ONCE
            for at in range(0, len(here), size):
                some = here[at : at + size]
                # Rows in memory are read in place; others are copied (and widened) a few at a time.
                where = slice(first, first + len(values)) if direct else some + first
                packed = Packed(
                    values if direct else np.asarray(values[some], np.float32),
                    self._gram[where],
                    self._start[where],
                    self._stop[where],
                )
                sums = accumulate(packed, self.layout, centroid_sets, some if direct else None)
                total = [a + b for a, b in zip(total, sums, strict=True)]
        return total


BATCH = 32


def device_bytes_per_record(layout: BlockLayout, dtype: Literal["float32", "float16"] = "float32") -> int:
    """GPU memory that one cached record takes."""
    return layout.n_values * np.dtype(dtype).itemsize


class DeviceCache(_Cache):
    """Activations on `device`; float16 is widened batch by batch."""

    def __init__(
        self,
        layout: BlockLayout,
        n_records: int,
        device: torch.device,
        dtype: Literal["float32", "float16"] = "float32",
    ) -> None:
        super().__init__(layout, n_records)
        kind = torch.float32 if dtype == "float32" else torch.float16
        self._blocks = [
            torch.zeros((n_records + 1, channels, length), dtype=kind, device=device)
            for channels, length in zip(layout.channels, layout.lengths, strict=True)
        ]

    def close(self) -> None:
        """Give the memory back."""
        self._blocks = []

    def put(
        self,
        records: NDArray[np.int64],
        blocks_BCL: Sequence[torch.Tensor],
        valid_start: NDArray[np.int32],
        valid_stop: NDArray[np.int32],
    ) -> None:
        """Keep the activations (B, C_b, L_b) of these record numbers; EcgscaleError when some are not finite."""
        for kept, block in zip(self._blocks, blocks_BCL, strict=True):
            narrow = torch.as_tensor(block).to(device=kept.device, dtype=kept.dtype)
            if not bool(narrow.isfinite().all()):
                raise EcgscaleError(f"activations are not finite in {kept.dtype}; use float32")
            kept[torch.from_numpy(records).to(kept.device)] = narrow
        self._start[records], self._stop[records] = valid_start, valid_stop

    def assign_to(
        self, centroid_sets: Sequence[NDArray[np.float32]], records: NDArray[np.int64] | None = None
    ) -> list[PartialSums]:
        """Sums over the valid timesteps of `records` (all by default) for each set of centroids."""
        chosen = np.arange(self.n_records) if records is None else np.asarray(records, np.int64)
        total = [PartialSums.zero(len(c), self.layout) for c in centroid_sets]
        for at in range(0, len(chosen), BATCH):
            some = np.full(BATCH, self.n_records, np.int64)
            some[: len(chosen[at : at + BATCH])] = chosen[at : at + BATCH]
            blocks = [block[torch.from_numpy(some).to(block.device)].float() for block in self._blocks]
            for i, centroids in enumerate(centroid_sets):
                total[i] += tensor_sums(blocks, self.layout, centroids, self._start[some], self._stop[some])
        return total

    def rows(self, record: int) -> NDArray[np.float32]:
        """One packed record in float32."""
        blocks = [block[record : record + 1].float().cpu() for block in self._blocks]
        span = slice(record, record + 1)
        return pack(blocks, self.layout, self._start[span], self._stop[span]).values[0]
