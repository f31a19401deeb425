"""Explain an archive: every record out once, committed shard by shard, published when all of them are there.

    freeze the plan → re-stamp what only moved → compute and commit what is new → admit or hold back → one row a record
    → publish

Typing the same command again resumes; two runs at once do no harm (docs/operations.md). A shard that cannot be read is
set aside and tried again by the next run.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ecgscale.archive.reader import Archive
from ecgscale.clusters.model import ClusterModel
from ecgscale.config import BATCH
from ecgscale.encoders.spec import load_spec
from ecgscale.errors import ExitCode, PublishError, ShardError
from ecgscale.explain.facts import (
    encoder_digest_of,
    fitted_gaps,
    fitted_precision,
    fitted_with_padding,
    require_encoder,
)
from ecgscale.explain.schema import RESULTS_VERSION, EntropyDetail, ExplainSettings
from ecgscale.io.numbered import to_json
from ecgscale.io.objects import ObjectStore
from ecgscale.io.places import Place, absolute, place
from ecgscale.passes.alongside import require_alongside
from ecgscale.passes.explain.chosen_model import require_published_model
from ecgscale.passes.explain.committing import NO_LIMITS, CommittedShards, Committing, RunLimits
from ecgscale.passes.explain.plan import Beside, Plan, freeze_plan
from ecgscale.passes.explain.resolve import (
    Admission,
    Agreed,
    Choice,
    Resolved,
    agree,
    choose,
    commits_of,
    resolve_duplicates,
)
from ecgscale.passes.watch import RunWatch
from ecgscale.passes.workers import OpenPool, in_process
from ecgscale.progress import SILENT, Progress
from ecgscale.store.dataset import DATASET_FILE, dataset_store, follow, newest_pointer
from ecgscale.store.manifest import (
    ArchiveFacts,
    DatasetFacts,
    HeldShard,
    Manifest,
    Sequences,
    SetAside,
    ShardEntry,
    Version,
    compose,
    newest_number,
    plan_digest,
    publish,
    read_manifest,
    versions_known,
)
from ecgscale.store.presence import announced
from ecgscale.store.provenance import run_facts
from ecgscale.store.root import dataset_ids
from ecgscale.words import named

PUBLISH_ATTEMPTS = 10

BeforeWork = Callable[[Plan, Manifest | None, str], None]
"""Looks at a plan, the newest manifest and the id of the archive, and may raise."""


@dataclass(frozen=True)
class ExplainResult:
    """What a run of `explain_archive` did.

    path: the dataset's folder; manifest: the number of the newest manifest; published: whether this run made it
    records, quarantined (by status), shards: of the whole dataset
    computed, restamped, unchanged, retired: shards computed by this run, of the same content under a new stamp, not
    looked at, and published before but no longer in the archive
    cropped: records, of those that this run computed, that are longer than the network_seconds that the network sees
    set_aside: shards that could not be read; held: shards held back from publishing, rejected ones included
    left: shards that this run did not come to, under its limits
    withdrawn: records of shards that the manifest before had and this one has not, for whatever reason
    columns: what became of the carried columns, as sentences: new ones, wider ones, those that a new shard has not
    superseded, repeated, conflicts: rows that gave way to a newer shard's, came twice alike, contradict in the patient
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
    held: tuple[HeldShard, ...] = ()
    left: tuple[str, ...] = ()
    superseded: int = 0
    repeated: int = 0
    conflicts: int = 0
    cropped: int = 0
    network_seconds: float = 0.0
    columns: tuple[str, ...] = ()
    withdrawn: int = 0
    seconds: float = 0.0

    @property
    def exit_code(self) -> ExitCode:
        """Done, done but for shards set aside, or cut short and resumable."""
        if self.left and not self.published:
            return ExitCode.STOPPED
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
            "cropped": self.cropped,
            "computed": self.computed,
            "restamped": self.restamped,
            "unchanged": self.unchanged,
            "retired": self.retired,
            "withdrawn": self.withdrawn,
            "set_aside": [aside.model_dump(include={"key", "reason"}) for aside in self.set_aside],
            "held": [shard.model_dump(include={"key", "state", "reason"}) for shard in self.held],
            "left": len(self.left),
            "columns": list(self.columns),
            "superseded": self.superseded,
            "repeated": self.repeated,
            "conflicts": self.conflicts,
            "manifest": self.manifest,
            "published": self.published,
            "path": self.path,
        }


