"""What people decide about what is published: release or reject held shards, go back to an earlier manifest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from ecgscale.errors import UsageError, did_you_mean
from ecgscale.io.objects import ObjectStore
from ecgscale.io.places import Place
from ecgscale.io.settings import StoreError
from ecgscale.nightly.forget.notes import why_gone
from ecgscale.store.dataset import find_dataset
from ecgscale.store.holds import Hold, decide, hold, hold_again, holds
from ecgscale.store.manifest import HeldShard, Manifest, ShardEntry, compose, plan_digest, publish, read_manifest
from ecgscale.store.presence import announced
from ecgscale.store.provenance import RunFacts, login, run_facts
from ecgscale.words import counted


@announced("ecgscale release or reject", existing=True)
def decide_on(
    root: str | Place,
    keys: Sequence[str],
    state: Literal["released", "rejected"],
    reason: str,
    dataset: str | None = None,
    every: bool = False,
) -> list[Hold]:
    """Release or reject held shards (`every`: all of them). The next night publishes what was released.

    A rejected shard can be released later, and the other way round. Raises `UsageError` for a shard that is not held,
    naming those that are, and for a reason that is empty.
    """
    if not reason.strip():
        raise UsageError("give a --reason: whoever finds this shard later will ask")
    store = find_dataset(root, dataset).store
    standing = sorted(holds(store).values(), key=lambda h: (h.source.key, h.held_at))
    newest = {h.source.key: h for h in standing}
    if every:
        keys = [key for key, h in newest.items() if h.state == "held"]
    unknown = [key for key in keys if key not in newest]
    if unknown:
        there = ", ".join(key for key, h in newest.items() if h.state == "held") or "none"
        raise UsageError(f"{unknown[0]} is not held.{did_you_mean(unknown[0], newest)} Held are: {there}")
    return [decide(store, newest[key], state, reason.strip(), login()) for key in keys]


@announced("ecgscale rollback", existing=True)
def roll_back(root: str | Place, number: int, reason: str, dataset: str | None = None) -> Manifest:
    """Publish again what manifest `number` said; the new manifest.

    What came since is held back, with the reason, until it is released. Raises `UsageError` for a number that is not
    there or is the newest, and `StoreError` when a file of that manifest is gone. No lock is taken: of this and a
    nightly run that publish at the same moment, one wins, and the other is told.
    """
    found = find_dataset(root, dataset)
    store, newest = found.store, found.manifest
    assert newest is not None
    if not 1 <= number < newest.number:
        raise UsageError(f"manifest {number} is not an earlier one: there are 1 to {newest.number}, which is served")
    if not reason.strip():
        raise UsageError("give a --reason: whoever finds these shards held later will ask")
    target = read_manifest(store, number)
    if target is None:
        why = why_gone(store, number) or "(gc --keep-manifests); the oldest ones cannot be gone back to"
        raise UsageError(f"manifest {number} is gone: {why}")
    _require_files(store, target)
    run = run_facts()
    kept = {(entry.key, entry.content_digest) for entry in target.content.shards}
    held = list(target.content.held)
    known = {(shard.key, shard.content_digest) for shard in held} | kept
    held += [shard for shard in newest.content.held if (shard.key, shard.content_digest) not in known]
    for entry in newest.content.shards:
        if (entry.key, entry.content_digest) not in kept:
            held.append(_hold_back(store, entry, f"rolled back to manifest {number}: {reason.strip()}", run))
    shards, aside = target.content.shards, target.content.set_aside
    content = compose(
        target.content.identity, target.content.archive, plan_digest([*shards, *aside, *held]), shards, aside, held
    )
    manifest = publish(store, content, newest.number, run)
    if manifest is None:
        raise StoreError(f"another run published {store.where} at the same moment; look at it, and type this again")
    return manifest


def _hold_back(store: ObjectStore, entry: ShardEntry, reason: str, run: RunFacts) -> HeldShard:
    held = hold(store, entry.source, entry.commit, [reason], run, login())
    if held.state == "released":
        held = hold_again(store, held, [reason], run, login())
    return held.shard()


def _require_files(store: ObjectStore, manifest: Manifest) -> None:
    gone = [entry.file for entry in manifest.content.shards if store.stat(entry.file) is None]
    if gone:
        raise StoreError(
            f"{counted(len(gone), 'file')} of manifest {manifest.number} gone, {store.location(gone[0])} first; it "
            "cannot be published again"
        )
