"""Explanations as analysts open them: exactly the files of the newest manifest of the dataset that is served.

Data files that no manifest names (superseded, or of a run that stopped) may lie in the same folder; whoever reads
through here never sees them.

Explanations of two models never mix, so somebody has to say which of them are served. That is a pointer,
ROOT/explanations/_served/<n>.json, put with put-if-absent on top of the number n − 1 that was looked at before: of two
who decide at the same time, one learns of the other. Pointers are never changed, so they are also the history of what
was served when, by whom and why.

As long as nobody decided, publishing moves the pointer: what is published last is served. A manifest holds the number
of the pointer that it was published on top of, so who was stopped in between moves it when the command is typed again,
and who slept while another one was published moves nothing. No clock is asked, but below a ROOT that earlier versions
wrote and that has no pointer.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict

from ecgscale.errors import PublishError, UsageError, did_you_mean
from ecgscale.io.numbered import Numbered
from ecgscale.io.objects import ObjectStore, open_objects
from ecgscale.io.parquet import parquet_dataset
from ecgscale.io.places import place
from ecgscale.store.columns import schema_over
from ecgscale.store.commit import COMMITS, Commit, read_commit
from ecgscale.store.manifest import Manifest, newest_number, read_manifest, versions_known
from ecgscale.store.provenance import RunFacts, login, utc_now
from ecgscale.store.root import EXPLANATIONS, dataset_ids, missing_root

if TYPE_CHECKING:
    import pyarrow.dataset

DATASET_FILE = "_dataset.json"
"""What a dataset is identified by: in its folder before anything is published."""

SERVED = "explanations/_served"
"""Below ROOT. No dataset has such a name: ids are hexadecimal."""


class Pointer(BaseModel):
    """Dataset `dataset_id` is served from now on; `promoted_by` is the login name of who decided it, or published it.

    decided: by somebody, for good; else it was published last, and the next one that is published takes its place
    """

    model_config = ConfigDict(frozen=True)

    version: Literal[1] = 1
    number: int
    dataset_id: str
    reason: str
    promoted_by: str
    promoted_at: str
    run: RunFacts
    decided: bool = True


_SERIES = Numbered(SERVED, Pointer)
pointer_key = _SERIES.key


def newest_pointer(root: str | Path) -> int:
    """Number of the newest pointer below ROOT, 0 when there is none."""
    return _SERIES.newest(open_objects(place(root)))


def served(root: str | Path) -> Pointer | None:
    """What is served below ROOT by somebody's decision; None when nobody decided. `StoreError` for a damaged one."""
    pointer = current(root)
    return pointer if pointer is not None and pointer.decided else None


def current(root: str | Path) -> Pointer | None:
    """The newest pointer below ROOT, decided or not; None when there is none. `StoreError` for a damaged one."""
    store = open_objects(place(root))
    return _SERIES.read(store, _SERIES.newest(store))


def follow(root: str | Path, manifest: Manifest, run: RunFacts) -> Pointer | None:
    """Let the dataset of `manifest` be served below ROOT because it was published; the pointer that holds then.

    Nothing is moved when somebody decided what is served, or when the pointer that the manifest was published on top of
    is no longer the newest: then another one was published meanwhile.
    """
    store, content = open_objects(place(root)), manifest.content
    newest = _SERIES.newest(store)
    pointer = _SERIES.read(store, newest)
    if newest != manifest.pointer or (pointer and (pointer.decided or pointer.dataset_id == content.dataset_id)):
        return pointer
    moved = _pointer(newest + 1, content.dataset_id, "published last", run, decided=False)
    return moved if _SERIES.create(store, moved.number, moved) else _SERIES.read(store, _SERIES.newest(store))


def _pointer(number: int, dataset_id: str, reason: str, run: RunFacts, decided: bool) -> Pointer:
    return Pointer(
        number=number,
        dataset_id=dataset_id,
        reason=reason,
        promoted_by=login(),
        promoted_at=utc_now(),
        run=run,
        decided=decided,
    )


