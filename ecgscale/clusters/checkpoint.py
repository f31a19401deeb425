"""Where a fit stands, in a file: written now and then, read by the same command when it was stopped.

A state that is not what was written, or that other code wrote, is told and never used: the fit begins again.
"""

from __future__ import annotations

import hashlib
import io
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecgscale.io.objects import open_objects
from ecgscale.io.places import Place
from ecgscale.store.failures import code_digest

INTERVAL_S = 30.0
"""How often a fit writes down where it stands."""


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


class Checkpoint:
    """States of the fits of one command, in one file that is replaced whole: what goes on from there has the same bits.

    The file is named by a digest of everything that decides the fits, and holds one of all that is in it. It is no
    model: it lies outside models/ and is deleted when the models are saved.
    """

    def __init__(self, path: Place, interval_s: float = INTERVAL_S) -> None:
        self.path, self._interval_s = path, interval_s
        self._store = open_objects(path.parent)
        self._saved = time.monotonic()

    def load(self, say: Callable[[str], None] | None = None) -> dict[int, FitState]:
        """States by place in the command, empty when there are none.

        A file that is damaged, or of another version of the code, counts as none; `say` learns of it.
        """
        data = self._store.read(self.path.name)
        if data is None:
            return {}
        try:
            states, code = _unpacked(data)
        except Exception as error:  # whatever numpy makes of bytes that it did not write
            return _begins_again(say, f"{self.path} is damaged ({error or type(error).__name__})")
        if code != code_digest():
            return _begins_again(say, f"{self.path} was written by other code (ecgscale or its libraries changed)")
        return states

    def due(self) -> bool:
        """Whether it is time to save again."""
        return time.monotonic() - self._saved >= self._interval_s

    def save(self, states: dict[int, FitState]) -> None:
        """Replace the file."""
        self._store.put(self.path.name, _packed(states, code_digest()))
        self._saved = time.monotonic()

    def remove(self) -> None:
        """The models are saved; the file has done its work."""
        self._store.delete(self.path.name)


def _begins_again(say: Callable[[str], None] | None, why: str) -> dict[int, FitState]:
    if say is not None:
        say(f"note: {why}; it is left unused, and the fit begins again")
    return {}


def _packed(states: Mapping[int, FitState], code: str) -> bytes:
    facts: dict[int, dict[str, Any]] = {at: {} for at in states}
    arrays: dict[str, NDArray[Any]] = {}
    for at, state in states.items():
        for name, value in vars(state).items():
            if isinstance(value, np.ndarray):
                arrays[f"{at}.{name}"] = value
            else:
                facts[at][name] = value
    arrays["facts"] = np.frombuffer(json.dumps({"code": code, "states": facts}).encode(), np.uint8)
    arrays["digest"] = _digest(arrays)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def _unpacked(data: bytes) -> tuple[dict[int, FitState], str]:
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    if "digest" not in arrays or not np.array_equal(arrays.pop("digest"), _digest(arrays)):
        raise ValueError("its digest is not that of its content")
    content: dict[str, Any] = json.loads(bytes(arrays.pop("facts")))
    parts: dict[str, dict[str, Any]] = {at: {} for at in content["states"]}
    for name, array in arrays.items():
        at, _, part = name.partition(".")
        parts[at][part] = array
    return {int(at): FitState(**parts[at], **known) for at, known in content["states"].items()}, content["code"]


def _digest(arrays: Mapping[str, NDArray[Any]]) -> NDArray[np.uint8]:
    """SHA-256 (32,) over names, types, shapes and values."""
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(f"{name}\0{array.dtype.str}\0{array.shape}\0".encode() + np.ascontiguousarray(array).tobytes())
    return np.frombuffer(digest.digest(), np.uint8)
