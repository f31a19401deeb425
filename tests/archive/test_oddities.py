"""Flags of what is odd about a recording: set where it was made so, and nowhere else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest

from ecgscale.archive.oddities import Recordings, absurd, oddities
from ecgscale.archive.synthetic.simulation import simulate_records
from ecgscale.leads import CANONICAL_LEADS

RECORDS = 100
AT = {lead: i for i, lead in enumerate(CANONICAL_LEADS)}


@lru_cache(maxsize=2)
def clean(rate: float = 500.0) -> Recordings:
    """Simulated recordings, as they should be."""
    table = simulate_records(11, 0, RECORDS, rate=rate)
    signals = table["signal"].combine_chunks().flatten().to_numpy().reshape(RECORDS, 12, -1)
    return Recordings(signals, CANONICAL_LEADS, rate, np.full(RECORDS, 1000.0), np.ones((RECORDS, 12), bool))


def changed(change: Callable[[np.ndarray], np.ndarray], rate: float = 500.0) -> Recordings:
    """Simulated recordings to which something was done."""
    fresh = clean(rate)
    return Recordings(
        change(fresh.signals.astype(np.float32)), fresh.leads, fresh.rate, fresh.units_per_mv, fresh.sound
    )


def counts(recordings: Recordings) -> Counter[str]:
    """How many recordings have each flag."""
    return Counter(flag for flags in oddities(recordings) for flag in set(flags))


@pytest.mark.parametrize("rate", [500.0, 100.0])
def test_recordings_that_are_as_they_should_be_have_no_flags(rate: float) -> None:
    assert counts(clean(rate)) == {}
    assert counts(changed(lambda x: x, rate)) == {}
    assert not absurd(clean(rate)).any()


@pytest.mark.parametrize("factor", [1000.0, 0.001])
def test_a_unit_that_is_off_by_a_thousand(factor: float) -> None:
    recordings = changed(lambda x: factor * x)
    assert counts(recordings) == {"implausible_amplitude": RECORDS}
    assert not absurd(recordings).any()


@pytest.mark.parametrize("factor", [1e12, 1e-12])
def test_what_no_body_can_have(factor: float) -> None:
    assert absurd(changed(lambda x: factor * x)).all()


def test_one_lead_of_another_unit() -> None:
    def change(x: np.ndarray) -> np.ndarray:
        x[:, AT["V2"]] *= 1000
        x[:, AT["V5"]] /= 1000
        return x

    found = counts(changed(change))
    assert found["implausible_amplitude:V2"] == found["implausible_amplitude:V5"] == RECORDS
    assert "implausible_amplitude" not in found


def test_a_rail_and_clipped_peaks_are_saturated() -> None:
    def railed(x: np.ndarray) -> np.ndarray:
        x[:, AT["II"], 100:140] = 32767
        return x

    def clipped(x: np.ndarray) -> np.ndarray:
        limit = np.quantile(np.abs(x), 0.995, axis=-1, keepdims=True)
        return np.clip(x, -limit, limit)

    assert counts(changed(railed))["saturated:II"] == RECORDS
    found = oddities(changed(clipped))
    assert sum(any(flag.startswith("saturated") for flag in flags) for flags in found) > 0.9 * RECORDS


def test_held_samples_are_not_saturated() -> None:
    held = changed(lambda x: np.repeat(x[..., ::5], 5, axis=-1)[..., : x.shape[-1]])
    assert not any(flag.startswith("saturated") for flag in counts(held))


def test_leads_that_are_equal() -> None:
    def change(x: np.ndarray) -> np.ndarray:
        x[:, AT["V2"]] = x[:, AT["V1"]]
        return x

    assert counts(changed(change)) == {"duplicate_leads:V1=V2": RECORDS}


@pytest.mark.parametrize(
    ("change", "flag"),
    [
        ({"III": -1.0}, "einthoven_violated"),
        ({"I": 5.0}, "einthoven_violated"),
        ({"aVR": -1.0}, "einthoven_violated:aVR"),
        ({"aVF": 5.0}, "einthoven_violated:aVF"),
    ],
)
def test_limb_leads_that_are_not_each_others_sums(change: dict[str, float], flag: str) -> None:
    def apply(x: np.ndarray) -> np.ndarray:
        for lead, factor in change.items():
            x[:, AT[lead]] *= factor
        return x

    assert counts(changed(apply))[flag] > 0.9 * RECORDS


def test_a_lead_that_was_exchanged_for_another() -> None:
    def apply(x: np.ndarray) -> np.ndarray:
        x[:, [AT["aVL"], AT["aVF"]]] = x[:, [AT["aVF"], AT["aVL"]]]
        return x

    found = counts(changed(apply))
    assert found["einthoven_violated:aVL"] > 0.8 * RECORDS


ARMS = {"I": ("I", -1), "II": ("III", 1), "III": ("II", 1), "aVR": ("aVL", 1), "aVL": ("aVR", 1)}
ARM_AND_LEG = {"I": ("III", -1), "II": ("II", -1), "III": ("I", -1), "aVR": ("aVF", 1), "aVF": ("aVR", 1)}


@pytest.mark.parametrize(
    ("exchange", "flag", "at_least"), [(ARMS, "limb_reversal:RA-LA", 0.15), (ARM_AND_LEG, "limb_reversal:RA-LL", 0.6)]
)
def test_electrodes_that_were_exchanged(exchange: dict[str, tuple[str, int]], flag: str, at_least: float) -> None:
    def apply(x: np.ndarray) -> np.ndarray:
        moved = x.copy()
        for lead, (other, sign) in exchange.items():
            moved[:, AT[lead]] = sign * x[:, AT[other]]
        return moved

    found = counts(changed(apply))
    assert found[flag] > at_least * RECORDS
    # They obey Einthoven all the same.
    assert not any(name.startswith("einthoven") for name in found)


@pytest.mark.parametrize(
    ("exchange", "flag", "at_least"),
    [
        ({"V1": ("V3", 1), "V3": ("V1", 1)}, "chest_reversal:V1-V3", 0.8),
        ({"V2": ("V6", 1), "V6": ("V2", 1)}, "chest_reversal:V2-V6", 0.8),
        ({f"V{i}": (f"V{7 - i}", 1) for i in range(1, 7)}, "chest_reversal:V6-V1", 0.8),
        ({"V2": ("V2", -1)}, "inverted_lead:V2", 0.8),
        ({"V5": ("V5", -1)}, "inverted_lead:V5", 0.8),
    ],
)
def test_chest_electrodes_that_were_exchanged(exchange: dict[str, tuple[str, int]], flag: str, at_least: float) -> None:
    def apply(x: np.ndarray) -> np.ndarray:
        moved = x.copy()
        for lead, (other, sign) in exchange.items():
            moved[:, AT[lead]] = sign * x[:, AT[other]]
        return moved

    found = counts(changed(apply))
    assert found[flag] > at_least * RECORDS
    assert found.total() - found[flag] < 0.1 * RECORDS


@pytest.mark.parametrize("exchange", [ARMS, ARM_AND_LEG, {"I": ("II", 1), "II": ("I", 1), "III": ("III", -1)}])
def test_limb_electrodes_are_not_taken_for_chest_ones(exchange: dict[str, tuple[str, int]]) -> None:
    def apply(x: np.ndarray) -> np.ndarray:
        moved = x.copy()
        for lead, (other, sign) in exchange.items():
            moved[:, AT[lead]] = sign * x[:, AT[other]]
        return moved

    assert not any(flag.startswith(("chest", "inverted")) for flag in counts(changed(apply)))


def test_leads_that_are_not_sound_have_no_flags() -> None:
    fresh = clean()
    signals = fresh.signals.astype(np.float32)
    signals[:, AT["II"], 10:20] = np.nan
    signals[:, AT["V1"]] = 5
    sound = fresh.sound.copy()
    sound[:, [AT["II"], AT["V1"]]] = False
    assert counts(replace(fresh, signals=signals, sound=sound)) == {}


@pytest.mark.parametrize(
    ("samples", "rate"), [(1, 500.0), (2, 500.0), (30, 500.0), (5000, 1.0), (5000, 0.2), (10, 1e9)]
)
def test_any_length_at_any_rate(samples: int, rate: float) -> None:
    fresh = clean()
    found = oddities(replace(fresh, signals=fresh.signals[..., :samples], rate=rate))
    assert len(found) == RECORDS
    # What is too short to judge by is not held against the leads.
    assert not {flag for flags in found for flag in flags if flag.startswith(("limb_reversal", "saturated"))}


def test_what_is_said_of_a_recording_does_not_depend_on_its_neighbours() -> None:
    mixed = changed(lambda x: x * np.where(np.arange(RECORDS) % 3 == 0, 1000, 1)[:, None, None])
    together = oddities(mixed)
    parts = [slice(i, i + 7) for i in range(0, RECORDS, 7)]
    alone = [
        flags
        for part in parts
        for flags in oddities(
            Recordings(mixed.signals[part], mixed.leads, mixed.rate, mixed.units_per_mv[part], mixed.sound[part])
        )
    ]
    assert together == alone
