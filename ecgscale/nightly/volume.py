"""Volume and freshness: did about as many records come as on such a weekday, and are they new?

Both fail the night; what did not come cannot be held back. Only a flood is held: it is to be looked at before it is
published. Formulae: docs/gates.md.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise

import numpy as np

from ecgscale.gate_settings import GateSettings
from ecgscale.nightly.evidence import FreshShard, Night, texts
from ecgscale.nightly.findings import ALL, Finding, held_back
from ecgscale.nightly.usual import Usual
from ecgscale.words import counted

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
