"""Chosen recordings: the right ones, from the row groups that hold them, the first of a doubled one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from ecgscale.archive import Archive
from ecgscale.archive.reader import chosen_batches
from ecgscale.errors import ArchiveError, ShardError
from tests.worlds.formula.recordings import record, wave, write_archive


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    made = write_archive(tmp_path / "a", [record(str(i)) for i in range(10)], shard_records=6)
    first = Path(made.shards[0].path)
    pq.write_table(pq.read_table(first), first, row_group_size=2)
    return Archive.open(made.path)


def test_only_what_was_asked_for(archive: Archive) -> None:
    wanted = {archive.shards[0].key: ["4", "1", "absent"], archive.shards[1].key: ["9"]}
    found = [
        (raw.first_row, raw.record_ids[row], raw.signal(row))
        for raw, rows in chosen_batches(archive, wanted)
        for row in rows
    ]
    assert [(first, name) for first, name, _ in found] == [(0, "1"), (4, "4"), (0, "9")]
    for _, name, signal in found:
        np.testing.assert_array_equal(signal, wave(int(name or 0)))


def test_the_first_of_a_doubled_record(tmp_path: Path) -> None:
    rows = [record("1"), record("2"), record("2", signal=wave(7)), record("3")]
    archive = write_archive(tmp_path / "a", rows)
    ((raw, chosen),) = chosen_batches(archive, {archive.shards[0].key: ["3", "2"]})
    assert chosen == [1, 3]
    np.testing.assert_array_equal(raw.signal(1), wave(2))


def test_shards_that_are_gone_or_broken(archive: Archive) -> None:
    with pytest.raises(ArchiveError, match="no shard"):
        list(chosen_batches(archive, {"part-99999.parquet": ["1"]}))
    Path(archive.shards[1].path).write_bytes(b"PAR1")
    with pytest.raises(ShardError):
        list(chosen_batches(archive, {archive.shards[1].key: ["9"]}))
