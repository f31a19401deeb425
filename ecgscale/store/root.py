"""ROOT, as commands that look at what is there take it: it has to be there already."""

from __future__ import annotations

from pathlib import Path

from ecgscale.errors import UsageError, did_you_mean
from ecgscale.io.places import Place, place
from ecgscale.io.settings import storage_errors
from ecgscale.store.dataset import dataset_ids
from ecgscale.store.missing_root import is_root, nearest_root


def existing_root(root: str | Path) -> Place:
    """The place; `UsageError` when nothing lies there, or something else than a ROOT."""
    where = place(root)
    with storage_errors(f"cannot read {where}"):
        there = where.is_dir()
        known = there and is_root(where)
    if not known:
        what = "no ROOT" if there else "nothing lies there"
        raise UsageError(
            f"{where}: {what}; ROOT is what `ecgscale explain ARCHIVE --out ROOT` wrote to.{nearest_root(where)}"
        )
    return where


def chosen_datasets(root: str | Path, dataset: str | None) -> list[str]:
    """Ids of the datasets below ROOT: all, or the one asked for. `UsageError` when there is none (of that name)."""
    where = existing_root(root)
    known = dataset_ids(where)
    if not known:
        raise UsageError(f"no explanations lie below {where}; `ecgscale explain ARCHIVE --out {where}` writes some")
    if dataset is None:
        return known
    if dataset not in known:
        raise UsageError(
            f"no dataset {dataset!r} below {where}. There are: {', '.join(known)}.{did_you_mean(dataset, known)}"
        )
    return [dataset]
