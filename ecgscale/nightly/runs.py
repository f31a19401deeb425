"""Run records as others read them: ROOT/runs/<run_id>.json, written when a run ends."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ecgscale.store.objects import ObjectStore

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
