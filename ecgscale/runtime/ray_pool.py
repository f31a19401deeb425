"""Ray: a pool of actors (`--runtime ray`) on the cluster that RAY_ADDRESS names, else on a private one here.

A cluster that is joined keeps its own mode of authentication; `private_ray.py` says what protects a private one.

Actors are made with no restarts of Ray's own: the scheduler replaces the dead, knows what they held, and never waits
for one that no longer fits anywhere. Of a fit and of explanations, neither signals nor features pass through the object
store, but for the sample that a fit starts from; what the tasks of an evaluation share does (proportions, the packed
activations of a sweep).
"""

from __future__ import annotations

import itertools
import json
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ecgscale.errors import UsageError
from ecgscale.passes.workers import WorkerSpec
from ecgscale.runtime.private_ray import PrivateRay, our_sigterm
from ecgscale.runtime.processes import share_of_cores
from ecgscale.runtime.scheduler import Reply
from ecgscale.runtime.worker import WorkerShell

ANSWER_S = 10.0
"""How long a head may take to accept a connection."""


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

        self.pending = None
        ray.kill(self.actor, no_restart=True)


class RayBackend:
    """`workers` actors, each with `gpus` of a GPU (a fraction shares one) and `cpus` logical CPUs.

    They have as many `threads` as CPUs; on a private cluster, whose CPUs are as many as workers, their share of cores.
    """

    def __init__(self, workers: int, gpus: float = 0.0, cpus: float = 1.0, threads: int | None = None) -> None:
        self._workers, self._gpus, self._cpus = workers, gpus, cpus
        self._numbers = itertools.count()
        self._sent: tuple[WorkerSpec, Any] | None = None
        self._joined_before = joined()
        self._private = connect(workers)
        self._threads = threads or (max(1, int(cpus)) if self._private is None else share_of_cores(workers))

    def wanted(self) -> int:
        """As many as asked for: those that do not fit yet wait for the cluster to grow."""
        return self._workers

    def start(self, spec: WorkerSpec) -> RayMember:
        """Ask for an actor."""
        import ray

        if self._sent is None or self._sent[0] is not spec:
            # Once for all of them: what an evaluation's tasks share is part of it.
            self._sent = spec, ray.put(spec)
        remote = ray.remote(num_cpus=self._cpus, num_gpus=self._gpus, max_restarts=0, max_task_retries=0)(WorkerShell)
        return RayMember(next(self._numbers), remote.remote(self._sent[1], self._threads))

    def wait(self, members: Sequence[RayMember], timeout: float) -> list[tuple[RayMember, Reply]]:
        """Replies of these actors, deaths included."""
        import ray

        by_reference = {member.pending: member for member in members}
        references = list(by_reference)
        ready, _ = ray.wait(references, num_returns=1, timeout=timeout)
        if ready and len(references) > 1:
            # Whatever else is there already comes along.
            ready, _ = ray.wait(references, num_returns=len(references), timeout=0)
        return [(by_reference[reference], reply) for reference, reply in zip(ready, _replies(ready), strict=True)]

    def description(self) -> str:
        """For the error when none can be had."""
        import ray

        has = {name: amount for name, amount in ray.cluster_resources().items() if name in ("CPU", "GPU")}
        return f"a worker needs {self._cpus:g} CPU and {self._gpus:g} GPU, the cluster has {has or 'nothing'}"

    def close(self) -> None:
        """Shut down the private cluster, or leave the one that was joined for this pool."""
        if not self._joined_before:
            shut_down(self._private)


def _replies(references: Sequence[Any]) -> list[Reply]:
    """What these finished calls ended with; all at once where none failed."""
    import ray

    if len(references) > 1:
        try:
            return [Reply(value=value) for value in ray.get(list(references))]
        except ray.exceptions.RayError:
            pass  # one of them failed: each for itself
    return [_reply(reference) for reference in references]


def _reply(reference: Any) -> Reply:
    import ray

    try:
        return Reply(value=ray.get(reference))
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, Exception):
            return Reply(error=error.cause)
        return Reply(error=RuntimeError(str(error).strip().splitlines()[-1]))
    except ray.exceptions.RayActorError as error:
        reason = _reason(str(error))
        return Reply(died=f"died ({reason})", blameless=error.preempted or "node has died" in reason)
    except ray.exceptions.RayError as error:
        return Reply(died=f"was lost ({type(error).__name__}: {_reason(str(error))})")


def _reason(text: str) -> str:
    """The line of Ray's message that says why: the last one that does not list a field, less its advice."""
    lines = [line for line in text.strip().splitlines() if not line.startswith("\t")]
    return lines[-1].split(" Some common causes")[0].strip() if lines else "no reason given"


def joined() -> bool:
    """Whether this process is connected to a cluster."""
    import ray

    return bool(ray.is_initialized())


def connect(workers: int) -> PrivateRay | None:
    """Join the cluster of RAY_ADDRESS; without it, start a private one with `workers` logical CPUs.

    Returns the private cluster. A bare `ray.init()` would join whatever cluster runs on the machine. Raises UsageError
    when the address does not answer, EcgscaleError when a private cluster does not start.
    """
    import ray

    if joined():
        return None
    address = os.environ.get("RAY_ADDRESS")
    if address:
        try:
            _knock(address)
            with our_sigterm():
                ray.init(address=address, log_to_driver=False, configure_logging=False)
        except (OSError, RuntimeError, ValueError) as error:
            raise UsageError(
                f"RAY_ADDRESS={address} does not answer: {error}. Nothing was started; start the cluster or correct"
                " the address, or leave RAY_ADDRESS out for a private cluster on this machine"
            ) from error
        return None
    return PrivateRay(workers)


def shut_down(private: PrivateRay | None) -> None:
    """Undo `connect`, with what it returned."""
    import ray

    if private is not None:
        return private.close()
    with our_sigterm():
        ray.shutdown()


def _knock(address: str) -> None:
    """Raise OSError when nobody listens at HOST:PORT: Ray itself tries for minutes, then ends the process."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), ANSWER_S).close()


JOB_CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Ray sets it for the entrypoint of a submitted job, and for nothing else."""


def under_ray_job() -> bool:
    """Whether `ray job submit` started this process."""
    return JOB_CONFIG in os.environ


def submission_id() -> str | None:
    """The id that `ray job status` and `ray job logs` take; None outside a job."""
    try:
        found = json.loads(os.environ[JOB_CONFIG])["metadata"]["job_submission_id"]
    except (KeyError, TypeError, ValueError):
        return None
    return str(found)


def workers_that_fit(gpus_per_worker: float) -> int:
    """How many workers this job's cluster has room for now: by GPUs if they want some, else by CPUs; 1 at least.

    Joins the cluster, as a pool would.
    """
    import ray

    connect(1)
    there = ray.cluster_resources()
    found = there.get("GPU", 0.0) / gpus_per_worker if gpus_per_worker > 0 else there.get("CPU", 0.0)
    return max(int(found), 1)


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
