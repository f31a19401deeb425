"""What one call of `ingest_arrivals` did, and what it has to say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from ecgscale.archive.intake.intake import Intake
from ecgscale.archive.sources.sets import SourceSet
from ecgscale.archive.sources.source import IngestResult
from ecgscale.archive.sources.tombstones import told_forgotten

_TOLD = 5


@dataclass(frozen=True)
class Arrivals:
    """What arrived. Counts are of sets of files (a record; of CODE-15 %, a part), but for `records`.

    sets_new, sets_changed: ingested, for the first time and again
    touched: written anew, moved or copied with the same content, so that nothing was ingested
    waiting: not settled yet; incomplete: lacking a file; given_up: taken although they lack one
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


@dataclass
class NightTally:
    """Counts on their way. What was put stays when another ingest came in between; what was seen is seen again."""

    sets_new: int = 0
    sets_changed: int = 0
    problems: int = 0
    shards: dict[str, int] = field(default_factory=dict)
    touched: int = 0
    waiting: int = 0
    vanished: int = 0
    forgotten: int = 0
    notes: list[str] = field(default_factory=list)
    _incomplete: list[str] = field(default_factory=list)
    _given_up: list[str] = field(default_factory=list)
    _refused: list[str] = field(default_factory=list)
    _problems: list[str] = field(default_factory=list)
    _of_ingest: list[str] = field(default_factory=list)

    def look_again(self) -> None:
        """Forget what was seen, not what was done."""
        self.touched = self.waiting = self.vanished = self.forgotten = 0
        self.notes, self._incomplete, self._given_up, self._refused = [], [], [], []

    def put(self, entry: Intake, changed: int = 0) -> None:
        """The shards of an entry are in place; so many of its sets had been ingested before."""
        self.sets_new += len(entry.sets) - changed
        self.sets_changed += changed
        self.shards |= {shard.key: shard.rows for shard in entry.shards}

    def told(self, result: IngestResult) -> None:
        """What an ingest said of the records in such shards."""
        self.problems += result.problems.count
        self._problems += result.problems.first[:_TOLD]
        self.forgotten += len(result.refused)
        self._of_ingest += [note for note in result.notes if note not in told_forgotten(len(result.refused))]

    def wait(self, count: int, note: str | None = None) -> None:
        """So many sets have not settled yet."""
        self.waiting += count
        self.notes += [note] if note else []

    def incomplete(self, one: SourceSet, since: datetime) -> None:
        """A set lacks something since then, and is waited for."""
        self._incomplete.append(f"{one.archived_as}: {one.lacks}, since {since:%Y-%m-%d %H:%M} UTC")

    def give_up(self, one: SourceSet) -> None:
        """A set is taken; worth telling if it lacks something."""
        if one.lacks:
            self._given_up.append(f"{one.archived_as}: {one.lacks}")

    def refuse(self, one: SourceSet) -> None:
        """A set cannot come in."""
        self._refused.append(f"{one.archived_as}: {one.refusal}")

    def arrivals(self) -> Arrivals:
        """The result."""
        notes = [
            *self.notes,
            *self._of_ingest,
            *_told("refused", self._refused),
            *_told("incomplete, waited for", self._incomplete),
            *_told("taken as they are, after waiting for long enough", self._given_up),
            *_told("ingested with problems", self._problems, self.problems),
            *told_forgotten(self.forgotten),
        ]
        if self.vanished:
            notes.append(f"{self.vanished:,} sets that were ingested are no longer in the source; nothing was removed")
        return Arrivals(
            sets_new=self.sets_new,
            sets_changed=self.sets_changed,
            touched=self.touched,
            waiting=self.waiting,
            incomplete=len(self._incomplete),
            given_up=len(self._given_up),
            refused=len(self._refused),
            vanished=self.vanished,
            forgotten=self.forgotten,
            records=sum(self.shards.values()),
            problems=self.problems,
            shards=tuple(sorted(self.shards)),
            notes=tuple(dict.fromkeys(notes)),
        )


def _told(what: str, found: Sequence[str], count: int | None = None) -> list[str]:
    """One line for all sets of a kind, the first ones by name."""
    if not found:
        return []
    count = len(found) if count is None else count
    more = f"; and {count - _TOLD:,} more" if count > _TOLD else ""
    return [f"{count:,} {what}: {'; '.join(found[:_TOLD])}{more}"]
