"""A lease on ROOT: one nightly run at a time, kept alive by a heartbeat, taken over when its holder is gone.

    _lock/00000012.json   who holds generation 12, put if absent: one winner
    _lock/00000012.beat   put again and again by the holder; its age, by the store's clock, is the lease's
    _lock/00000012.end    the holder whose run_id it holds is done

Whoever finds the newest generation ended, silent for longer than its `ttl_s`, or held by a process of this host that is
dead, puts the next one. A holder that slept through that finds a newer generation and stops. Only double work is
saved so: publishing is safe without any lock, since a manifest is put if absent on top of the one that was read before.
"""

from __future__ import annotations

import os
import socket
import threading
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType

from pydantic import BaseModel, ConfigDict

from ecgscale.errors import EcgscaleError, ExitCode
from ecgscale.io.numbered import Numbered
from ecgscale.io.objects import ObjectStore, StoreError, open_objects
from ecgscale.io.places import Place
from ecgscale.store.provenance import utc_now

LOCK = "_lock"
KEPT = 5
TTL_S = 180.0


class LockedError(EcgscaleError):
    """Somebody else holds the lease."""

    exit_code = ExitCode.LOCKED


class LeaseLost(EcgscaleError):
    """Somebody took this process for dead while it was silent; the same command goes on where the other one ends."""

    exit_code = ExitCode.STOPPED


class Holder(BaseModel):
    """Who holds a generation."""

    model_config = ConfigDict(frozen=True)

    run_id: str
    purpose: str
    host: str
    boot: str
    pid: int
    began: str
    acquired: str
    ttl_s: float

    @classmethod
    def here(cls, run_id: str, purpose: str, ttl_s: float) -> Holder:
        """This process."""
        pid = os.getpid()
        return cls(
            run_id=run_id,
            purpose=purpose,
            host=socket.gethostname(),
            boot=_boot(),
            pid=pid,
            began=_began(pid),
            acquired=utc_now(),
            ttl_s=ttl_s,
        )

    @property
    def dead(self) -> bool:
        """Whether it was a process of this host, since the same boot, that is gone."""
        here = self.host == socket.gethostname() and self.boot == _boot() and self.boot != ""
        return here and _began(self.pid) != self.began

    @property
    def description(self) -> str:
        """What it is, where and since when, for people."""
        return f"{self.purpose} (process {self.pid} on {self.host}, since {self.acquired})"


_SERIES = Numbered(LOCK, Holder)


@dataclass(frozen=True)
class Standing:
    """The newest generation: its number (0: none), its holder unless it ended, and the last sign of life."""

    number: int
    holder: Holder | None
    seen: datetime | None


class Lease:
    """A context manager: holds the lease of ROOT, or raises `LockedError` at once.

    Its heartbeat is a thread, so a long computation does not look dead; a process that is stopped does.
    """

    def __init__(self, root: str | Place, run_id: str, purpose: str, ttl_s: float = TTL_S) -> None:
        self._store: ObjectStore = open_objects(root)
        self._holder = Holder.here(run_id, purpose, ttl_s)
        self._number = 0
        self._lost = False
        self._done = threading.Event()
        self._beating: threading.Thread | None = None

    def __enter__(self) -> Lease:
        self._acquire()
        self._beating = threading.Thread(target=self._beat, name="lease", daemon=True)
        self._beating.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        assert self._beating is not None
        self._beating.join()
        if not self._lost:
            self.end()
            self._prune()

    def check(self) -> None:
        """Raise `LeaseLost` when another process has taken over: before anything that should happen once."""
        if not self._lost:
            # A store without put-if-absent lets two take the same generation; the later of them has it.
            standing = _SERIES.read(self._store, self._number)
            ours = standing is not None and standing.run_id == self._holder.run_id
            self._lost = not ours or self._store.stat(_SERIES.key(self._number + 1)) is not None
        if self._lost:
            raise LeaseLost(
                f"another run has taken over {self._store.where}: this one was silent for more than "
                f"{self._holder.ttl_s:.0f} s. What was committed stays; type the same command again when it is done."
            )

    def end(self) -> None:
        """Say that this process is done. Where another overwrote the generation (a store without put-if-absent), that
        one goes on."""
        self._store.put(_key(self._number, "end"), self._holder.run_id.encode())

    def _acquire(self) -> None:
        standing = lease_standing(self._store)
        if standing.holder is not None and not is_stale(self._store, standing):
            _refuse(self._store, standing)
        self._number = standing.number + 1
        if not _SERIES.create(self._store, self._number, self._holder):
            _refuse(self._store, lease_standing(self._store))

    def _beat(self) -> None:
        while not self._done.wait(self._holder.ttl_s / 6):
            try:
                if self._store.stat(_SERIES.key(self._number + 1)) is not None:
                    self._lost = True
                    return
                self._store.put(_key(self._number, "beat"), utc_now().encode())
            except StoreError:
                # The store is away for a moment; the next beat tries again, and the lease grows old meanwhile.
                continue

    def _prune(self) -> None:
        for key in list(self._store.list_prefix(LOCK)):
            stem = key.rsplit("/", 1)[-1].partition(".")[0]
            if stem.isdigit() and int(stem) <= self._number - KEPT:
                self._store.delete(key)


def lease_standing(store: ObjectStore) -> Standing:
    """Who holds the lease of this ROOT, if anybody."""
    number = _SERIES.newest(store)
    if number == 0:
        return Standing(number, None, None)
    ended = store.read(_key(number, "end"))
    # Those of earlier versions said nothing.
    holder = None if ended == b"" else _SERIES.read(store, number)
    if holder is None or ended == holder.run_id.encode():
        return Standing(number, None, None)
    signs = [store.stat(_SERIES.key(number)), store.stat(_key(number, "beat"))]
    seen = max((sign.modified for sign in signs if sign is not None), default=None)
    return Standing(number, holder, seen)


def is_stale(store: ObjectStore, standing: Standing) -> bool:
    """Whether a holder is dead, or has been silent for longer than it said it would be, by the store's clock."""
    assert standing.holder is not None
    if standing.holder.dead or standing.seen is None:
        return True
    return (store.clock() - standing.seen).total_seconds() > standing.holder.ttl_s


def end_stale(store: ObjectStore, standing: Standing, by: Holder) -> None:
    """Take over from a stale holder and end at once, so that one that was only asleep finds out when it wakes."""
    if _SERIES.create(store, standing.number + 1, by):
        store.put(_key(standing.number + 1, "end"), by.run_id.encode())


def _refuse(store: ObjectStore, standing: Standing) -> None:
    holder = standing.holder
    who = holder.description if holder else "another run"
    ttl = holder.ttl_s if holder else TTL_S
    raise LockedError(
        f"{store.where} is in use by {who}; nothing was done. Wait until it ends; should it be dead, its lease "
        f"runs out {ttl:.0f} s after its last sign of life, and the same command takes over."
    )


def _key(number: int, kind: str) -> str:
    return f"{LOCK}/{number:08d}.{kind}"


def _boot() -> str:
    """What tells one boot of this machine from another; "" where the system does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _began(pid: int) -> str:
    """When a process began, in the kernel's ticks; "" when there is none of that number."""
    try:
        content = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    # The second field is the program's name in parentheses, which may hold anything; the 22nd is the start.
    fields = content.rpartition(")")[2].split()
    return "" if fields[0] == "Z" else fields[19]
