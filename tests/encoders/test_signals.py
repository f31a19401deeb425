"""Signals kept for training: the wanted ones, in memory or on disk, and those that cannot be used counted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ecgscale.encoders import train as signals
from ecgscale.encoders.inputs import InputSpec
from ecgscale.encoders.train import load_signals
from ecgscale.errors import UsageError
from ecgscale.leads import CANONICAL_LEADS
from tests.worlds.formula.small_networks import noise, write_archive

SPEC = InputSpec(leads=CANONICAL_LEADS, sampling_rate=100.0, length=128)


@pytest.mark.parametrize("memory_bytes", [2**30, 0])
def test_loads_wanted_records(tmp_path: Path, memory_bytes: int) -> None:
    records = [{"signal": noise(128, seed=i)} for i in range(50)]
    records[3] = {"signal": np.zeros((12, 128), np.float32)}
    records[4] = {"signal": noise(128, 2), "leads": ["I", "V1"]}
    records[7] = {"signal": noise(128), "record_id": "r6"}
    archive = write_archive(tmp_path, records, shard_records=20)
    table = archive.metadata(["record_id"])
    wanted = np.arange(50) % 10 < 8
    wanted[20:40] = False
    found = load_signals(archive, table, wanted, SPEC, 4, memory_bytes=memory_bytes)
    assert found.rows.tolist() == [0, 1, 2, 5, 6, 10, 11, 12, 13, 14, 15, 16, 17, 40, 41, 42, 43, 44, 45, 46, 47]
    assert found.rejected == {"flat_signal": 1, "missing_leads": 1, "duplicate_record_id": 1}
    assert isinstance(found.x, np.memmap) == (memory_bytes == 0)
    for i, row in enumerate(found.rows):
        np.testing.assert_array_equal(found.x[i], records[row]["signal"])


def test_a_disk_too_small_is_told_before_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = write_archive(tmp_path, [{"signal": noise(128)}])

    class Full:
        free = 100

    monkeypatch.setattr(signals.shutil, "disk_usage", lambda _folder: Full)
    with pytest.raises(UsageError, match="TMPDIR"):
        load_signals(archive, archive.metadata(["record_id"]), np.array([True]), SPEC, 4, memory_bytes=0)
