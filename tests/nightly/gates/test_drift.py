"""Drift: what is an alarm, whose shards are held, and what is told and no more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ecgscale.config import GateSettings
from ecgscale.errors import EcgscaleError
from ecgscale.nightly.gates.drift import find_drift
from ecgscale.nightly.gates.evidence import Evidence, Finding, FreshShard
from ecgscale.nightly.gates.reference import Reference
from tests.worlds.formula.explained_rows import OUTPUTS, K, before, explained, quarantined, reference, shard


def drift(
    tonight: list[FreshShard], trailing: Sequence[FreshShard] = (), settings: GateSettings | None = None, **given: Any
) -> list[Finding]:
    settings = settings or GateSettings()
    evidence = Evidence.of(tonight, trailing, settings.windows[-1], settings.window_records)
    return find_drift(evidence, given.get("reference", reference()), settings, given.get("names", OUTPUTS))


def alarms(findings: list[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.alarm]


def sound_weeks(records: int) -> list[FreshShard]:
    return before([explained(records, 200 + night) for night in range(28)])


def test_a_sound_night_says_nothing() -> None:
    assert not drift([shard("a", explained(400))], sound_weeks(300))


def test_a_shift_is_an_alarm_that_names_cluster_output_and_shard() -> None:
    found = drift([shard("a", explained(400, shift=1.5))], sound_weeks(300))
    assert {finding.what for finding in alarms(found)} >= {"cluster 0", "output A"}
    assert {finding.shards for finding in alarms(found)} == {("a",)}
    cluster = next(finding for finding in found if finding.what == "cluster 0" and finding.group == "all records")
    assert cluster.effect is not None
    assert cluster.effect > 0.5
    assert cluster.nights == 1
    assert cluster.message.startswith("all records, 2026-05-06: cluster 0 takes")
    assert "held back: a" in cluster.message
    assert f"in {cluster.records} patients (Cliff's delta" in cluster.message


def test_thirty_shifted_records_after_weeks_of_sound_ones() -> None:
    found = drift([shard("a", explained(30, shift=2.0))], sound_weeks(30))
    assert {finding.shards for finding in alarms(found)} == {("a",)}


def test_below_the_minimum_it_is_told_and_not_held() -> None:
    found = drift([shard("a", explained(30, shift=2.0))], sound_weeks(5))
    assert found
    assert not alarms(found)
    assert all("fewer than 300 patients" in finding.message for finding in found)
    assert alarms(drift([shard("a", explained(300, shift=2.0))]))


def test_a_small_reference_holds_nothing_back() -> None:
    found = drift([shard("a", explained(400, shift=2.0))], reference=reference(200))
    assert found
    assert not alarms(found)


def test_a_medium_shift_in_many_records_is_told_only() -> None:
    found = drift([shard("a", explained(5000, shift=0.6))])
    assert found
    assert not alarms(found)
    assert "a shift under 0.474 is no alarm" in found[0].message


def test_the_shards_that_moved_are_held_and_no_others() -> None:
    tonight = [shard(f"sound-{i}", explained(200, i)) for i in range(4)]
    tonight.append(shard("moved", explained(200, 9, shift=1.5)))
    found = drift(tonight, sound_weeks(300))
    assert {finding.shards for finding in alarms(found)} == {("moved",)}
    assert "shard moved" in {finding.group for finding in alarms(found)}


def test_a_site_that_moved_is_named_and_its_shards_are_held() -> None:
    tonight = [
        shard("both", explained(200, 1, site="north"), explained(100, 2, site="south", shift=1.5)),
        shard("north", explained(200, 3, site="north")),
    ]
    found = drift(tonight, sound_weeks(300))
    assert {finding.shards for finding in alarms(found)} == {("both",)}
    assert "site south" in {finding.group for finding in alarms(found)}
    assert "site north" not in {finding.group for finding in alarms(found)}


def test_only_one_site_records_at_the_weekend() -> None:
    assert not drift([shard("a", explained(400, site="south"))], sound_weeks(100))


def test_a_shift_too_weak_for_one_night_is_found_in_two() -> None:
    weeks = sound_weeks(30)
    weak = [explained(16, 7, shift=1.1), explained(16, 8, shift=1.1)]
    assert not alarms(drift([shard("a", weak[0])], weeks))
    yesterday = FreshShard("b", weak[0], "2026-05-05")
    found = alarms(drift([shard("a", weak[1])], [*weeks[:-1], yesterday]))
    assert found
    assert {finding.nights for finding in found} == {2}
    assert found[0].shards == ("a",)
    assert found[0].earlier == ("b",)
    assert "published before and moved too: b" in found[0].message
    assert found[0].message.startswith("all records, 2 nights to 2026-05-06: ")


def test_what_moved_before_does_not_hold_a_sound_night() -> None:
    moved = before([explained(300, 300 + night, shift=1.5) for night in range(6)])
    found = drift([shard("a", explained(300))], moved)
    assert found
    assert not alarms(found)
    assert any("none of the night's shards moved" in finding.message for finding in found)


def test_one_record_a_patient() -> None:
    one = explained(1, shift=3.0)
    many = pa.concat_tables([one.set_column(0, "record_id", [[f"r{i}"]]) for i in range(300)])
    assert not alarms(drift([shard("a", explained(100, 5), many)], sound_weeks(300)))


def test_length_and_flags_are_looked_at() -> None:
    short = pa.array(np.full(100, 2000), pa.int32())
    found = drift([shard("a", explained(100, valid_stop=short))], sound_weeks(30))
    assert {finding.what for finding in alarms(found)} == {"seconds recorded"}
    assert "is 5, 10 in the reference (medians)" in found[0].message
    flagged = pa.array([["flat_lead:V1", "flat_lead:V2"]] * 60 + [[]] * 40)
    found = drift([shard("a", explained(100, flags=flagged))], sound_weeks(30))
    assert {finding.what for finding in alarms(found)} == {"flag flat_lead"}
    assert "is set on 60.0%, 0.0% in the reference" in found[0].message


def test_a_new_site_is_compared_with_all() -> None:
    assert not drift([shard("a", explained(300, site="east", device=["cart-north"] * 300))], sound_weeks(30))


def test_nothing_explained_tonight_is_no_drift() -> None:
    assert not drift([], sound_weeks(300))
    assert not drift([shard("a", quarantined(50))], sound_weeks(300))


def test_without_a_reference_it_is_told() -> None:
    [found] = drift([shard("a", explained(5, shift=3.0))], reference=None)
    assert not found.alarm
    assert "no reference period" in found.message


def test_a_reference_of_another_dataset_is_refused() -> None:
    with pytest.raises(EcgscaleError, match="knows the outputs A, B, C"):
        drift([shard("a", explained(5))], names=("X", "B", "C"))
    wider = pa.array(np.full((9, K + 1), 1 / (K + 1), np.float32).tolist(), pa.list_(pa.float32(), K + 1))
    other = Reference.of([explained(9, proportions=wider)], "k5-0", OUTPUTS)
    with pytest.raises(EcgscaleError, match="another cluster model"):
        drift([shard("a", explained(5))], reference=other)
    with pytest.raises(EcgscaleError, match="3 outputs of the network a record; expected 2"):
        drift([shard("a", explained(5))], names=("A", "B"), reference=Reference.of([explained(9)], "k", ("A", "B")))


def test_the_same_rows_in_other_shards_and_another_order_say_the_same() -> None:
    rows = explained(600, shift=1.5)
    one = drift([shard("a", rows)], sound_weeks(30))
    assert one == drift([shard("a", rows)], list(reversed(sound_weeks(30))))


def test_traits_of_the_signal_are_looked_at_where_they_are_there() -> None:
    rng = np.random.default_rng(4)

    def with_polarity(rows: pa.Table, sign: int) -> pa.Table:
        return rows.append_column("trait_polarity", pa.array(sign * rng.beta(8, 2, rows.num_rows), pa.float32()))

    known = Reference.of([with_polarity(explained(2000, 99), 1)], "k4-0", OUTPUTS)
    trailing = before([with_polarity(explained(30, 200 + night), 1) for night in range(28)])
    reversed_arms = shard("a", with_polarity(explained(30), -1))
    [found] = alarms(drift([reversed_arms], trailing, reference=known))
    assert found.what == "correlation of I and V6"
    assert found.shards == ("a",)
    assert found.cluster is not None
    assert f"of the clusters, {found.cluster} moved most" in found.message
    assert not drift([reversed_arms], sound_weeks(30))
    # Of too few records is the trait known: told only.
    assert not alarms(drift([reversed_arms], sound_weeks(30), reference=known))


def test_differences_that_mean_nothing_are_rounded_away() -> None:
    longer = pa.array(np.full(400, 4004), pa.int32())
    assert not drift([shard("a", explained(400, valid_stop=longer))], sound_weeks(300))


def test_one_broken_device_does_not_hold_back_its_site() -> None:
    carts = ["cart-1"] * 60 + ["cart-2"] * 140
    known = Reference.of(
        [explained(1500, 98, site="north", device=["cart-1", "cart-2"] * 750), explained(500, 97, site="south")],
        "k4-0",
        OUTPUTS,
    )
    north = explained(200, 1, site="north", device=carts)
    moved = explained(200, 1, site="north", device=carts, shift=3.0)
    tonight = [
        shard("cart-1", moved.slice(0, 60)),
        shard("cart-2", north.slice(60)),
        shard("south", explained(200, 3, site="south")),
    ]
    found = alarms(drift(tonight, sound_weeks(300), reference=known))
    assert {finding.shards for finding in found} == {("cart-1",)}
    assert not {finding.group for finding in found} & {"site north", "all records"}
