"""Files that arrive at a source become new shards of its archive, each set of them once.

The source is listed, and sets that the log knows are passed over. Of the others, those that are complete and have
settled are ingested like any source, a portion at a time, into new shards that sort after all others; `intake` has the
protocol that makes this exactly once. A set of which a file was replaced is ingested again: its record comes a second
time in a newer shard, and publishing lets the newer one win. A set that went away changes nothing.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pyarrow as pa

from ecgscale.archive.intake.found import (
    Arrivals,
    FoundSets,
    NightTally,
    adopted,
    check_same_source,
    known_of,
)
from ecgscale.archive.intake.intake import IntakeLog, Overtaken
from ecgscale.archive.listing import ARCHIVE_JSON, archive_info
from ecgscale.archive.reader import Archive
from ecgscale.archive.sources import open_source, options_of
from ecgscale.archive.sources.files import SourceFolder, SourceSet, newest_of
from ecgscale.archive.sources.hdf5 import BrokenPart
from ecgscale.archive.sources.pseudonyms import Pseudonyms, check_key, pseudonyms_of, redacted
from ecgscale.archive.sources.source import IngestOptions, IngestResult, Portion
from ecgscale.archive.sources.tombstones import check_tombstones, read_tombstones, write_tombstones
from ecgscale.archive.sources.windows import with_window_columns
from ecgscale.archive.writer import check_target
from ecgscale.errors import ArchiveError, UsageError
from ecgscale.progress import SILENT, Progress

if TYPE_CHECKING:
    from ecgscale.config import ArchiveConfig

__all__ = ["Arrivals", "ingest_arrivals"]

PORTION_SETS = 20_000
PORTION_BYTES = 4 * 2**30
"""What is ingested, staged and entered at once: it bounds the scratch space, and what a crash can cost."""

_TRIES = 10


def ingest_arrivals(
    config: ArchiveConfig,
    settle_minutes: float = 15.0,
    give_up_hours: float = 24.0,
    progress: Progress = SILENT,
) -> Arrivals:
    """Ingest what is new or changed at `config.src` into `config.path`; an archive that is not there yet is made.

    A set counts when its newest file has been as it is for `settle_minutes`, by the clock of the source's store. One
    that lacks a file is waited for, and taken as it is `give_up_hours` after it was first seen. Whatever stops this,
    calling it again goes on: nothing is ingested twice, and nothing is lost. Raises `UsageError` without a source that
    files arrive at, `ArchiveError` for a source or an archive that is not what the configuration says, `StoreError`
    when a store refuses.
    """
    if config.source in (None, "simulate") or config.src is None:
        raise UsageError(
            f"{config.path}: files arrive at a source; set archive.source (ptbxl, code15, wfdb, formats, table) and src"
        )
    tally, pseudonyms = NightTally(), pseudonyms_of(config)
    settle, give_up = timedelta(minutes=settle_minutes), timedelta(hours=give_up_hours)
    for _ in range(_TRIES):
        with (
            redacted(pseudonyms, config.src),
            tempfile.TemporaryDirectory(prefix="ecgscale-arrivals-") as scratch,
        ):
            try:
                _Night(config, settle, give_up, progress, tally, pseudonyms, Path(scratch)).run()
                return tally.arrivals()
            except Overtaken as error:
                progress.say(f"{error}; looking again")
    raise ArchiveError(f"{config.path}: {_TRIES} times another ingest came first; let it finish, then try again")


@dataclass
class _Night:
    """One look at the source, and what follows from it."""

    config: ArchiveConfig
    settle: timedelta
    give_up: timedelta
    progress: Progress
    tally: NightTally
    pseudonyms: Pseudonyms | None
    scratch: Path
    schema: pa.Schema | None = None

    def run(self) -> None:
        """All of it; raises `Overtaken` when another process entered something in between."""
        config, tally = self.config, self.tally
        tally.look_again()
        self._log = IntakeLog(config.path)
        self._tombstones = read_tombstones(config.path)
        check_tombstones(self._tombstones, self.pseudonyms, config.path)
        self._finish_earlier()
        archive = self._open_archive()
        assert config.src is not None
        self._files = SourceFolder(config.src, self.scratch, self.progress)
        now = self._files.look()
        tally.notes += self._files.notes
        self._source = open_source(config, self._files)
        self._tables = self._source.table_files()
        settled = now - self.settle
        if newest_of(self._tables) > settled:
            names = " or ".join(table.name for table in self._tables)
            tally.seen["waiting"] += 1
            tally.notes.append(f"{names} was written a moment ago: nothing is taken until it has settled")
            return
        self._known = known_of(archive, config, self._log, self.pseudonyms)
        if archive is not None and not self._log.own:
            self._adopt(archive)
            self._known = known_of(archive, config, self._log, self.pseudonyms)
        self._found = FoundSets(self._source, self._known, now, settled, now - self.give_up, tally)
        ready = self._found.ready(self._listed(), self.schema)
        tally.notes += self._files.notes
        if self.schema is None and ready:
            self.schema = self._source.schema_of(ready, self._options(None))
            if self.schema is not None:
                self.schema = with_window_columns(self.schema, self.config.window_seconds)
        for portion in _portions(ready, self._source.one_by_one):
            self._ingest(portion)
        self._enter_the_rest()

    def _finish_earlier(self) -> None:
        for entry in self._log.unfinished():
            self.progress.say(f"finishing what an earlier ingest began: {', '.join(s.key for s in entry.shards)}")
            self._log.finish(entry)
            self.tally.put(entry)
        self._log.sweep()

    def _open_archive(self) -> Archive | None:
        if self._log.info is None:
            check_target(self.config.path)
            return None
        archive = Archive.open(self.config.path)
        check_same_source(archive, self.config)
        check_key(archive.info.get("source", {}), self.pseudonyms, archive.path)
        self.schema = archive.schema()
        return archive

    def _adopt(self, archive: Archive) -> None:
        """Begin the log of an archive that was made without one."""
        sets = adopted(archive, self._source, self._known)
        self._log.enter(
            archive_id=archive.archive_id,
            sets={one.key: (stamp, "", one.at) for one, stamp in sets.items()},
            look=tuple(one.key for one in sets if one.look),
            record_ids=self._known.record_ids or None,
        )
        self.tally.notes.append(f"{len(sets):,} sets of files were in the archive before it had a log")

    def _listed(self) -> list[SourceSet]:
        sets = self._source.sets(self._known)
        if not sets and not self._known.sets:
            raise ArchiveError(f"{self.config.src} holds nothing that source = {self.config.source!r} knows")
        keys = {one.key for one in sets}
        self.tally.seen["vanished"] = sum(key not in keys for key, past in self._known.sets.items() if not past.refusal)
        if self._tombstones is None:
            return sets
        kept = [one for one in sets if not self._tombstones.has_record(one.archived_as)]
        self.tally.seen["forgotten"] += len(sets) - len(kept)
        return kept

    def _ingest(self, portion: Sequence[SourceSet]) -> None:
        """One portion into new shards, but for sets that only look new, and those that change while they are read."""
        files = [file for one in portion for file in one.files]
        self._files.fetch(file.name for file in (*self._tables, *files))
        contents = self._contents(portion)
        portion = [one for one in portion if one.key in contents]
        same = {one: contents[one.key] for one in portion if self._known.has_content(one, contents[one.key])}
        self._found.same |= same
        fresh = [one for one in portion if one not in same]
        while fresh:
            built, error = self._build(fresh)
            changed = self._files.changed(file for one in fresh for file in (*one.files, *self._tables))
            still = [one for one in fresh if not changed & {f.name for f in (*one.files, *self._tables)}]
            self.tally.seen["waiting"] += len(fresh) - len(still)
            if len(still) == len(fresh):
                if built is not None:
                    self._enter(fresh, built, contents)
                else:
                    self._found.refuse(fresh[0], str(error))
                break
            fresh = still
        self._files.discard(files)

    def _contents(self, portion: Sequence[SourceSet]) -> dict[str, str]:
        """Digests of the bytes of sets by key; one that cannot be read is refused, and the night goes on."""
        contents = {}
        for one in portion:
            try:
                contents[one.key] = one.content(self._files)
            except OSError as error:
                self._found.refuse(one, f"its files cannot be read: {error.strerror or type(error).__name__}")
        return contents

    def _build(self, sets: Sequence[SourceSet]) -> tuple[_Built | None, BrokenPart | None]:
        target = self.scratch / f"archive-{uuid4().hex[:8]}"
        files = tuple(file.name for one in sets for file in one.files)
        portion = Portion({one.name: one.record_id for one in sets}, self.schema, files=files, whole_files=True)
        try:
            return _Built(target, self._source.ingest(target, self._options(portion))), None
        except BrokenPart as error:
            return None, error

    def _enter(self, sets: Sequence[SourceSet], built: _Built, contents: dict[str, str]) -> None:
        """Put what was built into the archive, which begins with it if there is none yet."""
        sets = self._without_forgotten(sets, built.result)
        facts: dict[str, Any] = {
            "sets": {one.key: (one.stamp, contents[one.key], one.at) for one in sets},
            "look": tuple(one.key for one in sets if one.look),
        }
        result = built.result
        if self._log.info is not None:
            facts |= {
                "archive_id": self._log.info["archive_id"],
                "dropped": result.dropped,
                "problems": result.problems.count,
                "first_problems": tuple(result.problems.first),
            }
        elif result.records:
            info = archive_info((built.target / ARCHIVE_JSON).read_bytes(), ARCHIVE_JSON)
            info["source"] |= {"record_ids": self._known.record_ids} if self._known.record_ids else {}
            facts |= {"archive_id": info["archive_id"], "info": info}
        else:
            self.tally.ingested(result)
            return
        changed = sum(self._known.of(one) is not None for one in sets)
        self.tally.put(self._log.enter(built.shards, **facts), changed)
        self.tally.ingested(result)
        shutil.rmtree(built.target, ignore_errors=True)
        if self.schema is None:
            self.schema = Archive.open(self.config.path).schema()

    def _without_forgotten(self, sets: Sequence[SourceSet], result: IngestResult) -> Sequence[SourceSet]:
        """The sets but for those whose record was left out: it is remembered as a tombstone, and nowhere else."""
        if not result.refused or self._tombstones is None:
            return sets
        self._tombstones = self._tombstones.with_these(records=result.refused)
        write_tombstones(self.config.path, self._tombstones)
        return [one for one in sets if one.archived_as not in set(result.refused)]

    def _enter_the_rest(self) -> None:
        """What is to be remembered of sets that brought no records."""
        found = self._found
        noted = (*found.same, *found.refused)
        if self._log.info is None or not (noted or found.first_seen):
            return
        self._log.enter(
            archive_id=self._log.info["archive_id"],
            sets={one.key: (one.stamp, found.same.get(one, ""), one.at) for one in noted},
            look=tuple(one.key for one in noted if one.look),
            refused={one.key: one.refusal for one in found.refused},
            incomplete={key: moment.isoformat() for key, moment in found.first_seen.items()},
        )
        self.tally.seen["touched"] = len(found.same)

    def _options(self, portion: Portion | None) -> IngestOptions:
        config = self.config
        return options_of(
            config,
            progress=self.progress,
            portion=portion,
            pseudonyms=self.pseudonyms,
            tombstones=self._tombstones,
        )


@dataclass(frozen=True)
class _Built:
    """A small archive in the scratch folder, on its way into the large one."""

    target: Path
    result: IngestResult

    @property
    def shards(self) -> list[Path]:
        """Its shard files, in their order."""
        return sorted(self.target.glob("part-*.parquet"))


def _portions(sets: Sequence[SourceSet], one_by_one: bool) -> Iterator[list[SourceSet]]:
    portion: list[SourceSet] = []
    size = 0
    for one in sets:
        if portion and (one_by_one or len(portion) == PORTION_SETS or size + one.size > PORTION_BYTES):
            yield portion
            portion, size = [], 0
        portion.append(one)
        size += one.size
    if portion:
        yield portion
