"""A source in one folder, taken whole in this process, and where the pieces of it end that workers take."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from ecgscale.archive.sources.files import SourceFolder
from ecgscale.archive.sources.source import IngestOptions, IngestResult, Source
from ecgscale.archive.writer import check_target
from ecgscale.errors import ArchiveError
from ecgscale.io.places import local_copy, place
from ecgscale.store.provenance import utc_now


def ingest_whole(
    source_at: Callable[[SourceFolder], Source],
    src: str | Path,
    archive_path: str | Path,
    options: IngestOptions,
    holds: str,
) -> IngestResult:
    """Ingest a folder; `ArchiveError` before any work if there is none (of what `holds` says), or no free target.

    What lies in an object store is copied into the user's cache, because the readers of all three formats want files.
    """
    target, listed_at = place(archive_path), utc_now()
    check_target(target, options.overwrite)
    try:
        folder = local_copy(src)
    except FileNotFoundError as error:
        raise ArchiveError(f"{src} holds nothing; expected {holds}") from error
    if not folder.is_dir():
        raise ArchiveError(f"{folder}: no such folder; expected one with {holds}")
    return source_at(SourceFolder(folder, folder)).ingest(target, options, listed_at)


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
