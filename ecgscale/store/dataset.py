"""Explanations as analysts open them: exactly the files of the newest manifest of the dataset that is served.

Data files that no manifest names (superseded, or of a run that stopped) may lie in the same folder; whoever reads
through here never sees them.

Explanations of two models never mix, so somebody has to say which of them are served. That is a pointer,
ROOT/explanations/_served/<n>.json, put with put-if-absent on top of the number n − 1 that was looked at before: of two
who decide at the same time, one learns of the other. Pointers are never changed, so they are also the history of what
was served when, by whom and why. Without any pointer, the dataset published last is served.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pyarrow.parquet
from pydantic import BaseModel, ConfigDict

from ecgscale.errors import PublishError, UsageError, did_you_mean
from ecgscale.io.numbered import Numbered
from ecgscale.io.objects import ObjectStore, open_objects
from ecgscale.io.places import arrow_place, place
from ecgscale.store.commit import COMMITS, Commit, read_commit
from ecgscale.store.manifest import Manifest, newest_number, read_manifest
from ecgscale.store.provenance import RunFacts, login, utc_now
from ecgscale.store.root import EXPLANATIONS, dataset_ids, missing_root

if TYPE_CHECKING:
    import pyarrow.dataset

DATASET_FILE = "_dataset.json"
"""What a dataset is identified by: in its folder before anything is published."""

SERVED = "explanations/_served"
"""Below ROOT. No dataset has such a name: ids are hexadecimal."""


class Pointer(BaseModel):
    """Dataset `dataset_id` is served from now on; `promoted_by` is the login name of who decided it."""

    model_config = ConfigDict(frozen=True)

    version: Literal[1] = 1
    number: int
    dataset_id: str
    reason: str
    promoted_by: str
    promoted_at: str
    run: RunFacts


_SERIES = Numbered(SERVED, Pointer)
pointer_key = _SERIES.key


def newest_pointer(root: str | Path) -> int:
    """Number of the newest pointer below ROOT, 0 when there is none."""
    return _SERIES.newest(open_objects(place(root)))


def served(root: str | Path) -> Pointer | None:
    """What is served below ROOT by somebody's decision; None when nobody decided. `StoreError` for a damaged one."""
    store = open_objects(place(root))
    return _SERIES.read(store, _SERIES.newest(store))


def serve(root: str | Path, dataset_id: str, reason: str, run: RunFacts, base: int | None = None) -> Pointer:
    """Let `dataset_id` be served below ROOT; the pointer that says so.

    `base` is the number of the newest pointer when the decision was made (by default: now). Raises `PublishError` when
    another decision came after it.
    """
    store = open_objects(place(root))
    base = _SERIES.newest(store) if base is None else base
    pointer = Pointer(
        number=base + 1,
        dataset_id=dataset_id,
        reason=reason,
        promoted_by=login(),
        promoted_at=utc_now(),
        run=run,
    )
    if _SERIES.newest(store) == base and _SERIES.create(store, pointer.number, pointer):
        return pointer
    other = served(root)
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
        """All commits there seem to be, from a listing, oldest first: for previews."""
        found = [read_commit(self.store, name) for name in self.store.list_prefix(COMMITS)]
        return sorted((commit for commit in found if commit is not None), key=lambda commit: commit.committed_at)

    def files(self, partial: bool = False) -> list[str]:
        """Locations of the data files, in the order of their input shards.

        Those of the newest manifest; `partial` lays what was committed since over them.
        """
        chosen = {shard.key: shard.file for shard in self.manifest.content.shards} if self.manifest else {}
        if partial:
            since = self.manifest.created if self.manifest else ""
            chosen |= {c.source.key: c.output.file for c in self.committed() if c.committed_at > since}
        return [self.store.location(chosen[key]) for key in sorted(chosen)]


def dataset_store(root: str | Path, dataset_id: str) -> ObjectStore:
    """The store of one dataset: ROOT/explanations/<dataset_id>."""
    return open_objects(place(root) / EXPLANATIONS / dataset_id)


def find_dataset(root: str | Path, dataset: str | None = None, partial: bool = False) -> ExplainedDataset:
    """The dataset of that id; without an id, the one that is served (`ecgscale promote`).

    Where nobody ever decided what is served, that is the one published last (with `partial`, the one committed to
    last). Raises `UsageError` when there is none, saying which there are.
    """
    known = dataset_ids(root)
    if not known and (lost := missing_root(place(root))):
        raise UsageError(f"{lost} ROOT is the folder that `ecgscale explain ARCHIVE --out ROOT` wrote to")
    pointer = served(root) if dataset is None else None
    asked = pointer.dataset_id if pointer else dataset
    if asked is not None and asked not in known:
        there = f"There are: {', '.join(known)}." if known else "There are none yet."
        why = f" ({pointer_key(pointer.number)} serves it; `ecgscale promote` serves another)" if pointer else ""
        raise UsageError(f"no dataset {asked!r} below {root}{why}. {there}{did_you_mean(asked, known)}")
    opened = [_open(root, name) for name in ([asked] if asked is not None else known)]
    aged = [(_last_change(found, partial), found) for found in opened]
    newest = max(aged, key=lambda pair: (pair[0], pair[1].dataset_id), default=None)
    if newest is None or not newest[0]:
        hint = " Shards are committed: partial=True reads those." if _any_commit(opened) else ""
        raise UsageError(
            f"nothing was published below {root} yet. "
            f"`ecgscale explain ARCHIVE --model {root}/models/ID --out {root}` publishes.{hint}"
        )
    return newest[1]


def newest_manifest(root: str | Path, dataset: str | None = None) -> Manifest:
    """The newest manifest of a dataset (see `find_dataset`)."""
    manifest = find_dataset(root, dataset).manifest
    assert manifest is not None
    return manifest


def open_explanations(
    root: str | Path, dataset: str | None = None, partial: bool = False
) -> pyarrow.dataset.FileSystemDataset:
    """Open explanations as a pyarrow dataset: `.to_table()`, `duckdb.sql("… FROM it")`, `polars.scan_pyarrow_dataset`.

    Reads exactly the files of the newest manifest below `root` (ROOT of `explain --out ROOT`). Where datasets of
    several models or archives lie below one ROOT they are never mixed: the one that is served is opened, or the one
    whose id `dataset` gives. `partial=True` reads what is committed so far, while a run is under way or was stopped.
    """
    import pyarrow.dataset  # takes pandas along, for which operators' commands need not wait

    files = find_dataset(root, dataset, partial).files(partial)
    paths = [arrow_place(file)[0] for file in files]
    system = arrow_place(files[0])[1]
    schema = pyarrow.parquet.read_schema(paths[0], filesystem=system).remove_metadata()
    return pyarrow.dataset.dataset(paths, schema=schema, format="parquet", filesystem=system)


def _open(root: str | Path, dataset_id: str) -> ExplainedDataset:
    store = dataset_store(root, dataset_id)
    return ExplainedDataset(dataset_id, store, read_manifest(store, newest_number(store)))


def _last_change(found: ExplainedDataset, partial: bool) -> str:
    published = found.manifest.created if found.manifest else ""
    if not partial:
        return published
    return max([published, *(commit.committed_at for commit in found.committed()[-1:])])


def _any_commit(opened: Iterable[ExplainedDataset]) -> bool:
    return any(next(iter(found.store.list_prefix(COMMITS)), None) is not None for found in opened)