@announced("ecgscale explain")
def explain_archive(
    archive: Archive,
    model_dir: str | Path,
    root: str | Path,
    *,
    entropy: EntropyDetail = "none",
    batch: int = BATCH,
    include_padding: bool | None = None,
    fill_gaps: float | None = None,
    device: str = "auto",
    progress: Progress = SILENT,
    pool: OpenPool = in_process,
    watch: RunWatch | None = None,
    policy: Policy | None = None,
    guard: BeforeWork | None = None,
) -> ExplainResult:
    """Explain every record of `archive` with the cluster model in `model_dir`, below ROOT = `root`.

    `include_padding` and `fill_gaps` (ms) are as the model was fitted, unless given. A model from elsewhere is copied
    below ROOT. The workers of `pool` compute and commit whole shards; the files are the same to the last bit whoever
    they are.
    `watch` is told of every shard as it is done. `policy` is that of a run that nobody watches. `guard` is shown the
    plan, the newest manifest and the archive's id before anything is computed, and may raise (`Guard` of
    `passes/explain/guard.py`, which every command has).
    Raises `PublishError` when a record id stands in two shards that are both new (under a policy, the later one holds),
    `ShardError` when no shard can be read, `LockedError` while a patient is being forgotten; what was committed stays.
    A KeyboardInterrupt may come at any time.
    """
    started = time.monotonic()
    model = ClusterModel.load(model_dir)
    require_encoder(model)
    require_alongside(model, place(root))
    require_published_model(place(root), model)
    if include_padding is None:
        include_padding = fitted_with_padding(model)
    settings = ExplainSettings(
        entropy=entropy,
        batch=batch,
        include_padding=include_padding,
        fill_gaps=fitted_gaps(model) if fill_gaps is None else fill_gaps,
        dtype=fitted_precision(model),
    )
    identity = identify(archive, model, settings)
    store = dataset_store(root, identity.dataset_id)
    store.put_if_absent(DATASET_FILE, to_json(identity))
    watch = watch or RunWatch()
    facts = run_facts().model_copy(update={"run_id": watch.run_id})
    committing = Committing(place(root), model, settings, store, device, progress, pool, watch, facts)
    run = _Run(place(root), archive.path, identity, store, committing, progress, policy, guard)
    for _ in range(PUBLISH_ATTEMPTS):
        if (done := run.attempt()) is not None:
            manifest, result = done
            # Also of a manifest that was there already: whoever published it may have been stopped before this.
            follow(root, manifest, facts)
            return replace(result, seconds=time.monotonic() - started)
    raise PublishError(
        f"{PUBLISH_ATTEMPTS} times another run published {store.where} first. Everything is committed; "
        "type the same command again when the other runs are done."
    )


def _left(plan: Plan, done: CommittedShards) -> list[Version]:
    """Versions that a run was shown and did not come to: when they came is remembered all the same."""
    return [
        Version(key=one.source.key, content_digest=one.source.content_digest, sequence=one.sequence)
        for one in plan.pending
        if one.source.key in done.left
    ]


def identify(archive: Archive, model: ClusterModel, settings: ExplainSettings) -> DatasetFacts:
    """The facts that make the dataset's id."""
    return DatasetFacts(
        archive_id=archive.archive_id,
        encoder_id=model.encoder_path.name,
        encoder_digest=encoder_digest_of(model),
        model_id=model.model_id,
        model_digest=model.digest,
        settings=settings.to_dict(),
        results_version=RESULTS_VERSION,
    )


@dataclass(frozen=True)
class Policy:
    """What a run that nobody watches keeps to.

    admission: which of the commits that are new to the dataset are to be held back
    limits: how much is computed; partial: whether what is committed is published when they cut the run short
    """

    admission: Admission
    limits: RunLimits = NO_LIMITS
    partial: bool = True


