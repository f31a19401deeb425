"""A path where a ROOT was expected: is there none, and which one was probably meant?"""

from __future__ import annotations

import difflib

from ecgscale.io.places import Place, is_remote

_FOLDERS = ("explanations", "models", "encoders", "runs")
_USUAL = "results"


def is_root(where: Place) -> bool:
    """Whether anything lies there that a command wrote below a ROOT."""
    return any((where / name).is_dir() for name in _FOLDERS)


def astray(where: Place) -> str:
    """Told of a folder that is not there ("X: no such folder. Did you mean Y?") and of one that holds the ROOT that was
    meant; empty for any other."""
    if not where.is_dir():
        return f"{where}: no such folder.{nearest_root(where)}"
    inside = nearest_root(where)
    return f"{where} is no ROOT.{inside}" if inside and not is_root(where) else ""


def nearest_root(where: Place) -> str:
    """The question "Did you mean X?", after a space: the ROOT that a folder holds, or one beside a folder that is not
    there. Empty where there is none."""
    if where.is_dir():
        inside = where / _USUAL
        return f" Did you mean {inside}?" if is_root(inside) else ""
    # What lies beside it in a bucket may be millions of objects.
    if is_remote(where) or not where.parent.is_dir():
        return ""
    beside = {path.name: path for path in where.parent.iterdir() if path.is_dir()}
    for name in difflib.get_close_matches(where.name, list(beside)):
        if is_root(beside[name]):
            return f" Did you mean {beside[name]}?"
        if is_root(beside[name] / _USUAL):
            return f" Did you mean {beside[name] / _USUAL}?"
    return ""
