"""A pool of real Ray actors on simulated nodes with fake GPUs: nodes and actors die, hang and run out of memory."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ecgscale.archive.reader import Archive
from ecgscale.errors import ExitCode, ShardError, UsageError
from ecgscale.passes.fit.fit import fit_archive
from ecgscale.passes.workers import Call, Done, Failed, WorkerSpec
from ecgscale.runtime.ray_pool import RayBackend
from ecgscale.runtime.scheduler import NoWorkers, Scheduler
from tests.runtime.interrupted import LIMITS, Accident, pool_on
from tests.runtime.ray_clusters import Nodes, environment, nodes
from tests.runtime.test_processes import WORKER, alive, one, until
from tests.worlds.commands.explaining import Watching, explain
from tests.worlds.commands.simulated import COMMAND, request, same_centroids
from tests.worlds.formula.odd_networks import Poisoned, Slow, encoder_of, recordings

ONE_GPU = {"num_cpus": 1, "num_gpus": 1}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Nodes]:
    """Two nodes of a CPU and a GPU each; this process is connected."""
    with nodes(ONE_GPU, ONE_GPU, connect=True) as there:
        yield there


def on_gpus(workers: int) -> RayBackend:
    return RayBackend(workers, gpus=1.0)


def open_pool(workers: int = 2, progress: Any = None, **arguments: Any) -> Scheduler:
    spec = WorkerSpec(WORKER, {"device": "cuda", **arguments})
    return Scheduler(on_gpus(workers), spec, LIMITS, progress or Watching())


def digests(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("explanations/*/data/part-*"))}


@pytest.mark.usefixtures("cluster")
def test_values_errors_and_deaths_of_actors() -> None:
    progress = Watching()
    with open_pool(progress=progress) as pool:
        pool.ready()
        found = list(pool.run(Call(str(i), "echo", (bytes(i * 1000),)) for i in range(200)))
        assert sorted(len(o.value) for o in found if isinstance(o, Done)) == [i * 1000 for i in range(200)]
        # Errors keep their types; one that cannot travel is told all the same.
        with pytest.raises(UsageError, match="no column 'age'"):
            one(pool, "fail", UsageError("no column 'age'"))
        short = one(pool, "fail", ShardError("cut short"))
        assert isinstance(short, Failed)
        assert (short.reason, short.attempts) == ("cut short", 1)
        trouble = one(pool, "trouble", attempts=1)
        assert isinstance(trouble, Failed)
        assert "a lead fell off at V3" in trouble.reason
        # Out of memory: raised, and killed for it.
        hungry = one(pool, "fail", MemoryError("12 GiB"), what="part-0")
        assert isinstance(hungry, Failed)
        assert hungry.reason.startswith(
            "part-0: given up after 3 attempts; last: MemoryError: 12 GiB (out of memory: a"
        )
        assert hungry.fatal == 0
        killed = one(pool, "die", signal.SIGKILL, attempts=1, what="part-1")
        assert isinstance(killed, Failed)
        assert killed.fatal == 1
        assert "its worker process has died" in killed.reason
        assert "on part-1; it is replaced" in progress.said[-1]
        # What is pinned to the dead is lost, the living go on.
        [left] = list(pool.greeted)
        assert isinstance(one(pool, "echo", 1, worker=left), Done)
        lost = one(pool, "echo", 1, worker=1 - left)
        assert isinstance(lost, Failed)
        assert lost.lost
        assert len(pool.ready()) == 2


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("method", ["hang", "stop"])
def test_an_actor_that_hangs_is_replaced_where_it_was(method: str, tmp_path: Path) -> None:
    progress, marker = Watching(), str(tmp_path / "marker")
    limits = replace(LIMITS, deadline_s=1.0)
    with Scheduler(on_gpus(2), WorkerSpec(WORKER), limits, progress) as pool:
        pool.ready()
        before = {hello.pid for hello in pool.greeted.values()}
        arguments = (marker,) if method == "hang" else (marker, signal.SIGSTOP)
        outcome = one(pool, "hang" if method == "hang" else "die_once", *arguments, what="part-0")
        assert isinstance(outcome, Done)
        assert any("did not answer within 1 s on part-0" in line for line in progress.said)
        assert len(pool.ready()) == 2, "its GPU is free again"
        [gone] = before - {hello.pid for hello in pool.greeted.values()}
        until(lambda: not alive(gone))


@pytest.mark.usefixtures("cluster")
def test_no_room_another_version_and_a_pool_that_grows(cluster: Nodes) -> None:
    limits = replace(LIMITS, start_s=1.0)
    needs = r"a worker needs 1 CPU and 4 GPU, the cluster has \{.*'GPU': 2\.0.*\}"
    with (
        pytest.raises(NoWorkers, match=rf"no worker was ready within 1 s: {needs}"),
        Scheduler(RayBackend(1, gpus=4.0), WorkerSpec(WORKER), limits) as pool,
    ):
        pool.ready()
    with (
        pytest.raises(UsageError, match=r"a worker on .* has torch 1\.0\.0, this process 2"),
        open_pool(versions={"torch": "1.0.0"}) as pool,
    ):
        one(pool, "pid")
    with open_pool(3) as pool:
        third = None
        seen: set[int] = set()
        for i, outcome in enumerate(pool.run(Call(str(i), "sleep", (0.05,)) for i in range(400))):
            assert isinstance(outcome, Done)
            seen.add(outcome.worker)
            if i == 10:
                assert len(seen) <= 2
                third = cluster.add(**ONE_GPU)
            if len(seen) == 3:
                break
        assert len(seen) == 3
        cluster.kill(third)


def test_a_node_is_killed_in_the_fit_and_in_explain(cluster: Nodes, tmp_path: Path) -> None:
    archive = recordings(tmp_path / "archive", 24, 4)
    encoder = encoder_of(Slow, tmp_path / "encoder")
    wanted = request(batch=4, clusters=(3,), settings={"algorithm": "lloyd", "max_iterations": 3})

    def kill_node(pool: Scheduler, but: int) -> None:
        victim = next(number for number in pool.greeted if number != but)
        pid = pool.greeted[victim].pid
        cluster.kill(cluster.node_of(pid))
        until(lambda: not alive(pid))

    def fit(root: Path, **options: Any) -> Any:
        [fitted] = fit_archive(Archive.open(archive), encoder, root, wanted, **options)
        return fitted

    here = fit(tmp_path / "here")
    for method in ("assign", "commit"):
        accident, progress = Accident(method, int(method == "assign"), kill_node, workers=2), Watching()
        # The node does not come back: in the fit, the other one takes over all that was lost.
        pool = pool_on(lambda: RayBackend(2), accident, replace(LIMITS, replace_s=0.5), progress)
        if method == "assign":
            assert same_centroids(fit(tmp_path / "there", pool=pool, progress=progress).model, here.model)
            assert any("were lost with their worker; they are computed again" in line for line in progress.said)
        else:
            result = explain(archive, here.directory, tmp_path / "there", pool=pool)
            assert (result.records, result.computed, result.exit_code) == (24, 6, 0)
        assert accident.deaths == 1
        assert any("its node has died" in line for line in progress.said)
        cluster.add(**ONE_GPU)
    explain(archive, here.directory, tmp_path / "here")
    assert digests(tmp_path / "there") == digests(tmp_path / "here")


@pytest.mark.usefixtures("cluster")
def test_a_poisoned_shard_is_narrowed_down_and_the_rest_published(tmp_path: Path) -> None:
    model = fit_archive(
        Archive.open(recordings(tmp_path / "wholesome", 8, 8)),
        encoder_of(Poisoned, tmp_path / "encoder"),
        tmp_path / "root",
        request(batch=4),
    )[0].directory
    archive = recordings(tmp_path / "archive", 12, 4, poisoned=(5,))
    pool = pool_on(lambda: RayBackend(2), limits=replace(LIMITS, attempts=2))
    result = explain(archive, model, tmp_path / "out", pool=pool)
    assert (result.exit_code, result.records) == (ExitCode.SHARDS_SET_ASIDE, 8)
    [aside] = result.set_aside
    assert "it is row 1 (record r5) that does it" in aside.reason
    again = explain(archive, model, tmp_path / "out", pool=pool)
    assert (again.exit_code, again.computed, again.set_aside) == (ExitCode.SHARDS_SET_ASIDE, 0, result.set_aside)


def driver(arguments: list[Any], address: str | None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        env=environment(address),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def test_a_driver_is_stopped_then_killed_and_the_command_repeated(cluster: Nodes, tmp_path: Path) -> None:
    archive, encoder = recordings(tmp_path / "archive", 48, 4), encoder_of(Slow, tmp_path / "encoder")
    [fitted] = fit_archive(Archive.open(archive), encoder, tmp_path / "here", request(batch=4, records=8))
    explain(archive, fitted.directory, tmp_path / "here", batch=4)
    out = tmp_path / "out"
    command = ["explain", archive, "--model", fitted.directory, "--out", out, "--batch", 4]
    command += ["--runtime", "ray", "--workers", 2, "--json"]

    def committed() -> int:
        return len(list(out.glob("explanations/*/_commits/*.json")))

    before = 0
    for how, code in ((signal.SIGTERM, ExitCode.STOPPED), (signal.SIGKILL, -signal.SIGKILL)):
        stopped = driver(command, cluster.address)
        until(lambda before=before: committed() > before, 60)
        stopped.send_signal(how)
        message, _ = stopped.communicate(timeout=60)
        assert stopped.returncode == code, message
        before = committed()
        assert 0 < before < 12
        assert not list(out.glob("explanations/*/_manifests/*.json"))
    last = driver(command, cluster.address)
    message, _ = last.communicate(timeout=120)
    assert last.returncode == 0, message
    assert f'"computed": {12 - before}' in message.splitlines()[-1]
    assert digests(out) == digests(tmp_path / "here")


def test_an_address_that_does_not_answer_is_told_at_once(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    archive = recordings(tmp_path / "archive", 4, 4)
    arguments = ["fit", archive, "--encoder", encoder_of(Slow, tmp_path / "encoder"), "--out", tmp_path / "out"]
    started = time.monotonic()
    command = driver([*arguments, "--clusters", 2, "--runtime", "ray"], address)
    message, _ = command.communicate(timeout=60)
    assert command.returncode == ExitCode.USAGE, message
    assert f"error: RAY_ADDRESS={address} does not answer: [Errno 111] Connection refused" in message
    assert "Traceback" not in message
    assert time.monotonic() - started < 60


PRIVATE = """
import signal, sys, time
from ecgscale.passes.workers import Call, WorkerSpec
from ecgscale.runtime.scheduler import choose_runtime

