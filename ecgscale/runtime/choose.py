"""`--runtime local|ray --workers N`, as the commands understand it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from ecgscale.errors import UsageError
from ecgscale.passes.workers import OpenPool, WorkerPool, WorkerSpec, in_process
from ecgscale.progress import SILENT, Progress
from ecgscale.runtime.scheduler import Backend, PoolLimits, Scheduler

RuntimeName = Literal["local", "ray"]


def choose_runtime(
    name: RuntimeName,
    workers: int | None,
    *,
    gpus: float = 0.0,
    limits: PoolLimits | None = None,
    progress: Progress = SILENT,
) -> OpenPool:
    """The pool to hand to a pass; `in_process` for one worker on this machine.

    Raises UsageError for fewer than one worker.
    """
    if workers is not None and workers < 1:
        raise UsageError(f"--workers {workers}: at least one worker is needed")
    if name == "local" and (workers or 1) == 1:
        return in_process

    @contextmanager
    def open_pool(spec: WorkerSpec) -> Iterator[WorkerPool]:
        count = min(workers or 1, spec.at_most or workers or 1)
        with Scheduler(_backend(name, count, gpus), spec, limits, progress) as pool:
            yield pool

    return open_pool


def _backend(name: RuntimeName, workers: int, gpus: float) -> Backend:
    if name == "local":
        from ecgscale.runtime.processes import ProcessBackend

        return ProcessBackend(workers)
    from ecgscale.runtime.ray_pool import RayBackend

    return RayBackend(workers, gpus)
