"""What clusters are made from: valid by Ray's own schema, and what the comments promise."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from ray.autoscaler._private.util import prepare_config, validate_config

from ecgscale.cli import main
from ecgscale.config import load_config

REPOSITORY = Path(__file__).resolve().parent.parent
CLUSTER = REPOSITORY / "cluster.yaml"
RAYJOB = REPOSITORY / "kuberay" / "rayjob-nightly.yaml"
POLICY = REPOSITORY / "kuberay" / "network-policy.yaml"


def loaded(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return found


@pytest.fixture(scope="module")
def cluster() -> dict[str, Any]:
    return loaded(CLUSTER)


def test_ray_takes_the_cluster(cluster: dict[str, Any]) -> None:
    validate_config(prepare_config(cluster))


def test_a_small_head_that_stays_and_workers_that_come_and_go(cluster: dict[str, Any]) -> None:
    types = cluster["available_node_types"]
    head = types.pop(cluster["head_node_type"])
    assert head["resources"] == {"CPU": 0}, "a worker on the head would take the driver's memory"
    assert "InstanceMarketOptions" not in head["node_config"], "losing the head ends the job"
    assert any(kind["resources"].get("GPU") for kind in types.values())
    assert any(not kind["resources"].get("GPU") for kind in types.values())
    for kind in types.values():
        assert kind["min_workers"] == 0 < kind["max_workers"] <= cluster["max_workers"]
        assert kind["node_config"]["InstanceMarketOptions"]["MarketType"] == "spot"
    gpus = {kind["node_config"]["InstanceType"] for kind in types.values() if kind["resources"].get("GPU")}
    assert len(gpus) == 1, "another kind of GPU may give other bits"
    assert len(cluster["provider"]["availability_zone"].split(",")) >= 3


def test_nothing_listens_to_the_world(cluster: dict[str, Any]) -> None:
    starts = [*cluster["head_start_ray_commands"], *cluster["worker_start_ray_commands"]]
    assert not [command for command in starts if "0.0.0.0" in command]
    [head] = [command for command in cluster["head_start_ray_commands"] if "--head" in command]
    assert "--dashboard-host=127.0.0.1" in head
    assert "RAY_JOB_STOP_WAIT_TIME_S=" in head
    assert all("RAY_AUTH_MODE=token" in command for command in starts if "ray start" in command)


def settings_without_a_comment(path: Path) -> list[str]:
    """Keys of a file at the first level, or of a node type, that no comment above or behind them explains."""
    found, explained = [], False
    for line in path.read_text(encoding="utf-8").splitlines():
        stripped = line.strip()
        if stripped.startswith("#"):
            explained = True
        elif stripped:
            if re.match(r"[a-z_]+:", line) and not explained and "#" not in line:
                found.append(line)
            explained = False
    return found


def test_every_choice_is_explained() -> None:
    obvious = {"cluster_name", "provider", "auth", "head_node_type", "available_node_types", "file_mounts"}
    obvious |= {"rsync_exclude", "worker_setup_commands", "worker_start_ray_commands"}
    bare = {line.split(":")[0] for line in settings_without_a_comment(CLUSTER)}
    assert bare <= obvious


def test_the_versions_are_those_that_were_tested(cluster: dict[str, Any]) -> None:
    constraints = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8")
    [ray] = re.findall(r"^ray==(\S+)$", constraints, re.MULTILINE)
    assert f":{ray}-" in cluster["docker"]["image"]
    spec = loaded(RAYJOB)["spec"]["rayClusterSpec"]
    assert spec["rayVersion"] == ray
    assert f"rayproject/ray:{ray}-" in RAYJOB.read_text(encoding="utf-8")


def test_the_nightly_job_for_kubernetes() -> None:
    manifest = loaded(RAYJOB)
    assert (manifest["apiVersion"], manifest["kind"]) == ("ray.io/v1", "RayJob")
    spec = manifest["spec"]
    script = re.search(r"(jobs/\w+\.py)", spec["entrypoint"])
    assert script
    assert (REPOSITORY / script[1]).is_file()
    assert spec["shutdownAfterJobFinishes"]
    assert spec["ttlSecondsAfterFinished"] > 0
    assert spec["activeDeadlineSeconds"] <= 24 * 3600
    cluster = spec["rayClusterSpec"]
    assert cluster["enableInTreeAutoscaling"]
    assert cluster["authOptions"] == {"mode": "token"}
    head = cluster["headGroupSpec"]
    assert head["rayStartParams"]["num-cpus"] == "0"
    [workers] = cluster["workerGroupSpecs"]
    assert workers["minReplicas"] == 0 < workers["maxReplicas"]
    pods = [group["template"]["spec"] for group in (head, workers)]
    containers = [container for pod in pods for container in pod["containers"]]
    assert len({container["image"] for container in containers}) == 1, "all nodes have the same software"
    assert [container["name"] for container in containers] == ["ray-head", "ray-worker"]
    limits = containers[1]["resources"]["limits"]
    assert limits["nvidia.com/gpu"] == "1"
    for pod in pods:
        mounted = {mount["name"] for container in pod["containers"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}


def test_only_those_who_need_it_reach_the_cluster() -> None:
    policy = loaded(POLICY)
    assert (policy["apiVersion"], policy["kind"]) == ("networking.k8s.io/v1", "NetworkPolicy")
    assert policy["spec"]["policyTypes"] == ["Ingress"]
    open_to_all = [rule for rule in policy["spec"]["ingress"] if not rule.get("from")]
    assert not open_to_all


def test_the_nightly_configuration_fits_the_cluster(cluster: dict[str, Any]) -> None:
    config = load_config(REPOSITORY / "configs" / "nightly.toml")
    assert config.runtime.name == "ray"
    assert config.runtime.workers <= cluster["max_workers"]
    mounts = [
        option.split()[1].split(":")[1] for option in cluster["docker"]["run_options"] if option.startswith("-v ")
    ]
    for path in (config.root, config.archive.path, config.archive.src, config.encoder.path):
        assert any(str(path).startswith(f"{mount}/") for mount in mounts), f"{path} is on no shared file system"


@pytest.mark.parametrize("name", ["CODE-15 %", "CODE"])
def test_the_sizing_table_is_what_plan_says(name: str) -> None:
    """docs/running.md says which command made each of its tables."""
    page = (REPOSITORY / "docs" / "running.md").read_text(encoding="utf-8")
    found = re.search(rf"{re.escape(name)}, `ecgscale (plan [^`]+)`:\n\n((?:\|.*\n)+)", page)
    assert found, f"docs/running.md has no table for {name}"
    words = [str(REPOSITORY / word) if word.startswith("configs/") else word for word in found[1].split()]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    assert found[2].strip() in result.stdout
