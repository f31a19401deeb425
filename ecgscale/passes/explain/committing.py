"""Computing and committing what a plan has pending, on the workers of a pool.

When a shard takes its worker along every time: which record does it, and how to say so.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa

from ecgscale.archive.reader import Archive
from ecgscale.archive.shard import check_content, open_parquet, require_unchanged
from ecgscale.clusters.model import ClusterModel
from ecgscale.encoders.check import require_steady
from ecgscale.encoders.taps import Encoder
from ecgscale.errors import EcgscaleError, ShardError
from ecgscale.explain.facts import code_explaining, load_encoder
from ecgscale.explain.schema import ExplainSettings
from ecgscale.io.objects import ObjectStore
from ecgscale.io.places import Place, absolute
from ecgscale.passes.alongside import keep_alongside
from ecgscale.passes.explain.plan import Moved, Pending, Plan
from ecgscale.passes.explain.shard import Committed, ExplainWorker, ShardExplainer
from ecgscale.passes.watch import RunWatch, ShardDone
from ecgscale.passes.workers import Call, Done, Failed, OpenPool, WorkerPool, WorkerSpec, driver_device
from ecgscale.progress import Progress, Stage
from ecgscale.store.commit import Commit, Source, restamp
from ecgscale.store.failures import remember
from ecgscale.store.manifest import SetAside
from ecgscale.store.provenance import RunFacts

PATIENCE_S = 1200.0
"""How long one shard may be searched; a record that hangs costs a deadline at every step."""


def examine(pool: WorkerPool, pending: Pending, reason: str) -> Done | str:
    """Find out why a shard was given up for `reason`: the reason to give, or its commit after all.

    When no part of it kills a worker, it may have been bad luck or the work alongside it: it gets one more try, with
    nothing else under way.
    """
    rows = poisoned_rows(pool, pending)
    if rows is None:
        call = Call(pending.source.key, "commit", (pending,), pending.source.rows, what=pending.source.key, attempts=1)
        [outcome] = pool.run([call])
        if isinstance(outcome, Done):
            return outcome
    return poison_reason(reason, pending, rows)


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


def poison_reason(reason: str, pending: Pending, rows: tuple[int, int] | None) -> str:
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
        with open_parquet(pending.shard) as file:
            return f" (record {file.read(columns=['record_id']).column(0)[row]})"
    except (OSError, pa.ArrowException, EcgscaleError):
        return ""


READERS = 4
"""Shards that are read side by side to see whether they are what they say: each holds a row group, or, from an object
store, its whole file."""


@dataclass(frozen=True)
class RunLimits:
    """How much one run computes: so many shards, and none begun after `deadline` (time.monotonic)."""

    max_shards: int | None = None
    deadline: float = math.inf

    def chosen(self, pending: Sequence[Pending]) -> list[Pending]:
        """Those that this run takes on: the first by their keys, which is the order in which they came."""
        return list(pending if self.max_shards is None else pending[: self.max_shards])

    def in_time(self, pending: Sequence[Pending]) -> Iterator[Pending]:
        """One after the other, as long as there is time."""
        for one in pending:
            if time.monotonic() >= self.deadline:
                return
            yield one


NO_LIMITS = RunLimits()


@dataclass(frozen=True)
class CommittedShards:
    """Commits of all shards that are through, those that could not be read, and keys of those not come to."""

    commits: tuple[Commit, ...]
    set_aside: tuple[SetAside, ...]
    left: tuple[str, ...]


@dataclass
class Committing:
    """Commits shards for one dataset; loads the network when the first one is pending."""

    root: Place
    model: ClusterModel
    settings: ExplainSettings
    store: ObjectStore
    device: str
    progress: Progress
    pool: OpenPool
    watch: RunWatch
    facts: RunFacts
    computed: int = 0
    cropped: int = 0
    restamped: int = 0

    def __post_init__(self) -> None:
        self._encoder: Encoder | None = None
        self.code = code_explaining(self.model)

    def commit(self, archive: Archive, plan: Plan, limits: RunLimits) -> CommittedShards:
        """Commit what is not committed yet; all commits of the plan, and the shards that could not be read."""
        commits, set_aside = list(plan.committed), list(plan.set_aside)
        for aside in set_aside:
            self.watch.shard_set_aside(aside.key, aside.reason)
            self.progress.say(f"set aside: {aside.reason}")
        for moved, reason in self._reread(plan.moved):
            if reason is not None:
                self._set_aside(moved.source, reason, set_aside)
                continue
            commits.append(restamp(self.store, moved.source, moved.earlier, self.facts))
            self.restamped += 1
        chosen = limits.chosen(plan.pending)
        if chosen:
            self._compute(archive, chosen, limits, commits, set_aside)
        through = {commit.source.key for commit in commits} | {aside.key for aside in set_aside}
        left = tuple(pending.source.key for pending in plan.pending if pending.source.key not in through)
        return CommittedShards(tuple(commits), tuple(set_aside), left)

    def _reread(self, moved: Sequence[Moved]) -> Iterator[tuple[Moved, str | None]]:
        """Shards that say they only moved, in order, each with why it cannot be believed.

        What gave a file its new stamp (a copy, a restored backup, a disk) may have changed it, and its footer would not
        know.
        """

        def problem(one: Moved) -> str | None:
            try:
                check_content(one.shard)
                require_unchanged(one.shard)
            except ShardError as error:
                return str(error)
            finally:
                stage.advance(one.source.rows)
            return None

        if not moved:
            return
        records = sum(one.source.rows for one in moved)
        with self.progress.stage("check", records, "records") as stage, ThreadPoolExecutor(READERS) as readers:
            yield from zip(moved, readers.map(problem, moved), strict=True)

    def _compute(
        self,
        archive: Archive,
        chosen: Sequence[Pending],
        limits: RunLimits,
        commits: list[Commit],
        set_aside: list[SetAside],
    ) -> None:
        """Have the workers commit what is pending, as they become free."""
        spec = self._worker_spec(archive, self._loaded())
        pending_by_key = {pending.source.key: pending for pending in chosen}

        def calls(stage: Stage) -> Iterator[Call]:
            for pending in limits.in_time(chosen):
                source = pending.source
                stage.note(source.key)
                yield Call(source.key, "commit", (pending,), source.rows, what=source.key)

        with (
            self.pool(spec) as workers,
            self.progress.stage("explain", sum(p.source.rows for p in chosen), "records") as stage,
        ):
            given_up = []
            for outcome in workers.run(calls(stage), stage):
                source = pending_by_key[outcome.call.key].source
                if isinstance(outcome, Done):
                    commits.append(self._committed(outcome.value))
                elif outcome.fatal:
                    given_up.append(outcome)
                else:
                    self._set_aside(source, outcome.reason, set_aside)
            # The rest is safe; now workers may be spent on finding out which record it is.
            for outcome in given_up:
                pending = pending_by_key[outcome.call.key]
                verdict = examine(workers, pending, outcome.reason)
                if isinstance(verdict, Done):
                    commits.append(self._committed(verdict.value))
                else:
                    remember(self.store, pending.source, verdict, self.facts, self.code)
                    self._set_aside(pending.source, verdict, set_aside)

    def _committed(self, done: Committed) -> Commit:
        if done.computed:
            self.computed += 1
            self.cropped += done.cropped
            commit, output = done.commit, done.commit.output
            self.facts = self.facts.model_copy(update={"device": commit.run.device})
            self.watch.shard_done(
                ShardDone(commit.source.key, output.rows, output.quarantined, output.size, done.seconds)
            )
        return done.commit

    def _set_aside(self, source: Source, reason: str, set_aside: list[SetAside]) -> None:
        set_aside.append(SetAside(**source.model_dump(), reason=reason))
        self.watch.shard_set_aside(source.key, reason)
        self.progress.say(f"set aside: {reason}")

    def _worker_spec(self, archive: Archive, encoder: Encoder) -> WorkerSpec:
        assert self.model.directory is not None
        arguments = {
            "archive": absolute(archive.path),
            "store": self.store.where,
            "model": str(self.model.directory),
            "settings": self.settings,
            "device": self.device,
            "run_id": self.facts.run_id,
        }

        def here() -> ExplainWorker:
            run = self.facts.model_copy(update={"device": str(encoder.device)})
            return ExplainWorker(ShardExplainer(archive, encoder, self.model, self.settings), self.store, run)

        return WorkerSpec("ecgscale.passes.explain.shard:explain_worker", arguments, here=here)

    def _loaded(self) -> Encoder:
        """The encoder, loaded once, with copies of it and of the model below ROOT."""
        if self._encoder is None:
            device = driver_device(self.pool, self.device)
            self._encoder = load_encoder(self.model, device, self.settings.batch)
            if "deterministic" not in self.model.info:  # fitted before that was asked
                require_steady(self._encoder, threads=False)
            keep_alongside(self.model, self._encoder, self.root)
        return self._encoder
