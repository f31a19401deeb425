"""Shards that are held back: committed, but not published until somebody decides; `held_files` opens them.

A hold is a record below `_held/`, named by the source's content. What people decide on it is added to the record, which
stays: the history of why a shard was or was not published. A hold ends with its content: a shard that comes again with
other content is judged afresh.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict

from ecgscale.io.numbered import read_json_object, to_json
from ecgscale.io.objects import ObjectStore
from ecgscale.io.parquet import read_parquet
from ecgscale.store.commit import Output, Source, output_is_there, read_commit, stem_of_key
from ecgscale.store.dataset import ExplainedDataset
from ecgscale.store.manifest import HeldShard, Manifest
from ecgscale.store.provenance import RunFacts, utc_now

HOLDS = "_held"
State = Literal["held", "released", "rejected"]
_EARLIER = re.compile(r"(released|rejected) by (.+?) at (\S+): (.*)", re.DOTALL)


class Decision(BaseModel):
    """What somebody decided on a held shard; `decided_by` is the login name of who typed it."""

    model_config = ConfigDict(frozen=True)

    state: Literal["released", "rejected"]
    reason: str
    decided_by: str
    decided_at: str

    def sentence(self) -> str:
        """As `hold_again` keeps it; `Decision.read` reads it back."""
        return f"{self.state} by {self.decided_by} at {self.decided_at}: {self.reason}"

    @classmethod
    def read(cls, sentence: str) -> Decision | None:
        """The decision that a kept reason tells of; None when it tells of something else."""
        found = _EARLIER.fullmatch(sentence)
        if found is None:
            return None
        state: Literal["released", "rejected"] = "released" if found[1] == "released" else "rejected"
        return cls(state=state, decided_by=found[2], decided_at=found[3], reason=found[4])


class Hold(BaseModel):
    """Why a shard is held back: the sentences of the gates that failed, or of a rollback.

    held_by: login name of who rolled back; None where a gate held it
    """

    model_config = ConfigDict(frozen=True)

    source: Source
    commit: str
    reasons: tuple[str, ...]
    held_at: str
    run: RunFacts
    decisions: tuple[Decision, ...] = ()
    held_by: str | None = None

    @property
    def state(self) -> State:
        """held, until the last decision says otherwise."""
        return self.decisions[-1].state if self.decisions else "held"

    def shard(self) -> HeldShard:
        """As a manifest tells it; only of one that is not released."""
        assert self.state != "released"
        return HeldShard(**self.source.model_dump(), commit=self.commit, state=self.state, reason=self.why)

    @property
    def why(self) -> str:
        """The reason of the last decision; without one, those for which it is held."""
        return self.decisions[-1].reason if self.decisions else "; ".join(self.reasons)

    @property
    def history(self) -> list[Decision]:
        """All that was ever decided on it, oldest first; what came before it was held again stands in the reasons."""
        earlier = [decision for reason in self.reasons if (decision := Decision.read(reason)) is not None]
        return [*earlier, *self.decisions]


def hold_name(source: Source) -> str:
    """Key of the hold of this content of a shard."""
    return f"{HOLDS}/{stem_of_key(source.key)}-{source.content_digest[:16]}.json"


def hold(
    store: ObjectStore, source: Source, commit: str, reasons: Sequence[str], run: RunFacts, who: str | None = None
) -> Hold:
    """Hold this content of a shard back, unless it is already or was decided on; the record that stands.

    `who` rolled back; None when it was a gate.
    """
    made = Hold(source=source, commit=commit, reasons=tuple(reasons), held_at=utc_now(), run=run, held_by=who)
    if store.put_if_absent(hold_name(source), to_json(made)):
        return made
    standing = read_json_object(store, hold_name(source), Hold)
    return standing if standing is not None else made


def holds(store: ObjectStore) -> dict[tuple[str, str], Hold]:
    """All holds of a dataset by (shard key, content digest), decided or not."""
    found = [read_json_object(store, name, Hold) for name in store.list_prefix(HOLDS)]
    return {hold.source.identity: hold for hold in found if hold is not None}


def standing_holds(manifest: Manifest | None, known: Iterable[Hold]) -> list[Hold]:
    """Of `known` holds those of what the shards hold now: the newest manifest tells of them, or they were made since.

    Sorted by shard. The others are of content that was replaced.
    """
    published = {held.identity for held in manifest.content.held} if manifest else set()
    since = manifest.created if manifest else ""
    found = [hold for hold in known if hold.source.identity in published or hold.held_at > since]
    return sorted(found, key=lambda hold: hold.source.identity)


def decide(store: ObjectStore, hold: Hold, state: Literal["released", "rejected"], reason: str, who: str) -> Hold:
    """Add a decision to a hold; the hold as it is now."""
    decision = Decision(state=state, reason=reason, decided_by=who, decided_at=utc_now())
    decided = hold.model_copy(update={"decisions": (*hold.decisions, decision)})
    store.put(hold_name(hold.source), to_json(decided))
    return decided


def hold_again(store: ObjectStore, held: Hold, reasons: Sequence[str], run: RunFacts, who: str | None = None) -> Hold:
    """Hold back what had been released before (a rollback, by `who`); earlier decisions are kept in the reasons."""
    history = [decision.sentence() for decision in held.decisions]
    facts = {"reasons": (*reasons, *history), "held_at": utc_now(), "run": run, "decisions": (), "held_by": who}
    again = held.model_copy(update=facts)
    store.put(hold_name(held.source), to_json(again))
    return again


@dataclass(frozen=True)
class HeldFile:
    """A shard that is held back or rejected: why, since when, and the file with all of its rows."""

    hold: Hold
    output: Output
    location: str

    def rows(self, columns: list[str] | None = None, record_id: str | None = None) -> pa.Table:
        """Rows of the file, `columns` of them or all, and those of one record if its id is given."""
        wanted = None if record_id is None else pc.field("record_id") == record_id
        return read_parquet(self.location, columns, wanted)


def held_files(found: ExplainedDataset) -> Iterator[HeldFile]:
    """What is held back or rejected of what the shards hold now, in the order of the shards.

    A hold whose file is gone (somebody removed it by hand) is left out; the next run explains the shard again.
    """
    store = found.store
    for hold in standing_holds(found.manifest, holds(store).values()):
        commit = read_commit(store, hold.commit) if hold.state != "released" else None
        if commit is not None and output_is_there(store, commit.output):
            yield HeldFile(hold, commit.output, store.location(commit.output.file))
