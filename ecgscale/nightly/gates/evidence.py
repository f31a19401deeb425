"""What the gates look at: tonight's shards and those of the nights before, as one table with whose and how old each row
is; and what is kept of a night to judge later ones by."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ecgscale.archive.traits import TRAITS
from ecgscale.nightly.gates.findings import ALL

COLUMNS = (
    "record_id",
    "patient_id",
    "status",
    "flags",
    "prediction",
    "proportions",
    "mean_entropy",
    "distortion",
    "sampling_rate",
    "valid_start",
    "valid_stop",
    "site",
    "device",
    "acquired_at",
    *TRAITS,
)
"""Columns that the gates read, where they are there: of the explanations, of the archive, and the signal's traits."""

OK = "ok"

_NO_ROWS = pa.table({"status": pa.array([], pa.string())})


@dataclass(frozen=True)
class FreshShard:
    """One explained shard.

    key: the source shard; rows: `COLUMNS` of the explanations, those that are there
    night: ISO date of the night in which it came
    """

    key: str
    rows: pa.Table
    night: str


@dataclass(frozen=True)
class Night:
    """A past night, as the run record keeps it.

    date: UTC date of its start, ISO; records: that came; quarantined: of them
    sites: records by site, where the archive knows sites
    newest_hours: age of the newest recording when the night was judged, where the archive knows acquired_at
    """

    date: str
    records: int
    quarantined: int
    sites: Mapping[str, int] = field(default_factory=dict)
    newest_hours: float | None = None

    @classmethod
    def of(cls, shards: Sequence[FreshShard], now: datetime) -> Night:
        """The night at `now` (aware) in which these shards came, for the run record."""
        sites: Counter[str] = Counter()
        quarantined = 0
        for shard in shards:
            quarantined += int((~usable(shard.rows)).sum())
            sites.update(name for name in texts(shard.rows, "site") if name)
        return cls(
            date=now.astimezone(UTC).date().isoformat(),
            records=sum(shard.rows.num_rows for shard in shards),
            quarantined=quarantined,
            sites=dict(sorted(sites.items())),
            newest_hours=_newest_hours(shards, now),
        )

    def to_dict(self) -> dict[str, Any]:
        """For JSON; `Night(**…)` reads it back."""
        return {**self.__dict__, "sites": dict(self.sites)}


@dataclass(frozen=True)
class Evidence:
    """Rows of tonight and of the nights before, newest night first.

    keys: of all shards; shard: int (n,), which of them a row is of; age: int (n,), nights with records since then,
    0 for tonight; date: ISO date of tonight, "" when nothing came
    """

    keys: tuple[str, ...]
    rows: pa.Table
    shard: NDArray[np.intp]
    age: NDArray[np.intp]
    date: str = ""

    @classmethod
    def of(cls, tonight: Sequence[FreshShard], trailing: Sequence[FreshShard], nights: int, records: int) -> Evidence:
        """Everything of tonight, and of the newest earlier nights no more than `nights` − 1 nights and about `records`
        rows."""
        ordered = [(0, shard) for shard in tonight]
        dates = sorted({shard.night for shard in trailing}, reverse=True)[: nights - 1]
        left = records
        for age, night in enumerate(dates, 1):
            for shard in trailing:
                if shard.night == night and left > 0:
                    ordered.append((age, shard))
                    left -= shard.rows.num_rows
        sizes = [shard.rows.num_rows for _, shard in ordered]
        tables = [shard.rows.select([c for c in COLUMNS if c in shard.rows.column_names]) for _, shard in ordered]
        return cls(
            keys=tuple(shard.key for _, shard in ordered),
            rows=pa.concat_tables(tables, promote_options="default") if tables else _NO_ROWS,
            shard=np.repeat(np.arange(len(ordered)), sizes),
            age=np.repeat(np.array([age for age, _ in ordered], np.intp), sizes),
            date=tonight[0].night if tonight else "",
        )

    def __len__(self) -> int:
        return len(self.shard)

    def take(self, kept: NDArray[np.bool_]) -> Evidence:
        """The same of these rows."""
        return Evidence(self.keys, self.rows.filter(pa.array(kept)), self.shard[kept], self.age[kept], self.date)

    def one_a_patient(self) -> Evidence:
        """The newest row of each patient; rows without a patient_id are of patients of their own."""
        patients = texts(self.rows, "patient_id")
        seen: set[str] = set()
        kept = np.ones(len(self), bool)
        for row, patient in enumerate(patients):
            if patient:
                kept[row] = patient not in seen
                seen.add(patient)
        return self.take(kept)

    def groups(self) -> list[Group]:
        """All records, each site, each device and each of tonight's shards, as far as tonight has rows of them.

        A device that is all of a site is left out. A shard that is all of a device is not: it is a part of the feed.
        """
        found: dict[tuple[bool, bytes], Group] = {}
        for group in self._candidates():
            if group.member[self.age == 0].any():
                found.setdefault((group.kind == "shard", group.member.tobytes()), group)
        return list(found.values())

    def _candidates(self) -> Iterator[Group]:
        yield Group("all", "", np.ones(len(self), bool))
        for kind in ("site", "device"):
            values = np.array(texts(self.rows, kind), dtype=object)
            for name in sorted({str(value) for value in values if value}):
                yield Group(kind, name, values == name)
        fresh = np.unique(self.shard[self.age == 0])
        for index in fresh if len(fresh) > 1 else ():
            yield Group("shard", self.keys[index], self.shard == index)


@dataclass(frozen=True)
class Group:
    """Records that may move together. member: bool (n,), over the rows of the evidence."""

    kind: str
    name: str
    member: NDArray[np.bool_]

    @property
    def key(self) -> tuple[str, str]:
        """Which group it is."""
        return self.kind, self.name

    def __str__(self) -> str:
        return ALL if self.kind == "all" else f"{self.kind} {self.name}"


def usable(rows: pa.Table) -> NDArray[np.bool_]:
    """bool (n,): rows that are explained."""
    return np.asarray(pc.equal(rows["status"], OK).to_numpy(), dtype=bool)


def texts(rows: pa.Table, column: str) -> list[str]:
    """A column of strings; "" where it is null or not there."""
    if column not in rows.column_names:
        return [""] * rows.num_rows
    found: list[str] = pc.fill_null(rows[column].cast(pa.string()), "").to_pylist()
    return found


def _newest_hours(shards: Sequence[FreshShard], now: datetime) -> float | None:
    """Age in hours of the newest recording; None where no row says when it was made."""
    newest = [
        when
        for shard in shards
        if "acquired_at" in shard.rows.column_names and (when := pc.max(shard.rows["acquired_at"]).as_py()) is not None
    ]
    if not newest:
        return None
    latest = max(when if when.tzinfo else when.replace(tzinfo=UTC) for when in newest)
    return round((now - latest).total_seconds() / 3600, 3)
