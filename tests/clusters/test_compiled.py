"""Compiled kernels give the same bits where they are compiled and where they are loaded."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SUMS = """
import numpy as np
from ecgscale.clusters.accumulate import accumulate
from ecgscale.clusters.features import BlockLayout
from ecgscale.clusters.packed import pack
layout = BlockLayout((96, 128, 160), (256, 64, 16), 4096, (1.0, 1.0, 1.0))
rng = np.random.default_rng(0)
blocks = [np.maximum(rng.normal(size=(8, c, n)), 0).astype(np.float32) for c, n in zip(layout.channels, layout.lengths)]
packed = pack(blocks, layout, np.zeros(8, np.int32), np.full(8, 4096, np.int32))
sums = accumulate(packed, layout, [rng.normal(size=(4, 384)).astype(np.float32) / 20])[0]
print(sums.margin, sums.distortion.tolist(), hash(sums.sums.tobytes()))
"""


def test_freshly_compiled_and_loaded_kernels_give_the_same_bits(tmp_path: Path) -> None:
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"}

    def sums() -> str:
        return subprocess.run(
            [sys.executable, "-c", SUMS], env=environment, capture_output=True, text=True, check=True
        ).stdout

    compiled = sums()
    assert list(tmp_path.rglob("accumulate._accumulate-*.nbc")), "nothing was kept, so nothing was loaded"
    assert sums() == compiled
