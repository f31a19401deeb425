"""What a plan may do to what is published, looked at before anything is computed: the same for nights and for hands.

A run computes what is new. What would compute again what is published is stopped before it begins, and so is what would
withdraw much of it because its shards are gone: a disk that is not mounted, a path with a slip.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field

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

    root: below which it is published. Where a dataset is new (another model, setting or version of the results) and
    what is served is of the same archive, the plan has to find the shards of that, so that half an archive is no new
    dataset.
    night_of: the dataset that a night goes on with. Publishing another one than is served would compute all of it
    again, and is no decision of a night's; "": by hand, it is one
    """

    root: Place
    recompute_allowed: bool = False
    withdrawal_allowed: bool = False
    limits: NightlyConfig = field(default_factory=NightlyConfig)
    night_of: str = ""

    def __call__(self, plan: Plan, newest: Manifest | None, archive_id: str) -> None:
        """Look at a plan of that archive before anything is computed."""
        published = newest if newest is not None else self._served()
        if published is None:
            return
        if published.content.archive.archive_id == archive_id and not self.withdrawal_allowed:
            self._require_presence(plan, published)
        if self.recompute_allowed:
            return
        if newest is not None:
            self._require_little(plan, newest)
        elif self.night_of not in ("", published.content.dataset_id):
            raise UsageError(
                f"dataset {self.night_of} is not there yet, though {published.content.dataset_id} is served: the "
                "model, the settings or the version of the results changed, and all "
                f"{published.content.totals.records:,} published records would be computed again. Put the setting "
                "back; or fill the new dataset on purpose (ecgscale refit, then promote); or give --allow-recompute"
            )

    def _served(self) -> Manifest | None:
        with suppress(UsageError):  # nothing was published yet
            return find_dataset(self.root).manifest
        return None

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
        there = plan.keys
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
