"""What one look at a source finds: which sets are to be ingested now, why the others are not, and what to say of it.

An archive without a log is taken on as it is: the sets whose records are in it count as ingested.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ecgscale.archive.intake.intake import Intake, IntakeLog
from ecgscale.archive.reader import Archive
from ecgscale.archive.sources.beside import Patients
from ecgscale.archive.sources.files import Known, SourceSet
from ecgscale.archive.sources.pseudonyms import Pseudonyms
from ecgscale.archive.sources.source import IngestResult, Source
from ecgscale.archive.sources.tombstones import forgotten_note
from ecgscale.archive.sources.wfdb_files import BY_NAME, BY_PATH
from ecgscale.archive_config import read_layout
from ecgscale.errors import ArchiveError, ShardError

if TYPE_CHECKING:
    from ecgscale.config import ArchiveConfig

_NAMED = 5
_NAMED_AS = {
    "refused": "refused",
    "incomplete": "incomplete, waited for",
    "given_up": "taken as they are, after waiting for long enough",
}
_AHEAD = timedelta(hours=1)
_KINDS = ("ptbxl", "code15", "wfdb", "formats", "table", "simulate")
_SIGNAL_SUFFIXES = (".dat", ".mat")


@dataclass(frozen=True)
class Arrivals:
    """What arrived. Counts are of sets of files (a record; of CODE-15 %, a part), but for `records`.

    sets_new, sets_changed: ingested, for the first time and again
    touched: written anew, moved or copied with the same content, so that nothing was ingested
    waiting: too young yet; incomplete: lacking a file; given_up: taken although they lack one
    refused: cannot come into this archive as they are; vanished: ingested, and no longer in the source
    forgotten: records of patients who were forgotten; they were left out
    records, problems: in the new shards; shards: their keys; notes: what somebody should know
    """

    sets_new: int = 0
    sets_changed: int = 0
    touched: int = 0
    waiting: int = 0
    incomplete: int = 0
    given_up: int = 0
    refused: int = 0
    vanished: int = 0
    forgotten: int = 0
    records: int = 0
    problems: int = 0
    shards: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """For `--json` and the run record."""
        return asdict(self)


class NightTally:
    """Counts on their way. What was put stays when another ingest came in between; what was seen is seen again.

    done, seen: counts by their names in `Arrivals`
    """

    def __init__(self) -> None:
        self.done: Counter[str] = Counter()
        self._shards: dict[str, int] = {}
        self._problems: list[str] = []
        self._of_ingest: list[str] = []
        self.look_again()

    def look_again(self) -> None:
        """Forget what was seen, not what was done."""
        self.seen: Counter[str] = Counter()
        self.notes: list[str] = []
        self._named: dict[str, list[str]] = {what: [] for what in _NAMED_AS}

    def put(self, entry: Intake, changed: int = 0) -> None:
        """The shards of an entry are in place; so many of its sets had been ingested before."""
        self.done.update(sets_new=len(entry.sets) - changed, sets_changed=changed)
        self._shards |= {shard.key: shard.rows for shard in entry.shards}

    def ingested(self, result: IngestResult) -> None:
        """What an ingest said of the records in such shards."""
        self.done["problems"] += result.problems.count
        self._problems += result.problems.first[:_NAMED]
        self.seen["forgotten"] += len(result.refused)
        self._of_ingest += [note for note in result.notes if note not in forgotten_note(len(result.refused))]

    def name(self, what: str, one: SourceSet, why: str) -> None:
        """A set is "refused", "incomplete" (and waited for), or "given_up" (and taken as it is)."""
        self._named[what].append(f"{one.archived_as}: {why}")

    def arrivals(self) -> Arrivals:
        """The result."""
        notes = [
            *self.notes,
            *self._of_ingest,
            *(line for what, text in _NAMED_AS.items() for line in _one_line(text, self._named[what])),
            *_one_line("ingested with problems", self._problems, self.done["problems"]),
            *forgotten_note(self.seen["forgotten"]),
        ]
        if vanished := self.seen["vanished"]:
            notes.append(f"{vanished:,} sets that were ingested are no longer in the source; nothing was removed")
        return Arrivals(
            **self.done,
            **self.seen,
            **{what: len(sets) for what, sets in self._named.items()},
            records=sum(self._shards.values()),
            shards=tuple(sorted(self._shards)),
            notes=tuple(dict.fromkeys(notes)),
        )


def _one_line(what: str, found: Sequence[str], count: int | None = None) -> list[str]:
    """One line for all sets of a kind, the first ones by name."""
    if not found:
        return []
    count = len(found) if count is None else count
    more = f"; and {count - _NAMED:,} more" if count > _NAMED else ""
    return [f"{count:,} {what}: {'; '.join(found[:_NAMED])}{more}"]


def check_same_source(archive: Archive, config: ArchiveConfig) -> None:
    """Raise `ArchiveError` when the configuration reads a source otherwise than the archive was made."""
    made: dict[str, Any] = {"windows": None, **archive.info.get("source", {})}
    units = config.units_per_mv or 1.0 if config.source == "code15" else config.units_per_mv
    wanted: dict[str, Any] = {"kind": config.source}
    wanted |= {"rate": config.rate} if config.source == "ptbxl" else {"units_per_mv": units}
    if config.source == "table":
        wanted = {"kind": "table", "layout": read_layout(config.layout or "").digest}
    wanted["windows"] = config.window_seconds
    if config.patients is not None:
        wanted["patients"] = Patients(config.patients).kind
        made = {"patients": None, **made}
    if made.get("kind") not in _KINDS:
        return
    for name, value in wanted.items():
        if name in made and made[name] != value:
            raise ArchiveError(
                f"{archive.path} was made with {name} = {made[name]!r}, and [archive] now says {value!r}: their "
                "recordings would not mean the same. Mend the configuration, or ingest into a new archive"
            )


def known_of(archive: Archive | None, config: ArchiveConfig, log: IntakeLog, pseudonyms: Pseudonyms | None) -> Known:
    """What the log knows of sets, and what the archive's columns and records are called, if there is one yet."""
    known = log.known(pseudonyms)
    known.columns = tuple(config.carry if archive is None else archive.label_columns())
    if archive is not None:
        said = [archive.info.get("source", {}).get("record_ids"), *(entry.record_ids for entry in log.own)]
        known.record_ids = next((name for name in said if name), "")
        if not known.record_ids and config.source in ("wfdb", "formats"):
            known.record_ids = _record_ids_of(archive)
    return known


