"""Whether this process is the entrypoint of a Ray job (`ray job submit`), and what its cluster has room for."""

from __future__ import annotations

import json
import os

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

    from ecgscale.runtime.ray_pool import connect

    connect(1)
    there = ray.cluster_resources()
    found = there.get("GPU", 0.0) / gpus_per_worker if gpus_per_worker > 0 else there.get("CPU", 0.0)
    return max(int(found), 1)
