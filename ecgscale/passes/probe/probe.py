"""Probes need the network again: run on a sample of the explained records, and committed as explanations are.

    ROOT/probes/<dataset_id>/<probe_id>/    data/*.parquet, _commits/, _manifests/

The sources are the shards that the newest manifest of the explanations names; a shard whose content has changed since
is set aside, for its segments are of something else. `probe_id` is a digest of the dataset, the settings and
PROBES_VERSION. Typing the same command again resumes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.dataset

from ecgscale.archive.reader import Archive
from ecgscale.archive.waves import has_neurokit
from ecgscale.clusters.model import ClusterModel
from ecgscale.encoders.spec import load_spec
from ecgscale.errors import ExitCode, PublishError, ShardError, UsageError
from ecgscale.io.numbered import to_json
from ecgscale.io.objects import ObjectStore, open_objects
from ecgscale.io.parquet import parquet_dataset
from ecgscale.io.places import absolute, place
from ecgscale.passes.probe.batch import has_dtaidistance
from ecgscale.passes.probe.network import ProbeNetwork
from ecgscale.passes.probe.schema import DROPOUT, PROBES, PROBES_VERSION, SCHEMA, WAVES, ProbeSettings
from ecgscale.passes.stream import StreamSettings
from ecgscale.passes.workers import Call, Done, OpenPool, WorkerSpec, in_process
from ecgscale.progress import SILENT, Progress
from ecgscale.store.commit import Commit, Source, find_commit
from ecgscale.store.dataset import find_dataset, open_explanations
from ecgscale.store.manifest import (
    ArchiveFacts,
    DatasetFacts,
    Manifest,
    SetAside,
    ShardEntry,
    compose,
    newest_number,
    plan_digest,
    publish,
    read_manifest,
)
from ecgscale.store.presence import announced
from ecgscale.store.provenance import RunFacts, run_facts

PROBES_FOLDER = "probes"
IDENTITY_FILE = "_probes.json"
_ATTEMPTS = 5


@dataclass(frozen=True)
class ProbeResult:
    """A published probe run: its id, where it lies, the dataset it is about, how many records, what was not done."""

    probe_id: str
    dataset_id: str
    path: str
    records: int
    shards: int
    computed: int
    set_aside: tuple[SetAside, ...]
    remarks: tuple[str, ...]

    @property
    def exit_code(self) -> ExitCode:
        """Done, or done but for shards set aside."""
        return ExitCode.SHARDS_SET_ASIDE if self.set_aside else ExitCode.DONE

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {**vars(self), "set_aside": [aside.model_dump(include={"key", "reason"}) for aside in self.set_aside]}


def probe_store(root: str | Path, dataset_id: str, probe_id: str) -> ObjectStore:
    """The store of one probe run."""
    return open_objects(place(root) / PROBES_FOLDER / dataset_id / probe_id)


def open_probes(result: ProbeResult) -> pyarrow.dataset.Dataset:
    """The rows of a probe run (`probe_schema.SCHEMA`): exactly the files of its newest manifest."""
    store = open_objects(result.path)
    manifest = read_manifest(store, newest_number(store))
    files = [store.location(name) for name in manifest.files] if manifest else []
    return parquet_dataset(files, SCHEMA)


@announced("ecgscale probe", existing=True)
def probe_explained(
    root: str | Path,
    settings: ProbeSettings | None = None,
    *,
    dataset: str | None = None,
    archive: str | Path | None = None,
    device: str = "auto",
    progress: Progress = SILENT,
    pool: OpenPool = in_process,
) -> ProbeResult:
    """Probe a sample of the newest explanations below `root` (or those of `dataset`), and publish the probes.

    Raises `UsageError` when nothing is published, the archive is not there or another one, or nothing but MC dropout is
    asked of a network that has none; `ShardError` when no shard can be read.
    """
    settings = settings or ProbeSettings()
    found = find_dataset(root, dataset)
    assert found.manifest is not None
    content = found.manifest.content
    opened = Archive.open(archive if archive is not None else content.archive.path)
    if opened.archive_id != content.archive.archive_id:
        raise UsageError(
            f"{opened.path} is archive {opened.archive_id}; explained was {content.archive.archive_id}. "
            "Give the one that was explained (--archive)."
        )
    model_dir = place(root) / "models" / content.identity.model_id
    marked = "fiducials" in open_explanations(root, found.dataset_id).schema.names
    model = ClusterModel.load(model_dir)
    remarks = _refusals(model, settings, marked)
    both = {"explained": content.identity.settings, "probes": settings.to_dict()}
    identity = content.identity.model_copy(update={"settings": both, "results_version": PROBES_VERSION})
    store = probe_store(root, found.dataset_id, identity.dataset_id)
    store.put_if_absent(IDENTITY_FILE, to_json(identity))
    arguments = {
        "archive": absolute(opened.path),
        "store": store.where,
        "model": absolute(model_dir),
        "settings": settings,
        "device": device,
        "stream": StreamSettings.of({**model.info, **content.identity.settings}),
    }
    run = _Run(opened, content.shards, store, identity, arguments, progress, pool)
    manifest = next((made for _ in range(_ATTEMPTS) if (made := run.attempt())), None)
    if manifest is None:
        raise PublishError(f"{_ATTEMPTS} times another run published {store.where} first; type the command again")
    totals = manifest.content.totals
    return ProbeResult(
        probe_id=identity.dataset_id,
        dataset_id=found.dataset_id,
        path=store.where,
        records=totals.records,
        shards=totals.shards,
        computed=run.computed,
        set_aside=manifest.content.set_aside,
        remarks=remarks,
    )


def _refusals(model: ClusterModel, settings: ProbeSettings, marked: bool) -> tuple[str, ...]:
    """What cannot be done here, in words; `UsageError` when nothing is left of what was asked for."""
    refused = {}
    if DROPOUT in settings.probes and not ProbeNetwork.load(model.encoder_path, "cpu", 1).has_dropout:
        name = load_spec(model.encoder_path).name
        refused[DROPOUT] = (
            f"MC dropout refused: {name} has no dropout layer that drops anything; its passes would all agree"
        )
    if WAVES in settings.probes and not has_dtaidistance():
        refused[WAVES] = "waves cannot be compared: pip install 'ecgscale[evaluate]'"
    elif WAVES in settings.probes and not marked and not has_neurokit():
        refused[WAVES] = "the archive has no annotated waves, and finding them takes: pip install 'ecgscale[evaluate]'"
    if set(settings.probes) == refused.keys():
        others = ", ".join(name for name in PROBES if name not in refused)
        raise UsageError(f"{'; '.join(refused.values())}. Other probes are: {others}")
    return tuple(refused.values())


@dataclass
class _Run:
    """One run of one process."""

    archive: Archive
    explained: Sequence[ShardEntry]
    store: ObjectStore
    identity: DatasetFacts
    arguments: dict[str, Any]
    progress: Progress
    pool: OpenPool
    facts: RunFacts = field(default_factory=run_facts)
    computed: int = 0

    def attempt(self) -> Manifest | None:
        """Compute what is not committed and publish; None when another run published meanwhile."""
        base = newest_number(self.store)
        commits: list[Commit] = []
        set_aside: list[SetAside] = []
        pending: list[Source] = []
        for entry in self.explained:
            source = entry.source
            standing = find_commit(self.store, source.key, source.size, source.stamp)
            if standing is not None:
                commits.append(standing)
            elif reason := self._changed(source):
                set_aside.append(SetAside(**source.model_dump(), reason=reason))
            else:
                pending.append(source)
        self._compute(pending, commits, set_aside)
        for aside in set_aside:
            self.progress.say(f"set aside: {aside.reason}")
        if not commits:
            raise ShardError(f"none of {len(set_aside)} shards could be probed; first: {set_aside[0].reason}")
        where = ArchiveFacts(archive_id=self.archive.archive_id, path=absolute(self.archive.path))
        digest = plan_digest([*(commit.source for commit in commits), *set_aside])
        return publish(
            self.store, compose(self.identity, where, digest, map(ShardEntry.of, commits), set_aside), base, self.facts
        )

    def _changed(self, source: Source) -> str | None:
        """Why the shard is not the one that was explained; None when it is."""
        shards = {shard.key: shard for shard in self.archive.shards}
        if source.key not in shards:
            return f"{self.archive.path} no longer has shard {source.key}; explain the archive again"
        try:
            digest = self.archive.footer(shards[source.key]).content_digest
        except ShardError as error:
            return str(error)
        changed = digest != source.content_digest
        return f"{source.key} changed since it was explained; explain the archive again" if changed else None

    def _compute(self, pending: list[Source], commits: list[Commit], set_aside: list[SetAside]) -> None:
        if not pending:
            return
        by_key = {source.key: source for source in pending}
        calls = [Call(key, "commit", (source,), source.rows, what=key) for key, source in by_key.items()]
        arguments = {**self.arguments, "run_id": self.facts.run_id}
        with (
            self.pool(WorkerSpec("ecgscale.passes.probe.worker:ProbeWorker", arguments)) as workers,
            self.progress.stage("probe", len(pending), "shards") as stage,
        ):
            for outcome in workers.run(calls):
                if isinstance(outcome, Done):
                    commits.append(outcome.value)
                    self.computed += 1
                else:
                    source = by_key[outcome.call.key]
                    set_aside.append(SetAside(**source.model_dump(), reason=outcome.reason))
                stage.note(outcome.call.key)
                stage.advance()
