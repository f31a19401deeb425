"""Marks of who is at work below a ROOT: any number at a time, but never beside a patient being forgotten.

    _lock/at_work-<id>.json   who it is: put once before anything is read, removed in the end
    _lock/at_work-<id>.beat   put again and again; the younger of the two says how old the mark is, by the store's clock

Commands typed by hand share a ROOT, so the lease (store.lease) is not for them; but one that read the archive before
`ecgscale forget` changed it may write the patient back afterwards. So a command puts its mark and *then* looks whether
anybody forgets, and `forget` takes the lease and *then* looks for marks: whichever came second sees the other. A mark
counts until its process is dead (on the same host) or silent for longer than its `ttl_s`. What only slept finds out:
`forget` by a lease that was taken over, a command by a mark that is gone, and both end with exit code 6.

Who removes garbage (`cleaning`) puts a mark of another kind, `_lock/cleaning-<id>`, and then looks for those who are at
work: if anybody is, nothing is removed. Whoever begins after that waits until it is done, which takes seconds.

Marks lie in the folder of the lease, because both sides write to it just before they look: on a network disk, a host
may be shown an old state of a folder, but not of one that it has just changed. Nights and refits put marks too.
"""

from __future__ import annotations

import functools
import inspect
import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec, TypeVar
from uuid import uuid4

from ecgscale.errors import UsageError
from ecgscale.io.numbered import read_json_object, to_json
from ecgscale.io.objects import LocalObjects, ObjectStat, ObjectStore, StoreError, open_objects
from ecgscale.io.places import place
from ecgscale.store.lease import (
    LOCK,
    TTL_S,
    Holder,
    LeaseLost,
    LockedError,
    Standing,
    end_stale,
    is_stale,
    lease_standing,
)
from ecgscale.store.provenance import utc_now
from ecgscale.store.root import missing_root

FORGETTING = "ecgscale forget"
"""The purpose of the lease that nobody may be at work beside."""

_MARK = f"{LOCK}/at_work-"
_CLEANING = f"{LOCK}/cleaning-"
_LOOK_AGAIN_S = 0.2
_NAMED = 3
_P = ParamSpec("_P")
_R = TypeVar("_R")


