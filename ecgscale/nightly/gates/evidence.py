"""What the gates look at, and what they say.

Evidence: tonight's shards and those of the nights before, as one table with whose and how old each row is; `Night` is
what is kept of a night to judge later ones by. Findings: a sentence each for the operator, together the night's report.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ecgscale.archive.traits import TRAITS
from ecgscale.archive.validate import OK
from ecgscale.words import named

COLUMNS = (
    *("record_id", "patient_id", "status", "flags", "prediction", "proportions", "mean_entropy", "distortion"),
    *("sampling_rate", "valid_start", "valid_stop", "site", "device", "acquired_at"),
    *TRAITS,
)
"""Columns that the gates read, where they are there: of the explanations, of the archive, and the signal's traits."""

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
        patients = np.array(
            [f"p{name}" if name else str(row) for row, name in enumerate(texts(self.rows, "patient_id"))]
        )
        kept = np.zeros(len(self), bool)
        kept[np.unique(patients, return_index=True)[1]] = True
        return self.take(kept)

    def groups(self) -> list[Group]:
        """All records, each site, each device and each of tonight's shards, as far as tonight has rows of them.

        A device that is all of a site is left out. A shard that is all of a device is not: it is a part of the feed.
        """
        candidates = [Group("all", "", np.ones(len(self), bool))]
        for kind in ("site", "device"):
            values = np.array(texts(self.rows, kind), dtype=object)
            candidates += [Group(kind, name, values == name) for name in sorted(set(values) - {""})]
        fresh = np.unique(self.shard[self.age == 0])
        if len(fresh) > 1:
            candidates += [Group("shard", self.keys[index], self.shard == index) for index in fresh]
        found: dict[tuple[bool, bytes], Group] = {}
        for group in candidates:
            if group.member[self.age == 0].any():
                found.setdefault((group.kind == "shard", group.member.tobytes()), group)
        return list(found.values())

    @cached_property
    def _groups(self) -> list[Group]:
        return self.groups()

    def windows(
        self, windows: Sequence[int], left: NDArray[np.bool_] | None = None
    ) -> Iterator[tuple[Group, int, NDArray[np.bool_]]]:
        """Every group over tonight alone and with the nights before: group, nights, bool (n,) of its rows that are
        `left`. Without further records a longer window is the same as a shorter one; without any of tonight, none."""
        for group in self._groups:
            before = 0
            for nights in windows:
                member = group.member & (self.age < nights) & (True if left is None else left)
                if (n := int(member.sum())) > before and (member & (self.age == 0)).any():
                    yield group, nights, member
                before = n


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
    dated = [shard.rows["acquired_at"] for shard in shards if "acquired_at" in shard.rows.column_names]
    newest = [when for column in dated if (when := pc.max(column).as_py()) is not None]
    if not newest:
        return None
    latest = max(when if when.tzinfo else when.replace(tzinfo=UTC) for when in newest)
    return round((now - latest).total_seconds() / 3600, 3)


ALL = "all records"
"""The group of everything."""

_ECHO = 0.7

Gate = Literal["quarantine_rate", "freshness", "volume", "drift"]


@dataclass(frozen=True)
class Finding:
    """One thing that a gate found. An alarm fails the night; the others are notes and hold nothing.

    group: whose records: "all records", "site north", "device cart-A", "shard part-00012.parquet"
    what: what is out of the ordinary: "cluster 7", "mean_entropy", "output MI", "records" …
    effect: Cliff's delta for drift (positive: larger than in the reference), the rate for quarantine, the multiple of
        what is usual for volume, hours beyond it for freshness; None where there is none
    p_adjusted: probability of as much on a sound night, times the comparisons of the gate; None where none was made
    nights, records: how many nights with records, and how many records, it rests on
    cluster: of drift, the cluster whose share moved most in the same records, such as "cluster 7 (+0.41)"
    shards: keys of tonight's shards that show it themselves; those of an alarm are held back
    earlier: keys of published shards of the nights before that show it too
    message: one sentence for the operator: what was found, and what was done about it
    found: what was found, in words that stay true; of a shard that is held back, it is kept as the reason
    """

    gate: Gate
    alarm: bool
    group: str
    what: str
    message: str
    effect: float | None = None
    p_adjusted: float | None = None
    nights: int = 1
    records: int = 0
    cluster: str | None = None
    shards: tuple[str, ...] = ()
    earlier: tuple[str, ...] = ()
    found: str = ""

    def to_dict(self) -> dict[str, Any]:
        """For JSON; `found` is left out, since the message says it too."""
        facts = {**asdict(self), "shards": list(self.shards), "earlier": list(self.earlier)}
        del facts["found"]
        return facts


def over_nights(nights: int, date: str) -> str:
    """When it was, in words that stay true: the night of `date`, or so many nights up to it."""
    return date if nights == 1 else f"{nights} nights to {date}"


def held_back(shards: Sequence[str]) -> str:
    """What becomes of these shards, in words."""
    return f"held back: {named(shards)}"


def without_echoes(findings: Sequence[Finding]) -> list[Finding]:
    """The findings but those of sites, devices and shards that only repeat what was found of all records.

    A part repeats the whole when the whole shows the same thing in the same shards, at least `_ECHO` as pronounced.
    """
    whole = {finding.what: finding for finding in findings if finding.group == ALL}

    def repeats(part: Finding) -> bool:
        same = whole.get(part.what, part)
        loud = abs(same.effect or 0.0) >= _ECHO * abs(part.effect or 0.0)
        return same is not part and same.alarm >= part.alarm and loud and set(part.shards) <= set(same.shards)

    return [finding for finding in findings if not repeats(finding)]


@dataclass(frozen=True)
class GateReport:
    """All findings of a night, alarms first, and the shards that are held back because of them."""

    findings: tuple[Finding, ...]
    held: tuple[str, ...]

    @classmethod
    def of(cls, findings: Iterable[Finding]) -> GateReport:
        """The report that these findings make."""
        ordered = tuple(sorted(findings, key=lambda finding: not finding.alarm))
        return cls(ordered, tuple(sorted({key for finding in ordered if finding.alarm for key in finding.shards})))

    @property
    def alarms(self) -> tuple[Finding, ...]:
        """The findings that fail the night."""
        return tuple(finding for finding in self.findings if finding.alarm)

    @property
    def passed(self) -> bool:
        """Whether no gate raised an alarm. A night can fail and hold nothing: what did not come cannot be held."""
        return not self.alarms

    def to_dict(self) -> dict[str, Any]:
        """For JSON: passed, held, findings."""
        findings = [finding.to_dict() for finding in self.findings]
        return {"passed": self.passed, "held": list(self.held), "findings": findings}
