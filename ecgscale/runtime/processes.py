"""A pool of processes on this machine (`--runtime local --workers N`), each with its share of the cores."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import pickle
import signal
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

from ecgscale.errors import EcgscaleError
from ecgscale.passes.workers import WorkerSpec
from ecgscale.runtime.scheduler import Reply
from ecgscale.runtime.worker import WorkerShell

GRACE_S = 2.0


class ProcessMember:
    """One process, spoken to over a pipe."""

    def __init__(self, number: int, spec: WorkerSpec, threads: int) -> None:
        self.number = number
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(
            target=_serve, args=(theirs, spec, threads), name=f"worker-{number}", daemon=True
        )
        self.process.start()
        theirs.close()

    def call(self, method: str, arguments: tuple[Any, ...]) -> None:
        """Begin a call; a process that is gone is noticed by the wait."""
        try:
            self.connection.send((method, arguments))
        except OSError:
            self.process.join(GRACE_S)

    def end(self) -> None:
        """Kill the process: whatever it was doing is either committed or garbage."""
        self.connection.close()
        self.process.kill()
        self.process.join(GRACE_S)

    def reply(self) -> Reply:
        """What it sent, or how it died."""
        try:
            if not self.connection.poll():
                return self._died()
            kind, value = self.connection.recv()
        except (EOFError, OSError, pickle.UnpicklingError):
            return self._died()
        return Reply(value=value) if kind == "value" else Reply(error=value)

    def _died(self) -> Reply:
        self.process.join(GRACE_S)
        code = self.process.exitcode
        how = f"signal {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit code {code}"
        return Reply(died=f"died ({how}{', perhaps out of memory' if code == -signal.SIGKILL else ''})")


class ProcessBackend:
    """`workers` processes, with the cores of this process shared among them."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._threads = max(1, len(os.sched_getaffinity(0)) // workers)
        self._numbers = itertools.count()

    def wanted(self) -> int:
        """As many as asked for."""
        return self._workers

    def start(self, spec: WorkerSpec) -> ProcessMember:
        """Start a process."""
        return ProcessMember(next(self._numbers), spec, self._threads)

    def wait(self, members: Sequence[ProcessMember], timeout: float) -> list[tuple[ProcessMember, Reply]]:
        """Replies of these processes, deaths included."""
        by_handle: dict[Any, ProcessMember] = {}
        for member in members:
            by_handle[member.connection] = member
            by_handle[member.process.sentinel] = member
        ready = {by_handle[handle].number: by_handle[handle] for handle in wait(list(by_handle), timeout)}
        return [(member, member.reply()) for member in ready.values()]

    def told(self) -> str:
        """For the error when none can be had."""
        return f"{self._workers} processes on this machine were started"

    def close(self) -> None:
        """Nothing of its own."""


def _serve(connection: Connection, spec: WorkerSpec, threads: int) -> None:
    """The loop of one process: calls come in, values or errors go out, until the pipe closes."""
    # Ctrl-C goes to the whole terminal group; the driver decides what it means and ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    shell = WorkerShell(spec, threads)
    while True:
        try:
            method, arguments = connection.recv()
        except (EOFError, OSError):
            return
        try:
            message: tuple[str, Any] = ("value", shell.call(method, arguments))
        except Exception as error:
            message = ("error", error if _travels(error) else EcgscaleError(f"{type(error).__name__}: {error}"))
        connection.send(message)


def _travels(error: Exception) -> bool:
    """Whether an error survives being pickled and unpickled."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # whatever it is, it would be raised in the driver instead of the error itself
        return False
    return True
