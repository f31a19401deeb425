"""What has to be true of every table of explanations, checked row by row, and counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ecgscale.archive.reader import Archive

TOLERANCE = 1e-6


@dataclass(frozen=True)
class RowFacts:
    """Counts over all rows, and the worst of everything over those that are explained.

    lost, doubled: record ids of the archive that are not there once; torn: records whose segments do not cover the
    valid span without gaps; off: records whose proportions are not the lengths of their segments
    """

    records: int
    explained: int
    status: dict[str, int] = field(default_factory=dict)
    flags: dict[str, int] = field(default_factory=dict)
    lost: int = 0
    doubled: int = 0
    torn: int = 0
    off: int = 0
    proportions_error: float = 0.0
    soft_error: float = 0.0
    entropy: tuple[float, float] = (0.0, 1.0)
    segments_a_record: float = 0.0
    clusters_a_record: float = 0.0

    def holds(self) -> bool:
        """Every record once, shares that sum to 1, segments that cover the valid span, entropies in [0, 1]."""
        return (
            not (self.lost or self.doubled or self.torn or self.off)
            and max(self.proportions_error, self.soft_error) <= TOLERANCE
            and 0 <= self.entropy[0] <= self.entropy[1] <= 1
        )

    def summary(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def check_rows(table: pa.Table, archive: Archive) -> RowFacts:
    """Hold the explanations of `archive` to what docs/data-format.md says of them."""
    ids = archive.metadata(["record_id"])["record_id"].to_pylist()
    found = Counter(table["record_id"].to_pylist())
    rows = table.filter(pc.equal(table["status"], "ok"))
    proportions = _shares(rows["proportions"])
    soft = _shares(rows["soft_proportions"])
    starts, stops = rows["valid_start"].to_numpy(), rows["valid_stop"].to_numpy()
    torn = off = clusters = 0
    segments = [_columns(scalar.as_py()) for scalar in rows["segments"]]
    for (start, stop, cluster), first, last, shares in zip(segments, starts, stops, proportions, strict=True):
        torn += not (
            len(start)
            and start[0] == first
            and stop[-1] == last
            and (start[1:] == stop[:-1]).all()
            and (stop > start).all()
        )
        counted = np.bincount(cluster, stop - start, minlength=proportions.shape[1]) / (last - first)
        off += bool(np.abs(counted - shares).max() > TOLERANCE)
        clusters += len(np.unique(cluster))
    n = max(table["status"].to_pylist().count("ok"), 1)
    return RowFacts(
        records=table.num_rows,
        explained=rows.num_rows,
        status=dict(Counter(table["status"].to_pylist())),
        flags=dict(Counter(flag.split(":")[0] for flags in table["flags"].to_pylist() for flag in flags)),
        lost=len(set(ids) - set(found)),
        doubled=table.num_rows - len(ids) + len(set(ids) - set(found)),
        torn=torn,
        off=off,
        proportions_error=_off_one(proportions),
        soft_error=_off_one(soft),
        entropy=_entropy_range(rows),
        segments_a_record=round(sum(len(start) for start, _, _ in segments) / n, 2),
        clusters_a_record=round(clusters / n, 2),
    )


def _columns(segments: Sequence[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    start, stop, cluster = (
        np.array([segment[name] for segment in segments], np.int64) for name in ("start", "stop", "cluster")
    )
    return start, stop, cluster


def _shares(column: pa.ChunkedArray) -> np.ndarray:
    values = column.combine_chunks()
    return np.asarray(values.flatten()).reshape(len(values), -1).astype(np.float64)


def _off_one(shares: np.ndarray) -> float:
    return float(np.abs(shares.sum(1) - 1).max()) if len(shares) else 0.0


def _entropy_range(rows: pa.Table) -> tuple[float, float]:
    """Smallest and largest of all entropies there are: of timesteps, segments and records."""
    values = [rows["mean_entropy"].to_numpy()]
    segments = pc.list_flatten(rows["segments"].combine_chunks())
    values.append(pc.struct_field(segments, "entropy").to_numpy(zero_copy_only=False))
    if rows["entropy"].null_count < rows.num_rows:
        values.append(pc.list_flatten(rows["entropy"].combine_chunks()).to_numpy(zero_copy_only=False))
    everything = np.concatenate([value for value in values if len(value)] or [np.zeros(1)])
    return float(everything.min()), float(everything.max())
