"""Seconds of looking before hours of work: may we read, write and delete there, is there room, do clocks agree, and
are encoder and model still those that were published?

A night computes what is new. What would compute again what is published is stopped before it begins, and so is what
would withdraw much of it because its shards are gone: a disk that is not mounted, a path with a slip.
"""

from __future__ import annotations

import shutil
import tempfile
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime

from ecgscale.clusters.model import ClusterModel
from ecgscale.config import NightlyConfig
from ecgscale.encoders.spec import encoder_digest
from ecgscale.errors import UsageError
from ecgscale.explain.facts import encoder_digest_of
from ecgscale.io.objects import ObjectStore, open_objects
from ecgscale.io.places import Place, is_remote
from ecgscale.io.settings import StoreError
from ecgscale.passes.explain.plan import Plan
from ecgscale.store.dataset import dataset_store
from ecgscale.store.manifest import Manifest, newest_number, read_manifest
from ecgscale.store.root import dataset_ids
from ecgscale.words import counted

PROBE = "_probe"
MOST_CLOCK_SECONDS = 300.0
LEAST_FREE_BYTES = 2**30


@dataclass(frozen=True)
class Preflight:
    """What was found: the store's clock less ours in seconds, free bytes for scratch, and on ROOT's disk, if any."""

    clock_seconds: float
    scratch_free: int
    root_free: int | None


def preflight(root: Place, model_dir: Place | None) -> Preflight:
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
    if model_dir is not None:
        _require_published_digests(root, model_dir)
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


def _require_published_digests(root: Place, model_dir: Place) -> None:
    """Raise `UsageError` when the model's or its encoder's content is not what its name was published with."""
    model = ClusterModel.load(model_dir)
    found = encoder_digest(model.encoder_path)
    if found != encoder_digest_of(model):
        raise UsageError(
            f"{model.encoder_path} has digest {found[:12]}…, but model {model.model_id} was fitted with "
            f"{encoder_digest_of(model)[:12]}…: it was changed. Restore it, or refit"
        )
    for dataset_id in dataset_ids(root):
        store = dataset_store(root, dataset_id)
        manifest = read_manifest(store, newest_number(store))
        if manifest is None or manifest.content.identity.model_id != model.model_id:
            continue
        if manifest.content.identity.model_digest != model.digest:
            raise UsageError(
                f"model {model.model_id} has digest {model.digest[:12]}…, but dataset {dataset_id} was published with "
                f"{manifest.content.identity.model_digest[:12]}…: {model_dir} was changed. Restore it"
            )


@dataclass(frozen=True)
class RecomputeGuard:
    """Raises `UsageError` for a plan that recomputes more than `recompute_share` of what is published, or more than
    `max_records`, or that withdraws more than `withdraw_share` of it, each unless that is allowed.

    served: the manifest that is served now; where it is of another dataset (another model, setting or version of the
    results), publishing there would recompute all of it.
    """

    limits: NightlyConfig
    allowed: bool
    withdrawal_allowed: bool
    served: Manifest | None
    dataset_id: str

    def __call__(self, plan: Plan, newest: Manifest | None) -> None:
        """Look at a plan before anything is computed."""
        published = newest or self.served
        if published is None:
            return
        if newest is not None and not self.withdrawal_allowed:
            self._require_presence(plan, newest)
        if self.allowed:
            return
        records = published.content.totals.records
        if newest is None and published.content.dataset_id != self.dataset_id:
            raise UsageError(
                f"dataset {self.dataset_id} is not there yet, though {published.content.dataset_id} is served: the "
                f"model, the settings or the version of the results changed, and all {records:,} published records "
                "would be computed again. Put the setting back; or fill the new dataset on purpose (ecgscale refit, "
                "then promote); or give --allow-recompute"
            )
        keys = {entry.key for entry in published.content.shards}
        again = [pending for pending in plan.pending if pending.source.key in keys]
        rows = sum(pending.source.rows for pending in again)
        share, most = self.limits.recompute_share, self.limits.max_records
        if rows > share * records or (most is not None and rows > most):
            raise UsageError(
                f"{len(again)} of {len(keys)} published shards have changed: {counted(rows, 'record')} would be "
                f"computed again, {rows / max(records, 1):.1%} of what is published (the limit is {share:.0%}"
                + (f", and {counted(most, 'record')}" if most is not None else "")
                + f"). First: {again[0].source.key}. If that is meant, give --allow-recompute; nothing was computed"
            )

    def _require_presence(self, plan: Plan, newest: Manifest) -> None:
        """What cannot be read is no matter of this: it is set aside, and the exit code says so."""
        there = {entry.key for entry in plan.published} | {aside.key for aside in plan.set_aside}
        there |= {commit.source.key for commit in plan.committed} | {moved.source.key for moved in plan.moved}
        there |= {pending.source.key for pending in plan.pending}
        gone = [entry for entry in newest.content.shards if entry.key not in there]
        rows, records = sum(entry.rows for entry in gone), newest.content.totals.records
        limit = self.limits.withdraw_share
        if rows > limit * records:
            raise UsageError(
                f"{len(gone)} of {len(newest.content.shards)} published shards are gone from the archive "
                f"{newest.content.archive.path}: {counted(rows, 'record')} would be withdrawn, "
                f"{rows / max(records, 1):.1%} of what is published (the limit is {limit:.0%}). First: "
                f"{gone[0].key}. Is its disk mounted, and its path right? If they are to go, give --allow-withdrawal; "
                "nothing was changed"
            )
