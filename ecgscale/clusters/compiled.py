"""How the kernels are compiled, and where the result is kept.

Numba's cache notices a change of the file that a function stands in, but not of functions it calls from other files. So
compiled code is kept under a digest of all files of this package, in the user's cache directory (NUMBA_CACHE_DIR, if
set, comes first): a new version never runs old code, and a read-only installation is compiled once.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numba

FAST = {"reassoc", "contract", "nsz"}
"""Liberties that vector code needs: sums in any order, fused multiply-add, no signed zeros; NaN stays NaN."""


def kernel(*, parallel: bool = False, fast: bool = True) -> Callable[[Callable[..., Any]], Any]:
    """Compile on first use; division is NumPy's, since Python's check for zero keeps loops from becoming vectors."""

    def decorate(function: Callable[..., Any]) -> Any:
        config: Any = numba.config
        before = config.CACHE_DIR
        config.CACHE_DIR = before or str(cache_directory())
        try:
            # Inner kernels become part of the outer one. Otherwise a process that has just compiled them calls them
            # as they are, and one that loads the outer kernel calls copies that were optimised once more: other bits.
            return numba.njit(
                cache=True,
                parallel=parallel,
                forceinline=not parallel,
                error_model="numpy",
                fastmath=FAST if fast else False,
            )(function)
        finally:
            config.CACHE_DIR = before

    return decorate


@lru_cache(maxsize=1)
def cache_directory() -> Path:
    """Where this version's compiled kernels lie."""
    digest = hashlib.sha256(numba.__version__.encode())
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return caches / "ecgscale" / "kernels" / digest.hexdigest()[:16]
