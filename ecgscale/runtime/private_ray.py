"""A private Ray cluster: on loopback alone, behind a token of its own, in a directory that only this user reads.

Whatever RAY_AUTH_MODE says in the environment is about the cluster of RAY_ADDRESS; a cluster that nobody asked for by
name never runs without a token, since whoever connects to Ray runs code as this user. The token lies in a file of the
cluster's directory: not in an argument, not in a log, not in the home directory, where Ray itself would put it.
"""

from __future__ import annotations

import os
import secrets
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ecgscale.errors import EcgscaleError

LOOPBACK = ("127.0.0.1", "[::1]")
ANYWHERE = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""False, and every process of Ray's takes loopback for its address, as it does on a Mac; where it is true, Ray turns
even `_node_ip_address="127.0.0.1"` into the machine's address, and its servers listen on every interface."""


class PrivateRay:
    """A cluster of `cpus` logical CPUs that this process has started and is connected to, until `close`.

    Raises EcgscaleError with Ray's own reason where it does not start; nothing of it is left then.
    """

    def __init__(self, cpus: int) -> None:
        try:
            # Socket paths are limited to 107 bytes, so the directory is short. Its mode is 0700; Ray opens its own one,
            # with the sockets of node and object store, to everybody, which is why that lies inside.
            self._directory = tempfile.TemporaryDirectory(prefix="ecgs-", dir="/tmp", ignore_cleanup_errors=True)
        except OSError as error:
            raise _cannot_start(f"/tmp: {error.strerror}") from error
        self._before: dict[str, str | None] = {}
        try:
            self._start(cpus)
        except (Exception, SystemExit) as error:  # Ray raises bare Exception, and ends the process in places
            self.close()
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise _cannot_start(lines[0].rstrip(".")) from error
        except BaseException:
            self.close()
            raise

    def _start(self, cpus: int) -> None:
        import ray

        token, inside = Path(self._directory.name, "token"), Path(self._directory.name, "ray")
        with os.fdopen(os.open(token, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
        self._set({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "RAY_AUTH_TOKEN": None, ANYWHERE: "0"})
        with our_sigterm(), _loopback():
            ray.init(
                address="local",
                num_cpus=cpus,
                include_dashboard=False,
                log_to_driver=False,
                _temp_dir=str(inside),
                _node_ip_address="127.0.0.1",
                configure_logging=False,
            )
        address = ray.get_runtime_context().gcs_address
        if not address.startswith(LOOPBACK):
            raise RuntimeError(f"this version of Ray ({ray.__version__}) would listen on {address}, beyond loopback")

    def _set(self, variables: dict[str, str | None]) -> None:
        """Change the environment for Ray's processes, remember what it was, and let Ray read it again."""
        for name, value in variables.items():
            self._before.setdefault(name, os.environ.get(name))
            _put(name, value)
        _read_again()

    def close(self) -> None:
        """End the cluster; the environment is as it was."""
        import ray

        with our_sigterm():
            ray.shutdown()
        for name, value in self._before.items():
            _put(name, value)
        _read_again()
        self._directory.cleanup()


def _cannot_start(reason: str) -> EcgscaleError:
    return EcgscaleError(
        f"Ray cannot start a private cluster on this machine: {reason}. It needs room in /tmp and /dev/shm, and that"
        " this user may write there; `--runtime local --workers N` works without Ray"
    )


def _put(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value


def _read_again() -> None:
    """Ray reads mode and token once a process and keeps them; the mode first, as Ray's own tests do it: a thread that
    still ends would else ask for a token that is gone."""
    from ray import _raylet

    raylet: Any = _raylet  # compiled, without types
    raylet.Config.initialize("")
    raylet.AuthenticationTokenLoader.instance().reset_cache()


@contextmanager
def _loopback() -> Iterator[None]:
    """Ray reads ANYWHERE when it is imported, which may have been before."""
    from ray._private import ray_constants

    before, ray_constants.ENABLE_RAY_CLUSTER = ray_constants.ENABLE_RAY_CLUSTER, False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


@contextmanager
def our_sigterm() -> Iterator[None]:
    """Keep this process's own answer to SIGTERM, which Ray would replace by one that exits with 15."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if before is not None:  # None: set by something that is not Python
            signal.signal(signal.SIGTERM, before)
