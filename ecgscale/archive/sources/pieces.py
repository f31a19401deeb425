"""Where the pieces of a source end that workers ingest: each makes whole shards, whoever was forgotten."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

from ecgscale.archive.sources.source import IngestOptions


def full_shards(people: Iterable[tuple[str, str | None]], options: IngestOptions) -> list[tuple[int, int, str]]:
    """First and one past the last record of pieces that make a full shard each, and of the rest; and what to call it.

    `people` are (record_id, patient_id) of all records: who was forgotten takes no place in a shard.
    """
    pseudonyms, tombstones = options.pseudonyms, options.tombstones
    is_in = []
    for record_id, patient_id in people:
        row: dict[str, Any] = {"record_id": record_id, "patient_id": patient_id}
        is_in.append(tombstones is None or not tombstones.refuses(pseudonyms.row(row) if pseudonyms else row))
    return [(*ends, f"records {ends[0] + 1:,} to {ends[1]:,}") for ends in stretches(is_in, options.shard_records)]


def stretches(is_in: Sequence[bool], shard_records: int | None) -> list[tuple[int, int]]:
    """First and one past the last of stretches of so many records that are in, and of the rest."""
    ends = [i + 1 for i, one in enumerate(is_in) if one]
    size = shard_records or len(is_in)
    stops = ends[size - 1 :: size]
    if ends and (not stops or stops[-1] != ends[-1]):
        stops.append(ends[-1])
    # Those behind the last one that will be in it make no shard of their own.
    return list(pairwise([0, *stops[:-1], len(is_in)]))
