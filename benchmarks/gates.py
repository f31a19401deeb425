"""The quality gates on simulated nights: how often do sound ones fail, and how soon are faulty ones found?

    python -m benchmarks.gates [--quick]

Recordings are simulated, read by a small trained network and explained by the real pass (benchmarks/night_pool.py);
nights are drawn from them (benchmarks/nights.py). Sound nights start with nothing known; faults come after four weeks.
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.night_pool import FAULTS, Pool, PoolSize, make_pool
from benchmarks.nights import Feed, Sizes, anything, growing, sound_nights, steady
from benchmarks.report import Result, main
from benchmarks.timing import rounded
from ecgscale.nightly.gate_settings import GateSettings
from ecgscale.nightly.reference import Reference

NIGHTS = 60
WITHIN = 2
"""Nights within which a fault has to be found."""
REQUIRED = ("gain x10", "arms reversed", "mains hum", "rate doubled", "rate halved")
"""Faults that count for the ratio; the others are told."""
HISTORY = 28


@dataclass(frozen=True)
class Size:
    """The pool, how often sixty sound nights of each kind are repeated, and faults after each history."""

    pool: PoolSize
    levels: tuple[int, ...]
    sound_repeats: int
    fault_repeats: int
    fault_levels: tuple[int, ...] = (30, 100, 300, 1000, 3000)


FULL = Size(PoolSize(1200, 3000, 3000, 10), (30, 100, 300, 1000, 3000), 5, 10)
QUICK = Size(PoolSize(600, 1200, 1200, 6), (30, 300, 3000), 1, 3, (30, 300, 3000))


def run(size: Size, say: Callable[[str], None]) -> Result:
    """Make the pool, then the nights."""
    with tempfile.TemporaryDirectory(prefix="ecgscale-benchmark-") as scratch:
        pool = make_pool(Path(scratch), size.pool, say)
    reference = Reference.of([pool.reference], pool.model_id, pool.output_names, seed=0)
    sound = _sound(pool, reference, size, say)
    faults = _faults(pool, reference, size, say)
    devices = _one_device(pool, reference, size, say)
    required = [found for fault, levels in faults.items() if fault in REQUIRED for found in levels.values()]
    ratios = {
        "alarms_in_60_sound_nights": max(row["alarms_most"] for row in sound.values()),
        "faults_found_within_two_nights": rounded(min(found["found"] for found in required)),
    }
    details = {
        "pool": size.pool.__dict__,
        "reference_records": len(reference),
        "sound": sound,
        "faults": faults,
        "one_device": devices,
    }
    return Result("gates", ratios, details)


def start(pool: Pool, reference: Reference, seed: int, *labels: int) -> Feed:
    """A feed of which nothing is known yet."""
    return Feed(pool, reference, GateSettings(), np.random.default_rng([seed, *labels]))


def _sound(pool: Pool, reference: Reference, size: Size, say: Callable[[str], None]) -> dict[str, Any]:
    kinds: dict[str, Sizes] = {f"{level} a night": steady(level) for level in size.levels}
    kinds |= {"30 to 5000, any night": anything(), "30 to 5000, growing": growing()}
    found: dict[str, Any] = {}
    for number, (name, sizes) in enumerate(kinds.items()):
        failed: list[int] = []
        told: Counter[str] = Counter()
        spent, records = 0.0, 0
        for repeat in range(size.sound_repeats):
            started = time.perf_counter()
            reports = list(sound_nights(start(pool, reference, 1, number, repeat), sizes, NIGHTS))
            spent += time.perf_counter() - started
            records += sum(n for n, _ in reports)
            failed.append(sum(not report.passed for _, report in reports))
            for _, report in reports:
                told.update(f"{f.gate}{' alarm' if f.alarm else ''}" for f in report.findings)
        found[name] = {
            "sixties": size.sound_repeats,
            "records": records,
            "alarms": sum(failed),
            "alarms_most": max(failed),
            "findings": dict(told),
            "seconds_a_night": rounded(spent / size.sound_repeats / NIGHTS),
        }
        say(f"{name}: {found[name]}")
    return found


def _faults(pool: Pool, reference: Reference, size: Size, say: Callable[[str], None]) -> dict[str, Any]:
    """Every record of the night is faulty: share of repeats found within two nights, and in the first."""
    found: dict[str, Any] = {fault: {} for fault in FAULTS}
    for level in size.fault_levels:
        nights: dict[str, list[int]] = {fault: [] for fault in FAULTS}
        whats: dict[str, Counter[str]] = {fault: Counter() for fault in FAULTS}
        for repeat in range(size.fault_repeats):
            history = _history(pool, reference, level, repeat)
            for fault in FAULTS:
                night, what = _found(history.copy(repeat), level, fault)
                nights[fault].append(night)
                whats[fault].update(what)
        for fault in FAULTS:
            found[fault][str(level)] = {
                "repeats": size.fault_repeats,
                "found": float(np.mean([0 < night <= WITHIN for night in nights[fault]])),
                "in_the_first": float(np.mean([night == 1 for night in nights[fault]])),
                "named_most": [name for name, _ in whats[fault].most_common(3)],
            }
            say(f"{fault}, {level} a night: {found[fault][str(level)]}")
    return found


def _history(pool: Pool, reference: Reference, level: int, repeat: int) -> Feed:
    """Four weeks of sound nights, published without being judged."""
    feed, sizes = start(pool, reference, 2, level, repeat), steady(level)
    for _ in range(HISTORY + repeat % 7):
        feed.skip_judging(sizes(feed.number, feed.rng))
    return feed


def _found(feed: Feed, level: int, fault: str) -> tuple[int, list[str]]:
    """In which night from the fault's first on it was found (0: not within two), and what was named."""
    for night in range(1, WITHIN + 1):
        report = feed.night(level, fault)
        if any(finding.gate == "drift" for finding in report.alarms):
            return night, [finding.what for finding in report.alarms]
    return 0, []


def _one_device(pool: Pool, reference: Reference, size: Size, say: Callable[[str], None]) -> dict[str, Any]:
    """Only one of three devices is at fault, and its records come in shards of their own: are these held, and others
    not?"""
    found: dict[str, Any] = {fault: {} for fault in FAULTS}
    for level in size.fault_levels:
        for fault in FAULTS:
            held = wrong = shards = nights = 0
            for repeat in range(size.fault_repeats):
                feed = _history(pool, reference, level, repeat)
                feed.by_device = True
                report = feed.night(level, fault, _by_handheld)
                broken = {key for key in feed.keys if "handheld" in key}
                held += len(broken & set(report.held))
                wrong += len(set(report.held) - broken)
                shards += len(broken)
                nights += 1
            found[fault][str(level)] = {"held": rounded(held / shards), "held_wrongly_a_night": rounded(wrong / nights)}
        say(f"one device, {level} a night: " + ", ".join(f"{f}: {r[str(level)]}" for f, r in found.items()))
    return found


def _by_handheld(rows: pa.Table) -> np.ndarray:
    return np.asarray(pc.equal(rows["device"], "handheld-C").to_numpy(), dtype=bool)


if __name__ == "__main__":
    main(lambda quick, say: run(QUICK if quick else FULL, say), __doc__)