def serve(root: str | Path, dataset_id: str, reason: str, run: RunFacts, base: int | None = None) -> Pointer:
    """Let `dataset_id` be served below ROOT; the pointer that says so.

    `base` is the number of the newest pointer when the decision was made (by default: now). Raises `PublishError` when
    another decision came after it.
    """
    store = open_objects(place(root))
    base = _SERIES.newest(store) if base is None else base
    pointer = _pointer(base + 1, dataset_id, reason, run, decided=True)
    if _SERIES.newest(store) == base and _SERIES.create(store, pointer.number, pointer):
        return pointer
    other = current(root)
    done = f"{other.promoted_by} serves dataset {other.dataset_id} ({other.reason})" if other else "somebody decided"
    raise PublishError(
        f"{store.where}: meanwhile {done}, so {dataset_id} is not served. If it still should be, type the same command "
        "again."
    )


@dataclass(frozen=True)
class ExplainedDataset:
    """One dataset below ROOT/explanations. `manifest` is None while nothing of it was published."""

    dataset_id: str
    store: ObjectStore
    manifest: Manifest | None

    def committed(self) -> list[Commit]:
        """What was committed and no manifest knows yet, oldest first, one commit a shard: for previews.

        Of several of a shard, the one that came last; of those that came at once, by the clock of the store.
        """
        known = versions_known(self.store, self.manifest)
        found = []
        for name, stat in self.store.list_stats(COMMITS).items():
            commit = read_commit(self.store, name)
            if commit is not None and commit.source.identity not in known:
                found.append(((commit.sequence, stat.modified, name), commit))
        ordered = [commit for _, commit in sorted(found, key=lambda one: one[0])]
        return list({commit.source.key: commit for commit in ordered}.values())

    def files(self, partial: bool = False) -> list[str]:
        """Locations of the data files, in the order of their input shards.

        Those of the newest manifest; `partial` lays what was committed since over them.
        """
        chosen = {shard.key: shard.file for shard in self.manifest.content.shards} if self.manifest else {}
        if partial:
            chosen |= {commit.source.key: commit.output.file for commit in self.committed()}
        return [self.store.location(chosen[key]) for key in sorted(chosen)]


def dataset_store(root: str | Path, dataset_id: str) -> ObjectStore:
    """The store of one dataset: ROOT/explanations/<dataset_id>."""
    return open_objects(place(root) / EXPLANATIONS / dataset_id)


def find_dataset(root: str | Path, dataset: str | None = None, partial: bool = False) -> ExplainedDataset:
    """The dataset of that id; without an id, the one that is served (`ecgscale promote`).

    Where nobody decided, that is the one published last, as the newest pointer says whose dataset is there. A ROOT that
    has no pointer, as earlier versions wrote it, is served by the clocks of those who published; where that matters, a
    `UserWarning` says so. Raises `UsageError` when there is none, saying which there are.
    """
    known = dataset_ids(root)
    if not known and (lost := missing_root(place(root))):
        raise UsageError(f"{lost} ROOT is the folder that `ecgscale explain ARCHIVE --out ROOT` wrote to")
    pointer = _standing(root, known) if dataset is None else None
    asked = pointer.dataset_id if pointer else dataset
    if asked is not None and asked not in known:
        there = f"There are: {', '.join(known)}." if known else "There are none yet."
        why = f" ({pointer_key(pointer.number)} serves it; `ecgscale promote` serves another)" if pointer else ""
        raise UsageError(f"no dataset {asked!r} below {root}{why}. {there}{did_you_mean(asked, known)}")
    opened = [_open(root, name) for name in ([asked] if asked is not None else known)]
    published = [found for found in opened if found.manifest is not None]
    if published:
        return _published_last(root, published)
    begun = [(latest, found) for found in opened if (latest := _last_commit(found)) is not None]
    if partial and begun:
        return max(begun, key=lambda pair: (pair[0], pair[1].dataset_id))[1]
    hint = " Shards are committed: partial=True reads those." if begun else ""
    raise UsageError(
        f"nothing was published below {root} yet. "
        f"`ecgscale explain ARCHIVE --model {root}/models/ID --out {root}` publishes.{hint}"
    )


