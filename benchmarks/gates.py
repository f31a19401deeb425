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
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.night_pool import FAULTS, Pool, PoolSize, make_pool
from benchmarks.nights import Feed, Sizes, anything, growing, sound_nights, steady
from benchmarks.report import Result, main
from benchmarks.timing import rounded
from ecgscale.archive.synthetic.patients import DEVICES
from ecgscale.archive.traits import TRAITS
from ecgscale.config import GateSettings
from ecgscale.nightly.gates.reference import Reference

NIGHTS = 60
WITHIN = 2
"""Nights within which a fault has to be found."""
REQUIRED = ("gain x10", "arms reversed", "mains hum", "rate doubled", "rate halved")
"""Faults that count for the ratio; the others are told."""
HISTORY = 28
# Far more than hospitals vary: told, and not a part of the ratio.
VARYING = "300 a night, odds of illness varying by a factor of e"
HANDHELD = DEVICES[2]


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
    return judged(pool, size, say)


def judged(pool: Pool, size: Size, say: Callable[[str], None]) -> Result:
    """The nights of a pool that is there."""
    world = World.of(pool)
    sound = _sound(world, size, say)
    faults, devices = _faulty(world, size, say)
    alone, _ = _faulty(World.of(_explanations_alone(pool)), size, lambda text: say(f"explanations alone: {text}"))
    required = [found["found"] for fault in REQUIRED for found in faults[fault].values()]
    ratios = {
        "alarms_in_60_sound_nights": float(max(row["alarms_most"] for name, row in sound.items() if name != VARYING)),
        "faults_found_within_two_nights": rounded(min(required)),
    }
    details = {
        "pool": asdict(size.pool),
        "reference_records": len(world.reference),
        "sound": sound,
        "faults": faults,
        "faults_by_explanations_alone": alone,
        "one_device": devices,
    }
    return Result("gates", ratios, details)


@dataclass(frozen=True)
class World:
    """What nights are made of, and what they are compared with."""

    pool: Pool
    reference: Reference

    @classmethod
    def of(cls, pool: Pool) -> World:
        """With the reference of the pool."""
        return cls(pool, Reference.of([pool.reference], pool.model_id, pool.output_names, seed=0))

    def start(self, *seed: int) -> Feed:
        """A feed of which nothing is known yet."""
        return Feed(self.pool, self.reference, GateSettings(), np.random.default_rng(seed))

    def history(self, level: int, repeat: int) -> Feed:
        """Four weeks of sound nights and up to six days, published without being judged."""
        feed, sizes = self.start(2, level, repeat), steady(level)
        for _ in range(HISTORY + repeat % 7):
            feed.skip_judging(sizes(feed.number, feed.rng))
        return feed


def _explanations_alone(pool: Pool) -> Pool:
    """The same without traits of the signals, their lengths and their flags."""

    def less(table: pa.Table) -> pa.Table:
        table = table.drop_columns([*TRAITS, "sampling_rate"])
        at, kind = table.schema.get_field_index("flags"), table.schema.field("flags").type
        return table.set_column(at, "flags", pa.array([[]] * table.num_rows, kind))

    faulty = {name: less(table) for name, table in pool.faulty.items()}
    return replace(
        pool, reference=less(pool.reference), sound=less(pool.sound), unusable=less(pool.unusable), faulty=faulty
    )


def _sound(world: World, size: Size, say: Callable[[str], None]) -> dict[str, Any]:
    kinds: dict[str, Sizes] = {f"{level} a night": steady(level) for level in size.levels}
    kinds |= {"30 to 5000, any night": anything(), "30 to 5000, growing": growing(), VARYING: steady(300)}
    found: dict[str, Any] = {}
    for number, (name, sizes) in enumerate(kinds.items()):
        failed: list[int] = []
        summary: Counter[str] = Counter()
        spent, records = 0.0, 0
        for repeat in range(size.sound_repeats):
            started = time.perf_counter()
            feed = world.start(1, number, repeat)
            feed.variation = 1.0 if name == VARYING else feed.variation
            reports = list(sound_nights(feed, sizes, NIGHTS))
            spent += time.perf_counter() - started
            records += sum(n for n, _ in reports)
            failed.append(sum(not report.passed for _, report in reports))
            for _, report in reports:
                summary.update(f"{f.gate}{' alarm' if f.alarm else ''}" for f in report.findings)
        found[name] = {
            "sixties": size.sound_repeats,
            "records": records,
            "alarms": sum(failed),
            "alarms_most": max(failed),
            "findings": dict(summary),
            "seconds_a_night": rounded(spent / size.sound_repeats / NIGHTS),
        }
        say(f"{name}: {found[name]}")
    return found


def _faulty(world: World, size: Size, say: Callable[[str], None]) -> tuple[dict[str, Any], dict[str, Any]]:
    """By fault and records a night: every record faulty, and only those of one device."""
    everywhere: dict[str, Any] = {fault: {} for fault in FAULTS}
    one_device: dict[str, Any] = {fault: {} for fault in FAULTS}
    for level in size.fault_levels:
        histories = [world.history(level, repeat) for repeat in range(size.fault_repeats)]
        for fault in FAULTS:
            everywhere[fault][str(level)] = _found(histories, level, fault)
            one_device[fault][str(level)] = _held(histories, level, fault)
            say(f"{fault}, {level} a night: {everywhere[fault][str(level)]}, {one_device[fault][str(level)]}")
    return everywhere, one_device


def _found(histories: list[Feed], level: int, fault: str) -> dict[str, Any]:
    """Every record is faulty: share of histories after which it is found within two nights, and in the first."""
    found: list[int] = []
    named: Counter[str] = Counter()
    for repeat, history in enumerate(histories):
        feed, night = history.copy(repeat), 0
        for number in range(1, WITHIN + 1):
            alarms = [finding for finding in feed.night(level, fault).alarms if finding.gate == "drift"]
            if alarms:
                night = number
                named.update({finding.what for finding in alarms})
                break
        found.append(night)
    return {
        "repeats": len(histories),
        "found": float(np.mean([night > 0 for night in found])),
        "in_the_first": float(np.mean([night == 1 for night in found])),
        "named_most": [name for name, _ in named.most_common(3)],
    }


def _held(histories: list[Feed], level: int, fault: str) -> dict[str, float]:
    """Only handhelds are faulty, and each shard is of one device: share of their shards that are held on the first
    night, and how many others are."""
    held = wrong = shards = 0
    for repeat, history in enumerate(histories):
        feed = history.copy(repeat)
        feed.by_device = True
        report = feed.night(level, fault, _by_handheld)
        broken = {key for key in feed.keys if HANDHELD in key}
        held += len(broken & set(report.held))
        wrong += len(set(report.held) - broken)
        shards += len(broken)
    return {"held": rounded(held / shards), "others_held_a_night": rounded(wrong / len(histories))}


def _by_handheld(rows: pa.Table) -> np.ndarray:
    return np.asarray(pc.equal(rows["device"], HANDHELD).to_numpy(), dtype=bool)


if __name__ == "__main__":
    main(lambda quick, say: run(QUICK if quick else FULL, say), __doc__)
