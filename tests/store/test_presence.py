"""At work, but not beside somebody who forgets: marks of real processes, put, seen, outlived, and gone in the end."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from ecgscale.errors import ExitCode, UsageError
from ecgscale.io.numbered import to_json
from ecgscale.io.objects import ObjectStore, open_objects
from ecgscale.store.garbage import collect_garbage
from ecgscale.store.lease import LOCK, Holder, Lease, LeaseLost, LockedError
from ecgscale.store.presence import FORGETTING, Mark, announced, at_work, require_alone, stale_marks

WORKING = """
import sys
from ecgscale.store.presence import at_work
with at_work(sys.argv[1], "ecgscale explain"):
    print("there", flush=True)
    sys.stdin.readline()
"""


@contextmanager
def working(root: str) -> Iterator[subprocess.Popen[str]]:
    """Another process, at work until the block ends, unless it is killed before."""
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", WORKING, root], stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "there\n"
        yield process
        if process.poll() is None:
            process.communicate("end\n", timeout=60)


def marks(store: ObjectStore) -> list[str]:
    return [key for key in store.list_prefix(LOCK) if "at_work-" in key]


def mark_elsewhere(store: ObjectStore, name: str, ttl_s: float) -> None:
    """The mark of a process of another host, which nobody here can look at."""
    holder = Holder.here(name, "ecgscale fit", ttl_s).model_copy(update={"host": "elsewhere"})
    store.put(f"{LOCK}/at_work-{name}.json", to_json(holder))


def test_who_is_at_work_keeps_others_from_forgetting(any_root: str) -> None:
    store = open_objects(any_root)
    with working(any_root) as process, at_work(any_root, "ecgscale surrogate"):
        with pytest.raises(LockedError) as caught:
            require_alone(store)
        assert caught.value.exit_code == ExitCode.LOCKED
        assert f"ecgscale explain (process {process.pid} on " in str(caught.value)
        assert "ecgscale surrogate (process" in str(caught.value)
        assert len(marks(store)) == 2
    assert require_alone(store) == []
    assert list(store.list_prefix("")) == []


def test_a_killed_process_of_this_host_is_not_at_work(any_root: str) -> None:
    store = open_objects(any_root)
    with working(any_root) as process:
        process.kill()
        process.wait(60)
    assert (len(marks(store)), len(stale_marks(store))) == (1, 1)
    [message] = require_alone(store)
    assert message.startswith(f"ecgscale explain (process {process.pid} on ")
    assert "is gone; its mark was removed" in message
    assert marks(store) == []


def test_a_mark_lasts_as_long_as_its_heart_beats(any_root: str) -> None:
    store = open_objects(any_root)
    mark_elsewhere(store, "silent", ttl_s=3)
    with pytest.raises(LockedError, match=r"fit \(process \d+ on elsewhere, .* counts for 3 s"):
        require_alone(store)
    with at_work(any_root, "ecgscale explain", ttl_s=3):
        # The store's clock has whole seconds.
        time.sleep(4.1)
        with pytest.raises(LockedError) as caught:
            require_alone(store)
        assert "elsewhere" not in str(caught.value)
        assert len(marks(store)) == 3
    [message] = require_alone(store)
    assert "on elsewhere" in message
    assert marks(store) == []


def test_nobody_is_at_work_beside_somebody_who_forgets(any_root: str) -> None:
    store = open_objects(any_root)
    with Lease(any_root, "one", FORGETTING):
        message = r"in use by ecgscale forget \(process \d+ on "
        with pytest.raises(LockedError, match=message) as caught, at_work(any_root, "ecgscale explain"):
            pass
        assert caught.value.exit_code == ExitCode.LOCKED
        assert marks(store) == []
    with Lease(any_root, "two", "ecgscale nightly") as night, at_work(any_root, "ecgscale explain"):
        night.check()
    with at_work(any_root, "ecgscale explain"):
        assert len(marks(store)) == 1


def test_who_slept_while_forgetting_finds_out(any_root: str, later: Callable[[float], None]) -> None:
    store = open_objects(any_root)
    sleeper = Lease(any_root, "sleeper", FORGETTING, ttl_s=3)
    elsewhere = Holder.here("sleeper", FORGETTING, 3).model_copy(update={"host": "elsewhere"})
    store.put(f"{LOCK}/00000001.json", to_json(elsewhere))
    sleeper._number = 1
    with pytest.raises(LockedError), at_work(any_root, "ecgscale explain"):
        pass
    sleeper.check()
    later(4.1)
    with at_work(any_root, "ecgscale explain"):
        pass
    with pytest.raises(LeaseLost):
        sleeper.check()
    with Lease(any_root, "next", FORGETTING):
        assert require_alone(store) == []


@pytest.mark.parametrize("error", [None, UsageError("no such column")])
def test_who_slept_while_at_work_finds_out(any_root: str, error: Exception | None) -> None:
    store = open_objects(any_root)

    @announced("ecgscale explain")
    def explain(root: str) -> None:
        for key in marks(store):
            store.delete(key)
        if error is not None:
            raise error

    with pytest.raises(LeaseLost, match="`ecgscale forget`") as caught:
        explain(any_root)
    assert caught.value.exit_code == ExitCode.STOPPED


def test_a_command_within_a_command_is_part_of_it(any_root: str) -> None:
    store = open_objects(any_root)
    within = announced("ecgscale explain")(lambda root: marks(store))
    with at_work(any_root, "ecgscale run"):
        [mark] = marks(store)
        assert within(root=any_root) == [mark]
        threads = [threading.Thread(target=within, args=(any_root,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        # That somebody waits to forget changes nothing for what has begun.
        with pytest.raises(LockedError), Lease(any_root, "one", FORGETTING):
            require_alone(store)
        assert within(any_root) == [mark]
    assert marks(store) == []


def test_a_function_that_writes_only_if_asked_to() -> None:
    seen: list[bool] = []

    @announced("ecgscale surrogate", when="write")
    def check(root: str, write: bool = True) -> None:
        seen.append(write)

    check("/proc/no/such/place", write=False)
    with pytest.raises(Exception, match="cannot write"):
        check("/proc/no/such/place")
    assert seen == [False]


@pytest.mark.parametrize("raised", [None, UsageError("a mistake"), KeyboardInterrupt()])
def test_nothing_is_left_behind(tmp_path: Path, raised: BaseException | None) -> None:
    root = tmp_path / "not" / "yet"
    with ExitStack() as stack:
        if raised is not None:
            stack.enter_context(pytest.raises(type(raised)))
        with at_work(root, "ecgscale fit"):
            assert [path.name[:8] for path in (root / LOCK).iterdir()] == ["at_work-"]
            if raised is not None:
                raise raised
    assert list(tmp_path.iterdir()) == []
    with at_work(root, "ecgscale fit"):
        (root / "models").mkdir()
    assert [path.name for path in root.iterdir()] == ["models"]
    (tmp_path / "empty").mkdir()
    with at_work(tmp_path / "empty", "ecgscale fit"):
        pass
    assert list((tmp_path / "empty").iterdir()) == []


def test_many_come_and_go(tmp_path: Path) -> None:
    """Whoever goes takes an empty folder along, also while somebody else is about to put a mark there."""
    store, failed = open_objects(tmp_path / "root"), []

    def come_and_go() -> None:
        try:
            for _ in range(25):
                mark = Mark(store, "a test")
                mark.announce()
                assert mark.withdraw()
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=come_and_go) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert marks(store) == []


def test_gc_tidies_marks_of_the_dead(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    store = open_objects(tmp_path)
    with working(str(tmp_path)) as process:
        process.kill()
        process.wait(60)
    store.put(f"{LOCK}/at_work-alone.beat", b"")
    with at_work(tmp_path, "ecgscale fit"):
        assert collect_garbage(tmp_path).to_dict()["removed"] == 0
        assert collect_garbage(tmp_path, timedelta(0), dry_run=True).by_kind["temporary"].count == 2
        assert collect_garbage(tmp_path, timedelta(0)).by_kind["temporary"].count == 2
        assert len(marks(store)) == 1
