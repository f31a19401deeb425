"""Which of the sets that a listing shows are to be ingested now, and why the others are not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import pyarrow as pa

from ecgscale.archive.feeds import Feed
from ecgscale.archive.night_tally import NightTally
from ecgscale.archive.source_sets import Known, SourceSet, newest_of
from ecgscale.archive.source_view import SourceFile, SourceView

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
