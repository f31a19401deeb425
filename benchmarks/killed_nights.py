"""Thirty nights of a hospital, with processes killed at random, and a ledger that has to balance every morning.

    python -m benchmarks.killed_nights [--quick]

Each night recordings come, and faults drawn with a seed: the process of `ecgscale nightly` is killed (SIGKILL) at
random puts and the command typed again, shards are sent again, replaced, removed, torn and mended, records sent again
with and without changes, or under the id of another patient; a bad night is held by the gates and released, another is
rejected, and a night is rolled back. In the end: records in = published + quarantined + held + superseded + set aside,
none twice, nothing computed that had not changed, and `verify` finds nothing. Then the time of a night with nothing new
(benchmarks/quiet_nights.py). Exits with 1 when any of this fails.
"""

from __future__ import annotations

import json
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from click.testing import CliRunner

from benchmarks.hospital import Hospital, of_others, older_by
from benchmarks.inputs import Network, write_archive, write_encoder
from benchmarks.ledger import Ledger, computed_shards, ledger
from benchmarks.mortal_night import NightEnd, run_mortal_night
from benchmarks.quiet_nights import QuietSize, quiet_nights
from benchmarks.report import Result, main
from benchmarks.timing import rounded
from ecgscale.cli import main as ecgscale
from ecgscale.errors import ExitCode
from ecgscale.nightly.verify.verify import verify_root
from ecgscale.store import newest_manifest

NETWORK = Network(100.0, 256, ((8, 256), (8, 128), (12, 64), (16, 16), (20, 4)))
FIRST = datetime(2026, 3, 2, 2, 0, tzinfo=UTC)
SCRIPT = {4: "held", 5: "released", 10: "held", 11: "rejected", 16: "rolled back", 17: "released after that"}
"""What happens in which night of eighteen; in the others, faults are drawn."""
DECISIONS = {"released": "release", "rejected": "reject", "released after that": "release"}
KILLS = 0.5
"""Chance that a try of a night is killed; at most so many tries are."""
MOST_KILLS = 3
PUTS = 16
"""A night makes about so many."""
CONFIG = """
root = "{folder}/results"
batch = 32
device = "cpu"
[archive]
path = "{folder}/archive"
[encoder]
path = "{folder}/encoder"
[fit]
clusters = 8
max_epochs = 2
[nightly]
recompute_share = 0.6
withdraw_share = 0.6
"""


@dataclass(frozen=True)
class Size:
    """Nights, records a night, the seed of what happens, and the sizes of the quiet nights."""

    nights: int
    records: tuple[int, int]
    seed: int
    quiet: QuietSize


FULL = Size(30, (24, 60), 0, QuietSize((1, 10, 100, 1_000, 10_000), (1, 10, 100, 1_000, 10_000)))
QUICK = Size(30, (24, 30), 0, QuietSize((1, 10, 100, 1_000), (1, 10, 100)))


class Unbalanced(Exception):
    """The ledger, or something else that has to hold, does not."""


