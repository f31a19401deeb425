"""A private cluster of Ray, as somebody else on this machine or network finds it."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ecgscale.errors import EcgscaleError, ExitCode
from ecgscale.runtime.private_ray import ANYWHERE, PrivateRay

STRANGER = """
import sys, ray
evidence = sys.argv[2]
try:
    ray.init(address=sys.argv[1], log_to_driver=False, configure_logging=False)
except BaseException as error:
    print("refused:", type(error).__name__, error)
else:
    ray.get(ray.remote(num_cpus=0)(lambda: open(evidence, "w").close()).remote())
    print("has run a task")
"""


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateRay]:
    """One that was started where the environment says that authentication is off, and another token was set."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_AUTH_TOKEN", "of-another-cluster")
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        patch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
        cluster = PrivateRay(1)
        yield cluster
        cluster.close()
        assert os.environ["RAY_AUTH_MODE"] == "disabled"
        assert os.environ["RAY_AUTH_TOKEN"] == "of-another-cluster"
        assert "RAY_AUTH_TOKEN_PATH" not in os.environ
        assert not Path(os.environ["HOME"], ".ray").exists()
        assert not Path(token_of(cluster)).parent.exists()


def token_of(cluster: PrivateRay) -> str:
    return f"{cluster._directory.name}/token"


def processes_of(cluster: PrivateRay) -> list[Path]:
    """Their folders in /proc: this one, and all whose environment names the cluster's token."""
    found = [Path("/proc/self")]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if token_of(cluster).encode() in (process / "environ").read_bytes():
                found.append(process)
        except OSError:
            continue  # another user's, or gone
    return found


def listening(cluster: PrivateRay) -> dict[int, str]:
    """Ports on which they accept connections, with the address as the kernel writes it."""
    sockets = {
        link
        for process in processes_of(cluster)
        for fd in (process / "fd").glob("*")
        if fd.is_symlink() and (link := os.readlink(fd)).startswith("socket:")
    }
    ports = {}
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
                address, port = fields[1].split(":")
                ports[int(port, 16)] = address
    return ports


def stranger(address: str, evidence: Path, **variables: str) -> str:
    """What a process with these variables of Ray's gets told at this address."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | variables
    environment[ANYWHERE] = "0"  # without it Ray knocks at the machine's other address, where nobody listens
    command = [sys.executable, "-c", STRANGER, address, str(evidence)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    return done.stdout + done.stderr


def test_nothing_listens_beyond_loopback(private: PrivateRay) -> None:
    ports = listening(private)
    loopback = ("0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000")
    assert len(ports) >= 5, "head, node and workers"
    assert {port: address for port, address in ports.items() if address not in loopback} == {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        try:
            asked.connect(("203.0.113.1", 9))  # sends nothing: the address that the way out would take
            other = asked.getsockname()[0]
        except OSError:
            pytest.skip("this machine has no address but loopback")
    for port in ports:
        with pytest.raises(OSError):
            socket.create_connection((other, port), timeout=2).close()


def test_who_has_no_token_is_refused(private: PrivateRay, tmp_path: Path) -> None:
    import ray

    address, evidence = ray.get_runtime_context().gcs_address, tmp_path / "evidence"
    wrong = tmp_path / "wrong"
    wrong.write_text("0" * 64)
    others: list[dict[str, str]] = [
        {"RAY_AUTH_MODE": "disabled"},
        {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(wrong)},
    ]
    for variables in others:
        said = stranger(address, evidence, **variables)
        assert "uthenticat" in said, said
        assert "has run a task" not in said
        assert not evidence.exists()
    said = stranger(address, evidence, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=token_of(private))
    assert "has run a task" in said, said
    assert evidence.exists(), "the same stranger with the token: nothing else kept the others out"


def test_the_token_is_in_its_file_alone(private: PrivateRay) -> None:
    file = Path(token_of(private))
    token = file.read_bytes()
    assert len(token) == 64
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    processes = processes_of(private)
    assert len(processes) >= 5
    for process in processes:
        assert token not in (process / "cmdline").read_bytes()
        assert token not in (process / "environ").read_bytes()
    for log in file.parent.rglob("*"):
        assert log == file or not log.is_file() or token not in log.read_bytes(), log


def test_one_that_cannot_start_is_told_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    def refuse(*_: Any, **__: Any) -> None:
        raise Exception("The current node timed out during startup.\nThis could happen because")

    before = dict(os.environ)
    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(EcgscaleError, match="timed out during startup") as told:
        PrivateRay(1)
    assert told.value.exit_code == ExitCode.FAILED
    assert "\n" not in str(told.value)
    assert dict(os.environ) == before

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryDirectory", full)
    with pytest.raises(EcgscaleError, match="/tmp: No space left on device"):
        PrivateRay(1)
