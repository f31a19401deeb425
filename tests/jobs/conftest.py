"""A world for jobs, and a real Ray head with a dashboard that takes them."""

from __future__ import annotations

import os
import shutil
import signal
import site
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.worlds.commands.jobs import write_world

PYTHON = getattr(sys, "_base_executable", sys.executable)
"""The interpreter below this environment: with the environment's packages on its path it has everything that is needed
but the package itself, which is installed by a .pth file. What a job runs has to come with it."""


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The configuration of an archive of 20 shards."""
    return write_world(tmp_path_factory.mktemp("jobs"))


@dataclass(frozen=True)
class Head:
    """A head on loopback, and the environment of its processes."""

    address: str
    metrics_port: int
    environment: dict[str, str]

    def ray(self, *words: str, timeout: float = 240) -> subprocess.CompletedProcess[str]:
        """`ray …` as a user types it, with this head as its server."""
        command = [str(Path(sys.executable).parent / "ray"), *words]
        environment = {**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_API_SERVER_ADDRESS": self.address}
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout)

    def submit(self, checkout: Path, *entrypoint: str, options: tuple[str, ...] = ()) -> str:
        """`ray job submit --working-dir CHECKOUT -- python …`; what it printed. The job has to succeed."""
        done = self.ray("job", "submit", *options, "--working-dir", str(checkout), "--", PYTHON, *entrypoint)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def metrics(self) -> dict[str, float]:
        """What Prometheus would read of this package: name{stage} → value."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=10) as page:
            lines = page.read().decode().splitlines()
        found: dict[str, float] = {}
        for line in lines:
            if line.startswith("ray_ecgscale_"):
                name, _, labels = line.rpartition(" ")[0].partition("{")
                kept = [label for label in labels.rstrip("}").split(",") if label.startswith(("stage=", "state="))]
                key = name + "".join(f"{{{label}}}" for label in kept)
                found[key] = found.get(key, 0.0) + float(line.rpartition(" ")[2])
        return found


@pytest.fixture(scope="session")
def head() -> Iterator[Head]:
    """`ray start --head --block` as a child of this process, in a short private directory; ended by its pid."""
    directory = Path(tempfile.mkdtemp(prefix="ecgs-", dir="/tmp"))
    gcs, dashboard, metrics, agent, client = _free_ports(5)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "VIRTUAL_ENV"))},
        "PYTHONPATH": os.pathsep.join(site.getsitepackages()),
        "RAY_AUTH_MODE": "disabled",
        "RAY_JOB_STOP_WAIT_TIME_S": "30",
        "RAY_metrics_report_interval_ms": "500",
    }
    command = [PYTHON, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--num-cpus=2"]
    command += [f"--port={gcs}", f"--temp-dir={directory}", "--disable-usage-stats", "--dashboard-host=127.0.0.1"]
    command += [f"--dashboard-port={dashboard}", f"--metrics-export-port={metrics}"]
    command += [f"--dashboard-agent-listen-port={agent}", f"--ray-client-server-port={client}"]
    log = directory / "head.log"
    with open(log, "wb") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output, start_new_session=True)
    address = f"http://127.0.0.1:{dashboard}"
    try:
        _wait_for_dashboard(address, process, log)
        yield Head(address, metrics, environment)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)
        shutil.rmtree(directory, ignore_errors=True)


def _wait_for_dashboard(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{address}/api/version", timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    pytest.fail(f"no Ray head: {log.read_text()[-3000:]}")


def _free_ports(n: int) -> list[int]:
    sockets = [socket.socket() for _ in range(n)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [int(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports
