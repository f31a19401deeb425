"""Waves of some records that many clusterings are held against in turn."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ecgscale.archive.waves import Waves
from ecgscale.errors import UsageError
from ecgscale.evaluate.localise.annotated import choose, find_waves
from ecgscale.evaluate.localise.localisation import localise
from ecgscale.evaluate.localise.timelines import timelines
from ecgscale.evaluate.seen import patients_of
from ecgscale.passes.spread import HERE, Spread
from ecgscale.progress import Progress

_SHIFTS, _RESAMPLES = 20, 2
MOST_ANNOTATED, MOST_DELINEATED = 200, 60


@dataclass(frozen=True)
class Heartbeat:
    """Waves of W records, and where each of them stands among the N records whose labels come (−1: not there)."""

    waves: Waves
    rows: NDArray[np.int64]
    rate: float
    start_s: NDArray[np.float64]
    source_rate: NDArray[np.float64]
    patients: tuple[str, ...]
    told: str

    def compare(self, labels: NDArray[np.int16], n_clusters: int) -> dict[str, float | None]:
        """`information` (of the waves' entropy) and `qrs_f1`, and the mean of 20 circular shifts of the former, from
        labels (N, D)."""
        there = labels[np.maximum(self.rows, 0)].copy()
        there[self.rows < 0] = -1
        lines = timelines(there, self.waves, self.rate, self.start_s, self.source_rate)
        found = localise(lines, n_clusters, self.patients, n_shifts=_SHIFTS, n_bootstrap=_RESAMPLES)
        information = found.scores["information"]
        return {
            "information": information.value,
            "information_shifted": information.shifted_mean,
            "qrs_f1": found.scores["qrs_f1"].value,
        }


@dataclass(frozen=True)
class FoundBeats:
    """Records with waves, their shards, and the waves."""

    record_ids: tuple[str, ...]
    shards: tuple[str, ...]
    waves: Waves
    rate: float
    start_s: NDArray[np.float64]
    source_rate: NDArray[np.float64]
    patients: tuple[str, ...]
    told: str

    def among(self, record_ids: tuple[str, ...]) -> Heartbeat:
        """The same for labels of these records."""
        number = {record: i for i, record in enumerate(record_ids)}
        rows = np.array([number.get(record, -1) for record in self.record_ids], np.int64)
        return Heartbeat(self.waves, rows, self.rate, self.start_s, self.source_rate, self.patients, self.told)


def find_beats(
    root: Path, dataset: str | None, archive: Path | None, seed: int, progress: Progress, spread: Spread = HERE
) -> FoundBeats | str:
    """Waves of up to MOST_ANNOTATED explained records, of MOST_DELINEATED where NeuroKit2 has to find them; a text that
    says why there are none."""
    try:
        chosen = choose(root, dataset, archive, MOST_ANNOTATED, "auto", seed)
        if chosen.source != "fiducials":
            chosen = choose(root, dataset, archive, MOST_DELINEATED, "auto", seed)
        found = find_waves(chosen, progress, spread)
    except UsageError as error:
        return str(error)
    table = chosen.table
    if not found.waves.counts.any():
        return "no record has waves"
    return FoundBeats(
        record_ids=tuple(map(str, table.column("record_id").to_pylist())),
        shards=tuple(map(str, table.column("source_shard").to_pylist())),
        waves=found.waves,
        rate=float(table.column("sampling_rate")[0].as_py()),
        start_s=table.column("start_s").to_numpy(),
        source_rate=table.column("source_sampling_rate").to_numpy().astype(np.float64),
        patients=tuple(patients_of(table).tolist()),
        told=f"waves of {table.num_rows} records ({found.source})",
    )
