"""What the gates say: findings, and the report of a night."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from ecgscale.words import named

ALL = "all records"
"""The group of everything."""

_ECHO = 0.7

Gate = Literal["quarantine_rate", "freshness", "volume", "drift"]


@dataclass(frozen=True)
class Finding:
    """One thing that a gate found. An alarm fails the night; the others are told and hold nothing.

    group: whose records: "all records", "site north", "device cart-A", "shard part-00012.parquet"
    what: what is out of the ordinary: "cluster 7", "mean_entropy", "output MI", "records" …
    effect: Cliff's delta for drift (positive: larger than in the reference), the rate for quarantine, the multiple of
        the usual for volume, hours beyond the usual for freshness; None where there is none
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
    kept = []
    for finding in findings:
        same = whole.get(finding.what)
        if same is None or same is finding or not _repeats(finding, same):
            kept.append(finding)
    return kept


def _repeats(part: Finding, whole: Finding) -> bool:
    return (
        whole.alarm >= part.alarm
        and abs(whole.effect or 0.0) >= _ECHO * abs(part.effect or 0.0)
        and set(part.shards) <= set(whole.shards)
    )


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
