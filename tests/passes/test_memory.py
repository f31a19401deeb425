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
from ecgscale.passes.fit import encoder_layout
from ecgscale.passes.memory import MemoryPlan, mebibytes, plan_memory
from tests.encoders.small_networks import spec_of
from tests.passes.simulated import COMMAND, same_centroids, simulated

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
    assert "on disk" not in few.told()


def test_a_limit_sends_the_rest_of_the_cache_to_disk(encoder_dir: Path) -> None:
    n_records = 20_000
    free = plan(encoder_dir, n_records)
    limit = free.peak - free.cache_resident // 2
    held = plan(encoder_dir, n_records, limit)
    assert held.peak <= limit
    assert held.cache_spilled > free.cache_resident // 3
    assert held.cache_resident + held.cache_spilled == pytest.approx(free.cache_resident, rel=0.1)
    assert f"{mebibytes(held.cache_spilled)} on disk" in held.told()
    roomy = plan(encoder_dir, n_records, 4 * free.peak)
    assert (roomy.cache_spilled, roomy.cache_resident) == (0, free.cache_resident)


def test_a_limit_below_the_fixed_part_is_refused(encoder_dir: Path) -> None:
    with pytest.raises(UsageError, match=r"--memory 100 MiB cannot hold the fit: .* raise --memory, or take fewer"):
        plan(encoder_dir, RECORDS, 100 * MIB)


@dataclass(frozen=True)
class Measured:
    """A finished `ecgscale fit`: MiB at its peak, MiB it said at most, and what it printed to stderr."""

    code: int
    peak: float
    told: float
    stderr: str


def mib_told(stderr: str) -> float:
    """MiB that a fit said it would take, or that it would need. Told with one decimal: half a digit may be missing."""
    told = re.search(r"(?:at most|cannot hold the fit:) ([\d.]+) (MiB|GiB)", stderr)
    assert told, stderr
    return (float(told[1]) + 0.05) * 1024 if told[2] == "GiB" else float(told[1]) + 0.5


def measured_fit(archive: Path, encoder: Path, root: Path, *options: str) -> Measured:
    """Run the command in a process of its own and sample its anonymous and shared memory."""
    command = [*COMMAND, "fit", str(archive), "--encoder", str(encoder), "--out", str(root)]
    options = ("--clusters", "20", "--max-epochs", "3", "--device", "cpu", *options)
    with subprocess.Popen(
        [*command, *options], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        status, peak = Path(f"/proc/{process.pid}/status"), 0
        while process.poll() is None:
            found = dict(re.findall(r"^(RssAnon|RssShmem):\s+(\d+) kB", status.read_text(), re.MULTILINE))
            peak = max(peak, sum(map(int, found.values())))
            time.sleep(SAMPLED_S)
        assert process.stderr is not None
        stderr = process.stderr.read()
    return Measured(process.returncode, peak / 1024, mib_told(stderr), stderr)


def test_a_fit_takes_no_more_than_it_said_with_and_without_a_limit(encoder_dir: Path, tmp_path: Path) -> None:
    archive = simulated(tmp_path / "archive", RECORDS, 100)
    free = measured_fit(archive, encoder_dir, tmp_path / "free")
    assert free.code == 0, free.stderr
    assert 100 < free.peak <= free.told
    refused = measured_fit(archive, encoder_dir, tmp_path / "refused", "--memory", "1MiB")
    assert (refused.code, (tmp_path / "refused").exists()) == (2, False)
    limit = refused.told + 20
    held = measured_fit(archive, encoder_dir, tmp_path / "held", "--memory", f"{limit:.0f}MiB")
    assert held.code == 0, held.stderr
    assert "on disk" in held.stderr
    assert held.peak <= held.told <= limit + 0.1 * 1024
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
        needed.append(mib_told(done.stderr))
    assert abs(needed[0] - needed[1]) < 150
