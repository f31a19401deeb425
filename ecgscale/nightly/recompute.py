"""A night computes what is new. What would compute again what is published is stopped before it begins, and so is what
would withdraw much of it because its shards are gone: a disk that is not mounted, a path with a slip."""

from __future__ import annotations

from dataclasses import dataclass

from ecgscale.errors import UsageError
from ecgscale.passes.plan import Plan
from ecgscale.store.manifest import Manifest
from ecgscale.words import counted


@dataclass(frozen=True)
class RecomputeGuard:
    """Raises `UsageError` for a plan that recomputes more than a share of what is published, or more than max_records,
    or that withdraws more than `withdraw_share` of it, each unless that is allowed.

    served: the manifest that is served now; where it is of another dataset (another model, setting or version of the
    results), publishing there would recompute all of it.
    """

    share: float
    max_records: int | None
    allowed: bool
    withdraw_share: float
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
        limit = self.share * records
        if rows > limit or (self.max_records is not None and rows > self.max_records):
            raise UsageError(
                f"{len(again)} of {len(keys)} published shards have changed: {counted(rows, 'record')} would be "
                f"computed again, {rows / max(records, 1):.1%} of what is published (the limit is {self.share:.0%}"
                + (f", and {counted(self.max_records, 'record')}" if self.max_records is not None else "")
                + f"). First: {again[0].source.key}. If that is meant, give --allow-recompute; nothing was computed"
            )

    def _require_presence(self, plan: Plan, newest: Manifest) -> None:
        """What cannot be read is no matter of this: it is set aside, and told by the exit code."""
        there = {entry.key for entry in plan.published} | {aside.key for aside in plan.set_aside}
        there |= {commit.source.key for commit in plan.committed} | {moved.source.key for moved in plan.moved}
        there |= {pending.source.key for pending in plan.pending}
        gone = [entry for entry in newest.content.shards if entry.key not in there]
        rows, records = sum(entry.rows for entry in gone), newest.content.totals.records
        if rows > self.withdraw_share * records:
            raise UsageError(
                f"{len(gone)} of {len(newest.content.shards)} published shards are gone from the archive "
                f"{newest.content.archive.path}: {counted(rows, 'record')} would be withdrawn, "
                f"{rows / max(records, 1):.1%} of what is published (the limit is {self.withdraw_share:.0%}). First: "
                f"{gone[0].key}. Is its disk mounted, and its path right? If they are to go, give --allow-withdrawal; "
                "nothing was changed"
            )
