"""A night computes what is new. What would compute again what is published is stopped before it begins."""

from __future__ import annotations

from dataclasses import dataclass

from ecgscale.errors import UsageError
from ecgscale.passes.plan import Plan
from ecgscale.store.manifest import Manifest
from ecgscale.words import counted


@dataclass(frozen=True)
class RecomputeGuard:
    """Raises `UsageError` for a plan that recomputes more than a share of what is published, or more than max_records.

    served: the manifest that is served now; where it is of another dataset (another model, setting or version of the
    results), publishing there would recompute all of it.
    """

    share: float
    max_records: int | None
    allowed: bool
    served: Manifest | None
    dataset_id: str

    def __call__(self, plan: Plan, newest: Manifest | None) -> None:
        """Look at a plan before anything is computed."""
        published = newest or self.served
        if self.allowed or published is None:
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
