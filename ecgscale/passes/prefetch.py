"""Reading ahead: an iterator runs in a thread of its own while its consumer is busy."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterable
from queue import Empty, Full, Queue
from typing import Generic, TypeVar

T = TypeVar("T")
_POLL_S = 0.1


class _Outcome(Generic[T]):
    """An item, or the end with the error that caused it."""

    def __init__(self, item: T | None = None, *, ended: bool = False, error: BaseException | None = None) -> None:
        self.item, self.ended, self.error = item, ended, error


def prefetch(items: Iterable[T], depth: int = 2) -> Generator[T, None, None]:
    """The items of `items` in order, up to `depth` of them made ahead in a thread; its errors are raised here.

    Close the generator (`contextlib.closing`) to stop the thread early.
    """
    queue: Queue[_Outcome[T]] = Queue(maxsize=depth)
    stopped = threading.Event()

    def offer(outcome: _Outcome[T]) -> bool:
        while not stopped.is_set():
            try:
                queue.put(outcome, timeout=_POLL_S)
                return True
            except Full:
                continue
        return False

    def produce() -> None:
        error: BaseException | None = None
        try:
            for item in items:
                if not offer(_Outcome(item)):
                    return
        except BaseException as raised:
            error = raised
        offer(_Outcome(ended=True, error=error))

    thread = threading.Thread(target=produce, name="prefetch", daemon=True)
    thread.start()
    try:
        while True:
            try:
                outcome = queue.get(timeout=_POLL_S)
            except Empty:
                continue
            if outcome.error is not None:
                raise outcome.error
            if outcome.ended:
                return
            assert outcome.item is not None
            yield outcome.item
    finally:
        stopped.set()
        thread.join()