@dataclass
class _Run:
    """One run of one process; `attempt` is repeated when another run publishes in between."""

    root: Place
    archive_path: Place
    identity: DatasetFacts
    store: ObjectStore
    committing: Committing
    progress: Progress
    policy: Policy | None
    guard: BeforeWork | None
    columns: tuple[str, ...] = ()

    def attempt(self) -> tuple[Manifest, ExplainResult] | None:
        """Plan, compute, publish; the manifest that holds then. None when another run published while this one worked:
        its view is newer."""
        # The number first, the listing second: a manifest on top of `base` never shows an older archive than `base`.
        base = newest_number(self.store)
        newest = read_manifest(self.store, base) if base else None
        archive = self._open_archive()
        beside = self._beside() if newest is None else None
        plan = freeze_plan(archive, self.store, newest, self.committing.code, beside)
        policy = self.policy
        if self.guard is not None:
            self.guard(plan, newest, archive.archive_id)
        self._tell_other_code(plan, newest)
        done = self.committing.commit(archive, plan, policy.limits if policy else NO_LIMITS)
        if not done.commits and not plan.published and done.set_aside:
            raise ShardError(
                f"none of the {len(archive.shards)} shards of {archive.path} can be read, so nothing was published; "
                f"first: {done.set_aside[0].reason}"
            )
        if newest is not None and done.left and policy is not None and not policy.partial:
            return self._result(newest, newest, Resolved(newest.content.shards), done)
        facts = self.committing.facts
        choice = choose(self.store, plan.published, done.commits, newest, policy.admission if policy else None, facts)
        agreed = agree(self.store, choice, newest)
        choice, done = agreed.choice, self._refuse(agreed, done)
        if newest is not None and choice.changes_nothing(newest, done.set_aside):
            return self._result(newest, newest, Resolved(newest.content.shards), done)
        known = versions_known(self.store, newest) if beside is None else beside.known
        resolved = self._resolve(choice, base, Sequences(known))
        where = ArchiveFacts(archive_id=archive.archive_id, path=absolute(archive.path))
        digest = plan_digest((*resolved.entries, *done.set_aside, *choice.held))
        past = [*(known.values() if beside is not None else ()), *_left(plan, done)]
        content = compose(
            self.identity, where, digest, resolved.entries, done.set_aside, choice.held, past, agreed.columns
        )
        manifest = publish(self.store, content, base, facts, newest_pointer(self.root))
        return self._result(manifest, newest, resolved, done) if manifest else None

    def _refuse(self, agreed: Agreed, done: CommittedShards) -> CommittedShards:
        """Say what the columns came to; `done` with the shards set aside whose columns fit nowhere."""
        for line in agreed.said:
            self.progress.say(line)
        for aside in agreed.refused:
            self.committing.watch.shard_set_aside(aside.key, aside.reason)
            self.progress.say(f"set aside: {aside.reason}")
        refused = {aside.key for aside in agreed.refused}
        commits = tuple(commit for commit in done.commits if commit.source.key not in refused)
        self.columns = agreed.said
        return replace(done, commits=commits, set_aside=(*done.set_aside, *agreed.refused))

    def _resolve(self, choice: Choice, base: int, sequences: Sequences) -> Resolved:
        """One row for every record, over all shards that are to be published."""
        commits = commits_of(self.store, choice.kept)
        parts = [(commit, entry.since) for entry, commit in zip(choice.kept, commits, strict=True)]
        parts += [(commit, choice.since.get(commit.source.key, base + 1)) for commit in choice.new]
        entries = [
            (ShardEntry.of(commit, since, sequences.of(commit.source.identity, commit.sequence)), commit)
            for commit, since in parts
        ]
        fresh = {commit.source.key for commit in choice.new} - choice.since.keys()
        return resolve_duplicates(self.store, entries, fresh if self.policy is None else frozenset())

    def _beside(self) -> Beside | None:
        """The dataset of the same archive from which a new one has the order of versions: the one that knows most."""
        found = []
        for name in dataset_ids(self.root):
            store = dataset_store(self.root, name)
            manifest = read_manifest(store, newest_number(store)) if store.where != self.store.where else None
            if manifest is not None and manifest.content.identity.archive_id == self.identity.archive_id:
                found.append(Beside(store.where, versions_known(store, manifest)))
        return max(found, key=lambda beside: (len(beside.known), beside.where), default=None)

    def _tell_other_code(self, plan: Plan, newest: Manifest | None) -> None:
        """Going on with what other code computed is right, and said: one version of the results is one set of facts."""
        runs = [commit.run for commit in plan.committed] + ([newest.run] if newest else [])
        ours, *others = (
            f"{run.code_version}" + (f" ({run.code_commit[:12]})" if run.code_commit else "")
            for run in (self.committing.facts, *runs)
        )
        others = sorted(set(others) - {ours})
        if plan.pending and others:
            self.progress.say(
                f"note: what is there was computed by ecgscale {named(others)}, what is new will be by {ours}; both "
                f"give version {RESULTS_VERSION} of the results"
            )

    def _open_archive(self) -> Archive:
        archive = Archive.open(self.archive_path)
        if archive.archive_id != self.identity.archive_id:
            raise ShardError(f"{self.archive_path} was replaced by another archive meanwhile; type the command again")
        for note in archive.notes():
            self.progress.say(f"note: {note}")
        return archive

    def _network_seconds(self) -> float:
        cropped = self.committing.cropped
        return load_spec(self.committing.model.encoder_path).input.seconds if cropped else 0.0

    def _result(
        self, manifest: Manifest, before: Manifest | None, resolved: Resolved, done: CommittedShards
    ) -> tuple[Manifest, ExplainResult]:
        content = manifest.content
        there = {entry.key for entry in content.shards} | {aside.key for aside in content.set_aside} | set(done.left)
        there |= {held.key for held in content.held}
        published_before = {entry.key: entry.rows for entry in before.content.shards} if before else {}
        published_now = {entry.key for entry in content.shards}
        return manifest, ExplainResult(
            dataset_id=content.dataset_id,
            path=self.store.where,
            manifest=manifest.number,
            published=manifest.run.run_id == self.committing.facts.run_id,
            records=content.totals.records,
            quarantined=content.totals.quarantined,
            shards=content.totals.shards,
            computed=self.committing.computed,
            cropped=self.committing.cropped,
            network_seconds=self._network_seconds(),
            restamped=self.committing.restamped,
            unchanged=max(content.totals.shards - self.committing.computed - self.committing.restamped, 0),
            retired=len(published_before.keys() - there),
            columns=self.columns,
            withdrawn=sum(rows for key, rows in published_before.items() if key not in published_now),
            set_aside=content.set_aside,
            held=content.held,
            left=done.left,
            superseded=resolved.superseded,
            repeated=resolved.repeated,
            conflicts=resolved.conflicts,
        )
