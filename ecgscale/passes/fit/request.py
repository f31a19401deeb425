"""What a user asks of a fit, checked once and handed to every worker, and the records that it chooses: by fold, and a
seeded draw of at most so many, in the archive's order, which no runtime changes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ecgscale.archive.reader import Archive
from ecgscale.clusters.kmeans import FitSettings
from ecgscale.clusters.model import MIN_TAU
from ecgscale.config import BATCH, FIT
from ecgscale.encoders.taps import Precision
from ecgscale.errors import ArchiveError, ShardError, UsageError
from ecgscale.words import named


@dataclass(frozen=True)
class FitRequest:
    """What a user asks of `ecgscale fit`; `gamma` and `tau` as in docs/method.md (tau None: the rule for gamma).

    fill_gaps: milliseconds; gaps in a lead that are longer keep the record out
    """

    clusters: tuple[int, ...] = (FIT.clusters,)
    folds: tuple[int, ...] | None = None
    records: int | None = None
    settings: FitSettings = field(default_factory=FitSettings)
    gamma: Literal[1, 2] = FIT.gamma
    tau: float | None = None
    batch: int = BATCH
    device: str = "auto"
    include_padding: bool = False
    fill_gaps: float = 0.0
    precision: Precision = "float32"
    cache_dtype: Literal["float32", "float16"] = FIT.cache_dtype
    memory: int | None = None
    scratch: Path | None = None
    allow_nondeterministic: bool = False

    def __post_init__(self) -> None:
        if not self.clusters:
            raise UsageError("--clusters names no number of clusters")
        for k in self.clusters:
            if not 2 <= k <= 512:
                raise UsageError(f"--clusters {k}: between 2 and 512 clusters can be fitted")
        if len(set(self.clusters)) < len(self.clusters):
            raise UsageError(f"--clusters names a number twice: {', '.join(map(str, self.clusters))}")
        if self.tau is not None and not MIN_TAU <= self.tau < math.inf:
            raise UsageError(
                f"--tau {self.tau}: a temperature is a number from {MIN_TAU} on; below it, every soft assignment would"
                " be 0 or 1, and infinity would make all of them equal"
            )


@dataclass(frozen=True)
class Selection:
    """Chosen records: `rows[shard]` are sorted row numbers, of shards in the archive's order.

    `record_ids` and `patient_ids` are in the same order; `skipped` holds shards that cannot be read, with the reason.
    """

    rows: dict[str, NDArray[np.int64]]
    record_ids: list[str | None]
    patient_ids: list[str | None]
    skipped: dict[str, str]

    def __len__(self) -> int:
        return len(self.record_ids)


def select(
    archive: Archive, folds: Sequence[int] | None = None, records: int | None = None, seed: int = 0
) -> Selection:
    """Records of `folds` (all by default), at most `records` of them, drawn with `seed`.

    Reads ids and folds only. Raises ArchiveError when the archive has no fold column, or none of its records is chosen.
    """
    names = archive.schema().names
    if folds is not None and "fold" not in names:
        raise ArchiveError(f"{archive.path} has no column 'fold'; leave --folds out")
    columns = ["record_id", *(name for name in ("patient_id", "fold") if name in names)]
    unreadable: list[ShardError] = []
    table = archive.metadata(columns, unreadable)
    if folds is not None:
        known = sorted(value for value in pc.unique(table["fold"]).to_pylist() if value is not None)
        absent = sorted(set(folds) - set(known))
        if absent:
            has = ", ".join(map(str, known)) or "none"
            raise ArchiveError(f"{archive.path} has no fold {named([str(fold) for fold in absent])}; it has {has}")
        table = table.filter(pc.is_in(table["fold"], pa.array(sorted(folds), table["fold"].type)))
    if records is not None and records < table.num_rows:
        chosen = np.sort(np.random.default_rng([seed, 4]).permutation(table.num_rows)[:records])
        table = table.take(pa.array(chosen))
    if table.num_rows == 0:
        raise ArchiveError(f"{archive.path}: no record is chosen; see `ecgscale inspect {archive.path}`")
    return _by_shard(table, {str(i): str(error) for i, error in enumerate(unreadable)})


def _by_shard(table: pa.Table, skipped: dict[str, str]) -> Selection:
    shards = table["shard"].to_numpy()
    rows = table["row"].to_numpy().astype(np.int64)
    edges = np.flatnonzero(np.append(True, shards[1:] != shards[:-1]))
    stops = np.append(edges[1:], len(rows))
    patients = table["patient_id"].to_pylist() if "patient_id" in table.column_names else [None] * len(rows)
    return Selection(
        {str(shards[a]): rows[a:b] for a, b in zip(edges, stops, strict=True)},
        table["record_id"].to_pylist(),
        patients,
        skipped,
    )
