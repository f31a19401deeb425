"""A source in one folder, taken whole in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

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