class Mark:
    """The mark of one process below one ROOT; `at_work` puts it, keeps it young and removes it."""

    def __init__(
        self, store: ObjectStore, what: str, run_id: str | None = None, ttl_s: float = TTL_S, kind: str = _MARK
    ) -> None:
        self._store = store
        self._holder = Holder.here(run_id or uuid4().hex, what, ttl_s)
        self._key = f"{kind}{uuid4().hex}"
        self._young = time.monotonic()
        self._absent = _absent_folders(store)
        self._done = threading.Event()
        self._beating: threading.Thread | None = None
        self.users = 0

    def announce(self) -> None:
        """Put the mark, then look: `LockedError`, and no mark, while somebody is being forgotten."""
        try:
            self._store.put(f"{self._key}.json", to_json(self._holder))
            self._require_nobody_forgets()
            while any(not mark.stale for mark in _marks(self._store, _CLEANING)):
                time.sleep(_LOOK_AGAIN_S)
        except BaseException:
            self.withdraw()
            raise

    def announce_cleaning(self) -> None:
        """Put the mark of who removes garbage, then look: `LockedError`, and no mark, while others are at work."""
        own = _OWN.get((os.getpid(), self._store.where))
        try:
            self._store.put(f"{self._key}.json", to_json(self._holder))
            others = [mark for mark in _marks(self._store, _MARK) if own is None or own._key not in mark.stem]
            _refuse(self._store, others, "What they are about to refer to could be removed, so nothing was")
        except BaseException:
            self.withdraw()
            raise

    def require_young(self) -> None:
        """Raise `LeaseLost` when this process slept so long that others took it for dead."""
        if time.monotonic() - self._young > self._holder.ttl_s:
            raise self.overtaken()

    def keep_young(self) -> None:
        """Let a thread say from time to time that the process lives, so that a long computation does not look dead."""
        self._beating = threading.Thread(target=self._beat, name="at work", daemon=True)
        self._beating.start()

    def withdraw(self) -> bool:
        """Remove the mark; whether it was there until now."""
        self._done.set()
        if self._beating is not None:
            self._beating.join()
        there = True
        # A store that is away, or lets nothing be removed, changes no result; the mark grows old by itself.
        with suppress(StoreError):
            there = self._store.stat(f"{self._key}.json") is not None
            for kind in ("json", "beat"):
                self._store.delete(f"{self._key}.{kind}")
        for folder in self._absent:
            # Others are at work there.
            with suppress(OSError):
                folder.rmdir()
        return there

    def overtaken(self) -> LeaseLost:
        """What to say when the mark was gone."""
        return LeaseLost(
            f"this process was silent for more than {self._holder.ttl_s:.0f} s, and its mark below {self._store.where} "
            f"was taken for that of a dead one. Should `{FORGETTING}` have run meanwhile, what was written here since "
            "may tell of that patient: type that command again, then this one"
        )

    def _require_nobody_forgets(self) -> None:
        while True:
            standing = lease_standing(self._store)
            if standing.holder is None or standing.holder.purpose != FORGETTING:
                return
            if not is_stale(self._store, standing):
                raise LockedError(
                    f"{self._store.where} is in use by {standing.holder.description}, which nothing may run beside; "
                    "nothing was done. Type the same command again when it has ended; should it be dead, its lease "
                    f"runs out {standing.holder.ttl_s:.0f} s after its last sign of life."
                )
            end_stale(self._store, standing, self._holder)

    def _beat(self) -> None:
        while not self._done.wait(self._holder.ttl_s / 6):
            # The store may be away for a moment; the next beat tries again, and the mark grows old meanwhile.
            with suppress(StoreError):
                if self._store.stat(f"{self._key}.json") is None:
                    return
                self._store.put(f"{self._key}.beat", utc_now().encode())
                self._young = time.monotonic()


_ENTERING = threading.Lock()
_OWN: dict[tuple[int, str], Mark] = {}


@contextmanager
def at_work(root: str | Path, what: str, run_id: str | None = None, ttl_s: float = TTL_S) -> Iterator[None]:
    """Be at work below ROOT, which need not be there yet, for as long as the block lasts.

    what: as people type it, "ecgscale explain". Within a block of the same ROOT another one is part of the outer one.
    Raises `LockedError` at once while somebody is being forgotten there, `StoreError` for a ROOT that cannot be written
    to, and in the end `LeaseLost` when this process slept for longer than `ttl_s` and was taken for dead.
    """
    store = open_objects(root)
    here = (os.getpid(), store.where)
    with _ENTERING:
        mark = _OWN.get(here)
        if mark is None:
            mark = Mark(store, what, run_id, ttl_s)
            mark.announce()
            mark.keep_young()
            _OWN[here] = mark
        mark.users += 1
    try:
        yield
    finally:
        with _ENTERING:
            mark.users -= 1
            if not mark.users:
                del _OWN[here]
                if not mark.withdraw():
                    raise mark.overtaken()


@contextmanager
def cleaning(store: ObjectStore, what: str, ttl_s: float = TTL_S) -> Iterator[Callable[[], None]]:
    """Remove garbage below a ROOT for as long as the block lasts, with nobody else at work there.

    Yields what is to be called before anything is removed: it raises `LeaseLost` when this process slept and was taken
    for dead. Raises `LockedError` at once when anybody but this process is at work; who begins later waits.
    """
    mark = Mark(store, what, ttl_s=ttl_s, kind=_CLEANING)
    mark.announce_cleaning()
    mark.keep_young()
    try:
        yield mark.require_young
    finally:
        mark.withdraw()


