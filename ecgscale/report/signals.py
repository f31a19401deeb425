"""Signals of chosen recordings, in millivolts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ecgscale.archive import Archive
from ecgscale.archive.chosen import chosen_batches
from ecgscale.errors import ArchiveError, ShardError


@dataclass(frozen=True)
class Recording:
    """(n_leads, n_samples) millivolts at `rate` Hz; `leads` in the order of the rows."""

    record_id: str
    signal_mv: NDArray[np.float64]
    leads: tuple[str, ...]
    rate: float


def read_recordings(
    archive: Archive, wanted: Mapping[str, Sequence[str]], unreadable: list[str] | None = None
) -> Iterator[Recording]:
    """The recordings of these names, shard key → record ids; those that a shard does not hold any more are left out.

    A shard that cannot be read, or is gone, raises `ShardError` or `ArchiveError`, or is left out and told in
    `unreadable` where such a list is given.
    """
    for key in sorted(wanted):
        try:
            yield from _of_shard(archive, key, wanted[key])
        except (ShardError, ArchiveError) as error:
            if unreadable is None:
                raise
            unreadable.append(str(error))


def _of_shard(archive: Archive, key: str, names: Sequence[str]) -> Iterator[Recording]:
    for batch, rows in chosen_batches(archive, {key: names}):
        for i in rows:
            signal_mv = batch.signal(i).astype(np.float64) / float(batch.units_per_mv[i])
            yield Recording(str(batch.record_ids[i]), signal_mv, batch.leads[i], float(batch.sampling_rate[i]))
