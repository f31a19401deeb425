"""Each reason for quarantine, found in a batch among good records."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ecgscale.archive.validate import RECORD_STATUS, STATUS_MEANING, check_batch, describe
from ecgscale.leads import CANONICAL_LEADS
from tests.worlds.formula.recordings import batch_of, record, wave

FLAT = np.full((12, 200), 7, dtype=np.int16)


def checked(*rows: dict[str, Any], signal: str = "int16") -> tuple[list[str], list[list[str]]]:
    return check_batch(batch_of(rows, signal), set())


@pytest.mark.parametrize(
    ("columns", "status"),
    [
        ({"record_id": None}, "missing_record_id"),
        ({"record_id": "  "}, "missing_record_id"),
        ({"record_id": "1"}, "duplicate_record_id"),
        ({"signal": np.zeros((12, 0), dtype=np.int16)}, "empty_signal"),
        ({"signal": np.zeros((0, 0), dtype=np.int16), "leads": []}, "empty_signal"),
        ({"leads": []}, "malformed_signal"),
        ({"leads": ["I"] * 12}, "malformed_signal"),
        ({"leads": ["I", "DI", *"ABCDEFGHIJ"]}, "malformed_signal"),
        ({"leads": ["I", "II", "III", "V1", "V2", "V3", "V4"]}, "malformed_signal"),
        ({"sampling_rate": 0.0}, "bad_sampling_rate"),
        ({"sampling_rate": -1.0}, "bad_sampling_rate"),
        ({"sampling_rate": float("nan")}, "bad_sampling_rate"),
        ({"sampling_rate": float("inf")}, "bad_sampling_rate"),
        ({"sampling_rate": None}, "bad_sampling_rate"),
        ({"units_per_mv": 0.0}, "bad_units"),
        ({"units_per_mv": None}, "bad_units"),
        ({"valid_start": -1}, "bad_valid_span"),
        ({"valid_start": 100, "valid_stop": 100}, "bad_valid_span"),
        ({"valid_stop": 201}, "bad_valid_span"),
        ({"signal": FLAT}, "flat_signal"),
    ],
)
def test_each_reason_is_found_and_the_neighbours_are_not_touched(columns: dict[str, Any], status: str) -> None:
    found, flags = checked(record("1"), record("2", **columns), record("3"))
    assert found == ["ok", status, "ok"]
    assert flags == [[], [], []]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [(0, 0), (11, 199)])
def test_samples_that_are_no_numbers(value: float, place: tuple[int, int]) -> None:
    bad = wave(2).astype(np.float32)
    bad[place] = value
    rows = [record(str(i), signal=wave(i).astype(np.float32)) for i in range(4)]
    rows[1] = record("1", signal=np.zeros((12, 0), dtype=np.float32))
    rows[2]["signal"] = bad
    raw, lead = batch_of(rows, "float32"), CANONICAL_LEADS[place[0]]
    told = [[], [], [f"non_finite_lead:{lead}"], []]
    assert check_batch(raw, set(), CANONICAL_LEADS) == (["ok", "empty_signal", "non_finite_samples", "ok"], told)
    # Without a network nobody knows whether the lead is needed.
    assert check_batch(raw, set()) == (["ok", "empty_signal", "non_finite_samples", "ok"], told)
    assert check_batch(raw, set(), ("II", "V3")) == (["ok", "empty_signal", "ok", "ok"], [[]] * 4)


def test_a_lead_that_is_needed_to_derive_another_is_needed() -> None:
    bad = wave(2, leads=3).astype(np.float32)
    bad[0, 7] = np.nan
    raw = batch_of([record("1", signal=bad, leads=["I", "II", "V1"])], "float32")
    assert check_batch(raw, set(), ("III",))[0] == ["non_finite_samples"]
    assert check_batch(raw, set(), ("II", "V1"))[0] == ["ok"]


def test_leads_that_are_not_taken_decide_nothing() -> None:
    odd = wave(5, leads=4)
    odd[0], odd[2] = 3, odd[3]
    raw = batch_of([record("1", signal=odd, leads=["I", "II", "ECG", "ECG"])])
    assert check_batch(raw, set(), ("II",)) == (["ok"], [[]])
    assert check_batch(raw, set(), ("II", "ECG"))[0] == ["malformed_signal"]
    assert check_batch(raw, set(), ("I",))[0] == ["flat_signal"]
    assert check_batch(raw, set())[0] == ["malformed_signal"]


@pytest.mark.parametrize(
    ("units", "status", "flags"),
    [
        (1e-30, "bad_units", []),
        (1e-18, "bad_units", []),
        (1e-4, "bad_units", []),
        (1.0, "ok", ["implausible_amplitude"]),
        (1e6, "ok", ["implausible_amplitude"]),
        (1e12, "bad_units", []),
        (1e30, "bad_units", []),
    ],
)
def test_a_unit_that_makes_no_voltage_of_a_body(units: float, status: str, flags: list[str]) -> None:
    assert checked(record("1", units_per_mv=units)) == ([status], [flags])
    # Small numbers in a small unit are millivolts all the same.
    if units < 1:
        right = record("2", signal=(wave(2) / 1000 * units).astype(np.float32), units_per_mv=units)
        assert checked(right, signal="float32") == (["ok"], [[]])


def test_flat_means_flat_over_the_valid_span() -> None:
    padded = np.zeros((12, 200), dtype=np.int16)
    padded[:, 50:150] = wave(3, samples=100)
    inside = FLAT.copy()
    inside[:, :50] = wave(4, samples=50)
    found, _ = checked(
        record("1", signal=padded, valid_start=50, valid_stop=150),
        record("2", signal=inside, valid_start=50, valid_stop=150),
        record("3", signal=inside),
    )
    assert found == ["ok", "flat_signal", "ok"]


def test_flat_leads_are_flagged_by_name() -> None:
    one = wave(5)
    one[[6, 11]] = -3
    almost = wave(6)
    almost[7] = 0
    almost[7, 123] = 1
    odd = wave(7, leads=3)
    odd[0] = 0
    found, flags = checked(
        record("1", signal=one), record("2", signal=almost), record("3", signal=odd, leads=["DI", "II", "V1"])
    )
    assert found == ["ok"] * 3
    assert flags == [["flat_lead:V1", "flat_lead:V6"], ["implausible_amplitude:V2"], ["flat_lead:I"]]


def test_shapes_may_be_mixed_in_any_order() -> None:
    rows = [record(str(i), signal=wave(i, samples=100 + 50 * (i % 3))) for i in range(20)]
    rows[7]["signal"] = FLAT[:, :150]
    found, _ = checked(*rows)
    assert found == ["ok"] * 7 + ["flat_signal"] + ["ok"] * 12


def test_ids_seen_before_are_duplicates() -> None:
    seen: set[str] = set()
    assert check_batch(batch_of([record("1"), record("2")]), seen)[0] == ["ok", "ok"]
    assert check_batch(batch_of([record("2"), record("3")]), seen)[0] == ["duplicate_record_id", "ok"]
    assert seen == {"1", "2", "3"}


def test_a_problem_is_described_for_a_person() -> None:
    raw = batch_of([record("1"), record("2", sampling_rate=0.0)])
    assert describe(raw, 1, "bad_sampling_rate") == (
        "part-00000.parquet, row 1, record '2': bad_sampling_rate: sampling_rate not a positive number "
        "(found sampling_rate 0)"
    )


def test_the_list_is_closed() -> None:
    assert set(STATUS_MEANING) == set(RECORD_STATUS)
