"""One at a time: taken, refused, taken over from the dead and the silent, and noticed by who was overtaken."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest

from ecgscale.errors import ExitCode
from ecgscale.io.numbered import to_json
from ecgscale.io.objects import open_objects
from ecgscale.store.lease import Holder, Lease, LeaseLost, LockedError, lease_standing


def test_one_at_a_time(any_root: str) -> None:
    with Lease(any_root, "one", "a test"):
        message = r"in use by a test \(process \d+ on "
        with pytest.raises(LockedError, match=message) as caught, Lease(any_root, "two", "b"):
            pass
        assert caught.value.exit_code == ExitCode.LOCKED
    with Lease(any_root, "three", "a test"):
        assert lease_standing(open_objects(any_root)).number == 2


def test_a_dead_process_of_this_host_holds_nothing(tmp_path: object) -> None:
    code = (
        "import os, sys; from ecgscale.store.lease import Lease; Lease(sys.argv[1], 'x', 'y').__enter__(); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False, timeout=60)
    assert lease_standing(open_objects(str(tmp_path))).holder is not None
    with Lease(str(tmp_path), "next", "a test"):
        assert lease_standing(open_objects(str(tmp_path))).number == 2


def test_a_silent_holder_elsewhere_is_overtaken_and_notices(any_root: str, later: Callable[[float], None]) -> None:
    store = open_objects(any_root)
    silent = Lease(any_root, "silent", "a test", ttl_s=3)
    elsewhere = Holder.here("silent", "a test", 3).model_copy(update={"host": "elsewhere"})
    store.put("_lock/00000001.json", to_json(elsewhere))
    silent._number = 1
    with pytest.raises(LockedError), Lease(any_root, "early", "a test"):
        pass
    silent.check()
    # The store's clock may have whole seconds.
    later(4.1)
    with Lease(any_root, "late", "a test"), pytest.raises(LeaseLost):
        silent.check()


def test_a_beating_heart_is_not_overtaken(any_root: str) -> None:
    store = open_objects(any_root)
    with Lease(any_root, "one", "a test", ttl_s=6):
        first = lease_standing(store).seen
        time.sleep(2.5)
        seen = lease_standing(store).seen
        assert first is not None
        assert seen is not None
        assert seen > first


def test_many_at_once_have_one_winner(any_root: str) -> None:
    barrier, won, refused = threading.Barrier(6), [], []

    def race(name: str) -> None:
        barrier.wait()
        try:
            with Lease(any_root, name, "a race"):
                won.append(name)
                time.sleep(1)
        except LockedError:
            refused.append(name)

    threads = [threading.Thread(target=race, args=(f"run-{i}",)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(refused)) == (1, 5)
