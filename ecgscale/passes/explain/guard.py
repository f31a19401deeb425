"""What a plan may do to what is published, looked at before anything is computed: the same for nights and for hands.

A run computes what is new. What would compute again what is published is stopped before it begins, and so is what would
withdraw much of it because its shards are gone: a disk that is not mounted, a path with a slip.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from ecgscale.config import NightlyConfig
from ecgscale.errors import UsageError
from ecgscale.io.places import Place
from ecgscale.passes.explain.plan import Plan
from ecgscale.store.dataset import find_dataset
from ecgscale.store.manifest import Manifest
from ecgscale.words import counted


@dataclass(frozen=True)
class Guard:
    """Raises `UsageError` for a plan that recomputes more than `recompute_share` of what is published, or more than
    `max_records`, or that withdraws more than `withdraw_share` of it, each unless that is allowed.

    served: the manifest that is served now. Where it is of another dataset (another model, setting or version of the
    results) of the same archive, the plan has to find its shards too, so that half an archive is no new dataset.
    frozen: publishing another dataset than that which is served would compute all of it again, and is no decision of a
    night's; by hand, it is one
    """

    limits: NightlyConfig
    recompute_allowed: bool
    withdrawal_allowed: bool
    served: Manifest | None
    dataset_id: str = ""
    frozen: bool = False

    @classmethod
    def by_hand(
        cls,
        root: Place,
        allow_recompute: bool = False,
        allow_withdrawal: bool = False,
        limits: NightlyConfig | None = None,
    ) -> Guard:
        """That of a person's command below `root`, with the limits that nights have."""
        served = None
        with suppress(UsageError):
            served = find_dataset(root).manifest
        return cls(limits or NightlyConfig(), allow_recompute, allow_withdrawal, served)

    def __call__(self, plan: Plan, newest: Manifest | None, archive_id: str) -> None:
        """Look at a plan of that archive before anything is computed."""
        published = newest or self.served
        if published is None:
            return
        if published.content.archive.archive_id == archive_id and not self.withdrawal_allowed:
            self._require_presence(plan, published)
        if self.recompute_allowed:
            return
        if newest is not None:
            self._require_little(plan, newest)
        elif self.frozen and published.content.dataset_id != self.dataset_id:
            raise UsageError(
                f"dataset {self.dataset_id} is not there yet, though {published.content.dataset_id} is served: the "
                "model, the settings or the version of the results changed, and all "
                f"{published.content.totals.records:,} published records would be computed again. Put the setting "
                "back; or fill the new dataset on purpose (ecgscale refit, then promote); or give --allow-recompute"
            )

    def _require_little(self, plan: Plan, newest: Manifest) -> None:
        records, keys = newest.content.totals.records, {entry.key for entry in newest.content.shards}
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

    def _require_presence(self, plan: Plan, published: Manifest) -> None:
        """What cannot be read is no matter of this: it is set aside, and the exit code says so."""
        there = {entry.key for entry in plan.published} | {aside.key for aside in plan.set_aside}
        there |= {commit.source.key for commit in plan.committed} | {moved.source.key for moved in plan.moved}
        there |= {pending.source.key for pending in plan.pending}
        gone = [entry for entry in published.content.shards if entry.key not in there]
        rows, records = sum(entry.rows for entry in gone), published.content.totals.records
        limit = self.limits.withdraw_share
        if rows > limit * records:
            raise UsageError(
                f"{len(gone)} of {len(published.content.shards)} published shards are gone from the archive "
                f"{published.content.archive.path}: {counted(rows, 'record')} would be withdrawn, "
                f"{rows / max(records, 1):.1%} of what is published (the limit is {limit:.0%}). First: "
                f"{gone[0].key}. Is its disk mounted, and its path right? If they are to go, give --allow-withdrawal; "
                "nothing was changed"
            )
