"""A pool of Ray actors (`--runtime ray`): on the cluster that RAY_ADDRESS names, else on a private one here.

Actors are made with no restarts of Ray's own: the scheduler replaces the dead, knows what they held, and never waits
for one that no longer fits anywhere. Neither signals nor features pass through the object store.
"""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Sequence
from typing import Any

from ecgscale.errors import EcgscaleError, UsageError
from ecgscale.passes.workers import WorkerSpec
from ecgscale.runtime.scheduler import Reply
from ecgscale.runtime.worker import WorkerShell


class RayMember:
    """One actor."""

    def __init__(self, number: int, actor: Any) -> None:
        self.number, self.actor = number, actor
        self.pending: Any = None

    def call(self, method: str, arguments: tuple[Any, ...]) -> None:
        """Begin a call; it waits in the actor's queue until the actor is placed and made."""
        self.pending = self.actor.call.remote(method, arguments)

    def end(self) -> None:
        """Kill the actor."""
        import ray

        ray.kill(self.actor, no_restart=True)


class RayBackend:
    """`workers` actors, each with `gpus` of a GPU (a fraction shares one) or `cpus` logical CPUs."""

    def __init__(self, workers: int, gpus: float = 0.0, cpus: float = 1.0, threads: int | None = None) -> None:
        self._workers, self._gpus, self._cpus, self._threads = workers, gpus, cpus, threads
        self._numbers = itertools.count()
        self._owned = connect(workers)

    def wanted(self) -> int:
        """As many as asked for: those that do not fit yet wait for the cluster to grow."""
        return self._workers

    def start(self, spec: WorkerSpec) -> RayMember:
        """Ask for an actor."""
        import ray

        remote = ray.remote(num_cpus=self._cpus, num_gpus=self._gpus, max_restarts=0, max_task_retries=0)(WorkerShell)
        return RayMember(next(self._numbers), remote.remote(spec, self._threads))

    def wait(self, members: Sequence[RayMember], timeout: float) -> list[tuple[RayMember, Reply]]:
        """Replies of these actors, deaths included."""
        import ray

        by_reference = {member.pending: member for member in members if member.pending is not None}
        if not by_reference:
            return []
        ready, _ = ray.wait(list(by_reference), num_returns=1, timeout=timeout)
        if ready:
            # Whatever else is there already comes along.
            more, _ = ray.wait(list(by_reference), num_returns=len(by_reference), timeout=0)
            ready = more or ready
        return [(by_reference[reference], _reply(reference)) for reference in ready]

    def told(self) -> str:
        """For the error when none can be had."""
        import ray

        has = {name: amount for name, amount in ray.cluster_resources().items() if name in ("CPU", "GPU")}
        return f"a worker needs {self._cpus:g} CPU and {self._gpus:g} GPU, the cluster has {has or 'nothing'}"

    def close(self) -> None:
        """Shut down the private cluster, or leave the other one."""
        import ray

        ray.shutdown()
        if self._owned is not None:
            self._owned.cleanup()


def _reply(reference: Any) -> Reply:
    import ray

    try:
        return Reply(value=ray.get(reference))
    except ray.exceptions.RayTaskError as error:
        cause = error.cause if isinstance(error.cause, Exception) else None
        return Reply(error=cause or EcgscaleError(str(error).strip().splitlines()[-1]))
    except (ray.exceptions.RayActorError, ray.exceptions.WorkerCrashedError, ray.exceptions.ObjectLostError) as error:
        return Reply(died=f"died ({str(error).strip().splitlines()[0]})")
    except ray.exceptions.OutOfMemoryError as error:
        return Reply(died=f"ran out of memory ({str(error).strip().splitlines()[0]})")


def connect(workers: int) -> tempfile.TemporaryDirectory[str] | None:
    """Join the cluster of RAY_ADDRESS; without it, start a private one with `workers` logical CPUs.

    Returns the private cluster's directory. A bare `ray.init()` would join whatever cluster runs on the machine.
    Raises UsageError when the address does not answer.
    """
    import ray

    if ray.is_initialized():
        return None
    address = os.environ.get("RAY_ADDRESS")
    if address:
        try:
            ray.init(address=address, log_to_driver=False)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UsageError(f"RAY_ADDRESS={address} does not answer: {error}; nothing was started") from error
        return None
    # A private cluster listens on loopback for this user alone; tokens would be written into the home directory.
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    # Socket paths are limited to 107 bytes, so the directory is short.
    directory = tempfile.TemporaryDirectory(prefix="ecgs-", dir="/tmp", ignore_cleanup_errors=True)
    ray.init(
        address="local",
        num_cpus=workers,
        include_dashboard=False,
        log_to_driver=False,
        _temp_dir=directory.name,
        configure_logging=False,
    )
    return directory
