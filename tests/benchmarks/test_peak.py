"""Peaks are those of the process's own memory."""

from __future__ import annotations

import subprocess
import sys

import pytest

from benchmarks.peak import peak_bytes

HOLD = "import time, mmap, sys; {}; time.sleep(0.1)"


def test_anonymous_memory_counts_and_mapped_files_do_not(tmp_path_factory: pytest.TempPathFactory) -> None:
    size = 64 << 20
    path = tmp_path_factory.mktemp("mapped") / "file"
    path.write_bytes(b"\1" * size)
    empty = peak_bytes([sys.executable, "-c", HOLD.format("pass")])
    filled = peak_bytes([sys.executable, "-c", HOLD.format(f"x = b'\\1' * {size}")])
    mapped = f"f = open({str(path)!r}, 'rb'); m = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ); m.find(b'\\2')"
    read = peak_bytes([sys.executable, "-c", HOLD.format(mapped)])
    assert filled - empty == pytest.approx(size, rel=0.1)
    assert read - empty < size / 4


def test_a_command_that_fails_is_told() -> None:
    with pytest.raises(subprocess.CalledProcessError) as error:
        peak_bytes([sys.executable, "-c", "raise SystemExit('no such archive')"])
    assert "no such archive" in error.value.output
