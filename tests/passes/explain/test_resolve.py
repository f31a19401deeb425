"""Records that are sent again: one row each, whatever came when, and no file is ever changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from ecgscale.archive import ArchiveWriter
from ecgscale.archive.sources.windows import WINDOW_COLUMNS
from ecgscale.nightly.history import decide_on
from ecgscale.nightly.verify.verify import verify_root
from ecgscale.passes.explain.explain import ExplainResult, Policy
from ecgscale.passes.explain.resolve import PATIENT_CONFLICT
from ecgscale.store import newest_manifest
from ecgscale.store.commit import Commit
from tests.explain.golden import good_row, write_archive
from tests.worlds.commands.explaining import explain, rewrite, rows

NIGHT = Policy(admission=lambda fresh, newest: {})


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return write_archive(tmp_path / "archive")  # 10 records in shards of 4, 4, 2


def named(**changes: dict[int, Any]) -> Callable[[pa.Table], pa.Table]:
    """A table with some values changed: column → row → value."""

    def change(table: pa.Table) -> pa.Table:
        for name, values in changes.items():
            index = table.schema.get_field_index(name)
            column = table.column(name).to_pylist()
            for row, value in values.items():
                column[row] = value
            table = table.set_column(index, table.schema.field(name), pa.array(column, table.schema.field(name).type))
        return table

    return change


def later(archive: Path, model: Path, out: Path, change: Callable[[pa.Table], pa.Table]) -> ExplainResult:
    """Publish without the last shard, then with it, changed."""
    shard = archive / "part-00002.parquet"
    away = shard.rename(archive.parent / shard.name)
    explain(archive, model, out)
    away.rename(shard)
    rewrite(shard, change)
    return explain(archive, model, out)


def by_id(out: Path) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows(out):
        found.setdefault(row["record_id"], []).append(row)
    return found


def test_a_new_recording_of_the_same_id_holds(archive: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    patient = _patient_of(archive, model, tmp_path, "r2")
    result = later(archive, model, out, named(record_id={1: "r2"}, patient_id={1: patient}))
    assert (result.superseded, result.repeated, result.conflicts, result.records) == (1, 0, 0, 9)
    [row] = by_id(out)["r2"]
    assert row["source_shard"] == "part-00002.parquet"
    entry = newest_manifest(out).content.shards[0]
    assert (entry.rows, entry.superseded, entry.published_rows) == (4, 1, 3)
    # Nothing new: the same manifest; and the whole older shard is still there for who rolls back.
    assert explain(archive, model, out).manifest == result.manifest
    assert len(list(Path(result.path, "data").glob("part-00000-*"))) == 2


def test_the_same_recording_again_changes_nothing(archive: Path, model: Path, tmp_path: Path) -> None:
    first = {}

    def same(table: pa.Table) -> pa.Table:
        import pyarrow.parquet as pq

        older = pq.read_table(archive / "part-00000.parquet")
        return pa.concat_tables([table.slice(0, 1), older.slice(2, 1).cast(table.schema)])

    result = later(archive, model, tmp_path / "out", same)
    first = by_id(tmp_path / "out")
    assert (result.superseded, result.repeated, result.conflicts, result.records) == (0, 1, 0, 9)
    assert [row["source_shard"] for row in first["r2"]] == ["part-00000.parquet"]


def test_another_patient_under_the_same_id_is_quarantined(archive: Path, model: Path, tmp_path: Path) -> None:
    result = later(archive, model, tmp_path / "out", named(record_id={1: "r2"}, patient_id={1: "somebody else"}))
    assert (result.superseded, result.repeated, result.conflicts, result.records) == (0, 0, 1, 10)
    older, newer = by_id(tmp_path / "out")["r2"]
    assert (older["status"], newer["status"]) == ("ok", PATIENT_CONFLICT)
    assert newer["proportions"] is None
    assert newer["segments"] is None
    assert newest_manifest(tmp_path / "out").content.totals.quarantined[PATIENT_CONFLICT] == 1


def test_what_cannot_be_used_replaces_nothing(archive: Path, model: Path, tmp_path: Path) -> None:
    patient = _patient_of(archive, model, tmp_path, "r2")
    broken = named(record_id={1: "r2"}, patient_id={1: patient}, sampling_rate={1: 0.0})
    result = later(archive, model, tmp_path / "out", broken)
    assert (result.superseded, result.records) == (0, 10)
    statuses = [row["status"] for row in by_id(tmp_path / "out")["r2"]]
    assert statuses[0] == "ok"
    assert statuses[1] not in ("ok", PATIENT_CONFLICT)


@pytest.mark.parametrize("nights", ["one after the other", "at once"])
def test_windows_that_a_recording_sent_again_no_longer_has_give_way(nights: str, model: Path, tmp_path: Path) -> None:
    # Version one has windows 0 to 5 of h, in two shards; version two, in the third, has 0 as it was, and 1.
    def window(recording: str, number: int, **changes: Any) -> dict[str, Any]:
        return good_row(number) | {
            "record_id": f"{recording}@{number:05d}.000",
            "patient_id": recording,
            "recording_id": recording,
            "window_start_s": float(number),
            **changes,
        }

    rows_ = [window("h", number) for number in range(6)] + [window("g", number) for number in range(2)]
    rows_ += [window("h", 0), window("h", 1, age=99.0), window("k", 7), window("k", 8)]
    archive = tmp_path / "archive"
    with ArchiveWriter(archive, {"name": "w"}, extra=WINDOW_COLUMNS, shard_records=4) as writer:
        for row in rows_:
            writer.append(row)
    out, left = tmp_path / "out", {f"{one}.000": 1 for one in ("g@00000", "g@00001", "k@00007", "k@00008", "h@00001")}
    if nights == "at once":
        result = explain(archive, model, out, policy=NIGHT)
        # Nothing says whether the shard in between is of the version before: it stays.
        left |= {"h@00000.000": 1, "h@00004.000": 1, "h@00005.000": 1}
        assert result.superseded == 3
    else:
        shard = archive / "part-00002.parquet"
        away = shard.rename(tmp_path / shard.name)
        explain(archive, model, out, policy=NIGHT)
        away.rename(shard)
        result = explain(archive, model, out, policy=NIGHT)
        left |= {"h@00000.000": 1}
        assert (result.superseded, result.repeated) == (5, 1)
    assert {record_id: len(found) for record_id, found in by_id(out).items()} == left
    assert by_id(out)["h@00001.000"][0]["age"] == 99.0
    assert verify_root(out).problems == 0
    assert explain(archive, model, out, policy=NIGHT).manifest == result.manifest


def test_two_new_shards_at_once_the_later_key_holds_at_night(archive: Path, model: Path, tmp_path: Path) -> None:
    patient = _patient_of(archive, model, tmp_path, "r2")
    rewrite(archive / "part-00002.parquet", named(record_id={1: "r2"}, patient_id={1: patient}))
    result = explain(archive, model, tmp_path / "out", policy=NIGHT)
    assert (result.superseded, result.records) == (1, 9)
    assert [row["source_shard"] for row in by_id(tmp_path / "out")["r2"]] == ["part-00002.parquet"]


def test_a_touched_older_shard_does_not_become_the_newer(archive: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    patient = _patient_of(archive, model, tmp_path, "r2")
    later(archive, model, out, named(record_id={1: "r2"}, patient_id={1: patient}))
    (archive / "part-00000.parquet").touch()
    again = explain(archive, model, out)
    assert (again.restamped, again.superseded) == (1, 1)
    assert [row["source_shard"] for row in by_id(out)["r2"]] == ["part-00002.parquet"]


def test_when_the_newer_shard_goes_the_older_row_is_back(archive: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    patient = _patient_of(archive, model, tmp_path, "r2")
    later(archive, model, out, named(record_id={1: "r2"}, patient_id={1: patient}))
    (archive / "part-00002.parquet").unlink()
    result = explain(archive, model, out)
    assert (result.computed, result.retired, result.records) == (0, 1, 8)
    assert [row["source_shard"] for row in by_id(out)["r2"]] == ["part-00000.parquet"]


@pytest.mark.parametrize("what", ["absent", "torn", "touched and absent", "another corrected"])
def test_a_correction_outlasts_what_happens_to_the_older_shard(
    what: str, archive: Path, model: Path, tmp_path: Path
) -> None:
    out, shard = tmp_path / "out", archive / "part-00000.parquet"
    patient = _patient_of(archive, model, tmp_path, "r2")
    later(archive, model, out, named(record_id={1: "r2"}, patient_id={1: patient}))
    whole = shard.read_bytes()
    if what == "another corrected":
        rewrite(shard, named(age={0: 55.0}))
    else:
        if what == "torn":
            shard.write_bytes(whole[:100])
        else:
            shard.unlink()
        explain(archive, model, out)
        shard.write_bytes(whole)
    result = explain(archive, model, out)
    assert [row["source_shard"] for row in by_id(out)["r2"]] == ["part-00002.parquet"]
    assert (result.superseded, result.records) == (1, 9)


def test_a_correction_outlasts_the_release_of_an_older_shard(archive: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shard = archive / "part-00002.parquet"
    away = shard.rename(archive.parent / shard.name)
    explain(archive, model, out, policy=Policy(admission=lambda fresh, newest: {"part-00000.parquet": ["odd"]}))
    away.rename(shard)
    patient = _patient_of(archive, model, tmp_path, "r2")
    rewrite(shard, named(record_id={1: "r2"}, patient_id={1: patient}))
    explain(archive, model, out, policy=NIGHT)
    decide_on(out, ["part-00000.parquet"], "released", "it is right")
    result = explain(archive, model, out)
    assert (result.superseded, result.records) == (1, 9)
    assert [row["source_shard"] for row in by_id(out)["r2"]] == ["part-00002.parquet"]


def test_a_new_dataset_goes_on_from_the_order_of_the_one_beside(archive: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    patient = _patient_of(archive, model, tmp_path, "r2")
    later(archive, model, out, named(record_id={1: "r2"}, patient_id={1: patient}))
    # The older shard corrects it once more, in its place: that is the newest, though its key is the earlier one.
    rewrite(archive / "part-00000.parquet", named(age={2: 55.0}))
    explain(archive, model, out)
    assert [row["age"] for row in by_id(out)["r2"]] == [55.0]
    explain(archive, model, out, policy=NIGHT, entropy="timestep")
    [row] = by_id(out)["r2"]
    assert (row["age"], row["entropy"] is not None) == (55.0, True)


def test_held_shards_are_left_out_and_what_was_there_stays(archive: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = explain(archive, model, out)
    rewrite(archive / "part-00001.parquet", lambda table: table.slice(0, 3))
    seen: list[str] = []

    def refuse(fresh: list[Commit], newest: Any) -> dict[str, list[str]]:
        seen.extend(commit.source.key for commit in fresh)
        return {"part-00001.parquet": ["it looks odd"]}

    held = explain(archive, model, out, policy=Policy(admission=refuse))
    assert seen == ["part-00001.parquet"]
    assert [(shard.key, shard.state, shard.reason) for shard in held.held] == [
        ("part-00001.parquet", "held", "it looks odd")
    ]
    assert held.records == first.records == 10
    # It is judged once; a night without news says the same and publishes nothing.
    again = explain(archive, model, out, policy=Policy(admission=refuse))
    assert (again.manifest, seen) == (held.manifest, ["part-00001.parquet"])


def _patient_of(archive: Path, model: Path, tmp_path: Path, record_id: str) -> str | None:
    import pyarrow.parquet as pq

    table = pq.read_table(archive / "part-00000.parquet", columns=["record_id", "patient_id"])
    found: dict[str, str | None] = dict(zip(*(table.column(i).to_pylist() for i in range(2)), strict=True))
    return found[record_id]
