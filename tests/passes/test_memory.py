"""Memory as a contract: what a fit says it will take at most, and what it takes."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from ecgscale.clusters.cache import bytes_per_record
from ecgscale.clusters.model import ClusterModel
from ecgscale.encoders.resnet1d import ResNet1d
from ecgscale.encoders.taps import Encoder
from ecgscale.errors import UsageError
from ecgscale.explain.facts import encoder_layout
from ecgscale.passes.memory import MemoryPlan, mebibytes, plan_memory
from tests.worlds.commands.simulated import COMMAND, same_centroids, simulated
from tests.worlds.formula.small_networks import spec_of

RECORDS = 300
ARGUMENTS: dict[str, Any] = {
    "input_dim": [12, 1024],
    "blocks_dim": [[16, 1024], [64, 512], [96, 128], [128, 32]],
    "n_classes": 2,
    "kernel_size": 5,
}
"""About 0.2 MB of activations a record, at next to no cost."""

SAMPLED_S = 0.02
MIB = 2**20


@pytest.fixture(scope="module")
def encoder_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from safetensors.torch import save_file

    from ecgscale.encoders.spec import write_spec

    directory = tmp_path_factory.mktemp("memory") / "encoder"
    directory.mkdir()
    torch.manual_seed(0)
    save_file(ResNet1d(**ARGUMENTS).state_dict(), directory / "weights.safetensors")
    spec = spec_of(
        arguments=ARGUMENTS,
        layers=["resblock1d_1", "resblock1d_2", "resblock1d_3"],
        input={"leads": ["I", "II", "III", "aVR", "aVL", "aVF", *(f"V{i}" for i in range(1, 7))]}
        | {"sampling_rate": 100.0, "length": 1024},
    )
    write_spec(directory, spec)
    return directory


def plan(encoder_dir: Path, n_records: int, limit: int | None = None, dtype: str = "float32") -> MemoryPlan:
    encoder = Encoder.load(encoder_dir)
    return plan_memory(encoder_layout(encoder), n_records, 20, 20, encoder, dtype, limit)  # type: ignore[arg-type]


def test_what_grows_with_the_records_is_the_cache_alone(encoder_dir: Path) -> None:
    few, many = plan(encoder_dir, 100), plan(encoder_dir, 10_000)
    each = bytes_per_record(encoder_layout(Encoder.load(encoder_dir)))
    assert (few.cache_resident, many.cache_resident) == (100 * each, 10_000 * each)
    assert few.scratch == many.scratch
    assert many.peak - few.peak == pytest.approx(9_900 * each, abs=64 * MIB)
    assert few.cache_spilled == many.cache_spilled == 0
    assert plan(encoder_dir, 100, dtype="float16").cache_resident < 0.6 * few.cache_resident
    assert "on disk" not in few.summary()


def test_a_limit_sends_the_rest_of_the_cache_to_disk(encoder_dir: Path) -> None:
    n_records = 20_000
    free = plan(encoder_dir, n_records)
    limit = free.peak - free.cache_resident // 2
    held = plan(encoder_dir, n_records, limit)
    assert held.peak <= limit
    assert held.cache_spilled > free.cache_resident // 3
    assert held.cache_resident + held.cache_spilled == pytest.approx(free.cache_resident, rel=0.1)
    assert f"{mebibytes(held.cache_spilled)} on disk" in held.summary()
    roomy = plan(encoder_dir, n_records, 4 * free.peak)
    assert (roomy.cache_spilled, roomy.cache_resident) == (0, free.cache_resident)


def test_a_limit_below_the_fixed_part_is_refused(encoder_dir: Path) -> None:
    with pytest.raises(UsageError, match=r"--memory 100 MiB cannot hold the fit: .* raise --memory, or take fewer"):
        plan(encoder_dir, RECORDS, 100 * MIB)


FIT = """
import sys
import ecgscale.passes.fit.fit as fit_pass
from ecgscale.cli import main

planned = fit_pass.plan_memory


def plan_memory(*arguments):
    *others, limit = arguments
    if limit is not None:  # whatever was typed: room for half of the activations
        roomy = planned(*others, 2**60)
        limit = roomy.peak - roomy.cache_resident // 2
    plan = planned(*others, limit)
    assert limit is None or plan.peak <= limit
    print("planned", plan.peak, plan.cache_spilled, file=sys.stderr)
    return plan


fit_pass.plan_memory = plan_memory
main(["fit", *sys.argv[1:]])
"""
"""`ecgscale fit`, telling its plan to the byte."""


@dataclass(frozen=True)
class Measured:
    """A finished fit: its peak, the peak it was planned with, and what it put on disk, in MiB."""

    peak: float
    planned: float
    spilled: float
    stderr: str


def measured_fit(archive: Path, encoder: Path, root: Path, *options: str) -> Measured:
    """Run a fit in a process of its own and sample its anonymous and shared memory."""
    words = [archive, "--encoder", encoder, "--out", root, "--clusters", 20, "--max-epochs", 3, "--device", "cpu"]
    command = [sys.executable, "-c", FIT, *map(str, words), *options]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        status, peak = Path(f"/proc/{process.pid}/status"), 0
        while process.poll() is None:
            found = dict(re.findall(r"^(RssAnon|RssShmem):\s+(\d+) kB", status.read_text(), re.MULTILINE))
            peak = max(peak, sum(map(int, found.values())))
            time.sleep(SAMPLED_S)
        assert process.stderr is not None
        stderr = process.stderr.read()
    assert process.returncode == 0, stderr
    message = re.search(r"^planned (\d+) (\d+)$", stderr, re.MULTILINE)
    assert message, stderr
    return Measured(peak / 1024, int(message[1]) / MIB, int(message[2]) / MIB, stderr)


def test_a_fit_takes_no_more_than_it_said_with_and_without_a_limit(encoder_dir: Path, tmp_path: Path) -> None:
    archive = simulated(tmp_path / "archive", RECORDS, 100)
    free = measured_fit(archive, encoder_dir, tmp_path / "free")
    held = measured_fit(archive, encoder_dir, tmp_path / "held", "--memory", "1GiB")
    assert 100 < free.peak <= free.planned
    assert 100 < held.peak <= held.planned
    assert (free.spilled, "on disk" in free.stderr) == (0, False)
    assert (held.spilled > 20, "on disk" in held.stderr) == (True, True)
    assert "memory: at most" in free.stderr
    [one], [other] = ((tmp_path / root / "models").iterdir() for root in ("free", "held"))
    assert one.name == other.name
    assert same_centroids(ClusterModel.load(one), ClusterModel.load(other))


def test_what_started_the_fit_does_not_count(encoder_dir: Path, tmp_path: Path) -> None:
    archive = simulated(tmp_path / "archive", 10, None)
    words = ["fit", archive, "--encoder", encoder_dir, "--out", tmp_path / "root", "--memory", "1MiB"]
    start = (
        "import subprocess, sys\n"
        "held = bytearray(int(sys.argv[1]) << 20)\n"
        "held[::4096] = b'1' * len(held[::4096])\n"
        "sys.exit(subprocess.run(sys.argv[2:]).returncode)\n"
    )
    needed = []
    for size in ("1", "900"):
        command = [sys.executable, "-c", start, size, *COMMAND, *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 2, done.stderr
        message = re.search(r"cannot hold the fit: ([\d.]+) (MiB|GiB) are needed", done.stderr)
        assert message, done.stderr
        needed.append(float(message[1]) * (1024 if message[2] == "GiB" else 1))
    assert abs(needed[0] - needed[1]) < 150
