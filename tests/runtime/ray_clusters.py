"""Real Ray clusters for tests: simulated nodes on this machine, in a directory of their own, ended by pid."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

SETTINGS = {
    "RAY_AUTH_MODE": "disabled",
    # A node that is gone is noticed after two seconds instead of seventeen.
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_failure_threshold": "2",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_initial_delay_ms": "0",
    "RAY_kill_worker_timeout_milliseconds": "1000",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}


class Nodes:
    """A head without CPUs, and nodes that can be added and killed."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self._cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        self.address = str(self._cluster.address)

    def add(self, **resources: Any) -> Any:
        """A node with `num_cpus`, `num_gpus`."""
        return self._cluster.add_node(**resources)

    def kill(self, node: Any) -> None:
        """As if its machine were gone."""
        self._cluster.remove_node(node, allow_graceful=False)

    def node_of(self, pid: int) -> Any:
        """The node whose raylet started the process `pid`."""
        parent = int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
        for node in self._cluster.worker_nodes:
            if any(info.process.pid == parent for info in node.all_processes["raylet"]):
                return node
        raise LookupError(pid)

    def close(self) -> None:
        """End every process."""
        self._cluster.shutdown()


@contextmanager
def nodes(*resources: dict[str, Any], connect: bool = False) -> Iterator[Nodes]:
    """A cluster with one node for each of `resources`; with `connect`, this process joins it.

    Sockets have short paths, and nothing of it is in the default directory, where another Ray would look for it.
    """
    import ray

    with pytest.MonkeyPatch.context() as patch:
        directory = tempfile.mkdtemp(prefix="ecgt-", dir="/tmp")
        for name, value in {**SETTINGS, "RAY_TMPDIR": directory}.items():
            patch.setenv(name, value)
        patch.delenv("RAY_ADDRESS", raising=False)
        Path(directory, "ray").mkdir()
        cluster = Nodes()
        try:
            for each in resources:
                cluster.add(**each)
            if connect:
                ray.init(address=cluster.address, log_to_driver=False, configure_logging=False)
            yield cluster
        finally:
            ray.shutdown()
            cluster.close()
            shutil.rmtree(directory, ignore_errors=True)


def environment(address: str | None) -> dict[str, str]:
    """Of a driver in a process of its own."""
    kept = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return {**kept, "PYTHONPATH": os.getcwd(), **({"RAY_ADDRESS": address} if address else {})}


def message(lines: Sequence[str], part: str) -> str:
    """The only line that has this part."""
    [line] = [line for line in lines if part in line]
    return line