def adopted(archive: Archive, source: Source, known: Known) -> dict[SourceSet, str]:
    """The sets whose record (of CODE-15 %, whose part) is in an archive without a log, each with the stamp to log.

    That is "" where a file is younger than the ingest's listing, so that the set counts as changed. What an ingest
    missed because it arrived while it ran is not among them, so it is new.
    """
    made: dict[str, Any] = archive.info.get("source", {})
    moment = made.get("listed_at") or archive.info.get("created_at")
    until = datetime.fromisoformat(moment) if moment else None
    is_in = _is_in(archive, made)
    sets = {one.key: one for one in source.sets(known, until) if is_in(one)}
    if made.get("kind") == "wfdb":
        # Headers without a file of their name beside them name others, which belong to the stamp.
        bare = [one for one in sets.values() if not any(file.name.endswith(_SIGNAL_SUFFIXES) for file in one.files)]
        sets |= {one.key: one for one in source.looked_into(bare, None)}
    return {one: "" if until is not None and one.newest > until else one.stamp for one in sets.values()}


def _record_ids_of(archive: Archive) -> str:
    """Whether the records of an archive of WFDB files are known by name or by path, from the ids themselves."""
    return BY_PATH if any("/" in (name or "") for name in _ids_of(archive)) else BY_NAME


def _ids_of(archive: Archive) -> set[str | None]:
    """What all recordings are called, windows of them too, but for those in shards that cannot be read."""
    names = [name for name in ("record_id", "recording_id") if name in archive.schema().names]
    table = archive.metadata(names, unreadable=list[ShardError]())
    return {one for name in names for one in table.column(name).to_pylist()}


def _is_in(archive: Archive, made: dict[str, Any]) -> Callable[[SourceSet], bool]:
    if "parts" in made:
        parts = frozenset(made["parts"])
        return lambda one: one.name in parts
    ids = _ids_of(archive)
    return lambda one: one.archived_as in ids


@dataclass
class FoundSets:
    """The sets of one look at a source.

    now: when the source was listed; settled: what was written later is too young
    given_up: what was seen incomplete before is taken as it is
    same: sets whose content is in the archive already, with it; refused: sets that cannot come in
    first_seen: when sets were seen incomplete, by key, for the first time
    """

    source: Source
    known: Known
    now: datetime
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
                self.tally.name("refused", one, past.refusal)
            elif past.at != one.at:
                # Moved as it was: from now on this is its place.
                self.same[one] = past.content
        settled = [one for one in new if one.newest <= self.settled]
        self.tally.seen["waiting"] += len(new) - len(settled)
        ahead = sum(one.newest > self.now + _AHEAD for one in new)
        if ahead:
            self.tally.notes.append(
                f"{ahead:,} sets have files from the future, and wait for it; mend the sender's clock"
            )
        looked_into = map(_without_file_names, self.source.looked_into(settled, schema))
        return [one for one in looked_into if self._is_ready(one)]

    def refuse(self, one: SourceSet, why: str) -> None:
        """A set cannot come in; that is said as long as it is as it is."""
        self.tally.name("refused", one, why)
        self.refused.append(replace(one, refusal=why))

    def _is_ready(self, one: SourceSet) -> bool:
        past = self.known.of(one)
        if past is not None and past.stamp == one.stamp and past.at == one.at:
            if past.refusal:
                self.tally.name("refused", one, past.refusal)
            return False
        if one.newest > self.settled:
            self.tally.seen["waiting"] += 1
            return False
        if one.refusal:
            self.refuse(one, one.refusal)
            return False
        if one.lacks and (since := self._since(one)) > self.given_up:
            self.tally.name("incomplete", one, f"{one.lacks}, since {since:%Y-%m-%d %H:%M} UTC")
            return False
        if one.lacks and one.hopeless:
            self.refuse(one, one.lacks)
            return False
        if one.lacks:
            self.tally.name("given_up", one, one.lacks)
        return True

    def _since(self, one: SourceSet) -> datetime:
        """When it was first seen incomplete, or last changed, if that was later."""
        first = self.known.since.get(one.key)
        if first is None:
            first = self.first_seen[one.key] = self.now
        return max(first, one.newest)


def _without_file_names(one: SourceSet) -> SourceSet:
    """Under pseudonyms, what a set lacks is said without the names of its files."""
    if one.pseudonyms is None or not one.lacks:
        return one
    return replace(one, lacks="one of its files is not there, or not in full")
