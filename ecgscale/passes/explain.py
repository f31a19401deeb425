"""Explain an archive: every record out once, committed shard by shard, published when all of them are there.

    freeze the plan → re-stamp what only moved → compute and commit what is new → no record twice → publish

Typing the same command again resumes; two runs at once do no harm (docs/operations.md). A shard that cannot be read is
set aside, told, and tried again by the next run.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ecgscale.archive.reader import Archive
from ecgscale.clusters.model import ClusterModel
from ecgscale.encoders.spec import load_spec
from ecgscale.encoders.taps import Encoder
from ecgscale.errors import ExitCode, PublishError, ShardError
from ecgscale.explain.facts import encoder_digest_of, fitted_precision, fitted_with_padding, load_encoder
from ecgscale.explain.settings import RESULTS_VERSION, EntropyDetail, ExplainSettings
from ecgscale.passes.beside import keep_beside
from ecgscale.passes.explain_worker import Committed
from ecgscale.passes.give_up import examine
from ecgscale.passes.plan import Pending, Plan, freeze_plan
from ecgscale.passes.shard import ShardExplainer
from ecgscale.passes.watch import RunWatch, ShardDone, Unwatched
from ecgscale.passes.workers import Call, Done, OpenPool, WorkerSpec
from ecgscale.progress import SILENT, Progress, Stage, Stopwatch
from ecgscale.store.commit import Commit, Source, find_commit, restamp, to_json
from ecgscale.store.dataset import dataset_store
from ecgscale.store.doubles import require_distinct_records
from ecgscale.store.failures import code_digest, remember
from ecgscale.store.manifest import (
    ArchiveFacts,
    DatasetFacts,
    Manifest,
    SetAside,
    compose,
    newest_number,
    publish,
    read_manifest,
)
from ecgscale.store.objects import LocalObjects
from ecgscale.store.provenance import run_facts

DATASET_FILE = "_dataset.json"
PUBLISH_ATTEMPTS = 10


@dataclass(frozen=True)
class ExplainResult:
    """What a run of `explain_archive` did.

    path: the dataset's folder; manifest: the number of the newest manifest; published: whether this run made it
    records, quarantined (by status), shards: of the whole dataset
    computed, restamped, unchanged, retired: shards computed by this run, of the same content under a new stamp, not
    looked at, and published before but no longer in the archive
    set_aside: shards that could not be read
    """

    dataset_id: str
    path: str
    manifest: int
    published: bool
    records: int
    quarantined: dict[str, int]
    shards: int
    computed: int
    restamped: int
    unchanged: int
    retired: int
    set_aside: tuple[SetAside, ...]
    seconds: float = 0.0

    @property
    def exit_code(self) -> ExitCode:
        """Done, or done but for shards set aside."""
        return ExitCode.SHARDS_SET_ASIDE if self.set_aside else ExitCode.DONE

    def to_dict(self) -> dict[str, Any]:
        """For `--json`; `quarantined` is the number of records, `quarantined_by_status` says why."""
        return {
            "dataset_id": self.dataset_id,
            "records": self.records,
            "quarantined": sum(self.quarantined.values()),
            "shards": self.shards,
            "seconds": round(self.seconds, 3),
            "quarantined_by_status": self.quarantined,
            "computed": self.computed,
            "restamped": self.restamped,
            "unchanged": self.unchanged,
            "retired": self.retired,
            "set_aside": [aside.model_dump(include={"key", "reason"}) for aside in self.set_aside],
            "manifest": self.manifest,
            "published": self.published,
            "path": self.path,
        }


def explain_archive(
    archive: Archive,
    model_dir: str | Path,
    root: str | Path,
    *,
    entropy: EntropyDetail = "none",
    batch: int = 32,
    include_padding: bool | None = None,
    device: str = "auto",
    progress: Progress = SILENT,
    pool: OpenPool | None = None,
    watch: RunWatch | None = None,
) -> ExplainResult:
    """Explain every record of `archive` with the cluster model in `model_dir`, below ROOT = `root`.

    `include_padding` is as the model was fitted, unless given. A model from elsewhere is copied below ROOT. With a
    `pool`, its workers compute and commit whole shards; the files are the same to the last bit. `watch` is told of
    every shard as it is done.
    Raises `PublishError` when a record id stands in two shards, `ShardError` when no shard can be read; what was
    committed stays. A KeyboardInterrupt may come at any time.
    """
    started = time.monotonic()
    model = ClusterModel.load(model_dir)
    if include_padding is None:
        include_padding = fitted_with_padding(model)
    settings = ExplainSettings(
        entropy=entropy, batch=batch, include_padding=include_padding, dtype=fitted_precision(model)
    )
    identity = identify(archive, model, settings)
    store = dataset_store(root, identity.dataset_id)
    store.put_if_absent(DATASET_FILE, to_json(identity))
    watch = watch or Unwatched()
    run = _Run(archive.path, Path(root), model, settings, identity, store, device, progress, pool, watch)
    for _ in range(PUBLISH_ATTEMPTS):
        result = run.attempt()
        if result is not None:
            return replace(result, seconds=time.monotonic() - started)
    raise PublishError(
        f"{PUBLISH_ATTEMPTS} times another run published {store.root} first. Everything is committed; "
        "type the same command again when the other runs are done."
    )


def identify(archive: Archive, model: ClusterModel, settings: ExplainSettings) -> DatasetFacts:
    """The facts that make the dataset's id."""
    return DatasetFacts(
        archive_id=archive.archive_id,
        encoder_id=Path(model.encoder_path).name,
        encoder_digest=encoder_digest_of(model),
        model_id=model.model_id,
        model_digest=model.digest,
        settings=settings.to_dict(),
        results_version=RESULTS_VERSION,
    )


