"""Seconds of looking before hours of work: may we read, write and delete there, is there room, do clocks agree, and is
the encoder still that of the model?

What a plan would compute again, or withdraw, is looked at by `passes/explain/guard.py`, which is everybody's.
"""

from __future__ import annotations

import shutil
import tempfile
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime

from ecgscale.clusters.model import ClusterModel
from ecgscale.errors import UsageError
from ecgscale.explain.facts import require_encoder
from ecgscale.io.objects import ObjectStore, open_objects
from ecgscale.io.places import Place, is_remote
from ecgscale.io.settings import StoreError

PROBE = "_probe"
MOST_CLOCK_SECONDS = 300.0
LEAST_FREE_BYTES = 2**30


@dataclass(frozen=True)
class Preflight:
    """What was found: the store's clock less ours in seconds, free bytes for scratch, and on ROOT's disk, if any."""

    clock_seconds: float
    scratch_free: int
    root_free: int | None


def preflight(root: Place, model: ClusterModel | None) -> Preflight:
    """Try what the night will do. `StoreError` says what the store refuses, `UsageError` what has to be put right."""
    store = open_objects(root)
    _require_protocol(store)
    off = (store.clock() - datetime.now(UTC)).total_seconds()
    if abs(off) > MOST_CLOCK_SECONDS:
        raise UsageError(
            f"the clock of {store.where} is {off:+.0f} s off this machine's; requests would be refused and leases "
            "misjudged. Set the clock (NTP)"
        )
    scratch = shutil.disk_usage(tempfile.gettempdir()).free
    root_free = None if is_remote(root) else shutil.disk_usage(root).free
    for free, where in ((scratch, tempfile.gettempdir()), (root_free, store.where)):
        if free is not None and free < LEAST_FREE_BYTES:
            raise StoreError(f"{where} has {free / 2**20:.0f} MiB left; a night needs at least 1 GiB. Free some space")
    if model is not None:
        require_encoder(model)
    return Preflight(off, scratch, root_free)


def _require_protocol(store: ObjectStore) -> None:
    """Put, put if absent, read and delete an object, as commits do."""
    key = f"{PROBE}/{uuid.uuid4().hex}"
    try:
        first, second = store.put_if_absent(key, b"first"), store.put_if_absent(key, b"second")
        if not first or store.read(key) is None:
            raise StoreError(f"{store.where}: what was just written cannot be read")
        if second:
            raise UsageError(
                f"{store.where} does not honour If-None-Match, which commits and manifests rest on. Say so: "
                "[storage] conditional_put = false; then the lock alone keeps two runs from publishing at once"
            )
    finally:
        store.delete(key)
