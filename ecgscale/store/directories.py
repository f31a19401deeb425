"""Directories that are there whole or not at all: filled beside their place, then renamed into it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path


def place_whole(final: Path, fill: Callable[[Path], object]) -> Path:
    """Let `fill` write into a new directory and move it to `final`; one that is there already is left alone.

    Whoever comes second, in this or another process, changes nothing.
    """
    if final.exists():
        return final
    final.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix="_tmp-", dir=final.parent))
    try:
        fill(scratch)
        scratch.chmod(0o755)
        os.rename(scratch, final)
    except OSError:
        if not final.exists():
            raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return final
