"""A worker of the explain pass that is slow at the worst moment: its output is put, and its commit record is not."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from ecgscale.passes.explain.shard import ExplainWorker, explain_worker
from ecgscale.passes.workers import WorkerSpec
from ecgscale.store.commit import COMMITS

MARKS = "ECGSCALE_TEST_MARKS"
"""Names a folder in which a worker leaves a file PROCESS-TIME whenever it comes to that moment."""
SECONDS = 1.0


def slow_spec(_factory: str, arguments: dict[str, Any], **_: Any) -> WorkerSpec:
    """In the place of `WorkerSpec` where the explain pass asks for its workers."""
    return WorkerSpec(f"{__name__}:slow_worker", arguments)


def slow_worker(**arguments: Any) -> ExplainWorker:
    """The same work, with a pause."""
    worker = explain_worker(**arguments)
    worker._store = _Slow(worker._store)  # type: ignore[assignment]
    return worker


class _Slow:
    def __init__(self, store: Any) -> None:
        self._plain = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._plain, name)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        if key.startswith(COMMITS):
            (Path(os.environ[MARKS]) / f"{os.getpid()}-{time.monotonic_ns()}").touch()
            time.sleep(SECONDS)
        return bool(self._plain.put_if_absent(key, data))
