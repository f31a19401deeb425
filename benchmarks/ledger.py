"""The ledger of a night: every record that came is published, quarantined, held, superseded or set aside, and once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ecgscale.archive.validate import OK
from ecgscale.store.commit import COMMITS, read_commit
from ecgscale.store.dataset import find_dataset


@dataclass(frozen=True)
class Ledger:
    """Records after a night.

    came: in the archive; published: explained; quarantined, held: not; superseded: rows that gave way to a newer one of
    the same id, or came twice alike; set_aside: of shards that cannot be read
    doubled: ids published more than once; lost: ids that should be published and are not; stale: ids with facts that
    are not the newest
    """

    came: int
    published: int
    quarantined: int
    held: int
    superseded: int
    set_aside: int
    doubled: int
    lost: int
    stale: int

    @property
    def balanced(self) -> bool:
        """Whether everything that came is accounted for, once."""
        out = self.published + self.quarantined + self.held + self.superseded + self.set_aside
        return self.came == out and not (self.doubled or self.lost or self.stale)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def ledger(root: Path, tables: Mapping[str, pa.Table]) -> Ledger:
    """What is published below ROOT, held to what the shards of the archive truly hold."""
    found = find_dataset(root)
    manifest = found.manifest
    assert manifest is not None
    content = manifest.content
    rows = [(entry, _rows(Path(found.store.location(entry.file)))) for entry in content.shards]
    ids: Counter[str] = Counter()
    ages: dict[str, float] = {}
    quarantined = 0
    for _, table in rows:
        for record_id, status, age in zip(*(table[name].to_pylist() for name in _COLUMNS), strict=True):
            if status == OK:
                ids[record_id] += 1
                ages[record_id] = age
            else:
                quarantined += 1
    expected = _newest([(entry.since, entry.key) for entry in content.shards], tables)
    return Ledger(
        came=sum(table.num_rows for table in tables.values()),
        published=sum(ids.values()),
        quarantined=quarantined,
        held=sum(shard.rows for shard in content.held),
        superseded=sum(entry.superseded for entry in content.shards),
        set_aside=sum(tables[aside.key].num_rows for aside in content.set_aside),
        doubled=sum(count > 1 for count in ids.values()),
        lost=len(set(expected) - set(ids)),
        stale=sum(ages.get(record_id) != age for record_id, age in expected.items() if record_id in ages),
    )


def computed_shards(root: Path) -> int:
    """Commit records that stand for a computation: those of shards that only moved do not."""
    store = find_dataset(root).store
    commits = (read_commit(store, name) for name in store.list_prefix(COMMITS))
    return sum(commit is not None and commit.restamped_from is None for commit in commits)


_COLUMNS = ("record_id", "status", "age")


def _rows(path: Path) -> pa.Table:
    return pq.read_table(path, columns=list(_COLUMNS), partitioning=None)


def _newest(order: list[tuple[int, str]], tables: Mapping[str, pa.Table]) -> dict[str, float]:
    """The age that each usable record is to be published with, that of the shard published last; patients stay."""
    expected: dict[str, float] = {}
    patients: dict[str, str] = {}
    for _, key in sorted(order):
        table = tables[key]
        names = ("record_id", "patient_id", "sampling_rate", "age")
        for record_id, patient, rate, age in zip(*(table[name].to_pylist() for name in names), strict=True):
            if rate > 0 and patients.setdefault(record_id, patient) == patient:
                expected[record_id] = age
    return expected
