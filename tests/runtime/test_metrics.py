"""Metrics: every shard counted once, from what came back with its commit; nothing without a cluster."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from ecgscale.passes.explain.explain import explain_archive
from ecgscale.passes.watch import STAGES, TOTAL, RunWatch, ShardDone, device_seconds
from ecgscale.progress import SILENT, Stopwatch
from ecgscale.runtime import run_record as metrics
from ecgscale.runtime.run_record import COUNTERS, MeteredProgress, count_shard
from tests.explain.golden import write_archive, write_model
from tests.worlds.commands.explaining import Watching

SHARD = ShardDone(
    "part-00000.parquet",
    records=128,
    quarantined={"flat_signal": 2, "too_short": 1},
    bytes=4096,
    seconds={"read": 1.0, "prepare": 2.0, "forward": 5.0, "cluster": 1.0, "write": 0.5, "total": 8.0},
)


class Counted:
    """Stands for `ray.util.metrics.Counter`: what was added, by name and tags."""

    found: dict[tuple[str, tuple[tuple[str, str], ...]], float]

    def __init__(self, name: str, description: str = "", tag_keys: tuple[str, ...] = ()) -> None:
        assert description
        self.name, self.tag_keys = name, set(tag_keys)

    def inc(self, amount: float, tags: dict[str, str]) -> None:
        assert set(tags) == self.tag_keys
        key = (self.name, tuple(sorted(tags.items())))
        self.found[key] = self.found.get(key, 0.0) + amount


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> dict[Any, float]:
    """What a connected process adds to its counters."""
    Counted.found = {}
    counters = {name: Counted(name, message, tags) for name, (message, tags) in COUNTERS.items()}
    monkeypatch.setattr(metrics, "_counter", counters.__getitem__)
    monkeypatch.setattr(metrics, "connected", lambda: True)
    return Counted.found


def test_a_shard_is_counted_by_stage_and_status(counted: dict[Any, float]) -> None:
    count_shard(SHARD)
    count_shard(SHARD)
    assert counted["ecgscale_records", ()] == 256
    assert counted["ecgscale_shards", ()] == 2
    assert counted["ecgscale_output_bytes", ()] == 8192
    assert counted["ecgscale_quarantined", (("status", "flat_signal"),)] == 4
    assert {key[1][0][1] for key in counted if key[0] == "ecgscale_stage_seconds"} == set(STAGES)
    # The device is busy in forward and cluster; of the shard's 8 seconds it waits 2.
    assert counted["ecgscale_device_seconds", (("state", "busy"),)] == 12.0
    assert counted["ecgscale_device_seconds", (("state", "waited"),)] == 4.0


def test_whatever_advances_is_counted(counted: dict[Any, float]) -> None:
    shown = Watching()
    progress = MeteredProgress(shown)
    with progress.stage("activations", 10, "records") as stage:
        stage.advance(4)
        stage.advance()
        stage.note("part-00000.parquet")
    progress.say("message")
    assert counted == {("ecgscale_progress", (("stage", "activations"), ("unit", "records"))): 5}
    assert (shown.advanced, shown.said, shown.total) == (5, ["message"], 10)


def test_without_a_cluster_nothing_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "connected", lambda: False)
    monkeypatch.setattr(metrics, "_counter", lambda name: pytest.fail(f"{name} was made"))
    count_shard(SHARD)
    with MeteredProgress(SILENT).stage("fit", None, "steps") as stage:
        stage.advance()


def test_the_dashboard_shows_what_is_counted() -> None:
    path = Path(__file__).resolve().parents[2] / "grafana" / "ecgscale.json"
    shown = path.read_text(encoding="utf-8")
    json.loads(shown)
    for name in COUNTERS:
        assert f"ray_{name}_total" in shown, f"no panel shows {name}"


def test_a_pass_tells_where_its_seconds_went(tmp_path: Path) -> None:
    class Watch(RunWatch):
        def __init__(self) -> None:
            super().__init__()
            self.done: list[ShardDone] = []

        def shard_done(self, shard: ShardDone) -> None:
            self.done.append(shard)

    from ecgscale.archive.reader import Archive

    watch, model = Watch(), write_model(tmp_path / "root")
    archive = Archive.open(write_archive(tmp_path / "archive", 10, 4))
    result = explain_archive(archive, model, tmp_path / "out", batch=4, device="cpu", watch=watch)
    assert [shard.key for shard in watch.done] == [shard.key for shard in archive.shards]
    assert sum(shard.records for shard in watch.done) == result.records
    for shard in watch.done:
        assert set(shard.seconds) == {*STAGES, TOTAL}
        busy, waited = device_seconds(shard.seconds)
        assert 0 < busy < shard.seconds[TOTAL]
        assert waited == pytest.approx(shard.seconds[TOTAL] - busy)
        assert shard.bytes > 0
    commit = next((Path(result.path) / "_commits").iterdir())
    assert json.loads(commit.read_text())["run"]["run_id"] == watch.run_id


def test_a_stopwatch_adds_up_and_times_iterators(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("ecgscale.progress.time.perf_counter", lambda: now[0])
    watch = Stopwatch()
    for _ in range(2):
        with watch.time("write"):
            now[0] += 1.5

    def slow() -> Any:
        for item in "ab":
            now[0] += 2.0
            yield item

    for _ in watch.each("read", slow()):
        now[0] += 100.0
    with suppress(ZeroDivisionError), watch.time("write"):
        now[0] += 0.25
        raise ZeroDivisionError
    assert watch.seconds == {"write": 3.25, "read": 4.0}
