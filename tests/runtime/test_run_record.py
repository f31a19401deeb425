"""The run record: written however a run ends, with its totals, and without anybody in it."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from ecgscale.errors import ExitCode, ShardError, UsageError
from ecgscale.progress import SILENT
from ecgscale.runtime.run_record import run_record
from tests.runtime.test_metrics import SHARD
from tests.worlds.commands.explaining import Watching

RUNTIME = {"name": "ray", "workers": 8, "device": "cuda"}


def records(root: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted((root / "runs").glob("*.json"))]


def test_what_a_finished_run_leaves(tmp_path: Path) -> None:
    with run_record(tmp_path, "explain", RUNTIME, SILENT) as record:
        record.shard_done(SHARD)
        record.shard_done(SHARD)
        record.add(explained={"manifest": 3})
    [written] = records(tmp_path)
    assert (tmp_path / record.key).exists()
    assert written["run_id"] == record.run_id
    assert (written["command"], written["outcome"], written["exit_code"]) == ("explain", "done", 0)
    assert written["started"] < written["ended"]
    assert written["started"].endswith("+00:00")
    assert written["runtime"] == RUNTIME
    assert {"ecgscale", "torch", "numpy", "python"} <= set(written["versions"])
    totals = written["totals"]
    assert (totals["records"], totals["shards"], totals["output_bytes"]) == (256, 2, 8192)
    assert totals["quarantined"] == {"flat_signal": 4, "too_short": 2}
    assert written["worker_seconds"]["forward"] == 10.0
    assert written["device_waited"] == 0.25
    assert written["explained"] == {"manifest": 3}


def test_shards_set_aside_are_named_once(tmp_path: Path) -> None:
    with run_record(tmp_path, "explain", RUNTIME, SILENT) as record:
        for _ in range(2):
            record.shard_set_aside("part-00001.parquet", "cut short")
        record.add(ExitCode.SHARDS_SET_ASIDE)
    [written] = records(tmp_path)
    assert (written["outcome"], written["exit_code"]) == ("set aside", 3)
    assert written["totals"]["set_aside"] == {"part-00001.parquet": "cut short"}
    assert written["device_waited"] is None


@pytest.mark.parametrize(
    ("raised", "outcome", "code"),
    [
        (KeyboardInterrupt(), "stopped", 6),
        (ShardError("none can be read"), "failed", 1),
        (ZeroDivisionError("division by zero"), "failed", 1),
    ],
)
def test_a_run_that_ends_early_leaves_what_it_did(
    tmp_path: Path, raised: BaseException, outcome: str, code: int
) -> None:
    with suppress(type(raised)), run_record(tmp_path, "explain", RUNTIME, SILENT) as record:
        record.shard_done(SHARD)
        raise raised
    [written] = records(tmp_path)
    assert (written["outcome"], written["exit_code"], written["totals"]["shards"]) == (outcome, code, 1)
    assert (written["error"] is None) == (outcome == "stopped")


def test_a_mistake_found_before_any_work_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(UsageError), run_record(tmp_path / "root", "explain", RUNTIME, SILENT):
        raise UsageError("no such archive")
    assert not (tmp_path / "root").exists()
    with suppress(UsageError), run_record(tmp_path, "explain", RUNTIME, SILENT) as record:
        record.shard_done(SHARD)
        raise UsageError("workers differ in torch")
    assert records(tmp_path)[0]["error"] == "workers differ in torch"


def test_a_record_that_cannot_be_written_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file where the folder should be")
    shown = Watching()
    with run_record(tmp_path, "explain", RUNTIME, shown) as record:
        record.shard_done(SHARD)
    assert "there will be no run record" in shown.said[0]
