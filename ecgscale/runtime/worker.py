"""The shell around a worker in another process or actor: makes it on the first call, and says what it is like."""

from __future__ import annotations

import os
import pickle
import socket
import sys
from dataclasses import dataclass
from typing import Any

from threadpoolctl import threadpool_limits

from ecgscale.passes.workers import WorkerSpec
from ecgscale.store.failures import code_digest
from ecgscale.store.provenance import versions

THREADS = ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
JOBLIB = "LOKY_MAX_CPU_COUNT"
"""What joblib, which grows scikit-learn's forests, takes for the number of cores."""


@dataclass(frozen=True)
class Hello:
    """A worker's first answer: what all workers of a run must share, and where it is."""

    kind: dict[str, Any]
    host: str
    pid: int


def kind() -> dict[str, Any]:
    """What decides bits in this process, as far as the driver has to share it: versions, and the code itself."""
    return {**versions(), "ecgscale code": code_digest()}


class WorkerShell:
    """Makes the worker of a specification when first called, then passes calls on."""

    def __init__(self, spec: WorkerSpec, threads: int | None = None) -> None:
        self._spec, self._threads = spec, threads
        self._worker: Any = None
        if threads is not None:
            os.environ[JOBLIB] = str(threads)
        if threads is not None and "numba" not in sys.modules:
            # For libraries that the worker will load; numba reads its own again and again, and refuses another.
            os.environ.update(dict.fromkeys(THREADS, str(threads)))

    def call(self, method: str, arguments: tuple[Any, ...]) -> Any:
        """`hello` answers what the worker is like; others are the worker's own methods.

        An error that would not arrive as what it is comes as a RuntimeError that tells it.
        """
        try:
            if self._worker is None:
                self._worker = self._made()
            return self._hello() if method == "hello" else getattr(self._worker, method)(*arguments)
        except Exception as error:
            if _travels(error):
                raise
            raise RuntimeError(f"{type(error).__name__}: {error}") from None

    def _made(self) -> Any:
        if self._threads is None:
            return self._spec.make()
        _limit_threads(self._threads)
        worker = self._spec.make()
        _limit_threads(self._threads)  # what was loaded meanwhile
        return worker

    def _hello(self) -> Hello:
        facts = {"device": getattr(self._worker, "device", "cpu"), "threads": self._threads}
        if self._threads is None and "torch" in sys.modules:
            facts["threads"] = sys.modules["torch"].get_num_threads()
        return Hello({**kind(), **facts}, socket.gethostname(), os.getpid())


def _limit_threads(threads: int) -> None:
    """Give BLAS, torch and the compiled kernels so many, where they are loaded already."""
    threadpool_limits(threads, user_api="blas")
    if "numba" in sys.modules:
        # First: when numba starts its threads, it sets the number that torch has too.
        numba = sys.modules["numba"]
        numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)


def _travels(error: Exception) -> bool:
    """Whether an error survives being pickled and unpickled."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # whatever it is, it would be raised in the driver instead of the error itself
        return False
    return True
