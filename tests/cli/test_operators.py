"""verify, gc, status, quarantine and retry-failed as operators type them."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ecgscale.archive.reader import Archive
from ecgscale.io.objects import LocalObjects
from ecgscale.store.commit import Source
from ecgscale.store.failures import failures, remember
from ecgscale.store.lease import Lease
from ecgscale.store.provenance import run_facts
from tests.cli.operated import facts, typed
from tests.worlds.commands.small_world import SmallWorld, with_value

BAD: dict[str, Any] = {
    "r1": {"units_per_mv": 0.0, "patient_id": "patient-in-person"},
    "r5": {"signal": np.ones((3, 220), np.int16)},
    "r6": {"units_per_mv": 0.0},
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SmallWorld:
    return SmallWorld.made(tmp_path_factory.mktemp("operated"), BAD)


@pytest.fixture
def world(made: SmallWorld, tmp_path: Path) -> SmallWorld:
    return made.copied(tmp_path)


def test_verify_says_that_all_is_right(world: SmallWorld) -> None:
    result = typed("verify", world.root)
    found = facts(result)
    assert set(found) == {"root", "datasets", "problems", "ok"}
    assert (found["ok"], found["problems"]) == (True, 0)
    [dataset] = found["datasets"]
    assert (dataset["files"], dataset["records"]) == (3, 10)
    assert dataset["recomputed"] == dataset["recomputed_exactly"] > 0
    assert "3 files, 10 records, 0 problems" in result.stdout
    assert "the same to the last bit" in result.stdout
    assert "all is right" in result.stdout


def test_verify_tells_every_problem_and_ends_with_1(world: SmallWorld) -> None:
    world.store.delete(world.manifest.files[2])
    world.forge(with_value("mean_entropy", 3, lambda _: 7.0))
    world.store.put("data/part-00000-0123456789abcdef.parquet", b"12345")
    result = typed("verify", world.root, "--sample", 0)
    found = facts(result, 1)
    [dataset] = found["datasets"]
    assert dataset["problem_counts"] == {"entropy": 1, "missing_file": 1}
    assert {"kind", "where", "message"} == set(dataset["problems"][0])
    assert dataset["garbage"]["objects"] >= 1
    assert "row 3, record 'r3': mean_entropy is 7; expected 0 to 1" in result.stdout
    assert "2 problems" in result.stdout
    assert "that nothing refers to" in result.stdout


def test_verify_of_what_is_not_there(tmp_path: Path) -> None:
    result = typed("verify", tmp_path)
    assert result.exit_code == 2
    assert "no ROOT" in result.stderr


def test_gc_says_what_goes(world: SmallWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = LocalObjects.clock
    monkeypatch.setattr(LocalObjects, "clock", lambda store: clock(store) + timedelta(hours=73))
    key = "data/part-00000-0123456789abcdef.parquet"
    world.store.put(key, b"12345")
    result = typed("gc", world.root, "--dry-run")
    assert facts(result)["by_kind"]["data"] == {"removed": 1, "bytes": 5}
    assert "1 object of 5 bytes would be removed" in result.stdout
    assert world.store.stat(key) is not None
    found = facts(typed("gc", world.root, "--grace", 74))
    assert found["removed"] == 0
    found = facts(typed("gc", world.root))
    assert (found["removed"], found["bytes"], found["kept"], found["dry_run"]) == (1, 5, 7, False)
    assert world.store.stat(key) is None
    assert facts(typed("verify", world.root))["datasets"][0]["garbage"]["objects"] == 0


def test_gc_waits_for_nobody(world: SmallWorld) -> None:
    with Lease(world.root, "0" * 32, "ecgscale nightly"):
        result = typed("gc", world.root)
        assert result.exit_code == 5
        assert "in use by ecgscale nightly" in result.stderr
        assert facts(typed("gc", world.root, "--dry-run"))["removed"] == 0
    assert facts(typed("gc", world.root))["removed"] == 0


def test_status_is_a_table(world: SmallWorld) -> None:
    result = typed("status", world.root)
    found = facts(result)
    [dataset] = found["datasets"]
    assert (dataset["served"], dataset["records"], dataset["waiting"]["pending"]) == (True, 10, 0)
    assert f"dataset {dataset['dataset_id']} (served)" in result.stdout
    for line in ("shards published", "3", "3: 2 bad_units, 1 flat_signal", "committed, not published", "held"):
        assert line in result.stdout
    (Path(world.root) / "runs").mkdir()
    (Path(world.root) / "runs" / "1.json").write_text(
        '{"command": "nightly", "started": "2026-01-01T02:00:00+00:00", "outcome": "set aside", "exit_code": 3}'
    )
    result = typed("status", world.root)
    assert "last runs" in result.stdout
    assert "nightly" in result.stdout
    assert "2026-01-01 02:00:00" in result.stdout


def test_status_of_an_empty_root(tmp_path: Path) -> None:
    assert typed("status", tmp_path).exit_code == 2  # a folder of something else: a monitor with a typo is told
    (tmp_path / "models").mkdir()
    assert "no explanations lie below" in typed("status", tmp_path).stdout
    assert typed("status", tmp_path / "typo").exit_code == 2


def test_quarantine_lists_records_and_no_patients(world: SmallWorld) -> None:
    result = typed("quarantine", world.root)
    found = facts(result)
    assert (found["quarantined"], found["by_reason"], found["left_out"]) == (3, {"bad_units": 2, "flat_signal": 1}, 0)
    assert found["records"][0] == {
        "record_id": "r1",
        "shard": "part-00000.parquet",
        "row": 1,
        "status": "bad_units",
        "flags": [],
    }
    assert "3 of 10 records are quarantined" in result.stdout
    assert "patient-in-person" not in result.output
    some = facts(typed("quarantine", world.root, "--reason", "bad_units", "--limit", 1))
    assert ([record["record_id"] for record in some["records"]], some["left_out"]) == (["r1"], 1)
    assert facts(typed("quarantine", world.root, "--limit", 0))["left_out"] == 3
    assert facts(typed("quarantine", world.root, "--reason", "too_short"))["records"] == []
    wrong = typed("quarantine", world.root, "--reason", "bad_unit")
    assert wrong.exit_code == 2
    assert "Did you mean 'bad_units'?" in wrong.stderr


def test_quarantine_in_an_object_store(made: SmallWorld, s3_root: str) -> None:
    world = SmallWorld(s3_root, made.archive, made.model)
    world.explain()
    assert [record["record_id"] for record in facts(typed("quarantine", s3_root))["records"]] == ["r1", "r5", "r6"]


def give_up(world: SmallWorld, *keys: str) -> None:
    archive = Archive.open(world.archive)
    for key in keys:
        shard = archive.shard(key)
        footer = archive.footer(shard)
        source = Source(
            key=key, size=shard.size, stamp=shard.stamp, rows=footer.rows, content_digest=footer.content_digest
        )
        remember(world.store, source, "row 3 takes its worker along", run_facts(), "c0de")


def test_retry_failed_forgets(world: SmallWorld) -> None:
    assert "no shard was given up" in typed("retry-failed", world.root).stdout
    give_up(world, "part-00000.parquet", "part-00001.parquet", "part-00002.parquet")
    result = typed("retry-failed", world.root, "--shard", "part-00001.parquet")
    [forgotten] = facts(result)["forgotten"]
    assert (forgotten["shard"], forgotten["reason"]) == ("part-00001.parquet", "row 3 takes its worker along")
    assert "part-00001.parquet of dataset" in result.stdout
    assert [failure.source.key for failure in failures(world.store)] == ["part-00000.parquet", "part-00002.parquet"]
    unknown = typed("retry-failed", world.root, "--shard", "part-00001.parquet")
    assert unknown.exit_code == 2
    assert "part-00000.parquet, part-00002.parquet" in unknown.stderr
    dataset = world.manifest.content.dataset_id
    assert len(facts(typed("retry-failed", world.root, "--dataset", dataset))["forgotten"]) == 2
    assert failures(world.store) == []
