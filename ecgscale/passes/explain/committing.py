"""Computing and committing what a plan has pending: in this process, or on the workers of a pool.

A shard that takes its worker along every time: which record does it, and how to say so.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from ecgscale.archive.reader import Archive
from ecgscale.clusters.model import ClusterModel
from ecgscale.encoders.spec import load_spec
from ecgscale.encoders.taps import Encoder
from ecgscale.errors import ShardError
from ecgscale.explain.facts import load_encoder
from ecgscale.explain.schema import ExplainSettings
from ecgscale.io.objects import ObjectStore
from ecgscale.io.places import Place, absolute
from ecgscale.passes.alongside import keep_beside
from ecgscale.passes.explain.plan import Pending, Plan
from ecgscale.passes.explain.shard import ShardExplainer
from ecgscale.passes.explain.worker import Committed
from ecgscale.passes.watch import RunWatch, ShardDone
from ecgscale.passes.workers import Call, Done, Failed, OpenPool, WorkerPool, WorkerSpec
from ecgscale.progress import Progress, Stage, Stopwatch
from ecgscale.store.commit import Commit, Source, find_commit, restamp
from ecgscale.store.failures import code_digest, remember
from ecgscale.store.manifest import SetAside
from ecgscale.store.provenance import RunFacts

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


@dataclass(frozen=True)
class Limits:
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


NO_LIMITS = Limits()


@dataclass(frozen=True)
class CommittedShards:
    """Commits of all shards that are through, those that could not be read, and keys of those not come to."""

    commits: tuple[Commit, ...]
    set_aside: tuple[SetAside, ...]
    left: tuple[str, ...]


class Committing:
    """Commits shards for one dataset; loads the network when the first one is pending."""

    def __init__(
        self,
        root: Place,
        model: ClusterModel,
        settings: ExplainSettings,
        dataset_id: str,
        store: ObjectStore,
        device: str,
        progress: Progress,
        pool: OpenPool | None,
        watch: RunWatch,
        facts: RunFacts,
    ) -> None:
        self.root, self.model, self.settings, self.dataset_id = root, model, settings, dataset_id
        self.store, self.device, self.progress, self.pool = store, device, progress, pool
        self.watch, self.facts = watch, facts
        self.encoder: Encoder | None = None
        self.code = code_digest(load_spec(model.encoder_path).factory)
        self.computed = self.restamped = 0

    def commit(self, archive: Archive, plan: Plan, limits: Limits) -> CommittedShards:
        """Commit what is not committed yet; all commits of the plan, and the shards that could not be read."""
        commits, set_aside = list(plan.committed), list(plan.set_aside)
        for aside in set_aside:
            self.watch.shard_set_aside(aside.key, aside.reason)
            self.progress.say(f"set aside: {aside.reason}")
        for moved in plan.moved:
            commits.append(restamp(self.store, moved.source, moved.earlier, self.facts))
            self.restamped += 1
        chosen = limits.chosen(plan.pending)
        if chosen and self.pool is not None:
            self._commit_on(self.pool, archive, chosen, limits, commits, set_aside)
        elif chosen:
            self._commit_here(archive, chosen, limits, commits, set_aside)
        through = {commit.source.key for commit in commits} | {aside.key for aside in set_aside}
        left = tuple(pending.source.key for pending in plan.pending if pending.source.key not in through)
        return CommittedShards(tuple(commits), tuple(set_aside), left)

    def _commit_here(
        self,
        archive: Archive,
        chosen: Sequence[Pending],
        limits: Limits,
        commits: list[Commit],
        set_aside: list[SetAside],
    ) -> None:
        """Commit what is pending, in this process."""
        explainer = self._explainer(archive)
        with self.progress.stage("explain", sum(p.source.rows for p in chosen), "records") as stage:
            for pending in limits.in_time(chosen):
                stage.note(pending.source.key)
                try:
                    commits.append(self._commit_one(explainer, pending, stage))
                except ShardError as error:
                    self._set_aside(pending.source, str(error), set_aside)

    def _commit_on(
        self,
        pool: OpenPool,
        archive: Archive,
        chosen: Sequence[Pending],
        limits: Limits,
        commits: list[Commit],
        set_aside: list[SetAside],
    ) -> None:
        """Have the workers of a pool commit what is pending, as they become free."""
        self._beside("cpu")
        pending_by_key = {pending.source.key: pending for pending in chosen}
        calls = (
            Call(pending.source.key, "commit", (pending,), pending.source.rows, what=pending.source.key)
            for pending in limits.in_time(chosen)
        )
        with (
            pool(self._worker_spec(archive)) as workers,
            self.progress.stage("explain", sum(p.source.rows for p in chosen), "records") as stage,
        ):
            given_up = []
            for outcome in workers.run(calls):
                source = pending_by_key[outcome.call.key].source
                stage.advance(source.rows)
                stage.note(source.key)
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
            self._computed(done.commit, done.seconds)
        return done.commit

    def _set_aside(self, source: Source, reason: str, set_aside: list[SetAside]) -> None:
        set_aside.append(SetAside(**source.model_dump(), reason=reason))
        self.watch.shard_set_aside(source.key, reason)
        self.progress.say(f"set aside: {reason}")

    def _worker_spec(self, archive: Archive) -> WorkerSpec:
        assert self.model.directory is not None
        return WorkerSpec(
            "ecgscale.passes.explain.worker:ExplainWorker",
            {
                "archive": absolute(archive.path),
                "root": absolute(self.root),
                "dataset_id": self.dataset_id,
                "model": str(self.model.directory),
                "settings": self.settings,
                "device": self.device,
                "run_id": self.facts.run_id,
            },
        )

    def _beside(self, device: str) -> Encoder:
        """The encoder, loaded once, with copies of it and of the model below ROOT."""
        if self.encoder is None:
            self.encoder = load_encoder(self.model, device, self.settings.batch)
            keep_beside(self.model, self.encoder, self.root)
        return self.encoder

    def _commit_one(self, explainer: ShardExplainer, pending: Pending, stage: Stage) -> Commit:
        source = pending.source
        # Another run may have been faster since the plan was frozen.
        standing = find_commit(self.store, source.key, source.size, source.stamp)
        if standing is not None:
            stage.advance(source.rows)
            return standing
        watch = Stopwatch()
        commit = explainer.commit(pending, self.store, self.facts, stage, watch)
        self._computed(commit, watch.seconds)
        return commit

    def _computed(self, commit: Commit, seconds: Mapping[str, float]) -> None:
        self.computed += 1
        output = commit.output
        self.watch.shard_done(ShardDone(commit.source.key, output.rows, output.quarantined, output.size, seconds))

    def _explainer(self, archive: Archive) -> ShardExplainer:
        encoder = self._beside(self.device)
        self.facts = self.facts.model_copy(update={"device": str(encoder.device)})
        return ShardExplainer(archive, encoder, self.model, self.settings)
