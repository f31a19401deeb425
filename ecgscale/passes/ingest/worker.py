"""The worker of an ingest: takes a piece of a source, and leaves whole shards where the archive will be.

A piece is ingested like any source, into a scratch archive of its own. On a disk that lies in the archive's staging
folder, so that shards are moved and not copied; for an object store it lies on this machine. Of a source in an object
store, what a piece needs is fetched, and gone when the piece is done.
"""

from __future__ import annotations

import json
import os
import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ecgscale.archive.schema import signal_of
from ecgscale.archive.sources import open_source, options_of
from ecgscale.archive.sources.files import SourceFolder
from ecgscale.archive.sources.hdf5 import BrokenPart
from ecgscale.archive.sources.pseudonyms import Pseudonyms, pseudonyms_of, redacted
from ecgscale.archive.sources.source import IngestResult, Portion, Problems, Source, count_notes
from ecgscale.archive.sources.tombstones import Tombstones, forgotten_note
from ecgscale.archive.sources.wfdb_comments import HeaderFacts
from ecgscale.config import ArchiveConfig
from ecgscale.errors import UsageError
from ecgscale.io.objects import open_objects
from ecgscale.io.places import Place, is_remote


@dataclass(frozen=True)
class MadePiece:
    """What came of a piece: rows of its staged shards, in their order, and the result of its ingest.

    source: what `_archive.json` would say of the source; empty when there was no record
    result: notes on so many records left out, and no key of pseudonyms: it does not travel
    """

    rows: tuple[int, ...]
    source: dict[str, Any]
    result: IngestResult


class IngestWorker:
    """Ingests pieces of one source.

    config: of the archive, as JSON has it, with places in full; versions: of the tables that the source was divided by
    key_id: of the key of pseudonyms, which every node reads for itself: a key does not travel
    """

    def __init__(
        self,
        config: dict[str, Any],
        versions: Mapping[str, str | None],
        tombstones: Tombstones | None,
        key_id: str | None,
    ) -> None:
        self._config = ArchiveConfig.model_validate(config)
        self._versions = versions
        self._tombstones = tombstones
        self._pseudonyms = _pseudonyms_here(self._config, key_id)
        self._opened: Source | None = None

    def headers(self, piece: Portion) -> HeaderFacts:
        """What the headers of a piece's records say together."""
        with self._files() as files:
            return self._source(files).header_facts(piece.sets)

    def make(self, number: int, piece: Portion, schema: pa.Schema, staging: str) -> MadePiece:
        """Ingest piece `number`, in this schema, and stage its shards in that folder of the archive.

        Raises as the ingest of the source does; nothing of the piece is staged then.
        """
        with self._files() as files, self._scratch(staging) as scratch:
            files.require_versions(self._versions)
            source = self._source(files)
            source.fetch(piece)
            options = options_of(
                self._config,
                portion=replace(piece, schema=schema),
                pseudonyms=self._pseudonyms,
                tombstones=self._tombstones,
            )
            try:
                result = source.ingest(scratch / "archive", options)
            except BrokenPart as error:
                # A part of a remote source, which nobody has opened before.
                nothing = IngestResult("", "", 0, 0, signal_of(schema), 0, Problems(), ())
                return MadePiece(
                    (), {}, replace(nothing, set_aside=dict.fromkeys(piece.sets, files.original(str(error))))
                )
            files.require_versions(self._versions)
            return self._staged(number, staging, result)

    def _source(self, files: SourceFolder) -> Source:
        """The source; a local one is opened once, since its tables may be large."""
        if self._opened is None or not files.is_local:
            self._opened = open_source(self._config, files)
        return self._opened

    @contextmanager
    def _files(self) -> Iterator[SourceFolder]:
        """The source; within the block, errors say of it no more than they may."""
        assert self._config.src is not None
        with (
            redacted(self._pseudonyms, self._config.src),
            tempfile.TemporaryDirectory(prefix="ecgscale-ingest-", ignore_cleanup_errors=True) as copies,
        ):
            files = SourceFolder(self._config.src, Path(copies))
            with files.original_paths():
                yield files

    @contextmanager
    def _scratch(self, staging: str) -> Iterator[Path]:
        path = self._config.path
        here = None if is_remote(path) else path / staging
        with tempfile.TemporaryDirectory(prefix="ecgscale-ingest-", dir=here, ignore_cleanup_errors=True) as scratch:
            yield Path(scratch)

    def _staged(self, number: int, staging: str, result: IngestResult) -> MadePiece:
        shards = sorted(Path(result.archive).glob("part-*.parquet")) if result.records else []
        rows = tuple(pq.read_metadata(shard).num_rows for shard in shards)
        for i, shard in enumerate(shards):
            _stage(shard, self._config.path, f"{staging}/{staged_name(number, i)}")
        counts = {*count_notes(result.counted), *forgotten_note(len(result.refused))}
        return MadePiece(
            rows=rows,
            source=json.loads((Path(result.archive) / "_archive.json").read_bytes())["source"] if shards else {},
            result=replace(
                result,
                problems=replace(result.problems, pseudonyms=None),
                notes=tuple(note for note in result.notes if note not in counts),
            ),
        )


def staged_name(number: int, shard: int) -> str:
    """What shard `shard` of piece `number` is called while it waits, whoever made it, and however often."""
    return f"{number:05d}-{shard:05d}.parquet"


def _stage(shard: Path, archive: Place, key: str) -> None:
    """Put a finished shard under a key of the archive, in one piece."""
    if is_remote(archive):
        open_objects(archive).put(key, shard.read_bytes())
    else:
        os.replace(shard, archive / key)


def _pseudonyms_here(config: ArchiveConfig, key_id: str | None) -> Pseudonyms | None:
    try:
        found = pseudonyms_of(config)
    except UsageError as error:
        raise UsageError(
            f"on {socket.gethostname()}, {error}. Every node that ingests reads the key by itself, at the same path"
        ) from None
    if found is not None and found.key_id != key_id:
        raise UsageError(
            f"on {socket.gethostname()}, {config.pseudonymise} is key {found.key_id}, and the driver's is {key_id}: the"
            " same patient would have two names. Put the same key on all nodes"
        )
    return found