def announced(
    what: str, when: str | None = None, existing: bool = False
) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """Make a function be `at_work` below its argument `root` from its first line to its last.

    when: its argument that says whether it writes anything; without one it always does
    existing: ROOT has to be there already, as a mark would make it; `UsageError` when it is not
    """

    def decorate(function: Callable[_P, _R]) -> Callable[_P, _R]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def at_its_work(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            given = signature.bind(*args, **kwargs)
            given.apply_defaults()
            if when is not None and not given.arguments[when]:
                return function(*args, **kwargs)
            if existing and (lost := missing_root(place(given.arguments["root"]))):
                raise UsageError(f"{lost} ROOT is the folder that `ecgscale explain ARCHIVE --out ROOT` wrote to")
            with at_work(given.arguments["root"], what):
                return function(*args, **kwargs)

        return at_its_work

    return decorate


@dataclass(frozen=True)
class _Found:
    """The objects of a mark as a listing showed them; holder: None where only a beat was left."""

    stem: str
    holder: Holder | None
    stats: dict[str, ObjectStat]
    stale: bool


def require_alone(store: ObjectStore) -> list[str]:
    """Make sure, with the lease of ROOT held, that nobody else is at work there; marks of who is gone are removed.

    Returns a sentence for each of those. Raises `LockedError`, which names who is at work, where and since when.
    """
    found = _marks(store, _MARK)
    _refuse(store, found, "What was read before could be written back, so nothing was removed")
    for mark in found:
        for key in sorted(mark.stats, reverse=True):
            store.delete(key)
    return [f"{mark.holder.description} is gone; its mark was removed" for mark in found if mark.holder is not None]


def stale_marks(store: ObjectStore) -> dict[str, ObjectStat]:
    """Objects of marks whose processes are gone: of no use to anybody."""

    def is_own(mark: _Found) -> bool:
        """Who asks may be cleaning up just now."""
        return mark.stem.startswith(_CLEANING) and mark.holder is not None and mark.holder.pid == os.getpid()

    marks = _marks(store, (_MARK, _CLEANING))
    return {key: stat for mark in marks if mark.stale and not is_own(mark) for key, stat in mark.stats.items()}


def _refuse(store: ObjectStore, marks: Iterable[_Found], why: str) -> None:
    """Raise `LockedError` when one of these marks is of somebody who is at work, naming who."""
    busy = [mark.holder for mark in marks if mark.holder is not None and not mark.stale]
    if busy:
        more = f", and {len(busy) - _NAMED} more" if len(busy) > _NAMED else ""
        raise LockedError(
            f"at work below {store.where}: {'; '.join(holder.description for holder in busy[:_NAMED])}{more}. {why}. "
            "Type the same command again when it has ended; should it be dead, its mark counts for "
            f"{max(holder.ttl_s for holder in busy):.0f} s after its last sign of life."
        )


def _marks(store: ObjectStore, kind: str | tuple[str, ...]) -> list[_Found]:
    by_mark: defaultdict[str, dict[str, ObjectStat]] = defaultdict(dict)
    for key, stat in store.list_stats(LOCK).items():
        if key.startswith(kind):
            by_mark[key.rpartition(".")[0]][key] = stat
    found = []
    for stem, stats in by_mark.items():
        holder = read_json_object(store, f"{stem}.json", Holder) if f"{stem}.json" in stats else None
        seen = max(stat.modified for stat in stats.values())
        found.append(_Found(stem, holder, stats, holder is None or is_stale(store, Standing(0, holder, seen))))
    return found


def _absent_folders(store: ObjectStore) -> list[Path]:
    """On a disk, folders that a mark makes and takes along again if nothing else came to lie there, deepest first."""
    if not isinstance(store, LocalObjects):
        return []
    return [store.root / LOCK, *(folder for folder in (store.root, *store.root.parents) if not folder.exists())]
