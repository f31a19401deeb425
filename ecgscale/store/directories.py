"""Directories that are there whole or not at all: filled beside their place, then renamed into it.

In an object store, where nothing is renamed, the file named last makes a directory of what was put before it.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from ecgscale.places import Place, is_remote, upload


def place_whole(final: Place, fill: Callable[[Path], object], last: str) -> Place:
    """Let `fill` write into a new directory and move it to `final`; one that is there already is left alone.

    `last` is the file without which the directory does not count. Whoever comes second, in this or another process,
    changes nothing.
    """
    if (final / last).exists():
        return final
    if is_remote(final):
        with tempfile.TemporaryDirectory() as scratch:
            fill(Path(scratch))
            upload(Path(scratch), final, last)
        return final
    final.parent.mkdir(parents=True, exist_ok=True)
    scratch_path = Path(tempfile.mkdtemp(prefix="_tmp-", dir=final.parent))
    try:
        fill(scratch_path)
        scratch_path.chmod(0o755)
        os.rename(scratch_path, final)
    except OSError:
        if not final.exists():
            raise
    finally:
        shutil.rmtree(scratch_path, ignore_errors=True)
    return final
