"""Long recordings as windows: right samples at the right place, nobody torn apart by a split, what is left out told."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from ecgscale.archive import Archive
from ecgscale.archive import shard as archive_shard
from ecgscale.archive import writer as archive_writer
from ecgscale.archive.sources import wfdb_signal
from ecgscale.archive.sources.source import IngestOptions
from ecgscale.archive.sources.wfdb import ingest_wfdb
from ecgscale.archive.sources.wfdb_header import read_header
from ecgscale.archive.sources.wfdb_signal import LongSignal, read_signal
from ecgscale.archive.sources.wfdb_storage import bytes_of
from ecgscale.archive.sources.windows import NOBODYS, SHORTER, WITH_REST, cut
from ecgscale.archive.writer import ArchiveWriter
from ecgscale.config import ArchiveConfig
from tests.worlds.formula.recordings import wave, write_wfdb

LEADS = ("I", "II")
RATE = 500


def row(samples: int, **facts: Any) -> dict[str, Any]:
    signal = np.arange(2 * samples, dtype=np.int16).reshape(2, samples)
    return {"record_id": "r", "signal": signal, "leads": LEADS, "sampling_rate": 100.0, "units_per_mv": 1000.0, **facts}


def windows_of(one: dict[str, Any], seconds: float) -> tuple[list[dict[str, Any]], Counter[str]]:
    counted: Counter[str] = Counter()
    return list(cut([one], seconds, counted)), +counted


def test_windows_know_their_place_and_what_is_left_is_counted() -> None:
    taken_at = datetime(2020, 1, 2, 3, 4, tzinfo=UTC)
    waves = [
        {"lead": "I", "wave": "P", "onset": 90, "peak": 110, "offset": 120},
        {"lead": "II", "wave": "T", "onset": None, "peak": 249, "offset": 260},
    ]
    found, counted = windows_of(row(250, acquired_at=taken_at, fiducials=waves, age=50.0), 1.0)
    assert [(w["record_id"], w["recording_id"], w["window_start_s"]) for w in found] == [
        ("r@00000.000", "r", 0.0),
        ("r@00001.000", "r", 1.0),
    ]
    assert np.array_equal(np.concatenate([w["signal"] for w in found], axis=1), row(250)["signal"][:, :200])
    assert [w["acquired_at"] - taken_at for w in found] == [timedelta(0), timedelta(seconds=1)]
    assert [w["fiducials"] for w in found] == [
        [],
        [{"lead": "I", "wave": "P", "onset": None, "peak": 10, "offset": 20}],
    ]
    assert {w["age"] for w in found} == {50.0}
    assert counted == {WITH_REST: 1}


def test_windows_of_a_recording_without_a_name_have_none() -> None:
    assert [w["record_id"] for w in windows_of(row(200, record_id=None), 1.0)[0]] == [None, None]


def test_padding_is_in_no_window() -> None:
    found, counted = windows_of(row(300, valid_start=30, valid_stop=230), 1.0)
    assert [w["window_start_s"] for w in found] == [0.3, 1.3]
    assert np.array_equal(found[1]["signal"], row(300)["signal"][:, 130:230])
    assert (found[0]["valid_start"], found[0]["valid_stop"]) == (0, 100)
    assert not counted


@pytest.mark.parametrize("one", [row(80), row(100, valid_start=10, valid_stop=90)])
def test_what_is_shorter_than_a_window_is_kept_whole(one: dict[str, Any]) -> None:
    [found], counted = windows_of(one, 1.0)
    assert found["signal"].shape == (2, 80)
    assert counted == {SHORTER: 1}


@pytest.mark.parametrize("one", [row(0), row(500, sampling_rate=0.0), row(500, sampling_rate=None)])
def test_what_cannot_be_cut_stays_for_the_check_of_recordings(one: dict[str, Any]) -> None:
    assert windows_of(one, 1.0) == ([one], {})


@pytest.fixture
def long_recordings(tmp_path: Path) -> Path:
    """Two recordings of 1.2 s and 3 s, without patients."""
    for name, samples in (("a", 600), ("b", 1500)):
        write_wfdb(tmp_path / "src", name, np.tile(wave(1, 2), 10)[:, :samples], LEADS, fs=RATE)
    return tmp_path / "src"


def test_an_archive_of_windows(long_recordings: Path, tmp_path: Path) -> None:
    result = ingest_wfdb(long_recordings, tmp_path / "a", options=IngestOptions(windows=1.0))
    whole = ingest_wfdb(long_recordings, tmp_path / "whole")
    table = Archive.open(tmp_path / "a").metadata(["record_id", "patient_id", "recording_id", "window_start_s"])
    assert table["record_id"].to_pylist() == [f"{r}@{s:09.3f}" for r, n in (("a", 1), ("b", 3)) for s in range(n)]
    # A split by patient keeps what belongs together.
    assert table["patient_id"].to_pylist() == table["recording_id"].to_pylist() == ["a", "b", "b", "b"]
    assert set(result.notes) == {NOBODYS.format(2), WITH_REST.format(1)}
    assert (result.records, whole.records) == (4, 2)
    first, windows = (
        next(Archive.open(p).batches(Archive.open(p).shards[0])) for p in (tmp_path / "whole", tmp_path / "a")
    )
    assert np.array_equal(windows.signal(3), first.signal(1)[:, 1000:1500])


@pytest.mark.parametrize("length", ["", "ten", "0s", "-1s", "10 m", "nan", "10s0"])
def test_a_length_that_is_none(length: str) -> None:
    with pytest.raises(ValueError, match="not a length of time such as 10s"):
        ArchiveConfig(path="a", windows=length)


def test_recordings_of_a_day_wait_in_groups_of_their_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive_writer, "GROUP_BYTES", 5000)
    with ArchiveWriter(tmp_path / "a", {}) as writer:
        for _ in range(7):
            writer.append(row(500))
            assert len(writer._rows) <= 2
    shard = pq.ParquetFile(tmp_path / "a" / "part-00000.parquet")
    assert [shard.metadata.row_group(i).num_rows for i in range(shard.num_row_groups)] == [2, 2, 2, 1]
    # Whoever reads them holds no more of them at a time.
    monkeypatch.setattr(archive_shard, "READ_BYTES", 1)
    archive = Archive.open(tmp_path / "a")
    assert [len(batch) for batch in archive.batches(archive.shards[0])] == [1] * 7


def test_a_recording_that_no_row_can_hold_is_told(
    long_recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ecgscale.archive.sources.windows.MOST_SAMPLES", 2000)
    result = ingest_wfdb(long_recordings, tmp_path / "a")
    assert result.problems.first == [
        "record b: 2 leads of 1,500 samples need 17.6 KiB, more than a record can have; --windows 10s cuts them; kept "
        "with an empty signal"
    ]
    archive = Archive.open(tmp_path / "a")
    assert [len(batch.signal(i)[0]) for batch in archive.batches(archive.shards[0]) for i in range(2)] == [600, 0]


@pytest.mark.parametrize("fmt", ["16", "212", "24", "32", "80", "61", "160", "310", "311"])
@pytest.mark.parametrize("kind", ["int16", "float32"])
def test_a_long_signal_is_that_of_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fmt: str, kind: Any
) -> None:
    # Whatever bytes are there are samples.
    (tmp_path / "r.dat").write_bytes(np.random.default_rng(4).bytes(bytes_of(fmt, 5 * 1001)))
    signals = [f"r.dat {fmt} 200/mV 12 0 0 0 0 V{i}" for i in range(1, 6)]
    (tmp_path / "r.hea").write_text("\n".join(["r 5 250 1001", *signals, ""]))
    header = read_header(tmp_path / "r")
    if kind == "int16" and not header.fits_int16():
        pytest.skip("samples of more than 16 bits")
    at_once = read_signal(header, kind)
    monkeypatch.setattr(wfdb_signal, "LONG", 100)
    monkeypatch.setattr(wfdb_signal, "STRETCH", 100)
    found = read_signal(header, kind)
    long = found.signal
    assert isinstance(long, LongSignal)
    assert isinstance(at_once.signal, np.ndarray)
    assert (long.shape, found.units_per_mv, found.leads) == ((5, 1001), at_once.units_per_mv, at_once.leads)
    for start, stop in ((0, 1001), (3, 5), (500, 1001), (997, 1001), (13, 13)):
        np.testing.assert_array_equal(long[:, start:stop].read(), at_once.signal[:, start:stop])
    np.testing.assert_array_equal(long[:, 100:900][:, 50:60].read(), at_once.signal[:, 150:160])


def test_what_the_header_knows_of_a_long_signal_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, long_recordings: Path
) -> None:
    monkeypatch.setattr(wfdb_signal, "LONG", 100)
    monkeypatch.setattr(wfdb_signal, "STRETCH", 100)
    file = long_recordings / "b.dat"
    whole = file.read_bytes()
    file.write_bytes(whole[:-2] + bytes([whole[-2] ^ 1, whole[-1]]))
    result = ingest_wfdb(long_recordings, tmp_path / "a", options=IngestOptions(windows=1.0))
    [problem] = result.problems.first
    assert problem.startswith("record b: its samples are not those that its header describes: II has the checksum")
    table = Archive.open(tmp_path / "a").metadata(["record_id", "recording_id", "window_start_s"])
    assert table.select(["record_id", "recording_id", "window_start_s"]).to_pylist() == [
        {"record_id": "a@00000.000", "recording_id": "a", "window_start_s": 0.0},
        {"record_id": "b", "recording_id": None, "window_start_s": None},
    ]


def test_a_recording_that_takes_more_than_memory_is_refused_before_it_is_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, long_recordings: Path
) -> None:
    monkeypatch.setattr(wfdb_signal, "LONG", 2000)
    result = ingest_wfdb(long_recordings, tmp_path / "a", options=IngestOptions(memory=16_000))
    assert result.problems.first == [
        "record b: 2 leads of 1,500 samples need 17.6 KiB, more than --memory 15.6 KiB holds; --windows 10s cuts them; "
        "kept with an empty signal"
    ]
    cut_up = ingest_wfdb(long_recordings, tmp_path / "b", options=IngestOptions(memory=16_000, windows=1.0))
    assert (cut_up.records, cut_up.problems.count) == (4, 0)


def test_a_recording_that_breaks_off_while_it_is_read_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, long_recordings: Path
) -> None:
    def lost(_signal: LongSignal) -> np.ndarray:
        raise IndexError("frame 7")

    monkeypatch.setattr(wfdb_signal, "LONG", 2000)
    monkeypatch.setattr(LongSignal, "read", lost)
    result = ingest_wfdb(long_recordings, tmp_path / "a")
    assert result.problems.first == [
        "record b: its samples cannot be read any more: IndexError: frame 7; kept with an empty signal"
    ]
    archive = Archive.open(tmp_path / "a")
    assert archive.metadata(["record_id"])["record_id"].to_pylist() == ["a", "b"]
