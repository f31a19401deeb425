"""Thirty nights on a growing archive with seeded faults, and the account of every record at the end; then the time of
a night with nothing new against the number of shards that are there.

    records in = published and usable + quarantined + held back (+ rows that gave way to newer ones or came twice)

Shards arrive, are sent again, replaced, copied, removed, torn and restored; a night is bad and its shard held, some
held ones are released; a manifest is rolled back; and processes are killed before or after a put drawn by chance, after
which the command is repeated. Exit 1 when the account does not balance, a record is there twice, something was computed
again that had not changed, or `verify` finds a problem.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.inputs import Network, write_encoder
from benchmarks.report import Result, main
from ecgscale.archive.shard_file import ShardInMemory
from ecgscale.archive.synthetic import simulate
from ecgscale.config import RunConfig, load_config
from ecgscale.nightly.decisions import decide_on, held_shards, roll_back
from ecgscale.nightly.night import NightResult, run_night
from ecgscale.nightly.verify import verify_root
from ecgscale.passes.pipeline import run_pipeline
from ecgscale.passes.watch import Unwatched
from ecgscale.store import find_dataset, newest_manifest, open_explanations
from ecgscale.store.commit import read_commit, to_json
from ecgscale.store.lease import Holder
from ecgscale.store.manifest import ShardEntry, manifest_key
from ecgscale.store.objects import LocalObjects

RECORDS = 24
SMALL = Network(100.0, 256, ((8, 256), (12, 64), (16, 32), (24, 16)))
FIRST = datetime(2026, 3, 2, 2, tzinfo=UTC)


class Killed(KeyboardInterrupt):
    """The process ends here."""


@dataclass
class World:
    """An archive that things happen to, its results, and what happened."""

    folder: Path
    random: random.Random
    config: RunConfig
    night: int = 0
    next_shard: int = 2
    torn: dict[str, bytes] = field(default_factory=dict)
    happened: Counter[str] = field(default_factory=Counter)

    @property
    def archive(self) -> Path:
        return self.folder / "archive"

    @property
    def root(self) -> Path:
        return self.folder / "results"

    def keys(self) -> list[str]:
        return sorted(path.name for path in self.archive.glob("part-*.parquet") if path.name not in self.torn)

    def put(self, key: str, table: pa.Table) -> None:
        shard = ShardInMemory(table.schema)
        shard.write(table)
        scratch = self.folder / key
        scratch.write_bytes(shard.close())
        scratch.replace(self.archive / key)

    def fresh(self) -> pa.Table:
        """Recordings that nobody has sent before."""
        made = self.folder / f"made-{self.next_shard}"
        simulate(made, RECORDS, 100 + self.next_shard, RECORDS, rate=100.0, seconds=2.2)
        return pq.read_table(made / "part-00000.parquet")

    def arrive(self, table: pa.Table) -> str:
        key = f"part-{self.next_shard:05d}.parquet"
        self.next_shard += 1
        self.put(key, table)
        return key

    def run(self) -> NightResult:
        """Tonight's run, as often as it takes."""
        now = FIRST + timedelta(days=self.night)
        for _ in range(20):
            try:
                return run_night(self.config, watch=Unwatched(), allow_recompute=True, now=now)
            except Killed:
                self.happened["killed"] += 1
        raise AssertionError("killed twenty times in a row")


def with_column(table: pa.Table, name: str, change: Callable[[Any], Any]) -> pa.Table:
    """The same table with one column changed, value by value."""
    at = table.schema.get_field_index(name)
    column = pa.array([change(value) for value in table.column(name).to_pylist()], table.schema.field(name).type)
    return table.set_column(at, table.schema.field(name), column)


