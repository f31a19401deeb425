"""Is what is published whole and right? Every file, every row, every commit record, and a sample computed again.

    chain of manifests → the newest → each file: bytes, metadata, rows, commit → no record twice → the archive's shards
    → a sample → garbage

Nothing is changed. What is not as it has to be is a problem; what nobody refers to is garbage, which is named and harms
nobody.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecgscale.archive.reader import Archive
from ecgscale.clusters.model import ClusterModel
from ecgscale.errors import EncoderError, ExitCode, ModelError
from ecgscale.explain.facts import require_encoder_files
from ecgscale.io.objects import ObjectStore, StoreError, open_objects
from ecgscale.io.places import Place
from ecgscale.nightly.verify.chain import broken_link, lost_versions
from ecgscale.nightly.verify.file import check_commit, check_file
from ecgscale.nightly.verify.rows import Problem, Problems, check_doubles
from ecgscale.nightly.verify.sample import Recomputed, Recomputing, check_archive, source_of
from ecgscale.progress import SILENT, Progress
from ecgscale.store.commit import Commit, read_commit
from ecgscale.store.dataset import dataset_store
from ecgscale.store.garbage import unreferenced
from ecgscale.store.manifest import (
    DatasetFacts,
    Manifest,
    ShardEntry,
    manifest_key,
    newest_number,
    plan_digest,
    read_manifest,
)
from ecgscale.store.root import chosen_datasets, existing_root

READERS = 4
"""Files that are read ahead, side by side."""
SAMPLE = 0.001
NAMED_GARBAGE = 5


@dataclass(frozen=True)
class Garbage:
    """Objects of a dataset that nothing refers to: how many, their bytes, and the first of them."""

    objects: int = 0
    bytes: int = 0
    first: tuple[str, ...] = ()


@dataclass(frozen=True)
class VerifiedDataset:
    """What was found of one dataset. manifest: number of the newest one, 0 when nothing was published.

    files, records: of the manifest; held: shards of the archive that hold what was explained, to the last row
    counts: problems by kind; problems: the first of each kind
    set_aside: keys of shards of the archive that could not be read when it was published; no problem of what is there
    notes: what is no problem, and good to know
    """

    dataset_id: str
    manifest: int
    files: int
    records: int
    counts: dict[str, int]
    problems: tuple[Problem, ...]
    recomputed: Recomputed
    held: int
    garbage: Garbage
    set_aside: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "dataset_id": self.dataset_id,
            "manifest": self.manifest,
            "files": self.files,
            "records": self.records,
            "problems": [vars(problem) for problem in self.problems],
            "problem_counts": self.counts,
            "archive_shards_held": self.held,
            "recomputed": self.recomputed.records,
            "recomputed_exactly": self.recomputed.exactly,
            "not_recomputed": list(self.recomputed.skipped),
            "garbage": vars(self.garbage),
            "set_aside": list(self.set_aside),
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class Verified:
    """What was found below a ROOT."""

    root: str
    datasets: tuple[VerifiedDataset, ...] = field(default_factory=tuple)

    @property
    def problems(self) -> int:
        """How many, over all datasets."""
        return sum(sum(dataset.counts.values()) for dataset in self.datasets)

    @property
    def exit_code(self) -> ExitCode:
        """Done, or failed when there is a problem."""
        return ExitCode.FAILED if self.problems else ExitCode.DONE

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        datasets = [dataset.to_dict() for dataset in self.datasets]
        return {"root": self.root, "datasets": datasets, "problems": self.problems, "ok": not self.problems}


def verify_root(
    root: str | Path,
    dataset: str | None = None,
    *,
    sample: float = SAMPLE,
    archive: str | Path | None = None,
    seed: int = 0,
    progress: Progress = SILENT,
) -> Verified:
    """Check the newest manifest of a dataset below ROOT (of all of them by default), and everything it refers to.

    sample: share of the records to compute again, at least one batch when it is above 0; then all shards of the archive
    are read, and held against what was explained; archive: where it is now, if it moved; seed: of the sample, together
    with the number of the manifest
    Raises `UsageError` for a ROOT without datasets, `ArchiveError` when `archive` is none.
    """
    where = existing_root(root)
    given = Archive.open(archive) if archive is not None else None
    datasets = chosen_datasets(where, dataset)
    found = tuple(_Check(where, dataset_id, progress).all(sample, seed, given) for dataset_id in datasets)
    return Verified(open_objects(where).where, found)


class _Check:
    """The check of one dataset."""

    def __init__(self, root: Place, dataset_id: str, progress: Progress) -> None:
        self.root, self.dataset_id, self.progress = root, dataset_id, progress
        self.store = dataset_store(root, dataset_id)
        self.problems = Problems()
        self.notes: list[str] = []

    def all(self, sample: float, seed: int, archive: Archive | None) -> VerifiedDataset:
        """Everything, in order."""
        number = newest_number(self.store)
        manifest = self._manifest(number) if number else None
        recomputed, held = Recomputed(), 0
        self._check_chain(number, manifest)
        if manifest is not None:
            self._check_sums(manifest)
            model = self._model(manifest.content.identity)
            hashes = self._files(manifest, model.n_clusters if model else None)
            check_doubles(self.store, hashes, self.problems)
            if sample > 0:
                source, _ = source_of(manifest, archive)
                held = check_archive(source, manifest.content.shards, self.problems, self.progress) if source else 0
            if sample > 0 and model is not None:
                again = Recomputing(open_objects(self.root), self.store, manifest, model, self.problems)
                recomputed = again.sample(sample, seed + manifest.number, archive, self.progress)
        return VerifiedDataset(
            dataset_id=self.dataset_id,
            manifest=number,
            files=len(manifest.content.shards) if manifest else 0,
            records=manifest.content.totals.records if manifest else 0,
            counts=dict(sorted(self.problems.counts.items())),
            problems=tuple(self.problems.first),
            recomputed=recomputed,
            held=held,
            garbage=self._garbage(manifest) if manifest or not number else Garbage(),
            set_aside=tuple(aside.key for aside in manifest.content.set_aside) if manifest else (),
            notes=tuple(self.notes),
        )

    def _manifest(self, number: int) -> Manifest | None:
        key = manifest_key(number)
        try:
            manifest = read_manifest(self.store, number)
        except StoreError as error:
            self.problems.add("manifest", key, str(error))
            return None
        if manifest is None:
            self.problems.add("manifest", key, "it is gone")
            return None
        said = {manifest.content.dataset_id, manifest.content.identity.dataset_id}
        if said != {self.dataset_id} or manifest.number != number:
            self.problems.add("manifest", key, f"is manifest {manifest.number} of dataset {', '.join(sorted(said))}")
        return manifest

    def _check_sums(self, manifest: Manifest) -> None:
        """Every shard and file once, and totals that are the sums over them."""
        key, content = manifest_key(manifest.number), manifest.content
        for what, names in (("shard", [entry.key for entry in content.shards]), ("file", manifest.files)):
            for name in sorted(name for name, count in Counter(names).items() if count > 1):
                self.problems.add("manifest", key, f"names the {what} {name} more than once")
        quarantined: Counter[str] = Counter()
        for entry in content.shards:
            quarantined.update(entry.quarantined)
        summed = (len(content.shards), sum(e.published_rows for e in content.shards), dict(quarantined))
        totals = (content.totals.shards, content.totals.records, content.totals.quarantined)
        if summed != totals:
            self.problems.add("manifest", key, f"its totals are {totals}, its shards make {summed}")
        planned = plan_digest([*content.shards, *content.set_aside, *content.held])
        if planned != content.plan_digest:
            says = f"its plan_digest is {content.plan_digest[:16]}…; what it names makes {planned[:16]}…"
            self.problems.add("manifest", key, f"{says}: a shard was added, dropped or changed in it")

    def _check_chain(self, newest: int, manifest: Manifest | None) -> None:
        """That the manifests before the newest are the ones that were published, and nothing was taken out of it."""
        try:
            broken = broken_link(self.store, newest)
        except StoreError as error:
            broken = manifest_key(newest), str(error)
        # That the newest cannot be understood is told already.
        if broken is not None and (manifest is not None or broken[0] != manifest_key(newest)):
            self.problems.add("manifest", *broken)
        for key in lost_versions(self.store, manifest) if manifest is not None else ():
            says = f"knows nothing of a version of {key} that the manifest before it had: an entry was taken out of it"
            self.problems.add("manifest", manifest_key(newest), says)

    def _model(self, identity: DatasetFacts) -> ClusterModel | None:
        """The cluster model below ROOT, if it is the one that the facts are of."""
        where = f"models/{identity.model_id}"
        try:
            model = ClusterModel.load(self.root / "models" / identity.model_id)
        except ModelError as error:
            self.problems.add("model", where, str(error))
            return None
        if model.digest != identity.model_digest:
            self.problems.add("model", where, f"its digest is {model.digest}; published was {identity.model_digest}")
            return None
        try:
            require_encoder_files(model, model.encoder_path)
        except (ModelError, EncoderError) as error:
            self.problems.add("model", f"encoders/{model.encoder_path.name}", str(error))
            return None
        if not model.is_sealed:
            self.notes.append(
                f"model {model.model_id} was written before models held digests: a change of its counts or facts would "
                "go unseen. A new fit has them"
            )
        return model

    def _files(self, manifest: Manifest, n_clusters: int | None) -> dict[str, NDArray[np.uint64]]:
        """Check every file and its commit record; hashes of explained record ids by file."""
        entries, hashes = manifest.content.shards, {}
        with self.progress.stage("verify", len(entries), "files") as stage:
            for entry, data, commit in _read_ahead(self.store, entries):
                stage.note(entry.key)
                ids = None
                if data is None:
                    self.problems.add("missing_file", entry.file, f"the explanations of {entry.key} are gone")
                else:
                    said = manifest.content
                    ids = check_file(entry, data, said.identity, n_clusters, self.problems, said.columns)
                if isinstance(commit, StoreError):
                    self.problems.add("commit", entry.commit, str(commit))
                else:
                    check_commit(self.store, entry, commit, ids, self.problems)
                if ids is not None:
                    hashes[entry.file] = ids.explained
                stage.advance()
        return hashes

    def _garbage(self, manifest: Manifest | None) -> Garbage:
        try:
            found = unreferenced(self.store, manifest)
        except StoreError as error:
            self.problems.add("commit", self.dataset_id, str(error))
            return Garbage()
        sizes = sum(stat.size for stat in found.values())
        return Garbage(len(found), sizes, tuple(sorted(found)[:NAMED_GARBAGE]))


_Read = tuple[bytes | None, Commit | StoreError | None]


def _read_ahead(
    store: ObjectStore, entries: Sequence[ShardEntry]
) -> Iterator[tuple[ShardEntry, bytes | None, Commit | StoreError | None]]:
    """The bytes and the commit record of every entry, in order; an error instead of a record that is damaged."""
    waiting: deque[tuple[ShardEntry, Future[_Read]]] = deque()
    with ThreadPoolExecutor(READERS) as readers:
        for entry in entries:
            waiting.append((entry, readers.submit(_read, store, entry)))
            if len(waiting) > READERS:
                first, future = waiting.popleft()
                yield first, *future.result()
        for first, future in waiting:
            yield first, *future.result()


def _read(store: ObjectStore, entry: ShardEntry) -> _Read:
    data = store.read(entry.file)
    try:
        return data, read_commit(store, entry.commit)
    except StoreError as error:
        return data, error
