"""Nights in processes of their own that end, or stand still, at a chosen put; and what a ROOT holds, less who wrote it.

The processes are forked from one that has loaded the libraries and done nothing else.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import re
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from multiprocessing import forkserver
from pathlib import Path
from typing import Any, Literal

import upath  # noqa: F401
from s3fs import S3FileSystem

# What a night loads when it comes to it is loaded before forking.
import ecgscale.nightly.night
import ecgscale.passes.explain.shard
import ecgscale.runtime.run_record  # noqa: F401
from ecgscale.cli import main
from ecgscale.io.objects import ObjectStore, open_objects
from ecgscale.io.places import REMOTE, is_remote
from ecgscale.store.dataset import dataset_store
from ecgscale.store.root import dataset_ids
from tests.worlds.commands.nights import NightWorld

WAIT_S = 120.0
RUN_FACTS = {"run", "committed_at", "created", "held_at", "path", "parent", "pointer", "promoted_at"}
REACHED_BY = ("AWS_", "ECGSCALE_")
_ONE_AT_A_TIME = threading.Lock()


@dataclass(frozen=True)
class Trip:
    """At put number `at`, from 1, of a night below its world, the process is sent a signal, before or after it.

    A night that trips over nothing only counts: the keys of its puts stand in `Nightly.puts`.
    """

    at: int = 0
    when: Literal["before", "after"] = "before"
    signal: int = signal.SIGKILL
    of: str = ""
    """Only puts of which the name contains this are counted."""
    refusal: int = 0
    """Instead of the signal, the put fails with this error number."""


@dataclass
class Nightly:
    """`ecgscale nightly` in a process of its own; what it says goes to files in `folder`."""

    folder: Path
    process: Any = field(repr=False)

    @property
    def pid(self) -> int:
        """Its process id."""
        return int(self.process.pid)

    def wait(self) -> int:
        """Its exit code; a signal's number below zero."""
        due = time.monotonic() + WAIT_S
        while (code := self._code()) is None:
            if time.monotonic() > due:
                self.process.kill()
                raise TimeoutError(f"a night is not through after {WAIT_S:.0f} s: {self.said}")
            time.sleep(0.01)
        return code

    def end(self, code: int) -> dict[str, Any]:
        """What it returned, once it has ended with this code."""
        assert self.wait() == code, self.said
        facts: dict[str, Any] = json.loads(self.stdout.splitlines()[-1])
        return facts

    def stopped(self) -> bool:
        """Wait until it was stopped by SIGSTOP; False when it ended instead."""
        due = time.monotonic() + WAIT_S
        while time.monotonic() < due and self._code() is None:
            with contextlib.suppress(FileNotFoundError):
                if Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T":
                    return True
            time.sleep(0.02)
        return False

    def _code(self) -> int | None:
        # A start in one thread looks after the processes of all others, and takes the answer that they wait for.
        with _ONE_AT_A_TIME:
            return None if self.process.exitcode is None else int(self.process.exitcode)

    def resume(self) -> None:
        """Let it go on after SIGSTOP."""
        os.kill(self.pid, signal.SIGCONT)

    @property
    def stdout(self) -> str:
        """What it wrote there so far."""
        return (self.folder / "stdout").read_text()

    @property
    def said(self) -> str:
        """Both streams so far."""
        return self.stdout + (self.folder / "stderr").read_text()

    @property
    def puts(self) -> list[str]:
        """Names of its puts so far, in order."""
        return (self.folder / "puts").read_text().splitlines()


def nightly(
    world: NightWorld,
    name: str,
    *options: str,
    trip: Trip | None = None,
    patch: Mapping[str, Any] | None = None,
    says: Path | None = None,
    endpoint: str | None = None,
) -> Nightly:
    """Start a night of a world, which writes what it says into the folder `name` there, or into `says`; `patch` gives
    other values to what modules know by a name, "package.module:NAME"; `endpoint` is that of the store, if not ours.
    """
    folder = says or world.scratch / name
    (folder / "tmp").mkdir(parents=True)
    context = _fork_server()
    environment = {name: value for name, value in os.environ.items() if name.startswith(REACHED_BY)}
    if endpoint is not None:
        environment["AWS_ENDPOINT_URL"] = endpoint
    arguments = ["nightly", str(world.config), *options, "--json"]
    fuse = _Fuse(trip or Trip(), world.where.removeprefix(REMOTE) + "/", folder / "puts")
    process = context.Process(target=_serve, args=(arguments, folder, environment, fuse, patch or {}))
    with _ONE_AT_A_TIME:
        process.start()
    return Nightly(folder, process)


@cache
def _fork_server() -> Any:
    """Whoever started a fork server before had other things loaded, and each night would load the rest anew."""
    context = multiprocessing.get_context("forkserver")
    forkserver._forkserver._stop()  # type: ignore[attr-defined]
    context.set_forkserver_preload([__name__])
    return context