@contextmanager
def killed_at_random(world: World, share: float) -> Iterator[None]:
    """Every put may be the last of its process, with so much chance before and after it."""
    usual = {name: getattr(LocalObjects, name) for name in ("put", "put_if_absent")}

    def deadly(name: str) -> Callable[..., Any]:
        def put(self: LocalObjects, key: str, data: bytes) -> Any:
            if world.random.random() < share:
                raise Killed
            done = usual[name](self, key, data)
            if world.random.random() < share:
                raise Killed
            return done

        return put

    for name in usual:
        setattr(LocalObjects, name, deadly(name))
    # Whoever was killed is dead, though its process goes on to play the next one.
    dead, Holder.dead = Holder.dead, property(lambda self: True)  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        Holder.dead = dead  # type: ignore[method-assign]
        for name, method in usual.items():
            setattr(LocalObjects, name, method)


def happen(world: World) -> None:
    """What befalls the archive before tonight."""
    for key, whole in list(world.torn.items()):
        (world.archive / key).write_bytes(whole)
        del world.torn[key]
        world.happened["restored"] += 1
    for _ in range(world.random.randint(0, 2)):
        world.arrive(world.fresh())
        world.happened["arrived"] += 1
    what = world.random.choice(["again", "replaced", "copied", "removed", "torn", "bad", "nothing", "released", "back"])
    key = world.random.choice(world.keys())
    path = world.archive / key
    if what == "again":
        world.arrive(with_column(pq.read_table(path).slice(0, RECORDS // 2), "age", lambda age: (age or 0) + 1))
    elif what == "replaced":
        world.put(key, pq.read_table(path).slice(0, max(pq.read_metadata(path).num_rows - 1, 1)))
    elif what == "copied":
        whole = path.read_bytes()
        path.unlink()
        path.write_bytes(whole)
    elif what == "removed" and len(world.keys()) > 3:
        path.unlink()
    elif what == "torn":
        world.torn[key] = path.read_bytes()
        path.write_bytes(world.torn[key][: len(world.torn[key]) // 2])
    elif what == "bad":
        world.arrive(with_column(world.fresh(), "sampling_rate", lambda rate: 0.0))
    elif what == "released":
        for hold in held_shards(world.root)[:1]:
            decide_on(world.root, [hold.source.key], "released", "looked at")
    elif what == "back" and newest_manifest(world.root).number > 1:
        roll_back(world.root, newest_manifest(world.root).number - 1, "a test")
        decide_on(world.root, [], "released", "and forward again", every=True)
    world.happened[what] += 1


def account(world: World, last: NightResult) -> dict[str, Any]:
    """Where every record of the archive is, and what is wrong with that."""
    manifest = newest_manifest(world.root)
    content = manifest.content
    table = open_explanations(world.root).to_table(columns=["record_id", "status"])
    usable = table.filter(pc.equal(table["status"], "ok"))["record_id"].to_pylist()
    quarantined = table.num_rows - len(usable)
    # A shard whose new version is held back is still published as it was; the archive has the new one alone.
    held_keys = {shard.key for shard in content.held}
    older = sum(e.published_rows for e in content.shards if e.key in held_keys)
    gave_way = sum(entry.superseded for entry in content.shards)
    held = sum(shard.rows for shard in content.held)
    came = sum(pq.read_metadata(path).num_rows for path in world.archive.glob("part-*.parquet"))
    store = find_dataset(world.root).store
    commits = [read_commit(store, name) for name in store.list_prefix("_commits")]
    computed = Counter(
        (c.source.key, c.source.content_digest) for c in commits if c is not None and c.restamped_from is None
    )
    verified = verify_root(world.root, sample=0.02).to_dict()
    return {
        "records_in": came,
        "published": len(usable),
        "quarantined": quarantined,
        "held": held,
        "gave_way_or_twice_alike": gave_way,
        "published_as_before": older,
        "balance": came + older - (len(usable) + quarantined + held + gave_way),
        "twice": len(usable) - len(set(usable)),
        "computed_again": sum(count - 1 for count in computed.values()),
        "problems": verified["problems"],
        "manifest": manifest.number,
        "shards": len(content.shards),
        "happened": dict(sorted(world.happened.items())),
        "last_night": int(last.exit_code),
    }


CONFIG = """
root = "results"
batch = 8
device = "cpu"
[archive]
path = "archive"
[encoder]
path = "encoder"
[fit]
clusters = 4
max_epochs = 2
"""


def new_world(folder: Path, seed: int) -> World:
    """Two shards, explained and published."""
    simulate(folder / "archive", 2 * RECORDS, 1, RECORDS, rate=100.0, seconds=2.2)
    write_encoder(folder / "encoder", SMALL, folder / "archive")
    (folder / "job.toml").write_text(CONFIG, encoding="utf-8")
    config = load_config(folder / "job.toml")
    run_pipeline(config)
    return World(folder, random.Random(seed), config)


def nights(folder: Path, count: int, seed: int, say: Callable[[str], None]) -> dict[str, Any]:
    """So many nights with faults, then a quiet one, then the account."""
    world = new_world(folder, seed)
    recompute = []
    for world.night in range(1, count + 1):
        happen(world)
        with killed_at_random(world, 0.02):
            result = world.run()
        recompute.append(result.explained.computed)
        say(f"night {world.night}: exit {int(result.exit_code)}, {result.explained.records} records published")
    for key, whole in world.torn.items():
        (world.archive / key).write_bytes(whole)
    world.torn.clear()
    world.night += 1
    return account(world, world.run())


def quiet_nights(folder: Path, sizes: tuple[int, ...], say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Seconds of a night with nothing new, for so many shards: entries and files are made up, the night is not."""
    world = new_world(folder, 0)
    world.run()
    store = find_dataset(world.root).store
    first = newest_manifest(world.root)
    like, found = first.content.shards[0], []
    data, shard = store.read(like.file), (world.archive / like.key).read_bytes()
    assert data is not None
    entries = list(first.content.shards)
    for size in sizes:
        while len(entries) < size:
            entries.append(_made_up(world, store, like, len(entries), data[:64], shard[:64]))
        content = first.content.model_copy(update={"shards": tuple(sorted(entries, key=lambda e: e.key))})
        number = newest_manifest(world.root).number + 1
        made = first.model_copy(update={"number": number, "content": content})
        store.put(manifest_key(number), to_json(made))
        times = []
        for _ in range(3):
            started = time.perf_counter()
            result = world.run()
            times.append(time.perf_counter() - started)
            assert (result.explained.computed, result.explained.manifest) == (0, number)
        found.append({"shards": len(entries), "seconds": round(float(np.median(times)), 3)})
        say(f"nothing new among {len(entries):,} shards: {found[-1]['seconds']} s")
    return found


def _made_up(world: World, store: Any, like: ShardEntry, number: int, data: bytes, shard: bytes) -> ShardEntry:
    """A shard that was published long ago, as far as a night without news looks at it."""
    key = f"part-{number:05d}.parquet"
    (world.archive / key).write_bytes(shard)
    stat = (world.archive / key).stat()
    file, commit = f"data/part-{number:05d}-0000000000000000.parquet", f"_commits/part-{number:05d}-made-up.json"
    store.put(file, data)
    store.put(commit, b"{}\n")
    return like.model_copy(
        update={
            "key": key,
            "size": stat.st_size,
            "stamp": f"mtime_ns={stat.st_mtime_ns}",
            "file": file,
            "file_size": len(data),
            "commit": commit,
        }
    )


def run(quick: bool, say: Callable[[str], None]) -> Result:
    """The ledger, and the growth of a night without news."""
    with tempfile.TemporaryDirectory(prefix="ecgscale-benchmark-") as scratch:
        ledger = nights(Path(scratch) / "nights", 6 if quick else 30, seed=7, say=say)
        for name, value in ledger.items():
            say(f"  {name}: {value}")
        sizes = (2, 100, 1000) if quick else (2, 100, 1000, 10_000)
        quiet = quiet_nights(Path(scratch) / "quiet", sizes, say)
    wrong = [name for name in ("balance", "twice", "computed_again", "problems") if ledger[name]]
    result = Result(
        "thirty_nights",
        {"nothing_new_seconds_at_most_shards": quiet[-1]["seconds"]},
        {"ledger": ledger, "nothing_new": quiet, "wrong": wrong},
    )
    if wrong:
        print(result.line())
        sys.exit(1)
    return result


if __name__ == "__main__":
    main(run, __doc__)
