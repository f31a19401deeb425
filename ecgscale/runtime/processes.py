"""A pool of processes on this machine (`--runtime local --workers N`), each with its share of the cores.

They are forked from a process that has loaded the libraries and done nothing else, so that those are loaded once: on
few cores, eight workers would otherwise spend half a minute importing.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

from ecgscale.passes.workers import WorkerSpec
from ecgscale.runtime.scheduler import Reply
from ecgscale.runtime.worker import WorkerShell

GRACE_S = 2.0

PRELOAD = ["ecgscale.passes.fit.worker", "ecgscale.passes.explain.shard"]
"""Loaded before forking; neither they nor what they import starts a thread."""


def share_of_cores(workers: int) -> int:
    """Threads for each of so many workers on this machine."""
    return max(1, len(os.sched_getaffinity(0)) // workers)


class ProcessMember:
    """One process, spoken to over a pipe."""

    def __init__(self, number: int, spec: WorkerSpec, threads: int) -> None:
        self.number = number
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOAD)
        self.connection, theirs = context.Pipe()
        self.process = context.Process(
            target=_serve, args=(theirs, spec, threads), name=f"worker-{number}", daemon=True
        )
        # Ctrl-C goes to the whole terminal group; the driver decides what it means and ends its workers.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
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
        if not self.process.is_alive():
            self.process.close()

    def reply(self) -> Reply:
        """What it sent, or how it died."""
        try:
            if not self.connection.poll():
                return self._died()
            kind, value = self.connection.recv()
        except (EOFError, OSError):
            return self._died()
        except Exception as error:  # unpickling runs code of whatever was sent
            return Reply(died=f"answered with what cannot be read ({type(error).__name__}: {error})")
        return Reply(value=value) if kind == "value" else Reply(error=value)

    def _died(self) -> Reply:
        self.process.join(GRACE_S)
        code = self.process.exitcode
        how = f"signal {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit code {code}"
        return Reply(died=f"died ({how}{', perhaps out of memory' if code == -signal.SIGKILL else ''})")


class ProcessBackend:
    """`workers` processes of so many `threads`; by default they share the cores of this process."""

    def __init__(self, workers: int, threads: int | None = None) -> None:
        self._workers = workers
        self._threads = threads or share_of_cores(workers)
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

    def description(self) -> str:
        """For the error when none can be had."""
        return f"{self._workers} processes on this machine were started"

    def close(self) -> None:
        """Nothing of its own."""


def _serve(connection: Connection, spec: WorkerSpec, threads: int) -> None:
    """The loop of one process: calls come in, values or errors go out, until the pipe closes or the driver is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # In a forked process numba would make a lock that outlives a kill, and Python would tell of it in the end.
    multiprocessing.set_start_method("spawn", force=True)
    threading.Thread(target=_end_with_the_driver, daemon=True).start()
    shell = WorkerShell(spec, threads)
    while True:
        try:
            method, arguments = connection.recv()
        except (EOFError, OSError):
            return
        try:
            message: tuple[str, Any] = ("value", shell.call(method, arguments))
        except Exception as error:
            message = ("error", error)
        try:
            connection.send(message)
        except OSError:
            return
        except Exception as error:  # pickling runs code of whatever is sent; nothing of it was sent yet
            connection.send(("error", RuntimeError(f"the answer to {method} cannot be sent: {error}")))


def _end_with_the_driver() -> None:
    """A driver that was killed cannot end its workers; nobody waits for what they compute."""
    driver = multiprocessing.parent_process()
    if driver is not None:
        driver.join()
        os._exit(1)
