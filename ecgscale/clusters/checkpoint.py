"""Where a fit stands, written down at intervals, so that the same command goes on from there with the same bits.

One file for all K that are fitted together, replaced whole. It is no model: it lies outside models/ and is deleted when
the models are saved.
"""

from __future__ import annotations

import io
import json
import time
import zipfile
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecgscale.io.objects import open_objects
from ecgscale.io.places import Place

INTERVAL_S = 30.0


@dataclass
class FitState:
    """All that a fit needs to go on: changed in place between two requests, never while one is under way."""

    centres: NDArray[np.float64]
    weights: NDArray[np.int64]
    step: int = 0
    history: list[float] = field(default_factory=list)
    smoothed: float | None = None
    best: float | None = None
    since_best: int = 0
    repaired: int = 0
    converged: bool = False
    finishing: bool = False
    previous_counts: NDArray[np.int64] | None = None
    previous_sums: NDArray[np.int64] | None = None

    @classmethod
    def at(cls, start: NDArray[np.float32]) -> FitState:
        """The beginning, from initial centroids (K, C)."""
        return cls(start.astype(np.float64), np.zeros(len(start), np.int64))


_ARRAYS = ("centres", "weights", "previous_counts", "previous_sums")
_FACTS = ("step", "history", "smoothed", "best", "since_best", "repaired", "converged", "finishing")


class Checkpoint:
    """States of the fits of one command, in one file named by a digest of everything that decides them."""

    def __init__(self, path: Place, interval_s: float = INTERVAL_S) -> None:
        self.path, self._interval_s = path, interval_s
        self._store = open_objects(path.parent)
        self._saved = time.monotonic()

    def load(self) -> dict[int, FitState]:
        """States by place in the command, empty when there are none; a damaged file counts as none."""
        try:
            with np.load(io.BytesIO(self._store.read(self.path.name) or b""), allow_pickle=False) as file:
                facts: dict[str, dict[str, Any]] = json.loads(bytes(file["facts"]))
                return {
                    int(at): FitState(
                        **{name: file[f"{at}.{name}"] for name in _ARRAYS if f"{at}.{name}" in file.files}, **known
                    )
                    for at, known in facts.items()
                }
        except (EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile):
            return {}

    def due(self) -> bool:
        """Whether it is time to save again."""
        return time.monotonic() - self._saved >= self._interval_s

    def save(self, states: dict[int, FitState]) -> None:
        """Replace the file."""
        facts = {at: {name: getattr(state, name) for name in _FACTS} for at, state in states.items()}
        arrays: dict[str, NDArray[Any]] = {"facts": np.frombuffer(json.dumps(facts).encode(), np.uint8)}
        for at, state in states.items():
            for name in _ARRAYS:
                value = getattr(state, name)
                if value is not None:
                    arrays[f"{at}.{name}"] = value
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)  # type: ignore[arg-type]
        self._store.put(self.path.name, buffer.getvalue())
        self._saved = time.monotonic()

    def remove(self) -> None:
        """The models are saved; the file has done its work."""
        self._store.delete(self.path.name)
