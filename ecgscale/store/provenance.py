"""Who wrote something, where, when and with which code: facts of a run, kept out of the data files.

Data files depend on their input alone; what differs from run to run stands in commit records and manifests.
"""

from __future__ import annotations

import getpass
import os
import socket
import subprocess
import uuid
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from pydantic import BaseModel, ConfigDict

RUNS = "runs"
"""Folder of a ROOT with a record a run, written when it ends."""


class RunFacts(BaseModel):
    """One run of one process."""

    model_config = ConfigDict(frozen=True)

    run_id: str
    host: str
    pid: int
    started: str
    code_version: str
    code_commit: str | None
    device: str | None = None


def utc_now() -> str:
    """The time as fixed-width ISO 8601 in UTC, so that later times sort after earlier ones as text."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def run_facts(device: str | None = None) -> RunFacts:
    """The facts of this process; call once a run."""
    return RunFacts(
        run_id=uuid.uuid4().hex,
        host=socket.gethostname(),
        pid=os.getpid(),
        started=utc_now(),
        code_version=package_version(),
        code_commit=_code_commit(),
        device=device,
    )


def login() -> str:
    """The login name of who runs this process; in a container, where a number may have no name, the number."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


def _code_commit() -> str | None:
    """The commit of the checkout this package runs from; None when it is installed otherwise."""
    package = Path(__file__).parent
    tracked = _git("ls-files", "--error-unmatch", Path(__file__).name, folder=package)
    return _git("rev-parse", "HEAD", folder=package) if tracked else None


def _git(*arguments: str, folder: Path) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def package_version() -> str:
    """The version of this package as installed; on a node that has only what a job brought along, there is none."""
    try:
        return metadata.version("ecgscale")
    except metadata.PackageNotFoundError:
        return "not installed"


def versions() -> dict[str, str]:
    """Versions of what decides bits: this package, and the libraries that do the arithmetic."""
    libraries = ("torch", "numpy", "numba", "scipy", "scikit-learn")
    return {"ecgscale": package_version(), **{name: metadata.version(name) for name in libraries}}
