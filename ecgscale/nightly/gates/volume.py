"""Volume and freshness: did about as many records come as on such a weekday, and are they new?

Both fail the night; what did not come cannot be held back. Only a flood is held: it is to be looked at before it is
published. Formulae: docs/gates.md.

What is usual on a weekday: so many records, give or take.

Counts vary in two ways: by chance, as counts do, and because no two weeks are alike. Both are estimated on the
logarithm, from all weekdays together, each about its own median.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise

import numpy as np
from scipy.stats import nbinom, poisson, t

from ecgscale.config import GateSettings
from ecgscale.nightly.gates.evidence import FreshShard, Night, texts
from ecgscale.nightly.gates.findings import ALL, Finding, held_back
from ecgscale.words import counted

LEAST_HISTORY_DAYS = 28
LEAST_NIGHTS_A_WEEKDAY = 3
"""Nothing is usual before this much is known."""

_LEAST_SPREAD = 0.05


@dataclass(frozen=True)
class Usual:
    """The usual number of records of a weekday, its median.

    spread: standard deviation of log(1 + records) about the median of the weekday
    nights: how many nights the median is of; freedom: degrees of freedom of the spread
    """

    records: float
    spread: float
    nights: int
    freedom: int

    @classmethod
    def of(cls, counts: Mapping[date, int], weekday: int) -> Usual | None:
        """From records by date of past nights; None when they are too few to call anything usual."""
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

    def finding(self, told: str, multiple: float | None, p: float | None, alarm: bool, hold: bool) -> Finding:
        """What is to say of it."""
        then = "nothing is held back: what came is sound"
        if hold:
            then = held_back(self.shards)
        elif not alarm:
            then = "told only: a holiday"
        found = f"{self}, {self.today}: {told}"
        return Finding(
            gate="volume",
            alarm=alarm,
            group=str(self),
            what="records",
            effect=None if multiple is None else round(multiple, 4),
            p_adjusted=None if p is None else min(1.0, p),
            records=self.came,
            shards=self.shards if hold else (),
            message=f"{found}; {then}",
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
    low, usual, high = np.quantile(ages, [0.1, 0.5, 0.9])
    # Dates that were shifted to protect patients, and those of old collections, do not follow the nights.
    if high - low > _STEADY_HOURS or abs(usual) > _LIVE_HOURS or age <= high + settings.freshness_hours:
        return []
    message = (
        f"all records, {today}: the newest recording is {_told_hours(age)} old, usually {_told_hours(usual)}; something"
        " between the devices and the archive stands still. Nothing is held back: what came is sound"
    )
    return [
        Finding(
            gate="freshness",
            alarm=True,
            group=ALL,
            what="newest recording",
            effect=round(float(age - usual), 2),
            records=sum(shard.rows.num_rows for shard in tonight),
            message=message,
        )
    ]


def _judge(feed: _Feed, today: date, settings: GateSettings, comparisons: int) -> Finding | None:
    """Silent, far less than usual, or far more."""
    with_records = sorted(day for day, records in feed.past.items() if records)
    if not with_records:
        return None
    usual = Usual.of(feed.past, today.weekday())
    p = usual.p(feed.came) * comparisons if usual else None
    surely = p is not None and p < settings.alpha
    told = f"usual for a {today:%A} are {usual.records:.0f}" if usual else "what is usual is not known yet"
    working_day = today not in settings.holidays
    since = (today - with_records[-1]).days
    if not feed.came:
        gaps = [(later - day).days for day, later in pairwise(with_records)]
        silent = since >= settings.silent_nights and since > max(gaps, default=1)
        if not silent and not surely:
            return None
        return feed.finding(
            f"no record came, the last did {counted(since, 'day')} ago; {told}", 0.0, p, working_day, False
        )
    if usual is None or not surely:
        return None
    multiple = feed.came / max(usual.records, 1.0)
    told = f"{counted(feed.came, 'record')} came, {told}"
    if multiple < settings.volume_low:
        return feed.finding(told, multiple, p, working_day, False)
    # More than on any weekday, and more than what piled up while nothing came.
    others = (Usual.of(feed.past, weekday) for weekday in range(7))
    most = max(other.records for other in others if other)
    if most >= 1 and feed.came > settings.volume_high * most * max(since, 1):
        return feed.finding(told, multiple, p, True, bool(feed.shards))
    return None


def _feeds(tonight: Sequence[FreshShard], nights: Sequence[Night], today: date, days: int) -> list[_Feed]:
    """All records first, then each site that past nights know."""
    past = _recent(nights, today, days)
    # A second run of a day judges the whole day.
    earlier = [night for night in nights if date.fromisoformat(night.date) == today]
    found = [
        _Feed(
            "",
            today,
            _by_date(past, ""),
            sum(shard.rows.num_rows for shard in tonight) + sum(night.records for night in earlier),
            tuple(sorted(shard.key for shard in tonight if shard.rows.num_rows)),
        )
    ]
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


def _by_date(nights: Sequence[Night], site: str) -> dict[date, int]:
    counts: dict[date, int] = {}
    for night in nights:
        day = date.fromisoformat(night.date)
        counts[day] = counts.get(day, 0) + (night.sites.get(site, 0) if site else night.records)
    return counts


def _told_hours(hours: float) -> str:
    return counted(round(hours), "hour") if abs(hours) < 72 else counted(round(hours / 24), "day")