@dataclass
class World:
    """A hospital, ROOT, and what happened so far; deck: faults that are still to come before any comes again."""

    folder: Path
    hospital: Hospital
    rng: np.random.Generator
    say: Callable[[str], None]
    kills: int = 0
    computed: int = 0
    happened: Counter[str] = field(default_factory=Counter)
    deck: list[str] = field(default_factory=list)
    mornings: list[dict[str, Any]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    @property
    def root(self) -> Path:
        """Where results are."""
        return self.folder / "results"

    def type(self, *arguments: str) -> dict[str, Any]:
        """A command that has to end well; what it returns."""
        result = CliRunner().invoke(ecgscale, [*arguments, "--json"], catch_exceptions=False)
        if result.exit_code:
            raise Unbalanced(f"{' '.join(arguments)} ended with {result.exit_code}: {result.output}")
        facts: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
        return facts

    def night(self, number: int, held: bool = False) -> Ledger:
        """One night, killed and repeated as drawn, and the ledger of the morning after; `held`: the gates alarm."""
        new = self.hospital.look()
        before = computed_shards(self.root)
        end = self._until_it_is_through(FIRST + timedelta(days=number))
        expected = ExitCode.GATE_HELD if held else ExitCode.SHARDS_SET_ASIDE if self.hospital.torn else ExitCode.DONE
        if end.code != expected:
            raise Unbalanced(f"night {number} ended with {end.code}, not {expected:d}:\n{end.said}")
        found = ledger(self.root, self.hospital.tables)
        computed = computed_shards(self.root) - before
        problems = verify_root(self.root, sample=0).problems
        self.computed += computed
        self.mornings.append({"night": number, "new": new, "computed": computed, "code": end.code, **found.to_dict()})
        self.say(f"night {number:2d}: {computed} of {new} new shards computed, exit code {end.code}, {found}")
        if computed != new or not found.balanced or problems:
            raise Unbalanced(
                f"night {number}: {new} new, {computed} computed, {problems} problems, {found}\n{end.said}"
            )
        return found

    def _until_it_is_through(self, now: datetime) -> NightEnd:
        config, scratch = self.folder / "nightly.toml", self.folder / "scratch"
        for _ in range(MOST_KILLS):
            if self.rng.random() >= KILLS:
                break
            end = run_mortal_night(config, now, scratch, int(self.rng.integers(1, PUTS + 1)))
            if end.code != -signal.SIGKILL:
                return end  # it made fewer puts than that
            self.kills += 1
        started = time.perf_counter()
        end = run_mortal_night(config, now, scratch)
        self.seconds.append(time.perf_counter() - started)
        return end


def run(size: Size, say: Callable[[str], None]) -> Result:
    """The nights, then quiet ones. Raises `Unbalanced`."""
    with tempfile.TemporaryDirectory(prefix="ecgscale-benchmark-") as scratch:
        world = begin(Path(scratch), size, say)
        for number in range(size.nights):
            one_night(world, number, size)
        # With everything in its place, a sample of what was published is computed once more.
        verified = verify_root(world.root, sample=0.05)
        if verified.problems:
            raise Unbalanced(f"verify finds {verified.problems} problems: {verified.to_dict()}")
        details = {
            "nights": size.nights,
            "killed": world.kills,
            "faults": dict(sorted(world.happened.items())),
            "shards_new_or_changed": sum(morning["new"] for morning in world.mornings),
            "shards_computed": world.computed,
            "records_recomputed_by_verify": sum(dataset.recomputed.records for dataset in verified.datasets),
            "ledger": {key: value for key, value in world.mornings[-1].items() if key not in ("new", "computed")},
            "seconds_a_night": rounded(float(np.median(world.seconds))),
        }
    say(f"{size.nights} nights, {world.kills} killed; the ledger in the end: {details['ledger']}")
    quiet = quiet_nights(size.quiet, NETWORK, say)
    return Result("killed_nights", quiet["ratios"], {**details, "quiet": quiet["details"]})


def begin(folder: Path, size: Size, say: Callable[[str], None]) -> World:
    """An archive of 60 recordings, explained and published."""
    write_archive(folder / "archive", 60, NETWORK, 30)
    write_encoder(folder / "encoder", NETWORK, folder / "archive")
    (folder / "nightly.toml").write_text(CONFIG.format(folder=folder))
    (folder / "scratch").mkdir()
    rng = np.random.default_rng(size.seed)
    world = World(folder, Hospital(folder / "archive", NETWORK, rng), rng, say)
    world.type("run", str(folder / "nightly.toml"))
    world.hospital.adopt()
    return world


def one_night(world: World, number: int, size: Size) -> None:
    """What comes in a night, what goes wrong with it, and the night itself."""
    hospital, rng = world.hospital, world.rng
    now = FIRST + timedelta(days=number)
    # Once an unusable shard is released, the gates take any further unusable record for more of the same, and hold it.
    unusable = int(rng.integers(0, 2)) if not world.happened["released"] else 0
    hospital.send(hospital.fresh(int(rng.integers(*size.records)), now, unusable))
    script = SCRIPT.get(number % 18, "")
    if script:
        world.happened[script] += 1
    if script == "held":
        hospital.send(hospital.fresh(40, now, unusable=40))
        world.night(number, held=True)
        return
    if script in DECISIONS:
        world.type(DECISIONS[script], str(world.root), "--all", "--reason", "a benchmark")
    if not script:
        for _ in range(int(rng.integers(0, 3))):
            world.deck = world.deck or [str(fault) for fault in rng.permutation(sorted(FAULTS))]
            fault = world.deck.pop()
            world.happened[fault] += 1
            FAULTS[fault](world, now)
    world.night(number)
    if script == "rolled back":
        newest = newest_manifest(world.root).number
        world.type("rollback", str(world.root), str(newest - 1), "--reason", "a benchmark")
        found = ledger(world.root, hospital.tables)
        if not found.balanced or not found.held:
            raise Unbalanced(f"after the rollback of night {number}: {found}")


def sound_shard(world: World) -> str:
    """A shard of the archive that is whole, usable and not held; never the newest."""
    hospital = world.hospital
    others = hospital.torn | {shard.key for shard in newest_manifest(world.root).content.held}
    keys = [key for key in sorted(hospital.tables) if key not in others and hospital.usable(key)]
    return str(world.rng.choice(keys[:-1]))


def send_again(world: World, _now: datetime) -> None:
    """A shard is copied once more, as it is."""
    world.hospital.send_again(sound_shard(world))


def replace_shard(world: World, _now: datetime) -> None:
    """A shard comes with corrected metadata."""
    key = sound_shard(world)
    world.hospital.send(older_by(world.hospital.tables[key], 1), key)


def remove_shard(world: World, _now: datetime) -> None:
    """A shard goes away."""
    if len(world.hospital.tables) > 6:
        world.hospital.remove(sound_shard(world))


def repeat_records(world: World, _now: datetime) -> None:
    """Records come once more in a new shard, as they were."""
    world.hospital.send(world.hospital.some(sound_shard(world), 8))


def change_records(world: World, _now: datetime) -> None:
    """Records come once more in a new shard, with corrected metadata."""
    world.hospital.send(older_by(world.hospital.some(sound_shard(world), 8), 2))


def confuse_patients(world: World, now: datetime) -> None:
    """A record comes under the id of another patient's, among sound ones."""
    table = of_others(world.hospital.some(sound_shard(world), 1))
    world.hospital.send(pa.concat_tables([world.hospital.fresh(24, now), table]))


def tear_shard(world: World, now: datetime) -> None:
    """A shard comes cut short, and whole a night or more later."""
    hospital = world.hospital
    for key in sorted(hospital.torn):
        hospital.mend(key)
    if world.rng.random() < 0.7:
        hospital.tear(hospital.send(hospital.fresh(12, now)))


FAULTS: dict[str, Callable[[World, datetime], None]] = {
    "shard sent again": send_again,
    "shard replaced": replace_shard,
    "shard removed": remove_shard,
    "records sent again": repeat_records,
    "records changed": change_records,
    "patients confused": confuse_patients,
    "shard torn": tear_shard,
}


def checked(quick: bool, say: Callable[[str], None]) -> Result:
    """The benchmark; exits with 1, and says why, when something does not hold."""
    try:
        return run(QUICK if quick else FULL, say)
    except Unbalanced as error:
        say(str(error))
        sys.exit(1)


if __name__ == "__main__":
    main(checked, __doc__)
