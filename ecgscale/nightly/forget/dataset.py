"""Forgetting in what was explained, or probed: the patient's rows leave data files, commit records and manifests.

    clean data → clean commit → hold → new manifest → reference → older manifests, commit records, data files go

Facts of a record do not depend on its neighbours, so a shard's file without the rows is what explaining the shard
without them would give. Whoever is stopped in between leaves a dataset that is whole, with or without the patient, and
the next call goes on. Nothing waits for a grace period.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ecgscale.archive.validate import OK
from ecgscale.explain.schema import metadata_of, to_parquet
from ecgscale.io.numbered import to_json
from ecgscale.io.objects import ObjectStore, StoreError
from ecgscale.io.parquet import parse_parquet
from ecgscale.nightly.forget.search import Traces, has_text, search
from ecgscale.nightly.gates.gatekeeper import night_records
from ecgscale.nightly.gates.reference import FOLDER as TRAITS
from ecgscale.nightly.gates.reference import traits_name
from ecgscale.passes.explain.resolve import commits_of, resolve_duplicates
from ecgscale.passes.explain.shard import NO_ID
from ecgscale.progress import Stage
from ecgscale.store.commit import (
    COMMITS,
    DATA,
    Commit,
    Identity,
    Order,
    Source,
    commit_output,
    decode_hashes,
    row_digests,
)
from ecgscale.store.failures import FAILURES
from ecgscale.store.garbage import read_commits
from ecgscale.store.holds import Hold, hold_name, holds
from ecgscale.store.manifest import (
    Content,
    HeldShard,
    Manifest,
    ShardEntry,
    compose,
    manifest_key,
    manifest_numbers,
    newest_number,
    plan_digest,
    prune,
    publish,
    read_manifest,
)
from ecgscale.store.presence import FORGETTING
from ecgscale.store.provenance import RunFacts

_ATTEMPTS = 5


@dataclass(frozen=True)
class Rewritten:
    """A shard before and after: `new` is None where nobody else was in it."""

    old: Source
    new: Source | None


@dataclass
class ForgottenIn:
    """What was done to one dataset: keys of objects that went, manifests that went, shards that are to be explained
    again by the next run."""

    removed: list[str] = field(default_factory=list)
    manifests: list[int] = field(default_factory=list)
    again: list[str] = field(default_factory=list)


class DatasetWithout:
    """One dataset of explanations (or of probes), and the patient who is to leave it."""

    def __init__(
        self, store: ObjectStore, shards: Mapping[str, Rewritten], traces: Traces, run: RunFacts, probes: bool = False
    ) -> None:
        self.store, self.shards, self.traces, self.run, self.probes = store, shards, traces, run, probes
        self.done = ForgottenIn()

    def affected(self, stage: Stage) -> tuple[list[str], list[Commit]]:
        """Data files that hold the patient, and commit records that name one, or hold hashes of the records."""
        dirty = [hit.key for hit in search(self.store, self.traces, stage, below=DATA).hits]
        commits = [
            commit
            for commit in read_commits(self.store, list(self.store.list_prefix(COMMITS)))
            if commit.output.file in set(dirty) or self._hashed(commit) or self._is_old(commit)
        ]
        return dirty, commits

    def clean(self, stage: Stage) -> ForgottenIn:
        """All of it but `_reference.parquet`, which `remove` comes after."""
        self.dirty, self.commits = self.affected(stage)
        self.fresh = self._fresh_commits()
        self._move_holds()
        self._publish()
        self._move_nights()
        return self.done

    def remove(self) -> None:
        """What refers to the patient, from manifests to commit records to data files."""
        newest = self._newest()
        for number in self.manifests_naming(self.commits, self.dirty):
            # The newest is without them, whatever an earlier call was stopped at.
            if newest is None or number < newest.number:
                prune(self.store, [number], FORGETTING)
                self._delete(manifest_key(number))
                self.done.manifests.append(number)
        for commit in self.commits:
            self._delete(commit.name)
        files = {*self.dirty, *(commit.output.file for commit in self.commits)}
        # A file of the same bytes may be what is published now.
        for file in sorted(files - set(newest.files if newest else ()) - {c.output.file for c in self.fresh.values()}):
            self._delete(file)
        for key in list(self.store.list_prefix(FAILURES)):
            if self._about_old(key):
                self._delete(key)
        for key in self.old_traits(self.commits):
            self._delete(key)

    def old_traits(self, commits: Iterable[Commit]) -> list[str]:
        """Keys of numbers of signals (without ids, a row a record) of shards as they were."""
        old = [*(shard.old for shard in self.shards.values()), *(commit.source for commit in commits)]
        names = {traits_name(source.key, source.content_digest) for source in old}
        return sorted(names & set(self.store.list_prefix(TRAITS)))

    def _hashed(self, commit: Commit) -> bool:
        return bool(np.isin(self.traces.record_hashes, decode_hashes(commit.output.record_ids)).any())

    def _is_old(self, of: Commit | Hold) -> bool:
        """Whether it is of a shard as it was until now."""
        shard = self.shards.get(of.source.key)
        return shard is not None and of.source.identity == shard.old.identity

    def _about_old(self, key: str) -> bool:
        data = json.loads(self.store.read(key) or b"{}")
        shard = self.shards.get(data.get("source", {}).get("key"))
        old = shard is not None and data["source"].get("content_digest") == shard.old.content_digest
        return old or self.traces.in_json(data)

    def _fresh_commits(self) -> dict[str, Commit]:
        """Commits of the shards as they are now, made of those of what they were; by shard key."""
        # Of commits of the same content under several stamps, the one that was made last.
        old = sorted(filter(self._is_old, self.commits), key=lambda commit: commit.committed_at)
        fresh = {}
        for key, commit in {commit.source.key: commit for commit in old}.items():
            new = self.shards[key].new
            if new is not None and (made := self._commit_without(commit, new)) is not None:
                fresh[key] = made
            elif new is not None:
                self.done.again.append(key)
        return fresh

    def _commit_without(self, commit: Commit, new: Source) -> Commit | None:
        """The commit of a shard without the patient; None where the rest has to be explained again."""
        data = self.store.read(commit.output.file)
        if data is None:
            return None
        table = parse_parquet(data, commit.output.file)
        theirs = self.traces.rows(table)
        kept = without_references(table.filter(pa.array(~theirs)), self.traces)
        # A row that stays may have been set aside for an id that goes: without that it is usable.
        gone = pc.unique(table["record_id"].filter(pa.array(theirs)))
        doubles = pc.equal(kept["status"], "duplicate_record_id")
        if pc.any(pc.and_(doubles, pc.is_in(kept["record_id"], value_set=gone))).as_py():
            return None
        if kept.num_rows != new.rows and not self.probes:
            return None
        metadata = metadata_of(table.schema)
        statuses, ids = kept["status"].to_pylist(), kept["record_id"].to_pylist()
        kept = kept.replace_schema_metadata(None).combine_chunks()
        return commit_output(
            self.store,
            new.model_copy(update={"rows": kept.num_rows}),
            to_parquet(kept.to_batches(), kept.schema, {**metadata, "source_content_digest": new.content_digest}),
            record_ids=[record for record, status in zip(ids, statuses, strict=True) if status != NO_ID],
            quarantined=dict(Counter(status for status in statuses if status != OK)),
            rows=kept.num_rows,
            run=self.run,
            order=Order(commit.sequence, row_digests(commit), (commit,)),
        )

    def _move_holds(self) -> None:
        """A hold of what a shard was is one of what it is; one of anything else that is forgotten goes."""
        gone = {commit.name for commit in self.commits}
        for hold in holds(self.store).values():
            if hold.commit not in gone:
                if self.traces.in_json(hold.model_dump(mode="json")):
                    self.store.put(hold_name(hold.source), to_json(self._redacted(hold)))
                continue
            fresh = self.fresh.get(hold.source.key)
            if fresh is not None and self._is_old(hold):
                moved = hold.model_copy(update={"source": fresh.source, "commit": fresh.name})
                self.store.put(hold_name(fresh.source), to_json(self._redacted(moved)))
            self._delete(hold_name(hold.source))

    def _move_nights(self) -> None:
        """Nights remember what they judged by the names of commit records."""
        old = [commit for commit in self.commits if self._is_old(commit) and commit.source.key in self.fresh]
        names = {commit.name: self.fresh[commit.source.key].name for commit in old}
        for night in night_records(self.store):
            commits = tuple(names.get(name, name) for name in night.commits)
            if commits != night.commits:
                self.store.put(night.key, to_json(night.model_copy(update={"commits": commits})))

    def _redacted(self, hold: Hold) -> Hold:
        return Hold.model_validate(self.traces.redacted(hold.model_dump(mode="json")))

    def _publish(self) -> None:
        """A manifest without the patient, on top of whatever is the newest."""
        for _ in range(_ATTEMPTS):
            newest = self._newest()
            if newest is None:
                return
            content = self._content(newest)
            if content == newest.content:
                return
            if publish(self.store, content, newest.number, self.run, forgotten=self._forgotten()) is not None:
                return
        raise StoreError(f"{_ATTEMPTS} times another run published {self.store.where} first; type the command again")

    def _content(self, newest: Manifest) -> Content:
        gone = {commit.name for commit in self.commits}
        before = newest.content
        aside = tuple(one for one in before.set_aside if one.key not in self.shards)
        named = {entry.commit for entry in before.shards} | {one.commit for one in before.held}
        dirty = any(entry.file in self.dirty for entry in before.shards)
        remembered = self._forgotten() & {version.identity for version in before.past}
        if not named & gone and not dirty and not remembered and aside == before.set_aside:
            return before
        kept = [entry for entry in before.shards if entry.commit not in gone]
        parts = [
            (ShardEntry.of(commit, entry.since, entry.sequence or entry.since), commit)
            for entry, commit in zip(kept, commits_of(self.store, kept), strict=True)
        ]
        for entry in before.shards:
            fresh = self.fresh.get(entry.key)
            if entry.commit not in gone:
                continue
            shard = self.shards.get(entry.key)
            # What was published may be an earlier version of what the shard was until now.
            if fresh is not None and shard is not None and entry.content_digest == shard.old.content_digest:
                parts.append((ShardEntry.of(fresh, entry.since, entry.sequence or entry.since), fresh))
            elif shard is None or shard.new is not None:
                self.done.again.append(entry.key)
        entries = tuple(entry for entry, _ in parts) if self.probes else resolve_duplicates(self.store, parts).entries
        held = self._held(before, gone)
        digest = plan_digest([*entries, *aside, *held])
        return compose(before.identity, before.archive, digest, entries, aside, held, columns=before.columns)

    def _forgotten(self) -> set[Identity]:
        """Versions of shards that held the patient: their digests tell of the patient's rows too."""
        old = {shard.old.identity for shard in self.shards.values()}
        return old | {commit.source.identity for commit in self.commits}

    def _held(self, before: Content, gone: set[str]) -> list[HeldShard]:
        standing = holds(self.store)
        held = []
        for one in before.held:
            fresh = self.fresh.get(one.key)
            hold = standing.get(fresh.source.identity) if fresh is not None else None
            if one.commit not in gone:
                held.append(one)
            elif hold is not None and hold.state != "released":
                held.append(hold.shard().model_copy(update={"sequence": one.sequence}))
        return held

    def manifests_naming(self, commits: Iterable[Commit], dirty: Iterable[str]) -> list[int]:
        """Numbers of the manifests that refer to any of these commit records or data files."""
        names = {commit.name for commit in commits}
        files = {*dirty, *(commit.output.file for commit in commits)}

        def names_one(number: int) -> bool:
            manifest = read_manifest(self.store, number)
            if manifest is None:
                return False
            content = manifest.content
            named = {entry.commit for entry in content.shards} | {one.commit for one in content.held}
            named |= {version.commit for version in content.past if version.commit is not None}
            reasons = [*(one.reason for one in content.set_aside), *(one.reason for one in content.held)]
            return bool(named & names or set(manifest.files) & files) or any(map(self.traces.is_in, reasons))

        return list(filter(names_one, manifest_numbers(self.store)))

    def _newest(self) -> Manifest | None:
        return read_manifest(self.store, newest_number(self.store))

    def _delete(self, key: str) -> None:
        self.store.delete(key)
        self.done.removed.append(key)


def without_references(table: pa.Table, traces: Traces) -> pa.Table:
    """The table less those items of its lists that name one of the patient's records (pairs of probed records)."""
    for at, column in enumerate(table.schema):
        kind = column.type
        if not pa.types.is_list(kind) or not pa.types.is_struct(kind.value_type) or not has_text(kind):
            continue
        values = table.column(at).to_pylist()
        mended = [None if items is None else [item for item in items if not traces.in_json(item)] for items in values]
        if mended != values:
            table = table.set_column(at, column, pa.array(mended, kind))
    return table
