"""A source into an archive, whole or in pieces on a pool of workers: the same records in the same order.

    driver    lists the source and divides it into pieces, each of which makes whole shards
    workers   ingest pieces as they become free, and stage the shards in a folder of the archive that no reader looks at
    driver    takes the staged shards in, in the order of the source, and writes `_archive.json`, last

A piece that is begun again, because its worker died, stages the same bytes under the same names. One that no worker can
ingest fails the whole: then nothing of it is left. Signals never pass through the driver.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa

from ecgscale.archive.schema import CORE_COLUMNS, signal_of
from ecgscale.archive.sources import ingest_source, open_source, options_of
from ecgscale.archive.sources.files import SourceFolder
from ecgscale.archive.sources.pseudonyms import pseudonyms_of, redacted
from ecgscale.archive.sources.source import (
    PROBLEMS_KEPT,
    IngestOptions,
    IngestResult,
    Portion,
    Problems,
    Source,
    count_notes,
    unmapped_notes,
)
from ecgscale.archive.sources.tombstones import check_tombstones, forgotten_note, read_tombstones
from ecgscale.archive.sources.wfdb_comments import HeaderFacts
from ecgscale.archive.sources.windows import with_window_columns
from ecgscale.archive.writer import ArchiveWriter, check_target
from ecgscale.config import ArchiveConfig
from ecgscale.errors import EcgscaleError, UsageError
from ecgscale.io.places import Place, absolute
from ecgscale.passes.ingest.worker import MadePiece, staged_name
from ecgscale.passes.workers import Call, Failed, OpenPool, WorkerPool, WorkerSpec, in_process, is_divided
from ecgscale.progress import SILENT, UNSEEN, Progress, Stage
from ecgscale.store.provenance import utc_now

WORKER = "ecgscale.passes.ingest.worker:IngestWorker"


def ingest_archive(
    config: ArchiveConfig, progress: Progress = SILENT, pool: OpenPool = in_process, *, overwrite: bool = False
) -> IngestResult:
    """Ingest `config.src` into `config.path`, on the workers of `pool`; this process takes it whole.

    Workers make the shards that one process makes with the same `shard_records`, byte for byte; of CODE-15 %, and where
    recordings are cut into windows, shards end where pieces end. Raises `UsageError` for
    several workers without `shard_records` (CODE-15 % does not need it), and as the ingest of the source does; nothing
    of the archive is there then.
    """
    if config.src is None or config.source in (None, "simulate"):
        raise UsageError("archive.src is missing, or archive.source is none of ptbxl, code15, wfdb, formats, table")
    if is_divided(pool) and config.shard_records is None and not divides_itself(config):
        raise UsageError("several workers ingest shards of a known size: give --shard-records, such as 2000")
    pseudonyms = pseudonyms_of(config)
    options = options_of(
        config,
        overwrite=overwrite,
        progress=progress,
        pseudonyms=pseudonyms,
    )
    with redacted(pseudonyms, config.src):
        if is_divided(pool):
            return _ingest_pieces(pool, config, config.src, options)
        return ingest_source(config, options)


def divides_itself(config: ArchiveConfig) -> bool:
    """Whether a source comes in parts, so that workers need no number of records a shard."""
    return config.source == "code15"


def _ingest_pieces(pool: OpenPool, config: ArchiveConfig, src: Place, options: IngestOptions) -> IngestResult:
    listed_at = utc_now()
    options = _checked(config, options)
    with tempfile.TemporaryDirectory(prefix="ecgscale-ingest-") as copies:
        files = SourceFolder(src, Path(copies), options.progress)
        with files.original_paths():
            source = open_source(config, files)
            # Before they are read: all pieces depend on the tables as they were.
            versions = files.versions(source.tables)
            total, pieces, schema = source.total, source.pieces(options), source.schema(options)
    spec = WorkerSpec(WORKER, _arguments(config, versions, options))
    with pool(spec) as workers:
        if schema is None:
            schema = _headers(workers, pieces, options.progress).schema(options)
        schema = with_window_columns(schema, options.windows)
        writer = ArchiveWriter(
            config.path,
            {},
            signal_of(schema),
            [column for column in schema if column.name not in CORE_COLUMNS],
            shard_records=options.shard_records,
            overwrite=options.overwrite,
            progress=options.progress,
        )
        with writer:
            total = total if options.windows is None else None  # windows are not counted beforehand
            made = _make(workers, writer, pieces, total, schema, options.progress)
            writer.adopt_staged(
                [(staged_name(n, i), rows) for n, piece in enumerate(made) for i, rows in enumerate(piece.rows)]
            )
            result = _together(writer, source, [piece.result for piece in made], options)
            first = next((piece.source for piece in made if piece.rows), {})
            writer.source = (
                first
                | source.facts
                | {
                    "listed_at": listed_at,
                    "dropped": result.dropped,
                    "notes": list(result.notes),
                    "problems": result.problems.count,
                    "first_problems": result.problems.first,
                }
            )
    return result


def _checked(config: ArchiveConfig, options: IngestOptions) -> IngestOptions:
    """The options with who was forgotten; raises before any work what an ingest in one go raises as early."""
    check_target(config.path, options.overwrite)
    tombstones = read_tombstones(config.path)
    check_tombstones(tombstones, options.pseudonyms, config.path)
    if options.pseudonyms is not None:
        options.pseudonyms.check_carried(options.carry)
    return replace(options, tombstones=tombstones)


def _arguments(config: ArchiveConfig, versions: dict[str, str | None], options: IngestOptions) -> dict[str, Any]:
    """Of a worker, on whatever node it is made."""
    facts = config.model_dump(mode="json")
    for name in ("path", "src", "pseudonymise"):
        if facts[name] is not None:
            facts[name] = absolute(facts[name])
    if facts["layout"] and facts["layout"].lower().endswith(".toml"):
        facts["layout"] = absolute(facts["layout"])
    facts["table"] = [absolute(one) for one in facts["table"]]
    return {
        "config": facts,
        "versions": versions,
        "tombstones": options.tombstones,
        "key_id": options.pseudonyms.key_id if options.pseudonyms else None,
    }


def _headers(workers: WorkerPool, pieces: Sequence[Portion], progress: Progress) -> HeaderFacts:
    """What all headers say together."""
    calls = (
        Call(f"{number}", "headers", (replace(piece, files=()),), piece.records, what=f"headers of {piece.what}")
        for number, piece in enumerate(pieces)
    )
    found: dict[int, HeaderFacts] = {}
    with progress.stage("headers", sum(piece.records for piece in pieces), "records") as stage:
        for call, facts in _done(workers, calls, stage):
            found[int(call.key)] = facts
    together = found[0]
    for number in range(1, len(pieces)):
        together.add(found[number])
    return together


def _make(
    workers: WorkerPool,
    writer: ArchiveWriter,
    pieces: Sequence[Portion],
    total: int | None,
    schema: pa.Schema,
    progress: Progress,
) -> list[MadePiece]:
    """Have all pieces ingested and staged; what came of them, in the order of the source."""
    writer.open_staging()
    calls = (
        Call(f"{number}", "make", (number, piece, schema, writer.staging), piece.records, what=piece.what)
        for number, piece in enumerate(pieces)
    )
    made: dict[int, MadePiece] = {}
    with progress.stage("ingest", total, "records") as stage:
        for call, piece in _done(workers, calls):
            made[int(call.key)] = piece
            stage.advance(sum(piece.rows))
    return [made[number] for number in range(len(pieces))]


def _done(workers: WorkerPool, calls: Iterable[Call], stage: Stage = UNSEEN) -> Iterator[tuple[Call, Any]]:
    """Calls and their values; `EcgscaleError` for the first one that was given up."""
    for outcome in workers.run(calls, stage):
        if isinstance(outcome, Failed):
            raise EcgscaleError(f"{outcome.reason}; an archive cannot do without it. Type the command again")
        yield outcome.call, outcome.value


def _together(
    writer: ArchiveWriter, source: Source, results: Sequence[IngestResult], options: IngestOptions
) -> IngestResult:
    """How it went, as if one process had ingested everything."""
    counted: Counter[str] = Counter()
    for result in results:
        counted.update(result.counted)
    refused = tuple(chain.from_iterable(result.refused for result in results))
    notes = dict.fromkeys(chain(source.files.notes, source.notes, *(result.notes for result in results)))
    set_aside = dict(chain(source.set_aside.items(), *(result.set_aside.items() for result in results)))
    first = list(chain.from_iterable(result.problems.first for result in results))[:PROBLEMS_KEPT]
    return IngestResult(
        archive=str(writer.path),
        archive_id=writer.archive_id,
        records=writer.records,
        shards=writer.shards,
        signal=writer.signal,
        dropped=sum(result.dropped for result in results),
        problems=Problems(sum(result.problems.count for result in results), first, options.pseudonyms),
        notes=(
            *notes,
            *count_notes(counted),
            *unmapped_notes(options.lead_map, counted),
            *source.last_words(counted),
            *forgotten_note(len(refused)),
        ),
        refused=refused,
        counted=counted,
        set_aside=set_aside,
    )
