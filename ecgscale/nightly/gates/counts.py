"""Gates over how many: quarantine rate, volume and freshness. Formulae: docs/gates.md.

Quarantine: more unusable records than may be, in all, at a site, from a device or in a shard, by an exact binomial
test: a night of five records that happens to hold one bad one is none, and a night of five bad ones is one.

Volume and freshness: did about as many records come as on such a weekday, and are they new? Both fail the night; what
did not come cannot be held back. Only a flood is held: it is to be looked at before it is published. Counts vary by
chance, as counts do, and because no two weeks are alike: both are estimated on the logarithm, from all weekdays
together, each about its own median.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom, nbinom, poisson, t

from ecgscale.config import GateSettings
from ecgscale.nightly.gates.evidence import (
    ALL,
    Evidence,
    Finding,
    FreshShard,
    Group,
    Night,
    held_back,
    over_nights,
    texts,
    usable,
    without_echoes,
)
from ecgscale.words import counted


def check_quarantine(evidence: Evidence, settings: GateSettings) -> list[Finding]:
    """An alarm for each group that has more quarantined records than `quarantine_rate` allows, tonight or over all
    windows; the shards that are over the rate themselves are held."""
    bad, allowed = ~usable(evidence.rows), settings.quarantine_rate
    judged = []
    for group, nights, member in evidence.windows(settings.windows):
        n, quarantined = int(member.sum()), int((member & bad).sum())
        judged.append((float(binom.sf(quarantined - 1, n, allowed)), quarantined / n, group, nights, member))
    worst: dict[tuple[str, str], tuple[float, Group, int, NDArray[np.bool_]]] = {}
    for p, rate, group, nights, member in judged:
        surely = p * len(judged) < settings.alpha and rate > allowed
        if surely and (group.key not in worst or p < worst[group.key][0]):
            worst[group.key] = p, group, nights, member
    found = [_too_many(evidence, bad, one, min(1.0, p * len(judged)), allowed) for p, *one in worst.values()]
    return without_echoes(found)


def _too_many(evidence: Evidence, bad: NDArray[np.bool_], which: Sequence[Any], p: float, allowed: float) -> Finding:
    """Of the records of a group over so many nights; `which`: the group, the nights, its rows."""
    group, nights, member = which
    n, quarantined = int(member.sum()), int((member & bad).sum())
    shards = _shards_over(evidence, bad, member & (evidence.age == 0), allowed)
    statuses = Counter(evidence.rows["status"].take(np.flatnonzero(member & bad)).to_pylist())
    reasons = ", ".join(f"{status} ({count})" for status, count in statuses.most_common(3))
    found = (
        f"{group}, {over_nights(nights, evidence.date)}: {quarantined} of {n} records are quarantined "
        f"({quarantined / n:.1%}, allowed are {allowed:.1%}): {reasons}"
    )
    then = held_back(shards) if shards else "told only: none of the night's shards is over the rate"
    return Finding(
        gate="quarantine_rate",
        alarm=bool(shards),
        group=str(group),
        what="quarantined records",
        effect=round(quarantined / n, 4),
        p_adjusted=p,
        nights=nights,
        records=n,
        shards=shards,
        earlier=_shards_over(evidence, bad, member & (evidence.age > 0), allowed),
        message=f"{found}; {then}",
        found=found,
    )


def _shards_over(evidence: Evidence, bad: NDArray[np.bool_], member: NDArray[np.bool_], rate: float) -> tuple[str, ...]:
    n_shards = len(evidence.keys)
    rows = np.bincount(evidence.shard[member], minlength=n_shards)
    quarantined = np.bincount(evidence.shard[member & bad], minlength=n_shards)
    return tuple(sorted(evidence.keys[index] for index in np.flatnonzero(quarantined > rate * rows)))


LEAST_HISTORY_DAYS = 28
LEAST_NIGHTS_A_WEEKDAY = 3
"""There is no baseline before this much is known."""

_LEAST_SPREAD = 0.05


@dataclass(frozen=True)
class WeekdayBaseline:
    """How many records come on a weekday: the median.

    spread: standard deviation of log(1 + records) about the median of the weekday
    nights: how many nights the median is of; freedom: degrees of freedom of the spread
    """

    records: float
    spread: float
    nights: int
    freedom: int

    @classmethod
    def of(cls, counts: Mapping[date, int], weekday: int) -> WeekdayBaseline | None:
        """From records by date of past nights; None when they are too few for a baseline."""
        if not counts or (max(counts) - min(counts)).days + 1 < LEAST_HISTORY_DAYS:
            return None
        days: dict[int, list[float]] = {}
        for day, came in counts.items():
            days.setdefault(day.weekday(), []).append(float(np.log1p(came)))
        mine = days.get(weekday, [])
        if len(mine) < LEAST_NIGHTS_A_WEEKDAY:
            return None
        distances = np.abs(np.concatenate([np.array(logs) - np.median(logs) for logs in days.values()]))
        # The larger of a robust spread and of one that sees what is rare but regular; never under that of counting.
        spread = max(1.4826 * float(np.median(distances)), float(np.quantile(distances, 0.95)) / 1.96, _LEAST_SPREAD)
        records = float(np.expm1(np.median(mine)))
        return cls(records, max(spread, (1 + records) ** -0.5), len(mine), max(len(counts) - len(days), 1))

    def p(self, records: int) -> float:
        """Probability of so few records, or of so many, on such a weekday: the larger of two.

        Student's t on the logarithm, which knows how little is known of the spread, and the tail of a negative binomial
        of the same spread, which knows that counts under ten are skewed. Both count the median's own error in.
        """
        error = self.spread * np.sqrt(1 + np.pi / (2 * self.nights))
        by_spread = t.sf(abs(np.log1p(records) - np.log1p(self.records)) / error, self.freedom)
        return float(max(by_spread, self._counted(records, error)))

    def _counted(self, records: int, error: float) -> float:
        mean = max(self.records, 0.5)
        few = records < mean
        beyond = error**2 - 1 / mean
        if beyond <= 0:
            return float(poisson.cdf(records, mean) if few else poisson.sf(records - 1, mean))
        size = 1 / beyond
        share = size / (size + mean)
        return float(nbinom.cdf(records, size, share) if few else nbinom.sf(records - 1, size, share))


_LEAST_AGES = 7
_STEADY_HOURS = 7 * 24.0
_LIVE_HOURS = 30 * 24.0


@dataclass(frozen=True)
class _Feed:
    """All records, or those of one site.

    site: "" for all; today: the date; past: records by date; came: tonight; shards: of tonight that hold some
    """

    site: str
    today: date
    past: dict[date, int]
    came: int
    shards: tuple[str, ...]

    def __str__(self) -> str:
        return f"site {self.site}" if self.site else ALL

    def finding(self, what: str, multiple: float | None, p: float | None, alarm: bool, hold: bool) -> Finding:
        """What is to say of it."""
        sound = "nothing is held back: what came is sound" if alarm else "told only: a holiday"
        found = f"{self}, {self.today}: {what}"
        return Finding(
            gate="volume",
            alarm=alarm,
            group=str(self),
            what="records",
            effect=None if multiple is None else round(multiple, 4),
            p_adjusted=None if p is None else min(1.0, p),
            records=self.came,
            shards=self.shards if hold else (),
            message=f"{found}; {held_back(self.shards) if hold else sound}",
            found=found,
        )


def check_volume(
    tonight: Sequence[FreshShard], nights: Sequence[Night], settings: GateSettings, now: datetime
) -> list[Finding]:
    """Alarms for a silent feed, for far fewer and for far more records than usual: of all, else of single sites."""
    today = now.astimezone(UTC).date()
    feeds = [f for f in _feeds(tonight, nights, today, settings.history_nights) if f.site not in settings.closed_sites]
    whole = _judge(feeds[0], today, settings, len(feeds))
    if whole is not None:
        return [whole]  # its sites would say the same again
    return [found for feed in feeds[1:] if (found := _judge(feed, today, settings, len(feeds))) is not None]


def check_freshness(
    tonight: Sequence[FreshShard], nights: Sequence[Night], settings: GateSettings, now: datetime
) -> list[Finding]:
    """An alarm when the newest recording is older than usual by `freshness_hours`; nothing where dates say nothing."""
    age, today = Night.of(tonight, now).newest_hours, now.astimezone(UTC).date()
    past = _recent(nights, today, settings.history_nights)
    ages = np.array([night.newest_hours for night in past if night.newest_hours is not None])
    if age is None or len(ages) < _LEAST_AGES:
        return []
    low, median, high = np.quantile(ages, [0.1, 0.5, 0.9])
    # Dates that were shifted to protect patients, and those of old collections, do not follow the nights.
    if high - low > _STEADY_HOURS or abs(median) > _LIVE_HOURS or age <= high + settings.freshness_hours:
        return []
    message = (
        f"all records, {today}: the newest recording is {_days(age)} old, usually {_days(median)}; something"
        " between the devices and the archive stands still. Nothing is held back: what came is sound"
    )
    effect, records = round(float(age - median), 2), sum(shard.rows.num_rows for shard in tonight)
    return [Finding("freshness", True, ALL, "newest recording", message, effect, records=records)]


def _judge(feed: _Feed, today: date, settings: GateSettings, comparisons: int) -> Finding | None:
    """Silent, far less than usual, or far more."""
    with_records = sorted(day for day, records in feed.past.items() if records)
    if not with_records:
        return None
    baseline = WeekdayBaseline.of(feed.past, today.weekday())
    p = baseline.p(feed.came) * comparisons if baseline else None
    surely = p is not None and p < settings.alpha
    expected = f"usual for a {today:%A} are {baseline.records:.0f}" if baseline else "what is usual is not known yet"
    working_day = today not in settings.holidays
    since = (today - with_records[-1]).days
    if not feed.came:
        gaps = [(later - day).days for day, later in pairwise(with_records)]
        silent = since >= settings.silent_nights and since > max(gaps, default=1)
        if not silent and not surely:
            return None
        silence = f"no record came, the last did {counted(since, 'day')} ago; {expected}"
        return feed.finding(silence, 0.0, p, working_day, False)
    if baseline is None or not surely:
        return None
    multiple = feed.came / max(baseline.records, 1.0)
    what = f"{counted(feed.came, 'record')} came, {expected}"
    if multiple < settings.volume_low:
        return feed.finding(what, multiple, p, working_day, False)
    # More than on any weekday, and more than what piled up while nothing came.
    others = (WeekdayBaseline.of(feed.past, weekday) for weekday in range(7))
    most = max(other.records for other in others if other)
    if most >= 1 and feed.came > settings.volume_high * most * max(since, 1):
        return feed.finding(what, multiple, p, True, bool(feed.shards))
    return None


def _feeds(tonight: Sequence[FreshShard], nights: Sequence[Night], today: date, days: int) -> list[_Feed]:
    """All records first, then each site that past nights know."""
    past = _recent(nights, today, days)
    # A second run of a day judges the whole day.
    earlier = [night for night in nights if date.fromisoformat(night.date) == today]
    came = sum(shard.rows.num_rows for shard in tonight) + sum(night.records for night in earlier)
    filled = tuple(sorted(shard.key for shard in tonight if shard.rows.num_rows))
    found = [_Feed("", today, _by_date(past, ""), came, filled)]
    of_shard = {shard.key: Counter(texts(shard.rows, "site")) for shard in tonight}
    # Nights that came before sites were known say nothing of them.
    known = [night for night in past if night.sites or not night.records]
    for site in sorted({name for night in past for name in night.sites}):
        came = sum(counts[site] for counts in of_shard.values()) + sum(night.sites.get(site, 0) for night in earlier)
        shards = tuple(sorted(key for key, counts in of_shard.items() if counts[site]))
        found.append(_Feed(site, today, _by_date(known, site), came, shards))
    return found


def _recent(nights: Sequence[Night], today: date, days: int) -> list[Night]:
    return [night for night in nights if today - timedelta(days=days) <= date.fromisoformat(night.date) < today]


def _by_date(nights: Sequence[Night], site: str) -> Counter[date]:
    counts: Counter[date] = Counter()
    for night in nights:
        counts[date.fromisoformat(night.date)] += night.sites.get(site, 0) if site else night.records
    return counts


def _days(hours: float) -> str:
    return counted(round(hours), "hour") if abs(hours) < 72 else counted(round(hours / 24), "day")
