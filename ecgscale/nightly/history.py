"""What was published below a ROOT and when, and what people decide about it.

Read from records alone, newest first: manifests, releases, rejections, rollbacks, promotions; where old manifests were
cleaned away, the history begins later. Decided here: release or reject held shards, go back to an earlier manifest.
Noted here: that a patient was forgotten.

    ROOT/runs/<run_id>.json                             a run, written when it ends
    ROOT/explanations/<dataset_id>/_forgotten.json      when, why, how many records, which manifests went; nobody's name
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from ecgscale.errors import UsageError, did_you_mean
from ecgscale.io.numbered import read_json_object, to_json
from ecgscale.io.objects import ObjectStore, open_objects
from ecgscale.io.places import Place
from ecgscale.io.settings import StoreError
from ecgscale.store.dataset import Pointer, dataset_store, find_dataset, newest_pointer, pointer_key
from ecgscale.store.holds import Hold, decide, hold, hold_again, holds
from ecgscale.store.manifest import (
    HeldShard,
    Manifest,
    ShardEntry,
    compose,
    newest_number,
    plan_digest,
    publish,
    read_manifest,
)
from ecgscale.store.presence import announced
from ecgscale.store.provenance import RUNS, RunFacts, login, run_facts, utc_now
from ecgscale.store.root import dataset_ids, existing_root
from ecgscale.words import counted

NOTE = "_forgotten.json"
_MOMENTS = timedelta(seconds=60)


@dataclass(frozen=True)
class RunLine:
    """One run in a line; what its record does not say is None. `ended` is when the record was written."""

    run_id: str
    command: str | None
    started: str | None
    ended: datetime
    outcome: str
    exit_code: int | None
    records: int | None
    seconds: float | None

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {**self.__dict__, "ended": self.ended.isoformat()}


def recorded_run(root: ObjectStore, run_id: str) -> dict[str, Any] | None:
    """The record of a run; None when there is none, or it is none."""
    return _parsed(root.read(f"{RUNS}/{run_id}.json"))


def last_runs(root: ObjectStore, n: int) -> list[RunLine]:
    """The `n` runs that ended last, newest first, from one listing and `n` records."""
    stats = root.list_stats(RUNS).items()
    listed = [(stat.modified, key) for key, stat in stats if key.endswith(".json") and key.count("/") == 1]
    return [_line(root, key, modified) for modified, key in sorted(listed, reverse=True)[:n]]


def _line(root: ObjectStore, key: str, modified: datetime) -> RunLine:
    run_id = key.removeprefix(f"{RUNS}/").removesuffix(".json")
    facts = _parsed(root.read(key))
    if facts is None:
        return RunLine(run_id, None, None, modified, "unreadable", None, None, None)
    totals = facts.get("totals")
    records = totals.get("records") if isinstance(totals, dict) else None
    command, started, exit_code = (facts.get(name) for name in ("command", "started", "exit_code"))
    seconds = None
    with suppress(KeyError, TypeError, ValueError):
        took = datetime.fromisoformat(facts["ended"]) - datetime.fromisoformat(facts["started"])
        seconds = round(took.total_seconds(), 3)
    return RunLine(run_id, command, started, modified, str(facts.get("outcome", "")), exit_code, records, seconds)


def _parsed(data: bytes | None) -> dict[str, Any] | None:
    try:
        facts = json.loads(data) if data is not None else None
    except ValueError:
        return None
    return facts if isinstance(facts, dict) else None


@dataclass(frozen=True)
class ManifestLine:
    """One manifest. by: the command that published it, "" where no run record says; held: shards left out of it."""

    dataset_id: str
    number: int
    created: str
    by: str
    run_id: str
    records: int
    shards: int
    held: int
    set_aside: int


@dataclass(frozen=True)
class DecisionLine:
    """One thing that somebody decided: what ("released", "rejected", "rolled back", "promoted"), who, when, why.

    shards: that it is about; of a rollback those that it holds back, and none of a promotion
    """

    at: str
    what: str
    who: str
    dataset_id: str
    shards: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class History:
    """The last manifests and decisions, newest first."""

    manifests: tuple[ManifestLine, ...]
    decisions: tuple[DecisionLine, ...]

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "manifests": [asdict(line) for line in self.manifests],
            "decisions": [{**asdict(line), "shards": list(line.shards)} for line in self.decisions],
        }


def root_history(root: str | Path, n: int) -> History:
    """The last `n` manifests of all datasets below ROOT, and the last `n` decisions.

    Raises `UsageError` when there is no such ROOT, `StoreError` when a record cannot be understood.
    """
    where = existing_root(root)
    manifests: list[ManifestLine] = []
    decided: dict[tuple[str, str, str, tuple[str, ...]], DecisionLine] = {}
    for dataset_id in dataset_ids(where):
        store = dataset_store(where, dataset_id)
        found = list(holds(store).values())
        rollbacks = {hold.run.run_id for hold in found if hold.held_by is not None}
        manifests += _manifests(store, open_objects(where), dataset_id, n, rollbacks)
        for line in _decisions(found, dataset_id):
            # A refit takes holds and decisions along: what stands in two datasets is one decision.
            decided.setdefault((line.at, line.what, line.who, line.shards), line)
    manifests.sort(key=lambda line: line.created, reverse=True)
    decisions = sorted([*_promotions(where, n), *decided.values()], key=lambda line: line.at, reverse=True)
    return History(tuple(manifests[:n]), tuple(decisions[:n]))


def _manifests(
    store: ObjectStore, runs: ObjectStore, dataset_id: str, n: int, rollbacks: set[str]
) -> Iterator[ManifestLine]:
    newest = newest_number(store)
    for number in range(newest, max(newest - n, 0), -1):
        manifest = read_manifest(store, number)
        if manifest is None:
            continue  # cleaned away, or gone with a patient
        run_id, content = manifest.run.run_id, manifest.content
        by = "rollback" if run_id in rollbacks else str((recorded_run(runs, run_id) or {}).get("command") or "")
        records, shards, held, aside = content.totals.records, content.totals.shards, content.held, content.set_aside
        yield ManifestLine(dataset_id, number, manifest.created, by, run_id, records, shards, len(held), len(aside))


def _promotions(root: Place, n: int) -> Iterator[DecisionLine]:
    store, newest = open_objects(root), newest_pointer(root)
    for number in range(newest, max(newest - n, 0), -1):
        pointer = read_json_object(store, pointer_key(number), Pointer)
        if pointer is not None and pointer.decided:
            yield DecisionLine(
                pointer.promoted_at, "promoted", pointer.promoted_by, pointer.dataset_id, (), pointer.reason
            )


def _decisions(found: Iterable[Hold], dataset_id: str) -> Iterator[DecisionLine]:
    """Releases, rejections and rollbacks; what was decided of many shards within moments is one decision."""
    alike: dict[tuple[str, str, str], list[tuple[str, str]]] = {}
    for one in found:
        for decision in one.history:
            same = decision.state, decision.decided_by, decision.reason
            alike.setdefault(same, []).append((decision.decided_at, one.source.key))
        if one.held_by is not None:
            alike.setdefault(("rolled back", one.held_by, one.reasons[0]), []).append((one.held_at, one.source.key))
    for (what, who, reason), shards in alike.items():
        for together in _moments(sorted(shards)):
            keys = tuple(sorted(key for _, key in together))
            yield DecisionLine(together[-1][0], what, who, dataset_id, keys, reason)


def _moments(shards: Sequence[tuple[str, str]]) -> Iterator[list[tuple[str, str]]]:
    """Pairs of a time and a shard, in order, parted where nothing came for longer than _MOMENTS."""
    start = 0
    for i in range(1, len(shards) + 1):
        if i == len(shards) or _time_of(shards[i]) - _time_of(shards[i - 1]) > _MOMENTS:
            yield list(shards[start:i])
            start = i


def _time_of(shard: tuple[str, str]) -> datetime:
    return datetime.fromisoformat(shard[0])


@announced("ecgscale release or reject", existing=True)
def decide_on(
    root: str | Place,
    keys: Sequence[str],
    state: Literal["released", "rejected"],
    reason: str,
    dataset: str | None = None,
    every: bool = False,
) -> list[Hold]:
    """Release or reject held shards (`every`: all of them). The next night publishes what was released.

    A rejected shard can be released later, and the other way round. Raises `UsageError` for a shard that is not held,
    naming those that are, and for a reason that is empty.
    """
    if not reason.strip():
        raise UsageError("give a --reason: whoever finds this shard later will ask")
    store = find_dataset(root, dataset).store
    standing = sorted(holds(store).values(), key=lambda h: (h.source.key, h.held_at))
    newest = {h.source.key: h for h in standing}
    if every:
        keys = [key for key, h in newest.items() if h.state == "held"]
    unknown = [key for key in keys if key not in newest]
    if unknown:
        there = ", ".join(key for key, h in newest.items() if h.state == "held") or "none"
        raise UsageError(f"{unknown[0]} is not held.{did_you_mean(unknown[0], newest)} Held are: {there}")
    return [decide(store, newest[key], state, reason.strip(), login()) for key in keys]


@announced("ecgscale rollback", existing=True)
def roll_back(root: str | Place, number: int, reason: str, dataset: str | None = None) -> Manifest:
    """Publish again what manifest `number` said; the new manifest.

    What came since is held back, with the reason, until it is released. Raises `UsageError` for a number that is not
    there or is the newest, and `StoreError` when a file of that manifest is gone. No lock is taken: of this and a
    nightly run that publish at the same moment, one wins, and the other fails.
    """
    found = find_dataset(root, dataset)
    store, newest = found.store, found.manifest
    assert newest is not None
    if not 1 <= number < newest.number:
        raise UsageError(f"manifest {number} is not an earlier one: there are 1 to {newest.number}, which is served")
    if not reason.strip():
        raise UsageError("give a --reason: whoever finds these shards held later will ask")
    target = read_manifest(store, number)
    if target is None:
        why = why_gone(store, number) or "(gc --keep-manifests); the oldest ones cannot be gone back to"
        raise UsageError(f"manifest {number} is gone: {why}")
    lost = [entry.file for entry in target.content.shards if store.stat(entry.file) is None]
    if lost:
        raise StoreError(
            f"{counted(len(lost), 'file')} of manifest {number} gone, {store.location(lost[0])} first; it cannot be "
            "published again"
        )
    run = run_facts()
    kept = {entry.identity for entry in target.content.shards}
    held = list(target.content.held)
    known = {shard.identity for shard in held} | kept
    held += [shard for shard in newest.content.held if shard.identity not in known]
    for entry in newest.content.shards:
        if entry.identity not in kept:
            held.append(_hold_back(store, entry, f"rolled back to manifest {number}: {reason.strip()}", run))
    shards, aside = target.content.shards, target.content.set_aside
    digest = plan_digest([*shards, *aside, *held])
    content = compose(
        target.content.identity, target.content.archive, digest, shards, aside, held, columns=target.content.columns
    )
    manifest = publish(store, content, newest.number, run)
    if manifest is None:
        raise StoreError(f"another run published {store.where} at the same moment; look at it, and type this again")
    return manifest


def _hold_back(store: ObjectStore, entry: ShardEntry, reason: str, run: RunFacts) -> HeldShard:
    source = entry.source
    held = hold(store, source, entry.commit, [reason], run, login())
    if held.state == "released":
        held = hold_again(store, held, [reason], run, login())
    return held.shard()


class Removal(BaseModel):
    """One patient was taken from a dataset; nothing here says who."""

    model_config = ConfigDict(frozen=True)

    at: str
    reason: str
    records: int
    manifests: tuple[int, ...]


class Removals(BaseModel):
    """All of a dataset, in order."""

    model_config = ConfigDict(frozen=True)

    version: Literal[1] = 1
    removals: tuple[Removal, ...] = ()


def note_removal(dataset: ObjectStore, reason: str, records: int, manifests: list[int]) -> None:
    """Add a note to those of a dataset."""
    removals = read_json_object(dataset, NOTE, Removals) or Removals()
    removal = Removal(at=utc_now(), reason=reason, records=records, manifests=tuple(manifests))
    dataset.put(NOTE, to_json(removals.model_copy(update={"removals": (*removals.removals, removal)})))


def why_gone(dataset: ObjectStore, number: int) -> str:
    """Why manifest `number` is gone, if that is because somebody was forgotten; else ""."""
    for removal in (read_json_object(dataset, NOTE, Removals) or Removals()).removals:
        if number in removal.manifests:
            why = f" ({removal.reason})" if removal.reason else ""
            return f"it held a patient who was forgotten on {removal.at[:10]}{why}, and cannot be gone back to"
    return ""
