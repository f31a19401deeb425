"""A shard that takes its worker along every time: which record does it, and how to say so."""

from __future__ import annotations

from ecgscale.passes.plan import Pending
from ecgscale.passes.workers import Call, Failed, WorkerPool


def poisoned_rows(pool: WorkerPool, pending: Pending) -> tuple[int, int] | None:
    """The smallest range [first, last) of rows found to kill a worker, by bisection; None if no part does it alone.

    Costs a worker for every step, about log2(rows) of them.
    """
    first, last = 0, pending.source.rows
    while last - first > 1:
        middle = (first + last) // 2
        if _kills(pool, pending, first, middle):
            last = middle
        elif _kills(pool, pending, middle, last):
            first = middle
        else:
            break
    return None if (first, last) == (0, pending.source.rows) and last > 1 else (first, last)


def _kills(pool: WorkerPool, pending: Pending, first: int, last: int) -> bool:
    key = f"{pending.source.key}[{first}:{last}]"
    call = Call(key, "probe", (pending, first, last), last - first, what=key, attempts=1)
    return any(isinstance(outcome, Failed) for outcome in pool.run([call]))


def told_poison(reason: str, rows: tuple[int, int] | None) -> str:
    """The reason with the place, for the report and the next run."""
    if rows is None:
        return f"{reason}. No part of the shard does it alone"
    first, last = rows
    where = f"row {first}" if last - first == 1 else f"rows {first} to {last - 1}"
    return f"{reason}. It is {where} that does it. Not tried again until the shard or the code changes"
