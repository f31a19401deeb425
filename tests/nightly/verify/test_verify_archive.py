"""The archive that was explained is held against what was explained."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.worlds.commands.explaining import change_a_sample
from tests.worlds.commands.small_world import SmallWorld


@pytest.mark.parametrize("checksums", [True, False])
def test_a_shard_that_is_not_what_was_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checksums: bool
) -> None:
    """Whether its time changed with its bits or not; and as it was before there were checksums, by its digest."""
    world = SmallWorld.made(tmp_path, {})
    assert world.verify(sample=0.01).datasets[0].held == 3
    shard = world.archive / "part-00001.parquet"
    before = shard.stat()
    change_a_sample(shard)
    if not checksums:
        monkeypatch.setattr("ecgscale.archive.shard.open_parquet_file", pq.ParquetFile)
    for modified in (before.st_mtime_ns + 1_000_000, before.st_mtime_ns):
        os.utime(shard, ns=(modified, modified))
        [dataset] = world.verify(sample=0.01).datasets
        assert dataset.counts["archive"] == 1
        assert dataset.held == 2
        assert "checksum" in next(problem.message for problem in dataset.problems if problem.kind == "archive")
    assert world.problems(sample=0.0) == {}
    shard.write_bytes(b"")
    assert world.problems(sample=0.01) == {"archive": 1}
