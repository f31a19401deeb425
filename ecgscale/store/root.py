"""ROOT, the folder that `ecgscale explain ARCHIVE --out ROOT` writes to: is it one, and what lies below it?"""

from __future__ import annotations

import difflib
from pathlib import Path

from ecgscale.errors import UsageError, did_you_mean
from ecgscale.io.places import Place, is_remote, place
from ecgscale.io.settings import storage_errors

EXPLANATIONS = "explanations"
_FOLDERS = (EXPLANATIONS, "models", "encoders", "runs")
_RESULTS = "results"


def is_root(where: Place) -> bool:
    """Whether anything lies there that a command wrote below a ROOT."""
    return any((where / name).is_dir() for name in _FOLDERS)


def missing_root(where: Place) -> str:
    """A sentence on a folder that is not there ("X: no such folder. Did you mean Y?") and on one that holds the ROOT
    that was meant; empty for any other."""
    if not where.is_dir():
        return f"{where}: no such folder.{nearest_root(where)}"
    inside = nearest_root(where)
    return f"{where} is no ROOT.{inside}" if inside and not is_root(where) else ""


def nearest_root(where: Place) -> str:
    """The question "Did you mean X?", after a space: the ROOT that a folder holds, or one next to a folder that is not
    there. Empty where there is none."""
    if where.is_dir():
        inside = where / _RESULTS
        return f" Did you mean {inside}?" if is_root(inside) else ""
    # What lies next to it in a bucket may be millions of objects.
    if is_remote(where) or not where.parent.is_dir():
        return ""
    folders = [path.name for path in where.parent.iterdir() if path.is_dir()]
    for name in difflib.get_close_matches(where.name, folders):
        for likely in (where.parent / name, where.parent / name / _RESULTS):
            if is_root(likely):
                return f" Did you mean {likely}?"
    return ""


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


def dataset_ids(root: str | Path) -> list[str]:
    """Ids of the datasets below ROOT, published or not, sorted."""
    folder = place(root) / EXPLANATIONS
    if not folder.is_dir():
        return []
    # What starts with "_" is about the datasets (which is served), and none of them.
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("_"))


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
