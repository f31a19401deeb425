"""What a measurement was taken on: processor, memory, system, versions. No names of hosts or people."""

from __future__ import annotations

import os
import platform
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


def load() -> float:
    """Processes that wanted a core over the last minute; well above 0 before a benchmark, it will be noisy."""
    return round(os.getloadavg()[0], 2)


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
