"""A pool of real processes: killed, hung, hungry, interrupted; nothing is lost and nobody is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ecgscale.errors import ArchiveError, ShardError, UsageError
from ecgscale.passes.workers import Call, Done, Failed, WorkerSpec, in_process
from ecgscale.runtime.processes import ProcessBackend
from ecgscale.runtime.scheduler import NoWorkers, PoolLimits, Scheduler, choose_runtime
from tests.worlds.commands.explaining import Watching

WORKER = "tests.runtime.workers:Worker"
LIMITS = PoolLimits(pause_s=0.02, deadline_s=20.0, poll_s=0.05, replace_s=10.0)


def open_pool(workers: int = 1, progress: Any = None, limits: PoolLimits = LIMITS, **arguments: Any) -> Scheduler:
    return Scheduler(ProcessBackend(workers), WorkerSpec(WORKER, arguments), limits, progress or Watching())


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def until(condition: Any, seconds: float = 15.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def pool() -> Iterator[Scheduler]:
    """Two workers that tests share; every test leaves two behind, if not the same."""
    with open_pool(2) as scheduler:
        yield scheduler


def one(pool: Scheduler, method: str, *arguments: Any, **more: Any) -> Done | Failed:
    [outcome] = pool.run([Call(method, method, arguments, **more)])
    return outcome


def test_values_and_state_stay_with_their_worker(pool: Scheduler) -> None:
    first, second = pool.ready()
    one(pool, "keep", "shard-0", 1, worker=first)
    one(pool, "keep", "shard-1", 2, worker=second)
    kept = [one(pool, "kept_here", worker=number) for number in (first, second)]
    assert [o.value for o in kept if isinstance(o, Done)] == [["shard-0"], ["shard-1"]]
    found = list(pool.run(Call(str(i), "echo", (bytes(i * 1000),)) for i in range(200)))
    assert sorted(len(o.value) for o in found if isinstance(o, Done)) == [i * 1000 for i in range(200)]


def test_each_has_its_share_of_the_cores(pool: Scheduler) -> None:
    outcome = one(pool, "threads")
    assert isinstance(outcome, Done)
    assert set(outcome.value) == {max(1, len(os.sched_getaffinity(0)) // 2)}


def test_a_worker_that_is_killed_is_replaced_and_its_call_repeated(pool: Scheduler, tmp_path: Path) -> None:
    before = set(pool.ready())
    outcome = one(pool, "die_once", str(tmp_path / "marker"))
    assert isinstance(outcome, Done)
    after = set(pool.ready())
    assert len(after) == 2
    assert len(after & before) == 1


def test_killed_from_outside_while_it_has_nothing_to_do(pool: Scheduler) -> None:
    victim = pool.ready()[0]
    outcome = one(pool, "pid", worker=victim)
    assert isinstance(outcome, Done)
    os.kill(outcome.value, signal.SIGKILL)
    lost = one(pool, "echo", 1, worker=victim)
    assert isinstance(lost, Failed)
    assert lost.lost
    assert "signal SIGKILL, perhaps out of memory" in lost.reason
    assert len(pool.ready()) == 2


def test_how_it_died_is_told(pool: Scheduler) -> None:
    for method, argument, message in (("die", signal.SIGSEGV, "signal SIGSEGV"), ("exit", 3, "exit code 3")):
        outcome = one(pool, method, argument, attempts=1, what="part-7")
        assert isinstance(outcome, Failed)
        assert outcome.fatal == 1
        assert outcome.reason == f"part-7: given up after 1 attempts; last: died ({message})"
    pool.ready()


@pytest.mark.parametrize("error", [UsageError("no column 'age'"), ArchiveError("no archive"), ShardError("cut short")])
def test_the_types_of_errors_travel(pool: Scheduler, error: Exception) -> None:
    if isinstance(error, UsageError):
        with pytest.raises(type(error), match=str(error)):
            one(pool, "fail", error)
    else:
        outcome = one(pool, "fail", error)
        assert isinstance(outcome, Failed)
        assert (outcome.reason, outcome.attempts) == (str(error), 1)


def test_what_cannot_travel_is_told_all_the_same(pool: Scheduler) -> None:
    outcome = one(pool, "trouble", attempts=1)
    assert isinstance(outcome, Failed)
    assert "Trouble: a lead fell off at V3" in outcome.reason
    outcome = one(pool, "unsendable", attempts=1)
    assert isinstance(outcome, Failed)
    assert "the answer to unsendable cannot be sent" in outcome.reason
    assert outcome.fatal == 0


def test_too_much_memory_is_told_with_what_to_do() -> None:
    with open_pool() as pool:
        outcome = one(pool, "hog", 1 << 28, what="part-0")
    assert isinstance(outcome, Failed)
    assert outcome.reason.startswith("part-0: given up after 3 attempts; last: MemoryError")
    assert "--batch" in outcome.reason


def test_a_worker_that_hangs_is_ended(tmp_path: Path) -> None:
    starts, progress = tmp_path / "starts", Watching()
    with open_pool(progress=progress, limits=PoolLimits(deadline_s=0.5, poll_s=0.1), starts=str(starts)) as pool:
        outcome = one(pool, "hang", str(tmp_path / "marker"))
        assert isinstance(outcome, Done)
    hung, second = map(int, starts.read_text().split())
    assert (hung, second) == (hung, outcome.value)
    assert not alive(hung)
    assert not alive(second)
    assert progress.said == ["worker 0 did not answer within 0 s; it is replaced"]


def test_a_stopped_process_is_ended_too() -> None:
    with open_pool(limits=PoolLimits(deadline_s=0.5, poll_s=0.1, pause_s=0.01)) as pool:
        outcome = one(pool, "die", signal.SIGSTOP, attempts=1)
        assert isinstance(outcome, Failed)
        assert outcome.fatal == 1


def test_workers_that_cannot_be_made_end_the_run() -> None:
    spec = WorkerSpec("tests.runtime.workers:broken")
    with (
        pytest.raises(NoWorkers, match="no worker could be started, 3 were tried; last: OSError: no such device"),
        Scheduler(ProcessBackend(2), spec, LIMITS) as pool,
    ):
        one(pool, "pid")


def test_another_version_of_the_code_is_refused() -> None:
    with (
        pytest.raises(UsageError, match=r"a worker on .* has ecgscale code 0123456789abcdef, this process \w{16}\."),
        open_pool(versions={"ecgscale code": "0123456789abcdef"}) as pool,
    ):
        one(pool, "pid")


DRIVER = """
import os, sys, time
from ecgscale.passes.workers import Call, WorkerSpec
from ecgscale.runtime.processes import ProcessBackend
from ecgscale.runtime.scheduler import Scheduler

