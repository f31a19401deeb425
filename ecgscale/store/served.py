"""Which dataset of a ROOT is the one that people get: numbered pointers, the newest of which holds.

Explanations of two models never mix, so somebody has to say which of them are served. That is a pointer,
ROOT/explanations/_served/<n>.json, put with put-if-absent on top of the number n − 1 that was looked at before: of two
who decide at the same time, one is told. Pointers are never changed, so they are also the history of what was served
when, by whom and why. Without any pointer, the dataset published last is served.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from ecgscale.errors import PublishError
from ecgscale.places import place
from ecgscale.store.commit import read_json_object, to_json
from ecgscale.store.manifest import DIGITS
from ecgscale.store.objects import ObjectStore
from ecgscale.store.provenance import RunFacts, login, utc_now
from ecgscale.store.s3_objects import open_objects

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


def pointer_key(number: int) -> str:
    """Key of pointer `number` below ROOT, from 1."""
    return f"{SERVED}/{number:0{DIGITS}d}.json"


def newest_pointer(root: str | Path) -> int:
    """Number of the newest pointer below ROOT, 0 when there is none.

    As for manifests, a listing says where to start, and the objects themselves say where the end is.
    """
    return _newest(open_objects(place(root)))


def served(root: str | Path) -> Pointer | None:
    """What is served below ROOT by somebody's decision; None when nobody decided. `StoreError` for a damaged one."""
    store = open_objects(place(root))
    number = _newest(store)
    return read_json_object(store, pointer_key(number), Pointer) if number else None


def serve(root: str | Path, dataset_id: str, reason: str, run: RunFacts, base: int | None = None) -> Pointer:
    """Let `dataset_id` be served below ROOT; the pointer that says so.

    `base` is the number of the newest pointer when the decision was made (by default: now). Raises `PublishError` when
    another decision came after it.
    """
    store = open_objects(place(root))
    base = _newest(store) if base is None else base
    pointer = Pointer(
        number=base + 1,
        dataset_id=dataset_id,
        reason=reason,
        promoted_by=login(),
        promoted_at=utc_now(),
        run=run,
    )
    if _newest(store) == base and store.put_if_absent(pointer_key(pointer.number), to_json(pointer)):
        return pointer
    other = served(root)
    told = f"{other.promoted_by} serves dataset {other.dataset_id} ({other.reason})" if other else "somebody decided"
    raise PublishError(
        f"{store.where}: meanwhile {told}, so {dataset_id} is not served. If it still should be, type the same command "
        "again."
    )


def _newest(store: ObjectStore) -> int:
    stems = (key.rsplit("/", 1)[-1].removesuffix(".json") for key in store.list_prefix(SERVED))
    number = max((int(stem) for stem in stems if stem.isdigit()), default=0)
    while store.stat(pointer_key(number + 1)) is not None:
        number += 1
    return number
