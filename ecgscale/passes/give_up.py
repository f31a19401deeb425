"""A shard that takes its worker along every time: which record does it, and how to say so."""

from __future__ import annotations

import time

import pyarrow as pa
import pyarrow.parquet as pq

from ecgscale.passes.plan import Pending
from ecgscale.passes.workers import Call, Done, Failed, WorkerPool

PATIENCE_S = 1200.0
"""How long one shard may be searched; a record that hangs costs a deadline at every step."""


def examine(pool: WorkerPool, pending: Pending, reason: str) -> Done | str:
    """Find out why a shard was given up for `reason`: what is to be told, or its commit after all.

    When no part of it kills a worker, it may have been bad luck or the work beside it: it gets one more try, with
    nothing else under way.
    """
    rows = poisoned_rows(pool, pending)
    if rows is None:
        call = Call(pending.source.key, "commit", (pending,), pending.source.rows, what=pending.source.key, attempts=1)
        [outcome] = pool.run([call])
        if isinstance(outcome, Done):
            return outcome
    return told_poison(reason, pending, rows)


def poisoned_rows(pool: WorkerPool, pending: Pending, patience_s: float = PATIENCE_S) -> tuple[int, int] | None:
    """The smallest range [first, last) of rows found to kill a worker, by bisection; None if no part does it alone.

    Costs a worker for every step, about log2(rows) of them. Ends with a larger range when it takes too long.
    """
    until = time.monotonic() + patience_s
    first, last = 0, pending.source.rows
    while last - first > 1 and time.monotonic() < until:
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
    call = Call(key, "probe", (pending, first, last), last - first, what=f"rows {first} to {last - 1}", attempts=1)
    [outcome] = pool.run([call])
    return isinstance(outcome, Failed) and outcome.fatal > 0


def told_poison(reason: str, pending: Pending, rows: tuple[int, int] | None) -> str:
    """The reason with the place, for the report and the next run."""
    if rows is None:
        where = "no part of the shard does it alone, but the whole did it again"
    else:
        first, last = rows
        where = f"row {first}{_named(pending, first)}" if last - first == 1 else f"one of rows {first} to {last - 1}"
        where = f"it is {where} that does it"
    return f"{reason}; {where}. Not tried again until the shard or the code changes"


def _named(pending: Pending, row: int) -> str:
    """The record id of a row, where it can be read: the file may be what kills."""
    try:
        ids = pq.read_table(pending.shard.path, columns=["record_id"])["record_id"]
    except (OSError, pa.ArrowException):
        return ""
    return f" (record {ids[row]})"
