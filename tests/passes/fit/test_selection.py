"""Which records a fit sees: by fold, by a seeded draw, in the archive's order, whatever shards they lie in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ecgscale.archive.reader import Archive
from ecgscale.errors import ArchiveError
from ecgscale.passes.fit.request import Selection, select
from tests.worlds.commands.explaining import rewrite
from tests.worlds.commands.simulated import RECORDS, cut_short, record_ids, simulated


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    return Archive.open(simulated(tmp_path_factory.mktemp("selection") / "archive"))


def numbered(selection: Selection) -> list[tuple[int, str, int]]:
    """(number, shard, row) of every chosen record, as the pass over the shards will number them."""
    chosen = [(shard, int(row)) for shard, rows in selection.rows.items() for row in rows]
    return [(number, *place) for number, place in enumerate(chosen)]


def test_everything_by_default_in_the_order_of_the_archive(archive: Archive) -> None:
    chosen = select(archive)
    assert len(chosen) == RECORDS
    assert chosen.record_ids == record_ids(archive.path)
    assert numbered(chosen) == [(i, f"part-0000{i // 16}.parquet", i % 16) for i in range(RECORDS)]
    assert chosen.skipped == {}


def test_folds(archive: Archive) -> None:
    chosen = select(archive, folds=(2, 7))
    table = archive.metadata(["record_id", "patient_id", "fold"]).to_pylist()
    expected = [row for row in table if row["fold"] in (2, 7)]
    assert chosen.record_ids == [row["record_id"] for row in expected]
    assert chosen.patient_ids == [row["patient_id"] for row in expected]
    assert [(shard, row) for _, shard, row in numbered(chosen)] == [(row["shard"], row["row"]) for row in expected]
    assert [number for number, _, _ in numbered(chosen)] == list(range(len(expected)))


def test_a_draw_is_seeded_sorted_and_grows(archive: Archive) -> None:
    few, again, more, other = (select(archive, records=n, seed=s) for n, s in ((9, 0), (9, 0), (30, 0), (9, 1)))
    assert few.record_ids == again.record_ids
    assert few.record_ids != other.record_ids
    assert set(few.record_ids) < set(more.record_ids)
    order = record_ids(archive.path)
    assert [order.index(str(record)) for record in more.record_ids] == sorted(
        order.index(str(record)) for record in more.record_ids
    )
    assert len(select(archive, records=10_000)) == RECORDS
    both = select(archive, folds=(1, 2, 3), records=5)
    assert set(both.record_ids) < set(select(archive, folds=(1, 2, 3)).record_ids)
    assert len(both) == 5


def test_a_draw_does_not_depend_on_the_size_of_shards(archive: Archive, tmp_path: Path) -> None:
    one = Archive.open(simulated(tmp_path / "one", shard_records=None))
    assert len(one.shards) == 1
    assert select(one, records=13, seed=5).record_ids == select(archive, records=13, seed=5).record_ids


def test_a_fold_that_is_not_there(archive: Archive) -> None:
    with pytest.raises(ArchiveError, match=r"has no fold 11, 12; it has 1, 2, 3, 4, 5, 6, 7, 8, 9, 10"):
        select(archive, folds=(1, 12, 11))
    with pytest.raises(ArchiveError, match="no record is chosen"):
        select(archive, folds=())


def test_an_archive_without_folds(tmp_path: Path) -> None:
    path = simulated(tmp_path / "archive", 10, None)
    rewrite(path / "part-00000.parquet", lambda table: table.drop_columns(["fold", "patient_id"]))
    with pytest.raises(ArchiveError, match="no column 'fold'; leave --folds out"):
        select(Archive.open(path), folds=(1,))
    assert select(Archive.open(path)).patient_ids == [None] * 10


def test_a_shard_that_cannot_be_read_is_skipped_with_its_reason(tmp_path: Path) -> None:
    path = simulated(tmp_path / "archive")
    cut_short(path / "part-00002.parquet")
    chosen = select(Archive.open(path))
    assert len(chosen) == RECORDS - 16
    assert "part-00002.parquet" not in chosen.rows
    [reason] = chosen.skipped.values()
    assert "part-00002.parquet" in reason
    assert np.array_equal([number for number, _, _ in numbered(chosen)], np.arange(RECORDS - 16))
