"""What is held back from a dataset, shard by shard, for whoever has to decide."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow.compute as pc

from ecgscale.nightly.evidence import OK
from ecgscale.store.dataset import ExplainedDataset
from ecgscale.store.held import held_files


@dataclass(frozen=True)
class HeldLine:
    """One shard. state: "held" or "rejected"; held_at: since when; reason: why it is held, or was rejected.

    decided_by, decided_at: who rejected it, and when; record_id: the first of its recordings that can be plotted
    file: where what was explained of it lies, as Parquet
    """

    shard: str
    state: str
    records: int
    quarantined: int
    held_at: str
    reason: str
    decided_by: str | None
    decided_at: str | None
    record_id: str | None
    file: str

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return dict(vars(self))


def held_lines(found: ExplainedDataset) -> list[HeldLine]:
    """What is held back or rejected, in the order of the shards. Two columns of each file are read."""
    lines = []
    for file in held_files(found):
        rows = file.rows(["record_id", "status"])
        usable = rows.filter(pc.equal(rows["status"], OK))["record_id"]
        last = file.hold.decisions[-1] if file.hold.decisions else None
        lines.append(
            HeldLine(
                shard=file.hold.source.key,
                state=file.hold.state,
                records=file.output.rows,
                quarantined=sum(file.output.quarantined.values()),
                held_at=file.hold.held_at,
                reason=file.hold.why,
                decided_by=last.decided_by if last else None,
                decided_at=last.decided_at if last else None,
                record_id=usable[0].as_py() if len(usable) else None,
                file=file.location,
            )
        )
    return lines
