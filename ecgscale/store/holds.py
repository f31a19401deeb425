"""Shards that are held back: committed, but not published until somebody decides.

A hold is a record below `_held/`, named by the source's content. What people decide on it is added to the record, which
stays: the history of why a shard was or was not published. A hold ends with its content: a shard that comes again with
other content is judged afresh.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict

from ecgscale.store.commit import Source, read_json_object, stem_of_key, to_json
from ecgscale.store.manifest import HeldShard
from ecgscale.store.objects import ObjectStore
from ecgscale.store.provenance import RunFacts, utc_now

HOLDS = "_held"
State = Literal["held", "released", "rejected"]


class Decision(BaseModel):
    """What somebody decided on a held shard; `decided_by` is the login name of who typed it."""

    model_config = ConfigDict(frozen=True)

    state: Literal["released", "rejected"]
    reason: str
    decided_by: str
    decided_at: str


class Hold(BaseModel):
    """Why a shard is held back: the sentences of the gates that failed, or of a rollback."""

    model_config = ConfigDict(frozen=True)

    source: Source
    commit: str
    reasons: tuple[str, ...]
    held_at: str
    run: RunFacts
    decisions: tuple[Decision, ...] = ()

    @property
    def state(self) -> State:
        """held, until the last decision says otherwise."""
        return self.decisions[-1].state if self.decisions else "held"

    def shard(self) -> HeldShard:
        """As a manifest tells it; only of one that is not released."""
        assert self.state != "released"
        reason = self.decisions[-1].reason if self.decisions else "; ".join(self.reasons)
        return HeldShard(**self.source.model_dump(), commit=self.commit, state=self.state, reason=reason)


def hold_name(source: Source) -> str:
    """Key of the hold of this content of a shard."""
    return f"{HOLDS}/{stem_of_key(source.key)}-{source.content_digest[:16]}.json"


def hold(store: ObjectStore, source: Source, commit: str, reasons: Sequence[str], run: RunFacts) -> Hold:
    """Hold this content of a shard back, unless it is already or was decided on; the record that stands."""
    made = Hold(source=source, commit=commit, reasons=tuple(reasons), held_at=utc_now(), run=run)
    if store.put_if_absent(hold_name(source), to_json(made)):
        return made
    standing = read_json_object(store, hold_name(source), Hold)
    return standing if standing is not None else made


def holds(store: ObjectStore) -> dict[tuple[str, str], Hold]:
    """All holds of a dataset by (shard key, content digest), decided or not."""
    found = [read_json_object(store, name, Hold) for name in store.list_prefix(HOLDS)]
    return {(hold.source.key, hold.source.content_digest): hold for hold in found if hold is not None}


def decide(store: ObjectStore, hold: Hold, state: Literal["released", "rejected"], reason: str, who: str) -> Hold:
    """Add a decision to a hold; the hold as it is now."""
    decision = Decision(state=state, reason=reason, decided_by=who, decided_at=utc_now())
    decided = hold.model_copy(update={"decisions": (*hold.decisions, decision)})
    store.put(hold_name(hold.source), to_json(decided))
    return decided


def hold_again(store: ObjectStore, held: Hold, reasons: Sequence[str], run: RunFacts) -> Hold:
    """Hold back what had been released before (a rollback); earlier decisions are kept in the reasons."""
    history = [f"{d.state} by {d.decided_by} at {d.decided_at}: {d.reason}" for d in held.decisions]
    again = held.model_copy(update={"reasons": (*reasons, *history), "held_at": utc_now(), "run": run, "decisions": ()})
    store.put(hold_name(held.source), to_json(again))
    return again
