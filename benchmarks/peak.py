"""The peak of a process's own memory: anonymous resident plus shared memory, without mapped file pages."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

EVERY_S = 0.005
ECGSCALE = (sys.executable, "-c", "from ecgscale.cli import main; main()")
"""The command line, from this very environment."""


def peak_bytes(command: Sequence[str]) -> int:
    """Run `command` to its end and return the peak of RssAnon + RssShmem, sampled every EVERY_S (Linux).

    Raises CalledProcessError, with what it said, when the command fails.
    """
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT)
        status, peak = Path(f"/proc/{process.pid}/status"), 0
        while process.poll() is None:
            peak = max(peak, _now(status))
            time.sleep(EVERY_S)
        if process.returncode:
            said.seek(0)
            raise subprocess.CalledProcessError(process.returncode, command, said.read())
    return peak


def _now(status: Path) -> int:
    """Bytes at this moment; 0 when the process has just ended."""
    try:
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return sum(int(lines[name].split()[0]) * 1024 for name in ("RssAnon", "RssShmem") if name in lines)
