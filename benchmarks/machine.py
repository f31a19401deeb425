"""What a measurement was taken on: processor, memory, system, versions. No names of hosts or people."""

from __future__ import annotations

import os
import platform
import time
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("ecgscale", "torch", "numba", "numpy", "scikit-learn", "faiss-cpu", "dask-ml", "pyarrow", "pandas")


def machine_facts() -> dict[str, Any]:
    """Processor, usable cores, memory, system, Python, the versions that matter, and today's date."""
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpu": gpu,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
        "date": datetime.now(UTC).date().isoformat(),
    }


class Neighbours:
    """How busy other processes keep the machine from now on; timings beside them are noisy."""

    def __init__(self) -> None:
        self._busy, self._own, self._since = _busy_s(), _own_s(), time.monotonic()

    def share(self) -> float | None:
        """Cores that others used on average, 0 when alone; None where the system does not tell."""
        busy = _busy_s()
        if busy is None or self._busy is None:
            return None
        others = busy - self._busy - (_own_s() - self._own)
        return round(max(others, 0.0) / max(time.monotonic() - self._since, 1e-9), 3)


def _busy_s() -> float | None:
    """Seconds that all processors have worked since they started."""
    stat = Path("/proc/stat")
    if not stat.is_file():
        return None
    words = stat.read_text().split()[1:]  # the first line is the sum over processors
    user, nice, system, _idle, _waiting, irq, softirq = map(int, words[:7])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def _own_s() -> float:
    """Processor seconds of this process and of its children that have ended."""
    return sum(os.times()[:4])


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = dict(line.split(":", 1) for line in info.read_text().splitlines() if ":" in line)
        named = {key.strip(): value.strip() for key, value in lines.items()}
        family = ", ".join(f"{key} {named[key]}" for key in ("cpu family", "model") if key in named)
        vectors = next((v for v in ("avx512f", "avx2", "avx") if v in named.get("flags", "").split()), None)
        model = named.get("model name", platform.machine())
        return f"{model} ({', '.join(filter(None, (family, vectors)))})"
    return platform.processor() or platform.machine()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