def stop(*_):
    raise KeyboardInterrupt

if __name__ == "__main__":
    signal.signal(signal.SIGTERM, stop)
    try:
        with choose_runtime("ray", 2)(WorkerSpec("tests.runtime.workers:Worker")) as pool:
            list(pool.run(Call(m, "sleep", (120.0, m)) for m in sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(6)
"""


def processes_of(group: int) -> list[int]:
    """Processes of a session that are alive."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[3]) == group and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def is_agent(pid: int) -> bool:
    try:
        return "Agent" in Path(f"/proc/{pid}/cmdline").read_text()
    except FileNotFoundError:
        return True


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_private_cluster_ends_with_its_driver(tmp_path: Path, how: signal.Signals) -> None:
    script = tmp_path / "driver.py"
    script.write_text(PRIVATE)
    markers = [tmp_path / "0", tmp_path / "1"]
    started = subprocess.Popen(
        [sys.executable, str(script), *map(str, markers)], env=environment(None), start_new_session=True
    )
    group = started.pid
    try:
        until(lambda: all(marker.exists() and marker.read_text() for marker in markers), 90)
        assert len(processes_of(group)) > 4, "head, node and workers"
        os.kill(started.pid, how)
        started.wait(60)
        assert started.returncode == (6 if how == signal.SIGTERM else -signal.SIGKILL)
        # Two agents of Ray's only follow after a minute in which they try to tell a head that is gone.
        until(lambda: all(is_agent(pid) for pid in processes_of(group)), 30)
        assert how == signal.SIGKILL or not processes_of(group)
    finally:
        for pid in processes_of(group):
            os.kill(pid, signal.SIGKILL)