def served_of_archive(root: str | Path, archive_id: str) -> Manifest | None:
    """The newest manifest of the dataset of this archive that is served below ROOT, or was until one of another archive
    took its place; None when nothing of it was published. `UsageError` when what somebody decided on is gone."""

    def is_own(found: ExplainedDataset) -> bool:
        return found.manifest is not None and found.manifest.content.identity.archive_id == archive_id

    known, pointers = dataset_ids(root), _pointers(root)
    newest = next(pointers, None)
    if newest is not None and newest.decided and is_own(found := find_dataset(root)):
        return found.manifest
    for pointer in chain([newest] if newest is not None else [], pointers):
        if pointer.dataset_id in known and is_own(found := _open(root, pointer.dataset_id)):
            return found.manifest
    own = [found for name in known if is_own(found := _open(root, name))]
    return _published_last(root, own).manifest if own else None


def _pointers(root: str | Path) -> Iterator[Pointer]:
    """All pointers, the newest first."""
    store = open_objects(place(root))
    for number in range(_SERIES.newest(store), 0, -1):
        if (pointer := _SERIES.read(store, number)) is not None:
            yield pointer


def _standing(root: str | Path, known: Sequence[str]) -> Pointer | None:
    """The newest pointer, but for those that nobody decided and whose datasets somebody removed since."""
    return next((pointer for pointer in _pointers(root) if pointer.decided or pointer.dataset_id in known), None)


def _published_last(root: str | Path, published: Sequence[ExplainedDataset]) -> ExplainedDataset:
    """The only one; of several below a ROOT without pointers, the one whose manifest says so."""
    newest = max(published, key=lambda found: (found.manifest.created if found.manifest else "", found.dataset_id))
    if len(published) > 1:
        warnings.warn(
            f"{len(published)} datasets lie below {root}, and nothing but the clocks of those who published them says "
            f"which is served; {newest.dataset_id} is taken. `ecgscale promote {root} ID --reason TEXT` decides it",
            stacklevel=3,
        )
    return newest


def newest_manifest(root: str | Path, dataset: str | None = None) -> Manifest:
    """The newest manifest of a dataset (see `find_dataset`)."""
    manifest = find_dataset(root, dataset).manifest
    assert manifest is not None
    return manifest


def open_explanations(
    root: str | Path, dataset: str | None = None, partial: bool = False
) -> pyarrow.dataset.FileSystemDataset:
    """Open explanations as a pyarrow dataset: `.to_table()`, `duckdb.sql("… FROM it")`, `polars.scan_pyarrow_dataset`.

    Reads exactly the files of the newest manifest below `root` (ROOT of `explain --out ROOT`), each in one schema that
    is wide enough for all: a column that came later is null in earlier shards, a narrower type is cast. Where datasets
    of several models or archives lie below one ROOT they are never mixed: the one that is served is opened, or the one
    whose id `dataset` gives. `partial=True` reads what is committed so far, while a run is under way or was stopped.
    """
    found = find_dataset(root, dataset, partial)
    files = found.files(partial)
    columns = found.manifest.content.columns if found.manifest and not partial else None
    return parquet_dataset(
        files, columns.arrow_schema if columns else schema_over(dict(zip(files, files, strict=True)))
    )


def _open(root: str | Path, dataset_id: str) -> ExplainedDataset:
    store = dataset_store(root, dataset_id)
    return ExplainedDataset(dataset_id, store, read_manifest(store, newest_number(store)))


def _last_commit(found: ExplainedDataset) -> datetime | None:
    """When something was committed to a dataset last, by the clock of the store."""
    return max((stat.modified for stat in found.store.list_stats(COMMITS).values()), default=None)
