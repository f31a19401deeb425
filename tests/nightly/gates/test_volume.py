"""Volume and freshness: dead feeds, thin nights, floods, and everything that looks like one and is none."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta

import pyarrow as pa
import pytest

from ecgscale.config import GateSettings
from ecgscale.nightly.gates.counts import WeekdayBaseline, check_freshness, check_volume
from ecgscale.nightly.gates.evidence import Finding, FreshShard, Night
from tests.worlds.formula.explained_rows import NOW, explained, shard, week_of

WEEK = (300, 310, 290, 300, 280, 90, 80)
SETTINGS = GateSettings()


def came(records: int, **columns: object) -> list[FreshShard]:
    return [shard("part-0.parquet", explained(records, **columns))] if records else []  # type: ignore[arg-type]


def volume(records: int, nights: list[Night], settings: GateSettings = SETTINGS, days: int = 0) -> list[Finding]:
    return check_volume(came(records), nights, settings, NOW + timedelta(days=days))


def test_a_usual_night_says_nothing() -> None:
    assert not volume(290, week_of(WEEK))
    assert not volume(230, week_of(WEEK))
    assert not volume(420, week_of(WEEK))


def test_a_dead_feed_is_an_alarm_that_holds_nothing() -> None:
    [found] = volume(0, week_of(WEEK))
    assert found.alarm
    assert not found.shards
    assert found.group == "all records"
    assert "no record came" in found.message
    assert "Wednesday are 290" in found.message


def test_a_thin_night_is_an_alarm_and_what_came_is_published() -> None:
    [found] = volume(60, week_of(WEEK))
    assert found.alarm
    assert found.effect == pytest.approx(60 / 290, abs=0.02)
    assert not found.shards


def test_a_sunday_is_not_a_thin_wednesday() -> None:
    sunday = 4
    nights = week_of(WEEK)
    nights += [Night((NOW + timedelta(days=days)).date().isoformat(), 290, 0) for days in range(sunday)]
    assert not volume(80, nights, days=sunday)
    assert volume(80, week_of(WEEK))


def test_on_a_holiday_it_is_told_only() -> None:
    [found] = volume(0, week_of(WEEK), GateSettings(holidays=(NOW.date(),)))
    assert not found.alarm
    assert "holiday" in found.message


def test_a_flood_is_held() -> None:
    [found] = volume(5000, week_of(WEEK))
    assert found.alarm
    assert found.shards == ("part-0.parquet",)


def test_what_piled_up_during_an_outage_is_no_flood() -> None:
    nights = week_of(WEEK)
    nights[-4:] = [replace(night, records=0) for night in nights[-4:]]
    assert not volume(1500, nights)


def test_a_weekday_on_which_usually_nothing_comes() -> None:
    closed = (300, 300, 0, 300, 300, 0, 0)
    assert not volume(0, week_of(closed))
    assert not volume(250, week_of(closed))


def test_few_records_a_night_are_left_to_chance() -> None:
    assert not volume(0, week_of((3, 3, 3, 3, 3, 1, 1)))
    silent = week_of((3, 3, 3, 3, 3, 1, 1))
    silent[-2:] = [replace(night, records=0) for night in silent[-2:]]
    [found] = volume(0, silent)
    assert found.alarm
    assert found.message.startswith("all records, 2026-05-06: no record came, the last did 3 days ago")


def test_a_young_feed_is_judged_by_its_silence_alone() -> None:
    young = week_of(WEEK, weeks=2)
    assert not volume(30, young)
    assert not volume(0, young)
    young[-2:] = [replace(night, records=0) for night in young[-2:]]
    assert volume(0, young)
    assert not volume(0, [])


def test_a_second_run_of_the_same_day_judges_the_whole_day() -> None:
    nights = week_of(WEEK)
    nights.append(Night(NOW.date().isoformat(), 290, 0))
    assert not volume(0, nights)


def test_wide_swings_are_usual_where_they_are_usual() -> None:
    sizes = [30, 4000, 200, 900, 60, 2500, 400, 1500]
    nights = [replace(night, records=sizes[i % len(sizes)]) for i, night in enumerate(week_of(WEEK))]
    for records in (30, 100, 5000):
        assert not volume(records, nights)


def test_one_site_that_fell_silent_is_named() -> None:
    nights = week_of(WEEK, sites={"north": 0.7, "south": 0.3})
    [found] = check_volume(came(200, site="north"), nights, SETTINGS, NOW)
    assert found.group == "site south"
    assert found.alarm
    assert not check_volume(came(200, site="north"), nights, GateSettings(closed_sites=("south",)), NOW)


def test_sites_are_not_judged_by_nights_that_did_not_know_them() -> None:
    nights = week_of(WEEK, sites={"north": 1.0})
    nights[:-3] = [replace(night, sites={}) for night in nights[:-3]]
    assert not check_volume(came(290, site="south"), nights, SETTINGS, NOW)


def test_old_recordings_are_stale() -> None:
    stale = came(290, acquired_at=pa.array([NOW - timedelta(hours=100)] * 290, pa.timestamp("us", "UTC")))
    [found] = check_freshness(stale, week_of(WEEK), SETTINGS, NOW)
    assert found.alarm
    assert not found.shards
    assert "4 days old, usually 6 hours" in found.message
    assert not check_freshness(came(290), week_of(WEEK), SETTINGS, NOW)


def test_shifted_dates_say_nothing() -> None:
    nights = [replace(night, newest_hours=1000.0 * (i % 9)) for i, night in enumerate(week_of(WEEK))]
    stale = came(290, acquired_at=pa.array([NOW - timedelta(days=900)] * 290, pa.timestamp("us", "UTC")))
    assert not check_freshness(stale, nights, SETTINGS, NOW)
    assert not check_freshness([shard("p", explained(9).drop_columns(["acquired_at"]))], nights, SETTINGS, NOW)


def test_the_usual_needs_four_weeks() -> None:
    counts = {date(2026, 1, 5) + timedelta(days=days): 100 for days in range(27)}
    assert WeekdayBaseline.of(counts, 0) is None
    counts[date(2026, 2, 1)] = 100
    baseline = WeekdayBaseline.of(counts, 0)
    assert baseline is not None
    assert baseline.records == pytest.approx(100)
    assert baseline.spread == pytest.approx(0.0995, abs=1e-3)
    assert baseline.p(100) > 0.4
    assert baseline.p(30) < 1e-6
