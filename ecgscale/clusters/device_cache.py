"""Low-resolution activations kept on a GPU between K-means epochs: the same seam in tensor form.

Batches have one fixed shape, filled up with empty records, so that a record's sums do not depend on how many others
are asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from ecgscale.clusters.features import BlockLayout
from ecgscale.clusters.init import draw_sample
from ecgscale.clusters.packed import pack
from ecgscale.clusters.sums import PartialSums
from ecgscale.clusters.tensors import tensor_sums
from ecgscale.errors import EcgscaleError

BATCH = 32


def device_bytes_per_record(layout: BlockLayout, dtype: Literal["float32", "float16"] = "float32") -> int:
    """GPU memory that one cached record takes."""
    return layout.n_values * np.dtype(dtype).itemsize


class DeviceCache:
    """Activations of `n_records` records on `device`, filled once by record number; a backend of the fit.

    A record that is never put has an empty span and takes no part. float16 is widened batch by batch.
    """

    def __init__(
        self,
        layout: BlockLayout,
        n_records: int,
        device: torch.device,
        dtype: Literal["float32", "float16"] = "float32",
    ) -> None:
        self._layout, self._n_records = layout, n_records
        kind = torch.float32 if dtype == "float32" else torch.float16
        # One more row, always empty, is what short batches are filled up with.
        self._blocks = [
            torch.zeros((n_records + 1, channels, length), dtype=kind, device=device)
            for channels, length in zip(layout.channels, layout.lengths, strict=True)
        ]
        self._start, self._stop = np.zeros(n_records + 1, np.int32), np.zeros(n_records + 1, np.int32)

    def __enter__(self) -> DeviceCache:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the memory back."""
        self._blocks = []

    @property
    def layout(self) -> BlockLayout:
        """Shapes of the tapped blocks."""
        return self._layout

    @property
    def n_records(self) -> int:
        """Records, put or not."""
        return self._n_records

    @property
    def spans(self) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """The valid span of every record, [start, stop), (N,) each; empty where nothing was put."""
        return self._start[:-1], self._stop[:-1]

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
        chosen = np.arange(self._n_records) if records is None else np.asarray(records, np.int64)
        total = [PartialSums.zero(len(c), self._layout) for c in centroid_sets]
        for at in range(0, len(chosen), BATCH):
            some = np.full(BATCH, self._n_records, np.int64)
            some[: len(chosen[at : at + BATCH])] = chosen[at : at + BATCH]
            blocks = [block[torch.from_numpy(some).to(block.device)].float() for block in self._blocks]
            for i, centroids in enumerate(centroid_sets):
                total[i] += tensor_sums(blocks, self._layout, centroids, self._start[some], self._stop[some])
        return total

    def sample(self, n: int, seed: int) -> NDArray[np.float32]:
        """About `n` feature vectors, the same records and timesteps as any other backend draws."""
        return draw_sample(self.rows, self._layout, *self.spans, n, seed)

    def rows(self, record: int) -> NDArray[np.float32]:
        """One packed record in float32."""
        blocks = [block[record : record + 1].float().cpu() for block in self._blocks]
        span = slice(record, record + 1)
        return pack(blocks, self._layout, self._start[span], self._stop[span]).values[0]