if __name__ == "__main__":
    markers = sys.argv[1:]
    try:
        with Scheduler(ProcessBackend(len(markers)), WorkerSpec("tests.runtime.workers:Worker")) as pool:
            pool.ready()
            list(pool.run(Call(m, "sleep", (120.0, m)) for m in markers))
    except KeyboardInterrupt:
        sys.exit(6)
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_driver_that_is_stopped_or_killed_leaves_nobody(tmp_path: Path, how: signal.Signals) -> None:
    script = tmp_path / "driver.py"
    script.write_text(DRIVER)
    markers = [tmp_path / "0", tmp_path / "1"]
    driver = subprocess.Popen(
        [sys.executable, str(script), *map(str, markers)],
        env={**os.environ, "PYTHONPATH": os.getcwd()},
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        until(lambda: all(marker.exists() and marker.read_text() for marker in markers), 60)
        workers = [int(marker.read_text()) for marker in markers]
        assert all(map(alive, workers))
        if how == signal.SIGINT:
            os.killpg(driver.pid, how)  # a terminal sends it to the whole group
        else:
            driver.kill()
        _, message = driver.communicate(timeout=20)
    finally:
        driver.kill()
    assert driver.returncode == (6 if how == signal.SIGINT else -signal.SIGKILL)
    until(lambda: not any(map(alive, workers)))
    assert message == b"", "no traceback of a worker"


def test_one_worker_is_this_process_and_fewer_are_refused() -> None:
    assert choose_runtime("local", 1) is in_process
    assert choose_runtime("local", None) is in_process
    with pytest.raises(UsageError, match="at least one"):
        choose_runtime("ray", 0)
