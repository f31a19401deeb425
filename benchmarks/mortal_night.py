"""`ecgscale nightly` in a process of its own, on a day of the simulated calendar, that may be killed at a put."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, tzinfo
from pathlib import Path
from typing import Any

# Loaded before processes are forked.
import ecgscale.nightly.night
import ecgscale.passes.explain.shard
import ecgscale.runtime.run_record
from ecgscale.cli import main

NIGHT_S = 120.0


@dataclass(frozen=True)
class NightEnd:
    """How a night ended: `code` is below zero for a signal; facts: what the command returned, if it came to that."""

    code: int
    facts: dict[str, Any]
    said: str


def run_mortal_night(config: Path, now: datetime, scratch: Path, kill_at: int | None = None) -> NightEnd:
    """One night that takes place at `now`, killed before its so many-th put (from 1) if it comes to that."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    said = scratch / "said"
    said.write_bytes(b"")
    process = context.Process(target=_night, args=(str(config), now, kill_at, str(said), str(scratch)))
    process.start()
    process.join(NIGHT_S)
    if process.exitcode is None:
        process.kill()
        process.join()
        raise TimeoutError(f"a night is not through after {NIGHT_S:.0f} s: {said.read_text()}")
    lines = said.read_text().splitlines()
    facts = json.loads(lines[-1]) if process.exitcode >= 0 and lines and lines[-1].startswith("{") else {}
    return NightEnd(process.exitcode, facts, "\n".join(lines))


def _night(config: str, now: datetime, kill_at: int | None, said: str, scratch: str) -> None:
    descriptor = os.open(said, os.O_WRONLY | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(os.devnull, "w")  # noqa: SIM115
    tempfile.tempdir = scratch

    class Calendar(datetime):
        """What day the night believes it to be."""

        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Any:
            return now.astimezone(tz)

    setattr(ecgscale.nightly.night, "datetime", Calendar)  # noqa: B010
    # A process that is killed loses nothing that it wrote; only a machine that is does, which is not tried here.
    os.fsync = lambda fd: None
    if kill_at is not None:
        fuse = _Fuse(kill_at)
        os.link, os.replace = fuse.around(os.link), fuse.around(os.replace)
    main(["nightly", config, "--json"], prog_name="ecgscale")


class _Fuse:
    """Ends the process before its so many-th file is put in place."""

    def __init__(self, at: int) -> None:
        self._left = at

    def around(self, plain: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            self._left -= 1
            if not self._left:
                os.kill(os.getpid(), signal.SIGKILL)
            return plain(*arguments, **options)

        return wrapped
