"""Forgetting a patient: out of the archive, of everything that was made of it below ROOT, and not let in again.

    lease → journal → tombstone → archive → datasets and probes → lists, evaluations, records, caches → search

The order is such that whatever stops this, the same command finishes it: the journal says whom and what, the tombstone
keeps the patient from coming back meanwhile, and in the end every object is looked into. What then still tells of the
patient is named, and the journal stays until nothing does:

    ROOT/_forgetting/<token>.json       whom, and which records and shards; whoever goes on after a crash has to know.
                                        On a disk, for this user alone (0600 in 0700)

Data files are written again without the patient's rows instead of explaining the shards again: other patients' rows
stay the same to the last bit, whatever machine this runs on, and datasets are cleaned whose network or version of the
results nobody can run any more.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

from pydantic import BaseModel, ConfigDict

from ecgscale.archive.reader import Archive
from ecgscale.archive.sources.pseudonyms import PSEUDONYMISED, open_pseudonyms
from ecgscale.archive.sources.tombstones import new_tombstones, read_tombstones, write_tombstones
from ecgscale.encoders.seen import SEEN_FILE
from ecgscale.errors import ExitCode, UsageError
from ecgscale.evaluate.written import EVALUATIONS
from ecgscale.io.numbered import read_json_object, to_json
from ecgscale.io.objects import ObjectStore, delete_private, open_objects, put_private
from ecgscale.io.places import REMOTE, Place, absolute, is_remote, place
from ecgscale.io.settings import StoreError, s3, storage_errors
from ecgscale.nightly.forget.alongside import (
    evaluations_with,
    mend,
    rebuild_reference,
    seen_lists,
    stale_copies,
    without_seen,
)
from ecgscale.nightly.forget.archive import (
    OwnRecords,
    explained_ids,
    finish_intake,
    mend_records,
    own_records,
    read_ids,
    rewrite_shard,
    shards_with,
    source_of,
)
from ecgscale.nightly.forget.dataset import DatasetWithout, Rewritten
from ecgscale.nightly.forget.search import Hit, Traces, look, search
from ecgscale.nightly.history import note_removal
from ecgscale.passes.probe.probe import PROBES_FOLDER, probe_store
from ecgscale.progress import SILENT, Progress
from ecgscale.store.commit import DATA, Source
from ecgscale.store.dataset import DATASET_FILE, dataset_store
from ecgscale.store.lease import Lease
from ecgscale.store.manifest import DatasetFacts
from ecgscale.store.presence import FORGETTING, require_alone
from ecgscale.store.provenance import run_facts
from ecgscale.store.root import EXPLANATIONS, dataset_ids, existing_root

JOURNAL = "_forgetting"


class Journal(BaseModel):
    """One patient (None: single records) on the way out, by the ids of the archive.

    records: of this patient alone; shards: of the archive that held them, as they were
    """

    model_config = ConfigDict(frozen=True)

    version: Literal[1] = 1
    patient: str | None
    records: tuple[str, ...] = ()
    shards: dict[str, Source] = {}


@dataclass(frozen=True)
class Whom:
    """Who is to be forgotten: an id as the archive has it or, with the key, as the source does.

    is_record: the id is that of a record, for archives that know no patients
    """

    given: str
    keyfile: Path | None = None
    is_record: bool = False


@dataclass(frozen=True)
class ForgetResult:
    """What was done, or would be (`dry_run`).

    left: objects that still hold traces (of a dry run: those that do now); again: shards that the next run explains
    again, because what was published of them was not what the archive held
    """

    dry_run: bool
    patients: int
    records: int
    shards_rewritten: int
    files_removed: int
    manifests_removed: int
    objects_searched: int
    left: tuple[str, ...]
    again: int = 0
    notes: tuple[str, ...] = ()

    @property
    def exit_code(self) -> ExitCode:
        """Failed when anything is left."""
        return ExitCode.FAILED if self.left and not self.dry_run else ExitCode.DONE

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {**self.__dict__, "left": len(self.left), "left_in": list(self.left), "notes": list(self.notes)}


def forget_patient(
    root: str | Path,
    whom: Whom,
    archive: str | Path,
    *,
    reason: str = "",
    encoders: Sequence[Path] = (),
    dry_run: bool = False,
    progress: Progress = SILENT,
) -> ForgetResult:
    """Remove a patient from an archive and from everything below ROOT that was made of it; see the module.

    reason: is kept alongside the datasets; encoders: directories elsewhere whose lists of what was seen are mended too
    Raises `UsageError` for a patient that nobody knows (or a key that is not the archive's), `LockedError` while a
    nightly run is under way or anybody is at work below ROOT, `ShardError` for a shard that cannot be read: whom it
    holds, nobody knows; `LeaseLost` when another command began while this process slept.
    """
    where = existing_root(root)
    task = _Forgetting(where, place(archive), whom, reason.strip(), encoders, progress)
    with nullcontext() if dry_run else Lease(where, uuid4().hex, FORGETTING) as lease:
        if lease is None:
            return task.rehearse()
        # With the lease held, nobody else begins; whoever began before has put a mark.
        task.notes += require_alone(task.store)
        finish_intake(place(archive))
        return task.run(lease)


class _Forgetting:
    """One patient on the way out."""

    def __init__(
        self, root: Place, archive: Place, whom: Whom, reason: str, encoders: Sequence[Path], progress: Progress
    ) -> None:
        self.root, self.archive_path, self.whom, self.reason = root, archive, whom, reason
        self.encoders, self.progress = encoders, progress
        self.store = open_objects(root)
        self.removed = self.manifests = 0
        self.again: set[str] = set()
        self.notes: list[str] = []

    def rehearse(self) -> ForgetResult:
        """Count, and change nothing."""
        self._look()
        rewritten = {key: Rewritten(source, None) for key, source in self.affected.items()}
        with self.progress.stage("search", None, "objects") as stage:
            for store, probes in self.stores:
                without = DatasetWithout(store, rewritten, self.traces, run_facts(), probes)
                dirty, commits = without.affected(stage)
                manifests = without.manifests_naming(commits, dirty)
                self.manifests += len(manifests)
                self.removed += len({*dirty, *(c.output.file for c in commits), *(c.name for c in commits)})
                self.removed += len(manifests) + len(without.old_traits(commits))
        self.removed += len(evaluations_with(self.store, self._skip, self.traces)) + len(stale_copies(self.traces))
        objects, hits = self._search()
        return self._result(True, len(self.present), objects, hits)

    def run(self, lease: Lease) -> ForgetResult:
        """All of it, in order."""
        self._look()
        journal = Journal(patient=self.traces.patient, records=tuple(sorted(self.traces.records)), shards=self.affected)
        key = self.journal_key or f"{JOURNAL}/{uuid4().hex}.json"
        put_private(self.store, key, to_json(journal))
        # From here on, no ingest takes the patient in.
        patients = [self.traces.patient] if self.traces.patient else []
        write_tombstones(self.archive_path, self.tombstones.with_these(patients, self.traces.records))
        rewritten = self._rewrite()
        for store, probes in self.stores:
            lease.check()
            self._from_dataset(store, rewritten, probes)
        self._alongside()
        objects, hits = self._search()
        gone = mend(hits, self.traces)
        self.removed += len(gone)
        hits = [left for hit in hits if hit.key not in gone and (left := look(hit.store, hit.key, self.traces))]
        # Whoever slept until another command began has searched for nothing.
        lease.check()
        if not hits:
            delete_private(self.store, key)
        return self._result(False, len(self.affected), objects, hits)

    def _look(self) -> None:
        """Who it is, which records these are, which shards and datasets hold them."""
        self.archive = archive = Archive.open(self.archive_path)
        made = archive.info.get("source", {})
        name = self._name(made)
        patient = None if self.whom.is_record else name
        ids = self._own_datasets()
        self.stores = [(dataset_store(self.root, one), False) for one in ids]
        keys = (key for one in ids for key in self.store.list_prefix(f"{PROBES_FOLDER}/{one}"))
        probed = {tuple(key.split("/")[1:3]) for key in keys}
        self.stores += [(probe_store(self.root, *names), True) for names in sorted(probed)]
        read = {key: read_json_object(self.store, key, Journal) for key in self.store.list_prefix(JOURNAL)}
        journals = {key: journal for key, journal in read.items() if journal is not None}
        mine = {k: j for k, j in journals.items() if j.patient == patient and (patient or name in j.records)}
        if len(journals) > len(mine):
            self.notes.append("an earlier `ecgscale forget` of somebody else did not finish: type that command again")
        self.journal_key: str | None = next(iter(mine), None)
        journal = mine[self.journal_key] if self.journal_key else Journal(patient=patient)
        self.ids = read_ids(archive, self.progress)
        if patient is None:
            found = OwnRecords(frozenset({name}), frozenset())
        else:
            explained = explained_ids([store for store, _ in self.stores])
            found = own_records([*self.ids.values(), *explained], patient, journal.records)
        if found.shared:
            self.notes.append(f"{len(found.shared):,} record ids are another patient's as well: those rows stay")
        typed = self.whom.given if self.whom.keyfile else None
        self.traces = Traces(patient, found.records, str(made.get("kind", "")), typed)
        self.present = shards_with(archive, self.ids, self.traces)
        self.affected = {**journal.shards, **self.present}
        self.tombstones = read_tombstones(self.archive_path) or new_tombstones(made)
        self._require_known(name, bool(journal.records or journal.shards))
        if self.reason and (self.traces.is_in(self.reason) or self.whom.given in self.reason):
            raise UsageError("the --reason is kept: say it without the id")

    def _name(self, made: dict[str, Any]) -> str:
        """The id as the archive has it."""
        whom, pseudonymised = self.whom, made.get(PSEUDONYMISED)
        if not whom.given.strip():
            raise UsageError("the id is empty")
        if whom.keyfile is None:
            return whom.given
        pseudonyms = open_pseudonyms(whom.keyfile, protected=(self.root, self.archive_path))
        if pseudonymised is None or pseudonymised.get("key_id") != pseudonyms.key_id:
            of = f"key {pseudonymised.get('key_id')}" if pseudonymised else "no key: it has the ids of its source"
            raise UsageError(f"{self.archive_path} was made with {of}; --key is {pseudonyms.key_id}")
        return pseudonyms.record(whom.given) if whom.is_record else pseudonyms.patient(whom.given)

    def _require_known(self, name: str, begun: bool) -> None:
        explained = bool(self.traces.records)
        if self.whom.is_record:
            # The archive may have lost it, and what was explained of it not.
            with self.progress.stage("search", None, "objects") as stage:
                explained = any(search(store, self.traces, stage, below=DATA).hits for store, _ in self.stores)
        there = bool(self.affected) or begun or explained
        known = self.tombstones.has_record(name) if self.whom.is_record else self.tombstones.has_patient(name)
        if not there and not known:
            pseudonymised = self.archive.info.get("source", {}).get(PSEUDONYMISED)
            hint = " Its ids are pseudonyms: to give one of the source, give --key." if pseudonymised else ""
            what = "record" if self.whom.is_record else "patient"
            raise UsageError(f"{self.archive_path} knows no such {what}, and nothing below {self.root} does.{hint}")
        self.known = there

    def _own_datasets(self) -> list[str]:
        """Datasets of this archive; those of others may have the same ids for other people."""
        names = dataset_ids(self.root)
        facts = {name: read_json_object(dataset_store(self.root, name), DATASET_FILE, DatasetFacts) for name in names}
        others = [name for name, one in facts.items() if one is not None and one.archive_id != self.archive.archive_id]
        if others:
            self.notes.append(f"datasets of other archives are not touched: {', '.join(others)}")
        folders = (EXPLANATIONS, PROBES_FOLDER, EVALUATIONS)
        self._foreign = tuple(f"{folder}/{name}/" for name in others for folder in folders)
        return [name for name in names if name not in others]

    def _rewrite(self) -> dict[str, Rewritten]:
        """Shards without the patient."""
        with self.progress.stage("archive", len(self.present), "shards") as stage:
            for key in self.present:
                stage.note(key)
                rewrite_shard(self.archive, self.archive.shard(key), self.traces)
                stage.advance()
        self.archive = Archive.open(self.archive_path)
        records = sum(int((~self.traces.rows(table)).sum()) for table in self.ids.values())
        mend_records(self.archive, records, self.traces)
        return {key: Rewritten(old, source_of(self.archive, key)) for key, old in self.affected.items()}

    def _from_dataset(self, store: ObjectStore, rewritten: dict[str, Rewritten], probes: bool) -> None:
        with self.progress.stage("dataset", None, "files") as stage:
            without = DatasetWithout(store, rewritten, self.traces, run_facts(), probes)
            done = without.clean(stage)
        if without.dirty:
            rebuild_reference(store, self.archive)
        without.remove()
        if done.removed:
            note_removal(store, self.reason, len(self.traces.records), done.manifests)
        self.removed += len(done.removed)
        self.manifests += len(done.manifests)
        self.again |= set(done.again)

    def _alongside(self) -> None:
        """Lists of what was seen, evaluations, copies in the cache."""
        without_seen(self.store, seen_lists(self.store), self.traces)
        for directory in self.encoders:
            if without_seen(open_objects(directory), [SEEN_FILE], self.traces):
                self.progress.say(f"{directory}: {SEEN_FILE} was mended")
        stale = evaluations_with(self.store, self._skip, self.traces)
        for key in stale:
            self.store.delete(key)
        copies = stale_copies(self.traces)
        for copy in copies:
            shutil.rmtree(copy)  # fetched again when it is needed
        self.removed += len(stale) + len(copies)

    def _skip(self, key: str) -> bool:
        """What belongs to other archives, journals, and the archive itself where it lies below ROOT."""
        here = absolute(self.archive_path).rstrip("/") + "/"
        return key.startswith((*self._foreign, f"{JOURNAL}/")) or self.store.location(key).startswith(here)

    def _search(self) -> tuple[int, list[Hit]]:
        archive = open_objects(self.archive_path)
        with self.progress.stage("search", None, "objects") as stage:
            found = [search(self.store, self.traces, stage, self._skip), search(archive, self.traces, stage)]
        return sum(one.objects for one in found), [hit for one in found for hit in one.hits]

    def _result(self, dry_run: bool, rewritten: int, objects: int, hits: Sequence[Hit]) -> ForgetResult:
        where = [f"{hit.where} ({hit.unreadable})" if hit.unreadable else hit.where for hit in hits]
        remote = (str(one) for one in (self.root, self.archive_path) if is_remote(one))
        for bucket in sorted({one.removeprefix(REMOTE).partition("/")[0] for one in remote}):
            self.notes += _versions_kept(bucket)
        return ForgetResult(
            dry_run=dry_run,
            patients=int(self.known and not self.whom.is_record),
            records=len(self.traces.records) if self.known else 0,
            shards_rewritten=rewritten,
            files_removed=self.removed,
            manifests_removed=self.manifests,
            objects_searched=objects,
            left=tuple(where),
            again=len(self.again),
            notes=tuple(dict.fromkeys(self.notes)),
        )


def _versions_kept(bucket: str) -> list[str]:
    """A note on a bucket that keeps what is deleted from it."""
    try:
        with storage_errors(f"cannot ask bucket {bucket} for its versioning"):
            status = s3().call_s3("get_bucket_versioning", Bucket=bucket).get("Status")
    except StoreError as error:
        return [f"whether bucket {bucket} keeps earlier versions is not known ({error}): look yourself"]
    if status is None:
        return []
    return [f"bucket {bucket} keeps earlier versions of objects, the patient's among them: expire those too"]
