"""What was published below a ROOT and when, and what people decided: manifests, releases, rejections, rollbacks,
promotions, newest first. Read from records alone; where old manifests were cleaned away, the history begins later.

Run records as others read them: ROOT/runs/<run_id>.json, written when a run ends.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from ecgscale.io.numbered import read_json_object
from ecgscale.io.objects import ObjectStore, open_objects
from ecgscale.io.places import Place
from ecgscale.store.dataset import Pointer, dataset_store, newest_pointer, pointer_key
from ecgscale.store.holds import Hold, holds
from ecgscale.store.manifest import newest_number, read_manifest
from ecgscale.store.root import dataset_ids, existing_root

RUNS = "runs"


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
    listed = [(stat.modified, key) for key, stat in root.list_stats(RUNS).items() if _is_record(key)]
    return [_line(root, key, modified) for modified, key in sorted(listed, reverse=True)[:n]]


def _is_record(key: str) -> bool:
    return key.endswith(".json") and key.count("/") == 1


def _line(root: ObjectStore, key: str, modified: datetime) -> RunLine:
    run_id = key.removeprefix(f"{RUNS}/").removesuffix(".json")
    facts = _parsed(root.read(key))
    if facts is None:
        return RunLine(run_id, None, None, modified, "unreadable", None, None, None)
    totals = facts.get("totals")
    records = totals.get("records") if isinstance(totals, dict) else None
    return RunLine(
        run_id=run_id,
        command=facts.get("command"),
        started=facts.get("started"),
        ended=modified,
        outcome=str(facts.get("outcome", "")),
        exit_code=facts.get("exit_code"),
        records=records,
        seconds=_seconds(facts.get("started"), facts.get("ended")),
    )


def _seconds(started: Any, ended: Any) -> float | None:
    try:
        return round((datetime.fromisoformat(ended) - datetime.fromisoformat(started)).total_seconds(), 3)
    except (TypeError, ValueError):
        return None


def _parsed(data: bytes | None) -> dict[str, Any] | None:
    try:
        facts = json.loads(data) if data is not None else None
    except ValueError:
        return None
    return facts if isinstance(facts, dict) else None


_MOMENTS = timedelta(seconds=60)


@dataclass(frozen=True)
class ManifestLine:
    """One manifest. by: the command that published it, "" where no run record tells; held: shards left out of it."""

    dataset_id: str
    number: int
    created: str
    by: str
    run_id: str
    records: int
    shards: int
    held: int
    set_aside: int

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return dict(vars(self))


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

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {**vars(self), "shards": list(self.shards)}


@dataclass(frozen=True)
class History:
    """The last manifests and decisions, newest first."""

    manifests: tuple[ManifestLine, ...]
    decisions: tuple[DecisionLine, ...]

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "manifests": [line.to_dict() for line in self.manifests],
            "decisions": [line.to_dict() for line in self.decisions],
        }


def root_history(root: str | Path, n: int) -> History:
    """The last `n` manifests of all datasets below ROOT, and the last `n` decisions.

    Raises `UsageError` when there is no such ROOT, `StoreError` when a record cannot be understood.
    """
    where = existing_root(root)
    runs = open_objects(where)
    manifests: list[ManifestLine] = []
    decisions = list(_promotions(where, n))
    # A refit takes holds and decisions along: what two datasets tell of is one decision.
    known: set[tuple[str, str, str, tuple[str, ...]]] = set()
    for dataset_id in dataset_ids(where):
        store = dataset_store(where, dataset_id)
        found = list(holds(store).values())
        rollbacks = {hold.run.run_id for hold in found if hold.held_by is not None}
        manifests += _manifests(store, runs, dataset_id, n, rollbacks)
        for line in _decisions(found, dataset_id):
            identity = (line.at, line.what, line.who, line.shards)
            if identity not in known:
                known.add(identity)
                decisions.append(line)
    manifests.sort(key=lambda line: line.created, reverse=True)
    decisions.sort(key=lambda line: line.at, reverse=True)
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
        run = recorded_run(runs, run_id) or {}
        yield ManifestLine(
            dataset_id=dataset_id,
            number=number,
            created=manifest.created,
            by="rollback" if run_id in rollbacks else str(run.get("command") or ""),
            run_id=run_id,
            records=content.totals.records,
            shards=content.totals.shards,
            held=len(content.held),
            set_aside=len(content.set_aside),
        )


def _promotions(root: Place, n: int) -> Iterator[DecisionLine]:
    store, newest = open_objects(root), newest_pointer(root)
    for number in range(newest, max(newest - n, 0), -1):
        pointer = read_json_object(store, pointer_key(number), Pointer)
        if pointer is not None:
            yield DecisionLine(
                pointer.promoted_at, "promoted", pointer.promoted_by, pointer.dataset_id, (), pointer.reason
            )


def _decisions(found: Iterable[Hold], dataset_id: str) -> Iterator[DecisionLine]:
    """Releases, rejections and rollbacks; what was decided of many shards within moments is one decision."""
    alike: dict[tuple[str, str, str], list[tuple[str, str]]] = {}
    for hold in found:
        for decision in hold.history:
            told = decision.state, decision.decided_by, decision.reason
            alike.setdefault(told, []).append((decision.decided_at, hold.source.key))
        if hold.held_by is not None:
            alike.setdefault(("rolled back", hold.held_by, hold.reasons[0]), []).append((hold.held_at, hold.source.key))
    for (what, who, reason), shards in alike.items():
        for together in _moments(sorted(shards)):
            keys = tuple(sorted(key for _, key in together))
            yield DecisionLine(together[-1][0], what, who, dataset_id, keys, reason)


def _moments(shards: Sequence[tuple[str, str]]) -> Iterator[list[tuple[str, str]]]:
    """Pairs of a time and a shard, in order, parted where nothing came for longer than _MOMENTS."""
    together: list[tuple[str, str]] = []
    for at, key in shards:
        if together and datetime.fromisoformat(at) - datetime.fromisoformat(together[-1][0]) > _MOMENTS:
            yield together
            together = []
        together.append((at, key))
    if together:
        yield together
