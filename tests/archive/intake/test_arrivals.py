"""Files that arrive night after night: each set once, when it is complete and has settled."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ecgscale.archive import Archive, ArchiveWriter
from ecgscale.archive.intake.arrivals import ingest_arrivals
from ecgscale.archive.sources.source import IngestOptions
from ecgscale.archive.sources.wfdb import ingest_wfdb
from ecgscale.config import ArchiveConfig
from ecgscale.errors import ArchiveError, UsageError
from tests.worlds.commands.arriving import HOUR, LEADS, Ward
from tests.worlds.formula.recordings import record, wave, write_wfdb


@pytest.fixture
def ward(tmp_path: Path) -> Ward:
    return Ward(tmp_path / "src", str(tmp_path / "archive"))


def test_five_nights_of_a_growing_folder(ward: Ward) -> None:
    expected: dict[str, np.ndarray] = {}
    for night in range(5):
        new = {f"{night}{i}": ward.record(f"day{night}/{night}{i}") for i in range(3)}
        expected |= new
        arrived = ward.night()
        assert (arrived.sets_new, arrived.sets_changed, arrived.records) == (3, 0, 3)
        assert arrived.shards == (f"part-{night:05d}.parquet",)
        # Asked again, nothing is new.
        assert ward.night().to_dict() == {
            **dict.fromkeys(arrived.to_dict(), 0),
            "shards": (),
            "notes": (),
        }
        ward.check()
    found = ward.signals()
    assert ward.ids() == sorted(expected)
    for name, signal in expected.items():
        np.testing.assert_array_equal(found[name], signal)
    archive = Archive.open(ward.archive)
    assert len({str(archive.footer(shard).schema) for shard in archive.shards}) == 1


def test_a_file_that_is_still_being_copied_waits(ward: Ward) -> None:
    ward.record("1")
    ward.night()
    ward.record("2", seconds=60)
    data = (ward.folder / "2.dat").read_bytes()
    (ward.folder / "2.dat").write_bytes(data[:300])
    assert (ward.night().waiting, ward.ids()) == (1, ["1"])
    (ward.folder / "2.dat").write_bytes(data)
    assert (ward.night().waiting, ward.ids()) == (1, ["1"])
    ward.record("2")
    assert (ward.night().sets_new, ward.ids()) == (1, ["1", "2"])
    np.testing.assert_array_equal(ward.signals()["2"], wave(ord("2"), 3))


def test_files_from_the_future_wait_and_are_told(ward: Ward) -> None:
    ward.record("1")
    ward.record("2", seconds=-50 * HOUR)
    arrived = ward.night()
    assert (arrived.sets_new, arrived.waiting) == (1, 1)
    assert "1 sets have files from the future, and wait for it; mend the sender's clock" in arrived.notes


def test_incomplete_sets_are_waited_for_and_then_taken_as_they_are(ward: Ward) -> None:
    ward.record("1")
    ward.record("2")
    ward.record("3")
    whole = (ward.folder / "3.dat").read_bytes()
    (ward.folder / "2.dat").unlink()
    (ward.folder / "3.dat").write_bytes(whole[:300])
    _aged(ward.folder / "3.dat")
    first = ward.night()
    assert (first.sets_new, first.incomplete, first.waiting) == (1, 2, 0)
    assert "2: 2.dat is not there, since 20" in first.notes[0]
    assert "3: 3.dat has 300 of 1,200 bytes" in first.notes[0]
    # The one that is completed comes in, the other is given up on; nothing is said twice of those.
    (ward.folder / "3.dat").write_bytes(whole)
    _aged(ward.folder / "3.dat")
    assert (ward.night().incomplete, ward.ids()) == (1, ["1", "3"])
    given_up = ward.night(give_up=0.0)
    assert (given_up.sets_new, given_up.given_up, given_up.problems) == (1, 1, 1)
    assert ward.signals()["2"].shape == (3, 0)
    assert ward.night(give_up=0.0).sets_new == 0
    # Its file comes after all: the record is sent again.
    ward.record("2")
    assert ward.night().sets_changed == 1
    np.testing.assert_array_equal(ward.signals()["2"], wave(ord("2"), 3))


def test_odd_headers_stop_no_night(ward: Ward) -> None:
    ward.record("1")
    good = (ward.folder / "1.hea").read_text()
    odd = {
        "folder": "data/1.dat",
        "above": "../1.dat",
        "windows": "C:\\\\1.dat",
        "blank": "a 1.dat",
        "url": "s3://b/1.dat",
    }
    for name, file in odd.items():
        (ward.folder / f"{name}.hea").write_text(good.replace("1.dat", file))
    (ward.folder / "rate.hea").write_text(good.replace(" 500 200", " 500.0.0 200"))
    (ward.folder / "case.HEA").write_text(good)
    for file in ward.folder.iterdir():
        _aged(file)
    night = ward.night()
    # That of a folder waits for its signal file.
    assert (night.records, night.problems) == (6, 5)
    assert any("1 files look like headers" in note for note in night.notes)
    assert ward.night().records == 0


def test_signal_files_of_another_name_are_part_of_the_set(ward: Ward) -> None:
    stem = write_wfdb(ward.folder, "1", wave(1, 3), LEADS)
    text = re.sub(r"1\.dat(.*) 16 0 \S+ \S+ 0 ", r"one_raw.dat\1 16 0 0 0 0 ", stem.with_suffix(".hea").read_text())
    stem.with_suffix(".hea").write_text(text)
    os.rename(stem.with_suffix(".dat"), ward.folder / "one_raw.dat")
    ward.record("2")
    for file in ward.folder.iterdir():
        _aged(file)
    assert ward.night().sets_new == 2
    assert ward.night().sets_changed == 0
    (ward.folder / "one_raw.dat").write_bytes(wave(5, 3).T.tobytes())
    assert ward.night().waiting == 1
    _aged(ward.folder / "one_raw.dat")
    assert ward.night().sets_changed == 1
    np.testing.assert_array_equal(ward.signals()["1"], wave(5, 3))


def test_a_replaced_file_sends_its_record_again(ward: Ward) -> None:
    ward.record("1")
    ward.record("2")
    ward.night()
    again = ward.record("2", seed=77)
    arrived = ward.night()
    assert (arrived.sets_new, arrived.sets_changed, arrived.records) == (0, 1, 1)
    assert ward.ids() == ["1", "2", "2"]
    np.testing.assert_array_equal(ward.signals()["2"], again)


def test_what_is_written_anew_or_moved_or_copied_is_no_new_record(ward: Ward) -> None:
    ward.record("a/1")
    ward.record("a/2")
    ward.night()
    for file in (ward.folder / "a").iterdir():
        os.utime(file, (time.time() - 2 * HOUR,) * 2)
    assert (ward.night().touched, ward.night().touched) == (2, 0)
    shutil.copytree(ward.folder / "a", ward.folder / "copy", copy_function=shutil.copyfile)
    os.rename(ward.folder / "a", ward.folder / "b")
    assert (ward.night(settle=0).touched, ward.night(settle=0).touched) == (4, 0)
    shutil.rmtree(ward.folder / "copy")
    assert ward.night().vanished == 2
    assert ward.ids() == ["1", "2"]
    # Its new place is known: replaced there, it is the same record.
    ward.record("b/1", seed=3)
    assert (ward.night().sets_changed, ward.ids()) == (1, ["1", "2", "1"])


def test_two_recordings_of_one_name_are_two_records(ward: Ward) -> None:
    ward.record("monday/1", seed=1)
    ward.night()
    shutil.rmtree(ward.folder / "monday")
    ward.record("tuesday/1", seed=2)
    ward.record("1", seed=3)
    arrived = ward.night()
    assert (arrived.sets_new, arrived.vanished) == (2, 1)
    assert ward.ids() == ["1", "./1", "tuesday/1"]
    assert ward.night().sets_new == 0
    for name, seed in (("1", 1), ("./1", 3), ("tuesday/1", 2)):
        np.testing.assert_array_equal(ward.signals()[name], wave(seed, 3))


def test_an_archive_of_paths_goes_on_with_paths(ward: Ward) -> None:
    ward.record("x/1", seed=1)
    ward.record("y/1", seed=2)
    ward.night()
    ward.record("z/3", seed=3)
    ward.night()
    assert ward.ids() == ["x/1", "y/1", "z/3"]


def test_what_int16_cannot_hold_stays_out_and_is_told_every_night(ward: Ward) -> None:
    ward.record("1")
    ward.night()
    ward.record("2")
    ward.record("3", gain=[1000, 500, 1000])
    for new in (1, 0):
        arrived = ward.night()
        assert (arrived.sets_new, arrived.refused) == (new, 1)
        assert "1 refused: 3: its gains or format need float32" in arrived.notes[0]
    ward.record("3")
    assert (ward.night().refused, ward.ids()) == (0, ["1", "2", "3"])


def test_a_float32_archive_takes_all(ward: Ward) -> None:
    ward.record("1", gain=[1000, 500, 1000])
    ward.night()
    digital = ward.record("2")
    ward.night()
    np.testing.assert_allclose(ward.signals()["2"], digital / 1000, rtol=1e-6)


def test_the_columns_of_the_archive_stay(ward: Ward) -> None:
    ward.record("1", comments=["Age: 30", "Rx: none", "Dx: 426177001"])
    ward.night(carry=("Rx",))
    ward.record("2")
    ward.record("3", comments=["Hx: long", "Rx: some"])
    arrived = ward.night(carry=("Rx", "Hx"))
    assert "left out, because the archive has no such column: Hx" in arrived.notes
    rows = Archive.open(ward.archive).metadata(["record_id", "age", "snomed", "Rx"]).to_pylist()
    assert [row["Rx"] for row in rows] == ["none", None, "some"]
    assert [row["snomed"] for row in rows] == [["426177001"], None, None]


def test_codes_that_the_archive_has_no_column_for_are_told(ward: Ward) -> None:
    ward.record("1")
    ward.night()
    ward.record("2", comments=["Dx: 426177001"])
    assert "1 headers have SNOMED codes; left out, because the archive has no column" in ward.night().notes


def test_an_archive_that_was_ingested_by_hand_is_gone_on_with(ward: Ward) -> None:
    ward.record("1")
    ward.record("2", seconds=2 * HOUR)
    ingest_wfdb(ward.folder, ward.archive, options=IngestOptions(shard_records=1))
    made = Archive.open(ward.archive).info
    # It arrived while the ingest ran, with an old time: not in the archive, so it is new. The other was replaced.
    ward.record("3", seconds=5 * HOUR)
    ward.record("2", seed=9, seconds=-1)
    time.sleep(1.1)
    arrived = ward.night(settle=0)
    assert (arrived.sets_new, arrived.sets_changed) == (1, 1)
    assert "2 sets of files were in the archive before it had a log" in arrived.notes
    assert ward.ids() == ["1", "2", "2", "3"]
    assert Archive.open(ward.archive).archive_id == made["archive_id"]
    ward.check()


def test_an_archive_of_windows_is_gone_on_with_in_windows_of_that_length(ward: Ward) -> None:
    ward.record("1")
    ingest_wfdb(ward.folder, ward.archive, options=IngestOptions(windows=0.2))
    ward.record("2")
    assert (ward.night(windows="0.2s").sets_new, len(ward.ids())) == (1, 4)
    for windows, said in (("0.1s", "0.1"), (None, "None")):
        with pytest.raises(ArchiveError, match=rf"was made with windows = 0\.2, and \[archive\] now says {said}"):
            ward.night(windows=windows)


def test_numbers_go_on_after_those_of_all_shards(ward: Ward) -> None:
    ward.record("1")
    ward.night()
    os.rename(Path(ward.archive) / "part-00000.parquet", Path(ward.archive) / "part-00041.parquet")
    ward.record("2")
    assert ward.night().shards == ("part-00042.parquet",)


def test_a_portion_at_a_time(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ecgscale.archive.intake.arrivals.PORTION_SETS", 2)
    for i in range(1, 6):
        ward.record(str(i))
    assert ward.night().shards == tuple(f"part-{i:05d}.parquet" for i in range(3))
    assert ward.ids() == ["1", "2", "3", "4", "5"]
    ward.check()


def test_a_set_that_changes_while_it_is_read_waits(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    from ecgscale.archive.sources.wfdb import WfdbSource

    ward.record("1")
    ward.record("2")
    plain = WfdbSource.ingest

    def slow(self: WfdbSource, *args: Any) -> Any:
        result = plain(self, *args)
        if len(args[1].portion.sets) == 2:
            ward.record("2", seed=50)
        return result

    monkeypatch.setattr(WfdbSource, "ingest", slow)
    arrived = ward.night()
    assert (arrived.sets_new, arrived.waiting, ward.ids()) == (1, 1, ["1"])
    assert (ward.night().sets_new, ward.ids()) == (1, ["1", "2"])
    np.testing.assert_array_equal(ward.signals()["2"], wave(50, 3))


def test_the_log_names_nobody(ward: Ward) -> None:
    ward.record("files/p1000/p10000032/s40689238/40689238")
    ward.record("files/p1000/p10000032/s40689239/40689239")
    (ward.folder / "files/p1000/p10000032/s40689239/40689239.dat").unlink()
    ward.night()
    for entry in (Path(ward.archive) / "_ingest").glob("*.json"):
        assert "10000032" not in entry.read_text()
        assert "40689238" not in entry.read_text()


def test_what_cannot_be_gone_on_with(ward: Ward, tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="no such folder; is the disk mounted"):
        ward.night()
    ward.folder.mkdir()
    with pytest.raises(ArchiveError, match="holds nothing that source = 'wfdb' knows"):
        ward.night()
    assert not Path(ward.archive).exists()
    with pytest.raises(UsageError, match=r"set archive\.source"):
        ingest_arrivals(ArchiveConfig(path=tmp_path / "a", source="simulate"))
    ward.record("1")
    ward.night()
    with pytest.raises(ArchiveError, match=r"was made with units_per_mv = None, and .* says 1000"):
        ward.night(units_per_mv=1000)
    other = Ward(ward.folder, ward.archive, source="ptbxl")
    with pytest.raises(ArchiveError, match="made with kind = 'wfdb'"):
        other.night()
    (Path(ward.archive) / "part-00007.parquet").write_bytes(b"")
    (Path(ward.archive) / "_archive.json").unlink()
    shutil.rmtree(Path(ward.archive) / "_ingest")
    with pytest.raises(ArchiveError, match="already holds an archive"):
        ward.night()


def test_a_replaced_archive_begins_its_log_anew(ward: Ward) -> None:
    ward.record("1")
    ward.night()
    ward.record("2")
    ingest_wfdb(ward.folder, ward.archive, options=IngestOptions(overwrite=True))
    ward.record("3")
    assert ward.night(settle=0).sets_new == 1
    assert ward.ids() == ["1", "2", "3"]
    entries = sorted((Path(ward.archive) / "_ingest").glob("*.json"))
    assert len({json.loads(entry.read_text())["archive_id"] for entry in entries}) == 2


def test_an_archive_of_ones_own_making(ward: Ward) -> None:
    with ArchiveWriter(ward.archive, {"kind": "test"}, "int16", [pa.field("ward", pa.string())]) as writer:
        writer.append(record("7", ward="b"))
    ward.record("1")
    ward.night()
    assert ward.ids() == ["7", "1"]
    assert Archive.open(ward.archive).metadata(["ward"]).column("ward").to_pylist() == ["b", None]


def _aged(file: Path, seconds: float = HOUR) -> None:
    os.utime(file, (time.time() - seconds,) * 2)
