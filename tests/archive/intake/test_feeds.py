"""Arrivals in the layouts of PTB-XL and CODE-15 %, and from and to an object store."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from ecgscale.archive import Archive
from ecgscale.archive.sources.code15 import ingest_code15
from ecgscale.archive.sources.ptbxl import ingest_ptbxl
from ecgscale.archive.sources.source import IngestOptions
from ecgscale.errors import ArchiveError
from ecgscale.io.objects import S3Objects, StoreError, open_objects
from tests.worlds.commands.arriving import HOUR, Ward, age
from tests.worlds.formula.recordings import EXAMS, wave, write_code15, write_ptbxl, write_wfdb


def ptbxl(tmp_path: Path) -> Ward:
    ward = Ward(tmp_path / "src", str(tmp_path / "archive"), source="ptbxl")
    age(write_ptbxl(ward.folder), HOUR)
    return ward


def code15(tmp_path: Path) -> Ward:
    """Part 0 and part 10, of which one exam is not in the table; part 2 is put aside."""
    ward = Ward(tmp_path / "src", str(tmp_path / "archive"), source="code15")
    write_code15(ward.folder)
    os.rename(ward.folder / "exams_part2.hdf5", tmp_path / "exams_part2.hdf5")
    age(ward.folder, HOUR)
    return ward


def test_rows_of_ptbxl_come_with_their_files(tmp_path: Path) -> None:
    ward = ptbxl(tmp_path)
    first = ward.night(carry=("height",))
    assert (first.sets_new, first.incomplete, ward.ids()) == (2, 1, ["1", "2"])
    assert "3: its header is not there" in first.notes[0]
    write_wfdb(ward.folder / "records500/00000", "00003_hr", wave(30, samples=500))
    age(ward.folder, HOUR)
    # The table is written anew by another tool: 56 and 56.0 are the same age, a corrected age is another row.
    text = (ward.folder / "ptbxl_database.csv").read_text()
    (ward.folder / "ptbxl_database.csv").write_text(text.replace("15709.0,56.0,", "15709,56,"))
    assert (ward.night().waiting, ward.ids()) == (1, ["1", "2"])
    age(ward.folder, 2 * HOUR)
    arrived = ward.night(carry=("height",))
    assert (arrived.sets_new, arrived.sets_changed, arrived.touched) == (1, 0, 2)
    (ward.folder / "ptbxl_database.csv").write_text(text.replace("15709.0,56.0,", "15709,57,"))
    assert ward.night(settle=0.0, carry=("height",)).sets_changed == 1
    assert ward.ids() == ["1", "2", "3", "1"]
    archive = Archive.open(ward.archive)
    assert archive.metadata(["age"]).column("age").to_pylist() == [56.0, None, None, 57.0]
    assert archive.info["source"]["listed_at"]


def test_an_archive_of_ptbxl_made_by_hand_waits_for_its_missing_files(tmp_path: Path) -> None:
    ward = ptbxl(tmp_path)
    ingest_ptbxl(ward.folder, ward.archive)
    assert ward.night().sets_new == 0
    write_wfdb(ward.folder / "records500/00000", "00003_hr", wave(30, samples=500))
    assert ward.night(settle=0.0).sets_changed == 1
    assert ward.ids() == ["1", "2", "3", "3"]
    assert ward.signals()["3"].shape == (12, 500)


def test_a_rate_that_the_archive_does_not_have(tmp_path: Path) -> None:
    ward = ptbxl(tmp_path)
    ward.night()
    with pytest.raises(ArchiveError, match=r"was made with rate = 500, and .* says 100"):
        ward.night(rate=100)
    (ward.folder / "scp_statements.csv").unlink()
    with pytest.raises(ArchiveError, match=r"scp_statements\.csv is missing"):
        ward.night()


def test_parts_of_code15_arrive(tmp_path: Path) -> None:
    ward = code15(tmp_path)
    first = ward.night()
    assert (first.sets_new, first.incomplete, ward.ids()) == (1, 1, ["11", "12"])
    assert "exams_part10.hdf5: 1 of its exams are not in exams.csv" in first.notes[0]
    # A part that is still being copied is no HDF5 file yet.
    whole = (tmp_path / "exams_part2.hdf5").read_bytes()
    (ward.folder / "exams_part2.hdf5").write_bytes(whole[:4000])
    assert (ward.night().waiting, ward.night(settle=0.0).incomplete) == (1, 2)
    (ward.folder / "exams_part2.hdf5").write_bytes(whole)
    assert ward.night(settle=0.0).shards == ("part-00001.parquet",)
    # Given up on, and then the table lists the exam after all: its labels come along.
    assert ward.night(give_up=0.0).given_up == 1
    assert (ward.night(give_up=0.0).given_up, ward.ids()) == (0, ["11", "12", "13", "99"])
    (ward.folder / "exams.csv").write_text(EXAMS + "99,30,True,,,,,,,,5.0,,,,exams_part10.hdf5\n")
    assert ward.night().waiting == 1
    assert ward.night(settle=0.0).sets_changed == 1
    ages = Archive.open(ward.archive).metadata(["record_id", "age"]).to_pylist()
    assert [row["age"] for row in ages if row["record_id"] == "99"] == [None, 30.0]
    assert ward.night(settle=0.0).sets_changed == 0
    ward.check()


def test_a_part_that_stays_broken_is_refused_and_told(tmp_path: Path) -> None:
    ward = code15(tmp_path)
    (ward.folder / "exams_part3.hdf5").write_bytes(b"no HDF5")
    age(ward.folder, HOUR)
    ward.night()
    for _ in range(2):
        arrived = ward.night(give_up=0.0)
        assert arrived.refused == 1
        assert any("exams_part3.hdf5 is not a whole HDF5 file" in note for note in arrived.notes)
    assert sorted(ward.ids()) == ["11", "12", "99"]


def test_a_part_that_breaks_off_while_it_is_read_is_refused(tmp_path: Path) -> None:
    ward = code15(tmp_path)
    signals = np.random.default_rng(0).normal(size=(600, 64, 12)).astype("float32")
    with h5py.File(ward.folder / "exams_part1.hdf5", "w") as file:
        file.create_dataset("exam_id", data=np.full(600, 11))
        file.create_dataset("tracings", data=signals, chunks=(64, 64, 12), compression="gzip")
    data = bytearray((ward.folder / "exams_part1.hdf5").read_bytes())
    data[-40_000:] = bytes(40_000)
    (ward.folder / "exams_part1.hdf5").write_bytes(data)
    age(ward.folder, HOUR)
    arrived = ward.night()
    assert (arrived.refused, ward.ids()) == (1, ["11", "12"])
    assert any("breaks off after row" in note for note in arrived.notes)
    assert ward.night().refused == 1


def test_an_archive_of_code15_made_by_hand(tmp_path: Path) -> None:
    ward = code15(tmp_path)
    ingest_code15(ward.folder, ward.archive, options=IngestOptions(shard_records=2))
    shutil.copy(tmp_path / "exams_part2.hdf5", ward.folder)
    arrived = ward.night(settle=0.0)
    assert (arrived.sets_new, arrived.shards) == (1, ("part-00002.parquet",))
    assert ward.ids() == ["11", "12", "99", "13"]


def test_from_and_to_an_object_store(tmp_path: Path, s3_root: str) -> None:
    """Nights on S3: records, a replaced one, an incomplete one, and a crash between entry and shards."""
    ward = Ward(tmp_path / "src", f"{s3_root}/archive", src=f"{s3_root}/feed/ecgs")
    ward.record("day1/1")
    ward.record("day1/2")
    assert (ward.night().records, ward.ids()) == (2, ["1", "2"])
    time.sleep(1.1)
    assert ward.night().shards == ()
    again = ward.record("day1/2", seed=50)
    ward.record("day2/3")
    ward.record("day2/4")
    (tmp_path / "src/day2/4.dat").rename(tmp_path / "4.dat")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(S3Objects, "stat", _dying(S3Objects.stat, "part-00001.parquet"))
        with pytest.raises(KeyboardInterrupt):
            ward.night()
    arrived = ward.night()
    assert (arrived.records, arrived.incomplete, arrived.waiting) == (2, 1, 0)
    assert ward.ids() == ["1", "2", "2", "3"]
    np.testing.assert_array_equal(ward.signals()["2"], again)
    (tmp_path / "4.dat").rename(tmp_path / "src/day2/4.dat")
    assert (ward.night().records, ward.night().records) == (1, 0)
    assert not list(open_objects(ward.archive).list_prefix("_ingest/staged"))
    ward.check()


def test_a_feed_that_cannot_be_written_to(tmp_path: Path, s3_root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ward = Ward(tmp_path / "src", str(tmp_path / "archive"), src=f"{s3_root}/files/p1000/p10000032")
    ward.record("s40689238/40689238")

    def refused(store: S3Objects) -> None:
        raise StoreError("no")

    monkeypatch.setattr(S3Objects, "clock", refused)
    arrived = ward.night()
    assert any("is told by this machine's clock" in note for note in arrived.notes)
    rows = Archive.open(ward.archive).metadata(["record_id", "patient_id"]).to_pylist()
    assert [(row["record_id"], row["patient_id"]) for row in rows] == [("40689238", "10000032")]


def test_parts_in_an_object_store(tmp_path: Path, s3_root: str) -> None:
    ward = code15(tmp_path)
    ward.src = f"{s3_root}/code15"
    (ward.folder / "exams_part3.hdf5").write_bytes(b"no HDF5")
    first = ward.night()
    assert (first.records, first.incomplete) == (2, 2)
    shutil.copy(tmp_path / "exams_part2.hdf5", ward.folder)
    assert ward.night().records == 1
    assert ward.ids() == ["11", "12", "13"]


def test_a_plain_ingest_reads_an_object_store_too(
    tmp_path: Path, s3_root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ecgscale.io.places import place, upload

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    upload(write_ptbxl(tmp_path / "src"), place(f"{s3_root}/ptbxl"))
    result = ingest_ptbxl(place(f"{s3_root}/ptbxl"), place(f"{s3_root}/archive"))
    assert (result.records, Archive.open(f"{s3_root}/archive").info["source"]["folder"]) == (3, "ptbxl")
    with pytest.raises(ArchiveError, match=r"holds nothing; expected ptbxl_database\.csv"):
        ingest_ptbxl(f"{s3_root}/nothing", tmp_path / "b")


def _dying(plain: object, key: str) -> object:
    def stat(self: S3Objects, asked: str) -> object:
        if asked == key:
            raise KeyboardInterrupt
        return plain(self, asked)  # type: ignore[operator]

    return stat
