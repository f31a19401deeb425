"""Ray as the scheduler of dask: partitions are read and asked on the cluster's machines.

The evaluation takes any scheduler of dask's; this is the one of `ecgscale surrogate --out-of-core --runtime ray`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ecgscale.runtime.ray_pool import RayBackend


@contextmanager
def dask_on_ray(workers: int = 1) -> Iterator[Callable[..., Any]]:
    """A `scheduler` for `dask.compute`, on the cluster of RAY_ADDRESS or on a private one with so many workers.

    Raises UsageError when RAY_ADDRESS does not answer.
    """
    backend = RayBackend(workers)
    try:
        from ray.util.dask import ray_dask_get

        yield ray_dask_get
    finally:
        backend.close()
