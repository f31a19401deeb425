"""All gates together, the report, settings, and the quarantine rate."""

from __future__ import annotations

import json
from datetime import datetime, timedelta

import pyarrow as pa
import pytest
from pydantic import ValidationError

from ecgscale.config import GateSettings
from ecgscale.errors import UsageError
from ecgscale.nightly.gates.counts import check_quarantine
from ecgscale.nightly.gates.evidence import Evidence, Finding, Night, without_echoes
from ecgscale.nightly.gates.gatekeeper import judge
from tests.worlds.formula.explained_rows import NOW, OUTPUTS, before, explained, quarantined, reference, shard, week_of

SETTINGS = GateSettings()


def quarantine(tonight: list, trailing: list | None = None, settings: GateSettings = SETTINGS) -> list[Finding]:
    return check_quarantine(Evidence.of(tonight, trailing or [], 28, 20_000), settings)


def test_a_sound_night_passes() -> None:
    report = judge(
        [shard("a", explained(290))],
        before([explained(290, 5)]),
        week_of((290,) * 7),
        reference(),
        SETTINGS,
        NOW,
        OUTPUTS,
    )
    assert report.passed
    assert report.to_dict() == {"passed": True, "held": [], "findings": []}


def test_all_gates_speak_and_the_report_is_json() -> None:
    stale = pa.array([NOW - timedelta(days=9)] * 40, pa.timestamp("us", "UTC"))
    tonight = [shard("a", explained(40, shift=3.0, acquired_at=stale)), shard("b", quarantined(40, acquired_at=stale))]
    report = judge(tonight, before([explained(300, 5)]), week_of((900,) * 7), reference(), SETTINGS, NOW, OUTPUTS)
    assert {finding.gate for finding in report.alarms} == {"quarantine_rate", "freshness", "volume", "drift"}
    assert not report.passed
    assert report.held == ("a", "b")
    read_back = json.loads(json.dumps(report.to_dict()))
    assert read_back["held"] == ["a", "b"]
    assert read_back["findings"][0]["alarm"]
    assert "p0-" not in json.dumps(read_back)


def test_a_night_on_which_nothing_came_fails_and_holds_nothing() -> None:
    report = judge([], before([explained(290, 5)]), week_of((290,) * 7), reference(), SETTINGS, NOW, OUTPUTS)
    assert not report.passed
    assert not report.held


def test_the_first_night_of_all_passes() -> None:
    report = judge([shard("a", explained(30))], [], [], None, SETTINGS, NOW, OUTPUTS)
    assert report.passed
    assert [finding.what for finding in report.findings] == ["reference"]


def test_a_time_needs_its_zone() -> None:
    with pytest.raises(UsageError, match="time zone"):
        judge([], [], [], None, SETTINGS, datetime(2026, 5, 6), OUTPUTS)


def test_one_bad_record_of_five_is_chance_and_five_are_not() -> None:
    assert not quarantine([shard("a", explained(4), quarantined(1))])
    [found] = quarantine([shard("a", quarantined(5))])
    assert found.alarm
    assert found.shards == ("a",)
    assert "5 of 5 records are quarantined" in found.message
    assert "flat_signal (5)" in found.message
    assert found.message.startswith("all records, 2026-05-06: ")


def test_what_is_kept_of_an_alarm_stays_true_and_names_no_other_shard() -> None:
    tonight = [shard(f"part-{i}", quarantined(300, i)) for i in range(7)]
    [found] = quarantine(tonight)
    assert (
        found.found
        == "all records, 2026-05-06: 2100 of 2100 records are quarantined (100.0%, allowed are 5.0%): "
        + ("flat_signal (2100)")
    )
    assert found.message == f"{found.found}; held back: part-0, part-1, part-2, part-3, part-4 and 2 more"
    assert len(found.shards) == 7
    assert "found" not in found.to_dict()


def test_the_shard_that_is_over_the_rate_is_held() -> None:
    tonight = [shard(f"s{i}", explained(500, i), quarantined(3, i)) for i in range(9)]
    tonight.append(shard("bad", explained(200, 20), quarantined(100, 20)))
    found = quarantine(tonight)
    assert {finding.group for finding in found} == {"shard bad"}
    assert found[0].shards == ("bad",)


def test_a_site_over_the_rate_is_named() -> None:
    south = quarantined(60).set_column(11, "site", pa.array(["south"] * 60))
    north = explained(2000, site="north")
    found = quarantine([shard("a", north, south), shard("b", explained(1000, 3, site="north"))])
    assert "site south" in {finding.group for finding in found}
    assert {finding.shards for finding in found} <= {(), ("a",)}


def test_a_rate_too_high_by_little_is_found_over_many_nights() -> None:
    bad = [pa.concat_tables([explained(27, 50 + i), quarantined(3, 50 + i)]) for i in range(28)]
    [found] = quarantine([shard("a", bad[-1])], before(bad[:-1]))
    assert found.nights > 1
    assert found.shards == ("a",)
    [found] = quarantine([shard("a", explained(30, 90))], before(bad[:-1]))
    assert not found.alarm


def test_the_allowed_rate_is_a_setting() -> None:
    rows = [shard("a", explained(700), quarantined(300))]
    assert quarantine(rows)
    assert not quarantine(rows, settings=GateSettings(quarantine_rate=0.4))


def test_a_night_for_the_run_record() -> None:
    tonight = [shard("a", explained(30, site="north")), shard("b", explained(10, site="south"), quarantined(2, 7))]
    night = Night.of(tonight, NOW)
    assert (night.date, night.records, night.quarantined, night.newest_hours) == ("2026-05-06", 42, 2, 5.0)
    assert sum(night.sites.values()) == 42
    assert Night(**json.loads(json.dumps(night.to_dict()))) == night
    assert Night.of([], NOW) == Night("2026-05-06", 0, 0)


def test_settings_are_checked() -> None:
    with pytest.raises(ValidationError, match="Extra inputs"):
        GateSettings.model_validate({"quarantine": 0.1})
    for windows in ([], [2, 7], [1, 7, 2]):
        with pytest.raises(ValidationError, match="has to begin with 1"):
            GateSettings.model_validate({"windows": windows})
    settings = GateSettings.model_validate({"windows": [1, 3], "holidays": ["2026-12-25"]})
    assert settings.windows == (1, 3)
    assert settings.holidays[0].year == 2026


def test_parts_that_repeat_the_whole_are_not_told_again() -> None:
    def finding(group: str, effect: float, *shards: str) -> Finding:
        return Finding("drift", True, group, "cluster 7", "", effect=effect, shards=shards)

    whole = finding("all records", 0.5, "a", "b")
    stronger, other = finding("site north", 0.9, "a"), finding("site south", 0.5, "c")
    assert without_echoes([whole, finding("site west", 0.6, "a"), stronger, other]) == [whole, stronger, other]