def _serve(
    arguments: list[str], folder: Path, environment: Mapping[str, str], fuse: _Fuse, patch: Mapping[str, Any]
) -> None:
    for name in [name for name in os.environ if name.startswith(REACHED_BY)]:
        del os.environ[name]
    os.environ.update(environment)
    for number, name in ((1, "stdout"), (2, "stderr")):
        descriptor = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, number)
        os.close(descriptor)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
    for where, value in patch.items():
        module, _, name = where.partition(":")
        setattr(sys.modules[module], name, value)
    # Scratch files of one that is killed stay; here they go with the test's folder.
    tempfile.tempdir = str(folder / "tmp")
    fuse.lay()
    main(arguments, prog_name="ecgscale")


class _Fuse:
    """Counts every file or object that is put in place below `where`, and trips."""

    def __init__(self, trip: Trip, where: str, log: Path) -> None:
        self._trip, self._where, self._path, self._count = trip, where, log, 0
        log.touch()

    def lay(self) -> None:
        """Around the calls that put something, below everything that decides to."""
        self._log = open(self._path, "a", buffering=1)  # noqa: SIM115
        # A process that is killed loses nothing that it wrote; only a machine that is does, which is not tried here.
        os.fsync = lambda descriptor: None
        for name in ("link", "replace"):
            setattr(os, name, self._around(getattr(os, name)))
        plain = S3FileSystem._pipe_file

        async def pipe_file(system: Any, path: str, *arguments: Any, **options: Any) -> Any:
            self._step("before", path)
            try:
                return await plain(system, path, *arguments, **options)
            finally:
                self._step("after", path)

        S3FileSystem._pipe_file = pipe_file

    def _around(self, plain: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        def wrapped(source: Any, target: Any) -> Any:
            self._step("before", str(target))
            try:
                return plain(source, target)
            finally:
                self._step("after", str(target))

        return wrapped

    def _step(self, when: str, name: str) -> None:
        if not name.startswith(self._where) or self._trip.of not in name:
            return
        if when == "before":
            self._count += 1
            self._log.write(f"{name}\n")
        if (self._count, when) == (self._trip.at, self._trip.when):
            if self._trip.refusal:
                raise OSError(self._trip.refusal, os.strerror(self._trip.refusal))
            os.kill(os.getpid(), self._trip.signal)


def held_content(world: NightWorld, stamps: bool = True) -> dict[str, Any]:
    """Everything of the only dataset of a world: data files as bytes, records less who wrote them, when and where.

    Without `stamps`, the times of source files are left out too, and names that hang on them.
    """
    [dataset] = dataset_ids(world.root)
    store = dataset_store(world.root, dataset)
    found: dict[str, Any] = {}
    for key in _keys(store):
        data = store.read(key)
        assert data is not None
        if key.endswith(".parquet"):
            found[key] = data
        elif not key.startswith("_nights/"):
            facts = _plain(json.loads(data), stamps)
            found[key if stamps else re.sub(r"(_commits/.*)-[0-9a-f]{16}", rf"\1-{_content(facts)}", key)] = facts
    return found


def came(root: str) -> list[tuple[str, int]]:
    """What nights' records say came: each shard that they name, with the records of that night, sorted."""
    [dataset] = dataset_ids(root)
    store = dataset_store(root, dataset)
    nights = [json.loads(store.read(key) or b"") for key in store.list_prefix("_nights")]
    return sorted((shard, night["night"]["records"]) for night in nights for shard in night["shards"])


def said_or_kept(secrets: Sequence[str], world: NightWorld, *nights: Nightly) -> list[str]:
    """Those of the secrets that stand in what nights said, or in any object below the world."""
    found = "".join(night.said for night in nights).encode() + everything(world.where)
    return [secret for secret in secrets if secret.encode() in found]


def everything(place: str) -> bytes:
    """All bytes of all objects below a place, to look for what should not be in any of them."""
    store = open_objects(place)
    names = _keys(store)
    return b"\n".join([*(name.encode() for name in names), *(store.read(name) or b"" for name in names)])


def _keys(store: ObjectStore) -> list[str]:
    if is_remote(store.where):
        return sorted(store.list_prefix(""))
    return [key for key in store.list_prefix("") if "/_tmp-" not in f"/{key}"]


def _content(facts: Any) -> str:
    return str(facts.get("source", {}).get("content_digest", ""))[:16] if isinstance(facts, dict) else ""


def _plain(facts: Any, stamps: bool) -> Any:
    dropped = RUN_FACTS | (set() if stamps else {"stamp", "commit", "plan_digest"})
    if isinstance(facts, dict):
        return {name: _plain(value, stamps) for name, value in facts.items() if name not in dropped}
    return [_plain(value, stamps) for value in facts] if isinstance(facts, list) else facts
