"""From recordings to activations: the way of fits and evaluations; explanations take whole batches (`explain.facts`).

    batches of an archive → check → prepare those that are wanted → network → finite? → activations and valid spans

The steps before the network are `ecgscale.encoders.preprocess.prepare_batch`. A record's activations do not depend on
the records that go through the network with it, so each pass takes batches as it reads them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ecgscale.archive.reader import RawBatch
from ecgscale.encoders.preprocess import CROPPED, Prepared, prepare_batch
from ecgscale.encoders.taps import Activations, Encoder


@dataclass(frozen=True)
class Wanted:
    """Wanted records of a raw batch: `rows` (n,) of it, and the whole batch prepared, zero where not usable."""

    raw: RawBatch
    rows: NDArray[np.int64]
    prepared: Prepared

    @classmethod
    def of(
        cls,
        raw: RawBatch,
        encoder: Encoder,
        rows: Iterable[int],
        seen: set[str] | None = None,
        gaps_ms: float = 0.0,
    ) -> Wanted:
        """Check and prepare these rows, in this order; `seen` and `gaps_ms` as in `prepare_batch`."""
        rows = np.asarray(rows, np.int64)
        return cls(raw, rows, prepare_batch(raw, encoder.spec.input, encoder.hop, seen, rows.tolist(), gaps_ms))

    @property
    def cropped(self) -> int:
        """How many of those rows that are usable are longer than the network sees."""
        return sum(CROPPED in self.prepared.flags[i] for i in self.usable)

    @property
    def usable(self) -> NDArray[np.int64]:
        """Those rows that can go through the network."""
        return self.rows[self.prepared.usable[self.rows]]


@dataclass(frozen=True)
class StreamSettings:
    """What decides, beside the encoder, which timesteps of a record count and whether one with gaps is usable."""

    include_padding: bool = False
    gaps_ms: float = 0.0

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> StreamSettings:
        """Those that a cluster model (`info`), or a dataset of explanations (`settings`), was made with."""
        return cls(bool(facts.get("include_padding", False)), float(facts.get("fill_gaps", 0.0)))


PLAIN = StreamSettings()


@dataclass(frozen=True)
class Activated:
    """What a forward pass gave: of the `rows` that went in, those that came out finite (`kept`), and their spans."""

    rows: NDArray[np.int64]
    kept: NDArray[np.int64]
    activations: Activations
    valid_start: NDArray[np.int32]
    valid_stop: NDArray[np.int32]


def activate(encoder: Encoder, wanted: Wanted, include_padding: bool) -> Iterator[Activated]:
    """Usable records through the network, `encoder.batch` at a time; all timesteps are valid with `include_padding`."""
    usable = wanted.usable
    for first in range(0, len(usable), encoder.batch):
        rows = usable[first : first + encoder.batch]
        found = encoder.forward(wanted.prepared.x[rows])
        finite = found.finite(prediction=False)
        kept = rows[finite]
        yield Activated(rows, kept, found.of(finite), *wanted.prepared.spans(kept, include_padding))


T = TypeVar("T")


def prefetch(items: Iterable[T], depth: int = 2) -> Generator[T, None, None]:
    """The items of `items` in order, up to `depth` of them made ahead in a thread; its errors are raised here.

    Close the generator (`contextlib.closing`) to stop the thread early.
    """
    iterator, end = iter(items), object()
    thread = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
    try:
        ahead: deque[Any] = deque(thread.submit(next, iterator, end) for _ in range(depth))
        while (item := ahead.popleft().result()) is not end:
            ahead.append(thread.submit(next, iterator, end))
            yield item
    finally:
        thread.shutdown(cancel_futures=True)
