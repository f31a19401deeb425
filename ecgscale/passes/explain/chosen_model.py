"""Which finished cluster model below a ROOT is meant: one that is named by path or by id, or the only one it can be."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ecgscale.clusters.model import ClusterModel
from ecgscale.errors import ModelError, UsageError, did_you_mean
from ecgscale.io.numbered import read_json_object
from ecgscale.io.places import Place, place
from ecgscale.io.settings import StoreError
from ecgscale.store.dataset import DATASET_FILE, dataset_store, find_dataset
from ecgscale.store.manifest import DatasetFacts, newest_number
from ecgscale.store.root import dataset_ids, missing_root

MODELS = "models"
_FILE = "model.json"


def finished_models(root: Place) -> list[str]:
    """Ids of the finished models below ROOT, sorted."""
    folder = root / MODELS
    return sorted(path.name for path in folder.iterdir() if (path / _FILE).exists()) if folder.is_dir() else []


def named_model(root: str | Path, name: str | Path) -> Place:
    """The directory of the model `name`: a path, or an id below ROOT.

    Raises `ModelError` for an id that there is not, naming the nearest; a path is not looked at.
    """
    where = place(root)
    if "/" in str(name) or (place(name) / _FILE).exists():
        return place(name)
    known = finished_models(where)
    if str(name) not in known:
        raise ModelError(
            f"{str(name)!r} is no cluster model below {where}.{did_you_mean(str(name), known)} {_known(known)}"
        )
    return where / MODELS / str(name)


def model_of_root(root: str | Path) -> Place:
    """The model that is meant when nobody names one: the only finished one below ROOT, else that of what is served.

    Raises `ModelError` when there is none, or several of which nothing is published, listing them.
    """
    where = place(root)
    known = finished_models(where)
    if len(known) == 1:
        return where / MODELS / known[0]
    if not known:
        if lost := missing_root(where):
            raise ModelError(f"{lost} `ecgscale fit … --out ROOT` makes a ROOT with a model; or name one with --model")
        raise ModelError(f"no cluster model lies below {where}. `ecgscale fit` makes one; or name one with --model")
    try:
        manifest = find_dataset(where).manifest
    except UsageError:
        manifest = None
    served = manifest.content.identity.model_id if manifest else None
    if served not in known:
        raise ModelError(
            f"several cluster models lie below {where}, and nothing is published that would say which is meant. Name "
            f"one with --model. {_known(known)}"
        )
    return where / MODELS / str(served)


def require_published_model(root: Place, model: ClusterModel) -> None:
    """Raise `ModelError` when a dataset below ROOT was published with a model of this id, and another content."""
    for dataset_id in dataset_ids(root):
        store = dataset_store(root, dataset_id)
        try:
            identity = read_json_object(store, DATASET_FILE, DatasetFacts)
        except StoreError:  # what is wrong with another dataset is told by whoever opens that
            continue
        if identity is None or identity.model_id != model.model_id or identity.model_digest == model.digest:
            continue
        if not newest_number(store):
            continue
        raise ModelError(
            f"model {model.model_id} in {model.directory} has digest {model.digest[:12]}…, but dataset {dataset_id} "
            f"was published with {identity.model_digest[:12]}…: it was changed. Restore it; or, if that dataset is not "
            "wanted, remove its folder"
        )


def _known(known: Iterable[str]) -> str:
    there = ", ".join(known)
    return f"There are: {there}" if there else "There are none yet; `ecgscale fit` makes one"
