"""Reading ahead: in order, bounded, errors told, and no thread left behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from ecgscale.passes.stream import prefetch


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("prefetch")]


def test_keeps_the_order_and_ends() -> None:
    assert list(prefetch(range(100))) == list(range(100))
    assert not threads()


def test_runs_ahead_but_not_far() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for item in range(100):
            made.append(item)
            yield item

    with closing(prefetch(items(), depth=2)) as ahead:
        assert next(ahead) == 0
        time.sleep(0.05)
        assert 2 <= len(made) <= 4
    assert not threads()
    assert len(made) < 100


def test_errors_come_out_where_the_items_do() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("shard breaks off")

    ahead = prefetch(items())
    assert next(ahead) == 1
    with pytest.raises(ValueError, match="shard breaks off"):
        next(ahead)
    assert not threads()


def test_an_error_of_the_consumer_stops_the_thread() -> None:
    def consume() -> None:
        with closing(prefetch(iter(int, 1))) as endless:
            for _ in endless:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        consume()
    assert not threads()