class _Run:
    """One run of one process; `attempt` is repeated when another run publishes in between."""

    def __init__(
        self,
        archive_path: Path,
        root: Path,
        model: ClusterModel,
        settings: ExplainSettings,
        identity: DatasetFacts,
        store: LocalObjects,
        device: str,
        progress: Progress,
        pool: OpenPool | None,
        watch: RunWatch,
    ) -> None:
        self.archive_path, self.root, self.model, self.settings = archive_path, root, model, settings
        self.identity, self.store, self.device, self.progress = identity, store, device, progress
        self.pool, self.watch = pool, watch
        self.facts = run_facts().model_copy(update={"run_id": watch.run_id})
        self.encoder: Encoder | None = None
        self.code = code_digest(load_spec(model.encoder_path).factory)
        self.computed = self.restamped = 0

    def attempt(self) -> ExplainResult | None:
        """Plan, compute, publish; None when another run published while this one worked: its view is newer."""
        # The number first, the listing second: a manifest on top of `base` never shows an older archive than `base`.
        base = newest_number(self.store)
        newest = read_manifest(self.store, base) if base else None
        archive = self._open_archive()
        plan = freeze_plan(archive, self.store, newest, self.code)
        commits, set_aside = self._commit(archive, plan)
        if not commits:
            raise ShardError(
                f"none of the {len(archive.shards)} shards of {archive.path} can be read, so nothing was published; "
                f"first: {set_aside[0].reason}"
            )
        require_distinct_records(self.store, commits)
        archive_facts = ArchiveFacts(archive_id=archive.archive_id, path=str(archive.path.absolute()))
        content = compose(self.identity, archive_facts, plan.digest, commits, set_aside)
        manifest = publish(self.store, content, base, self.facts)
        return self._result(manifest, newest) if manifest else None

    def _open_archive(self) -> Archive:
        archive = Archive.open(self.archive_path)
        if archive.archive_id != self.identity.archive_id:
            raise ShardError(f"{self.archive_path} was replaced by another archive meanwhile; type the command again")
        return archive

    def _commit(self, archive: Archive, plan: Plan) -> tuple[list[Commit], list[SetAside]]:
        """Commit what is not committed yet; all commits of the plan, and the shards that could not be read."""
        commits, set_aside = list(plan.committed), list(plan.set_aside)
        for aside in set_aside:
            self.watch.shard_set_aside(aside.key, aside.reason)
            self.progress.say(f"set aside: {aside.reason}")
        for moved in plan.moved:
            commits.append(restamp(self.store, moved.source, moved.earlier, self.facts))
            self.restamped += 1
        if not plan.pending:
            return commits, set_aside
        if self.pool is not None:
            self._commit_on(self.pool, archive, plan, commits, set_aside)
            return commits, set_aside
        explainer = self._explainer(archive)
        with self.progress.stage("explain", plan.pending_records, "records") as stage:
            for pending in plan.pending:
                stage.note(pending.source.key)
                try:
                    commits.append(self._commit_one(explainer, pending, stage))
                except ShardError as error:
                    self._set_aside(pending.source, str(error), set_aside)
        return commits, set_aside

    def _commit_on(
        self, pool: OpenPool, archive: Archive, plan: Plan, commits: list[Commit], set_aside: list[SetAside]
    ) -> None:
        """Have the workers of a pool commit what is pending, as they become free."""
        self._beside("cpu")
        pending_by_key = {pending.source.key: pending for pending in plan.pending}
        calls = [
            Call(key, "commit", (pending,), pending.source.rows, what=key) for key, pending in pending_by_key.items()
        ]
        with (
            pool(self._worker_spec(archive)) as workers,
            self.progress.stage("explain", plan.pending_records, "records") as stage,
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
            "ecgscale.passes.explain_worker:ExplainWorker",
            {
                "archive": str(archive.path.absolute()),
                "root": str(self.root.absolute()),
                "dataset_id": self.identity.dataset_id,
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

    def _result(self, manifest: Manifest, before: Manifest | None) -> ExplainResult:
        content = manifest.content
        there = {entry.key for entry in content.shards} | {aside.key for aside in content.set_aside}
        published_before = {entry.key for entry in before.content.shards} if before else set()
        return ExplainResult(
            dataset_id=content.dataset_id,
            path=str(self.store.root),
            manifest=manifest.number,
            published=manifest.run.run_id == self.facts.run_id,
            records=content.totals.records,
            quarantined=content.totals.quarantined,
            shards=content.totals.shards,
            computed=self.computed,
            restamped=self.restamped,
            unchanged=max(content.totals.shards - self.computed - self.restamped, 0),
            retired=len(published_before - there),
            set_aside=content.set_aside,
        )
