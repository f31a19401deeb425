"""An archive and the source that it grows from: do they belong together, and what of the source is in it already.

Which of the sets that a listing shows are to be ingested now, and why the others are not.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc

from ecgscale.archive.intake.feeds import Code15Feed, Feed, PtbxlFeed, WfdbFeed
from ecgscale.archive.intake.intake import IntakeLog
from ecgscale.archive.reader import Archive
from ecgscale.archive.sources.pseudonyms import Pseudonyms
from ecgscale.archive.sources.sets import Known, SourceSet
from ecgscale.archive.sources.view import SourceView
from ecgscale.archive.sources.wfdb_records import BY_NAME, BY_PATH
from ecgscale.errors import ArchiveError, ShardError, UsageError

if TYPE_CHECKING:
    from ecgscale.config import ArchiveConfig
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta

import pyarrow as pa

from ecgscale.archive.intake.night_tally import NightTally
from ecgscale.archive.sources.sets import newest_of
from ecgscale.archive.sources.view import SourceFile

_KINDS = ("ptbxl", "code15", "wfdb", "simulate")
_SIGNAL_SUFFIXES = (".dat", ".mat")


def open_feed(config: ArchiveConfig, view: SourceView, archive: Archive | None, log: IntakeLog) -> Feed:
    """The source that the configuration names, read as `archive` was; None: an archive is still to be made."""
    if config.source == "wfdb":
        return WfdbFeed(view, config.units_per_mv, None if archive is None else _record_ids(archive, log) == BY_PATH)
    if config.source == "code15":
        return Code15Feed(view, config.units_per_mv or 1.0)
    if config.source == "ptbxl":
        return PtbxlFeed(view, config.rate, config.carry if archive is None else archive.label_columns())
    raise UsageError(f"files do not arrive at a source of the kind {config.source!r}")


def check_same_source(archive: Archive, config: ArchiveConfig) -> None:
    """Raise `ArchiveError` when the configuration reads a source otherwise than the archive was made."""
    made: dict[str, Any] = archive.info.get("source", {})
    units = config.units_per_mv or 1.0 if config.source == "code15" else config.units_per_mv
    wanted: dict[str, Any] = {"kind": config.source}
    wanted |= {"rate": config.rate} if config.source == "ptbxl" else {"units_per_mv": units}
    if made.get("kind") not in _KINDS:
        return
    for name, value in wanted.items():
        if name in made and made[name] != value:
            raise ArchiveError(
                f"{archive.path} was made with {name} = {made[name]!r}, and [archive] now says {value!r}: their "
                "recordings would not mean the same. Mend the configuration, or ingest into a new archive"
            )


def adopted(archive: Archive, feed: Feed, pseudonyms: Pseudonyms | None = None) -> dict[SourceSet, str]:
    """The sets whose record (of CODE-15 %, whose part) is in an archive without a log, each with the stamp to log.

    That is "" where a file is younger than the ingest's listing, so that the set counts as changed. What an ingest
    missed because it arrived while it ran is not among them, so it is new.
    """
    made: dict[str, Any] = archive.info.get("source", {})
    moment = made.get("listed_at") or archive.info.get("created_at")
    until = datetime.fromisoformat(moment) if moment else None
    is_in = _is_in(archive, made)
    sets = {one.key: one for one in feed.sets(Known(pseudonyms=pseudonyms), until) if is_in(one)}
    if made.get("kind") == "wfdb":
        # Headers without a file of their name beside them name others, which belong to the stamp.
        bare = [one for one in sets.values() if not any(file.name.endswith(_SIGNAL_SUFFIXES) for file in one.files)]
        sets |= {one.key: one for one in feed.looked_into(bare, None)}
    return {one: "" if until is not None and one.newest > until else one.stamp for one in sets.values()}


def record_ids_of(archive: Archive) -> str:
    """Whether the records of an archive of WFDB files are known by name or by path, from the ids themselves."""
    unreadable: list[ShardError] = []
    ids = archive.metadata(["record_id"], unreadable).column("record_id")
    return BY_PATH if pc.any(pc.match_substring(ids, "/")).as_py() else BY_NAME


def _record_ids(archive: Archive, log: IntakeLog) -> str:
    told = [archive.info.get("source", {}).get("record_ids"), *(entry.record_ids for entry in log.own)]
    return next((name for name in told if name), None) or record_ids_of(archive)


def _is_in(archive: Archive, made: dict[str, Any]) -> Callable[[SourceSet], bool]:
    if "parts" in made:
        parts = frozenset(made["parts"])
        return lambda one: one.name in parts
    unreadable: list[ShardError] = []
    ids = frozenset(archive.metadata(["record_id"], unreadable).column("record_id").to_pylist())
    return lambda one: one.archived_as in ids


_AHEAD = timedelta(hours=1)


@dataclass
class FoundSets:
    """The sets of one look at a source.

    settled: what was written later has not; given_up: what was seen incomplete before is taken as it is
    same: sets whose content is in the archive already, with it; refused: sets that cannot come in
    first_seen: when sets were seen incomplete, by key, for the first time
    """

    feed: Feed
    view: SourceView
    known: Known
    settled: datetime
    given_up: datetime
    tally: NightTally
    same: dict[SourceSet, str] = field(default_factory=dict)
    refused: list[SourceSet] = field(default_factory=list)
    first_seen: dict[str, datetime] = field(default_factory=dict)

    def ready(self, sets: Sequence[SourceSet], schema: pa.Schema | None) -> list[SourceSet]:
        """The sets to be ingested: new or changed by what the listing and a look into them say, settled, complete."""
        new = []
        for one in sets:
            past = self.known.of(one)
            if past is None or past.look or past.stamp != one.stamp:
                new.append(one)
            elif past.refusal:
                self.tally.refuse(replace(one, refusal=past.refusal))
            elif past.at != one.at:
                # Moved as it was: from now on this is its place.
                self.same[one] = past.content
        settled = [one for one in new if self._has_settled(one.files)]
        self.tally.wait(len(new) - len(settled))
        ahead = sum(one.newest > self.view.now + _AHEAD for one in new)
        if ahead:
            self.tally.notes.append(
                f"{ahead:,} sets have files from the future, and wait for it; mend the sender's clock"
            )
        looked_into = map(_without_file_names, self.feed.looked_into(settled, schema))
        return [one for one in looked_into if self._is_ready(one)]

    def refuse(self, one: SourceSet) -> None:
        """A set cannot come in; that is told as long as it is as it is."""
        self.tally.refuse(one)
        self.refused.append(one)

    def _has_settled(self, files: Iterable[SourceFile]) -> bool:
        return newest_of(files) <= self.settled

    def _is_ready(self, one: SourceSet) -> bool:
        past = self.known.of(one)
        if past is not None and past.stamp == one.stamp and past.at == one.at:
            if past.refusal:
                self.tally.refuse(replace(one, refusal=past.refusal))
            return False
        if not self._has_settled(one.files):
            self.tally.wait(1)
            return False
        if one.refusal:
            self.refuse(one)
            return False
        if one.lacks and (since := self._since(one)) > self.given_up:
            self.tally.incomplete(one, since)
            return False
        if one.lacks and one.hopeless:
            self.refuse(replace(one, refusal=one.lacks))
            return False
        self.tally.give_up(one)
        return True

    def _since(self, one: SourceSet) -> datetime:
        """When it was first seen incomplete, or last changed, if that was later."""
        first = self.known.since.get(one.key)
        if first is None:
            first = self.first_seen[one.key] = self.view.now
        return max(first, one.newest)


def _without_file_names(one: SourceSet) -> SourceSet:
    """Under pseudonyms, what a set lacks is told without the names of its files."""
    if one.pseudonyms is None or not one.lacks:
        return one
    return replace(one, lacks="one of its files is not there, or not in full")
