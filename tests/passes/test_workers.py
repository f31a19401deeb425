"""The pool that is this process: nothing is copied, errors are what they were, and stages advance as the work does."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from ecgscale.errors import ShardError
from ecgscale.passes.workers import Call, Done, Failed, WorkerSpec, driver_device, in_process
from ecgscale.progress import UNSEEN
from tests.worlds.commands.explaining import Watching


class Worker:
    """Counts, fails and tells how far it is."""

    made = 0

    def __init__(self) -> None:
        type(self).made += 1
        self.stage, self.closed = UNSEEN, False

    def echo(self, value: Any) -> Any:
        self.stage.advance(2)
        return value

    def fail(self, error: BaseException) -> None:
        raise error

    def close(self) -> None:
        self.closed = True


SPEC = WorkerSpec(f"{__name__}:Worker")


def test_calls_are_done_here_one_after_the_other_and_nothing_is_copied() -> None:
    thing, watch, worker = object(), Watching(), Worker()
    with in_process(WorkerSpec("none:needed", here=lambda: worker)) as pool:
        drawn: list[str] = []

        def calls() -> Any:
            for key in "ab":
                drawn.append(key)
                yield Call(key, "echo", (thing,), records=5)

        for outcome in pool.run(calls(), watch):
            assert isinstance(outcome, Done)
            assert outcome.value is thing
            assert drawn[-1] == outcome.call.key, "none is drawn before its turn: there may be no time for it"
            assert watch.advanced == 5 * len(drawn), "what the worker advanced is part of it"
        assert (pool.ready(), worker.closed) == ([0], False)
    assert worker.closed


@pytest.mark.parametrize("error", [ValueError("a bug"), KeyboardInterrupt(), MemoryError()])
def test_what_a_call_raises_is_raised_as_it_is(error: BaseException) -> None:
    with pytest.raises(type(error)) as raised, in_process(SPEC) as pool:
        list(pool.run([Call("a", "fail", (error,))]))
    assert raised.value is error


def test_a_shard_fails_alone_unless_it_was_asked_to_raise() -> None:
    torn = ShardError("part-00001.parquet breaks off")
    with in_process(SPEC) as pool:
        failed, done = pool.run([Call("a", "fail", (torn,)), Call("b", "echo", (1,))])
        assert isinstance(failed, Failed)
        assert (failed.reason, failed.fatal, failed.lost) == (str(torn), 0, False)
        assert isinstance(done, Done)
        with pytest.raises(ShardError, match="breaks off"):
            list(pool.run([Call("a", "fail", (torn,), raises=True)]))


def test_a_worker_is_made_when_it_is_needed_and_here_stays_here() -> None:
    before = Worker.made
    with in_process(SPEC) as pool:
        assert list(pool.run([])) == []
    assert Worker.made == before
    sent = pickle.loads(pickle.dumps(WorkerSpec(SPEC.factory, here=lambda: None)))
    assert isinstance(sent.make(), Worker)


def test_the_driver_of_other_workers_may_have_no_gpu() -> None:
    assert driver_device(in_process, "cuda") == "cuda"
    assert driver_device(lambda spec: in_process(spec), "cuda") == "cpu"
