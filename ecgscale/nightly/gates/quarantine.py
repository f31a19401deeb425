"""Quarantine rate: are more records unusable than may be, in all, at a site, from a device or in a shard?

An exact binomial test, so a night of five records that happens to hold one bad one is none, and a night of five bad
ones is one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from ecgscale.config import GateSettings
from ecgscale.nightly.gates.evidence import OK, Evidence, Group, usable
from ecgscale.nightly.gates.findings import Finding, held_back, over_nights, without_echoes


@dataclass(frozen=True)
class _Count:
    """`bad` of `n` records of a group over so many nights."""

    group: Group
    nights: int
    member: NDArray[np.bool_]
    n: int
    bad: int
    p: float

    @property
    def rate(self) -> float:
        return self.bad / self.n


def check_quarantine(evidence: Evidence, settings: GateSettings) -> list[Finding]:
    """An alarm for each group that has more quarantined records than `quarantine_rate` allows, tonight or over all
    windows; the shards that are over the rate themselves are held."""
    if not (evidence.age == 0).any():
        return []
    bad = ~usable(evidence.rows)
    counts = list(_counts(evidence, bad, settings))
    worst: dict[tuple[str, str], _Count] = {}
    for count in counts:
        surely = count.p * len(counts) < settings.alpha and count.rate > settings.quarantine_rate
        standing = worst.get(count.group.key)
        if surely and (standing is None or count.p < standing.p):
            worst[count.group.key] = count
    return without_echoes([_finding(count, evidence, bad, len(counts), settings) for count in worst.values()])


def _counts(evidence: Evidence, bad: NDArray[np.bool_], settings: GateSettings) -> Iterator[_Count]:
    for group in evidence.groups():
        before = -1
        for nights in settings.windows:
            member = group.member & (evidence.age < nights)
            n, found = int(member.sum()), int((member & bad).sum())
            if n > before:
                yield _Count(group, nights, member, n, found, float(binom.sf(found - 1, n, settings.quarantine_rate)))
            before = n


def _finding(count: _Count, evidence: Evidence, bad: NDArray[np.bool_], tests: int, settings: GateSettings) -> Finding:
    shards = _shards_over(evidence, bad, count.member & (evidence.age == 0), settings.quarantine_rate)
    earlier = _shards_over(evidence, bad, count.member & (evidence.age > 0), settings.quarantine_rate)
    statuses = Counter(evidence.rows["status"].take(np.flatnonzero(count.member & bad)).to_pylist())
    reasons = ", ".join(f"{status} ({n})" for status, n in statuses.most_common(3) if status != OK)
    found = (
        f"{count.group}, {over_nights(count.nights, evidence.date)}: {count.bad} of {count.n} records are quarantined "
        f"({count.rate:.1%}, allowed are {settings.quarantine_rate:.1%}): {reasons}"
    )
    then = held_back(shards) if shards else "told only: none of the night's shards is over the rate"
    return Finding(
        gate="quarantine_rate",
        alarm=bool(shards),
        group=str(count.group),
        what="quarantined records",
        effect=round(count.rate, 4),
        p_adjusted=min(1.0, count.p * tests),
        nights=count.nights,
        records=count.n,
        shards=shards,
        earlier=earlier,
        message=f"{found}; {then}",
        found=found,
    )


def _shards_over(evidence: Evidence, bad: NDArray[np.bool_], member: NDArray[np.bool_], rate: float) -> tuple[str, ...]:
    n_shards = len(evidence.keys)
    rows = np.bincount(evidence.shard[member], minlength=n_shards)
    quarantined = np.bincount(evidence.shard[member & bad], minlength=n_shards)
    return tuple(sorted(evidence.keys[index] for index in np.flatnonzero(quarantined > rate * rows)))
