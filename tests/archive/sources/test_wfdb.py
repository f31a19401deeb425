"""Folders of WFDB records to archives: scales, odd headers, annotations, and records that cannot be read."""

from __future__ import annotations

import os
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import wfdb

from ecgscale.archive import Archive, RawBatch, check_batch
from ecgscale.archive.sources.source import Ingest, IngestOptions
from ecgscale.archive.sources.wfdb import ingest_wfdb
from ecgscale.archive.sources.wfdb_comments import AT_LEAST
from ecgscale.archive.sources.wfdb_files import not_taken
from ecgscale.archive.sources.wfdb_header import Header, UnreadableRecord, read_header
from ecgscale.errors import ArchiveError
from tests.worlds.formula.recordings import all_records, wave, write_wfdb

LEADS = ("I", "II", "V1")


def ingested(source: Path, target: Path, *args: Any, **options: Any) -> RawBatch:
    """The first batch of an archive of `source`."""
    ingest_wfdb(source, target, *args, options=IngestOptions(**options))
    archive = Archive.open(target)
    return next(archive.batches(archive.shards[0]))


def test_one_resolution_a_record_stays_digital(tmp_path: Path) -> None:
    write_wfdb(tmp_path / "src", "b", wave(1, 3), LEADS, gain=200)
    write_wfdb(tmp_path / "src/sub", "a", wave(2, 3), LEADS, gain=4.88, units="uV", fs=250)
    raw = ingested(tmp_path / "src", tmp_path / "a")
    assert raw.values.dtype == np.int16
    assert raw.record_ids == ["b", "a"]
    assert raw.units_per_mv.tolist() == [200.0, 4880.0]
    assert raw.sampling_rate.tolist() == [500.0, 250.0]
    np.testing.assert_array_equal(raw.signal(1), wave(2, 3))


def test_a_lead_map_names_channels_and_says_which_it_found(tmp_path: Path) -> None:
    header = write_wfdb(tmp_path / "src", "a", wave(1, 3), ("ECG", "ECX", "Abl. V1"), gain=200).with_suffix(".hea")
    header.write_text(header.read_text().replace("ECX", "ECG"))
    write_wfdb(tmp_path / "src", "b", wave(2, 3), ("MLII", "Lead 1", "ECG lead V1"), gain=200)
    options = IngestOptions(lead_map={"ecg#1": "II", "ECG#2": "V5", "MLII": "II", "ECG3": "V2"})
    result = ingest_wfdb(tmp_path / "src", tmp_path / "a", options=options)
    archive = Archive.open(tmp_path / "a")
    assert next(archive.batches(archive.shards[0])).leads == [("II", "V5", "V1"), ("II", "I", "V1")]
    assert "lead map: channel MLII is taken as II: 1 times" in result.notes
    assert "lead map: no recording has a channel ECG3" in result.notes
    assert archive.info["source"]["lead_map"] == options.lead_map


@pytest.mark.parametrize(
    ("gain", "baseline", "fmt", "expected"),
    [
        ([1000, 1000, 1000], 0, "16", "int16"),
        ([1000, 500, 1000], 0, "16", "float32"),
        ([1000, 1000, 1000], 5, "16", "float32"),
        ([1000, 1000, 1000], [5, -7, 100], "212", "int16"),
        ([1000, 1000, 1000], 0, "24", "float32"),
        ([321, 654, 987], [1, 2, -3], "212", "float32"),
    ],
)
def test_the_sample_type_is_one_that_holds_every_value(
    tmp_path: Path, gain: list[float], baseline: Any, fmt: str, expected: str
) -> None:
    stem = write_wfdb(tmp_path / "src", "r", wave(3, 3), LEADS, gain, baseline, fmt=fmt)
    raw = ingested(tmp_path / "src", tmp_path / "a")
    assert raw.values.dtype == expected
    physical = wfdb.rdrecord(str(stem)).p_signal.T
    np.testing.assert_allclose(raw.signal(0) / raw.units_per_mv[0], physical, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("gain", [1000, [1000, 500, 1000]])
def test_samples_marked_missing_stay_missing(tmp_path: Path, gain: Any) -> None:
    digital = wave(4, 3)
    digital[1, 7] = -(2**15)
    write_wfdb(tmp_path / "src", "r", digital, LEADS, gain)
    write_wfdb(tmp_path / "src", "s", wave(5, 3), LEADS, gain)
    raw = ingested(tmp_path / "src", tmp_path / "a")
    assert np.argwhere(np.isnan(raw.signal(0))).tolist() == [[1, 7]]
    assert check_batch(raw, set())[0] == ["non_finite_samples", "ok"]
    archive = Archive.open(tmp_path / "a")
    assert archive.info["signal"] == ("int16" if gain == 1000 else "float32")


def test_gains_that_normalise_are_told_and_can_be_set_aside(tmp_path: Path) -> None:
    digital = wave(6, 3)
    spans = np.ptp(digital.astype(int), axis=1)
    write_wfdb(tmp_path / "src", "1", digital, LEADS, [float(span) for span in spans], [3, 1, -2])
    result = ingest_wfdb(tmp_path / "src", tmp_path / "a")
    assert "in 1 records every lead spans exactly 1 mV" in result.notes[0]
    assert Archive.open(tmp_path / "a").info["source"]["notes"] == list(result.notes)
    raw = ingested(tmp_path / "src", tmp_path / "b", 1000.0)
    assert raw.units_per_mv.tolist() == [1000.0]
    np.testing.assert_array_equal(raw.signal(0), digital)
    with pytest.raises(ArchiveError, match="units-per-mv -1"):
        ingest_wfdb(tmp_path / "src", tmp_path / "c", -1)


def test_challenge_headers(tmp_path: Path) -> None:
    said = ["Age: 74", "Sex: Male", "Dx: 426177001, 164934002", "Rx: Unknown"]
    write_wfdb(tmp_path / "src", "A1", wave(1, 3), LEADS, comments=said)
    write_wfdb(tmp_path / "src", "A2", wave(2, 3), LEADS, comments=["Age: NaN", "Sex: F", "Dx:"])
    write_wfdb(tmp_path / "src", "A10", wave(3, 3), LEADS, comments=["<age>: 300", "<sex>: Unknown"])
    ingest_wfdb(tmp_path / "src", tmp_path / "a", options=IngestOptions(carry=("Rx", "comments")))
    archive = Archive.open(tmp_path / "a")
    rows = archive.metadata(["record_id", "age", "sex", "snomed", "Rx", "comments"]).to_pylist()
    assert [row["record_id"] for row in rows] == ["A1", "A2", "A10"]
    assert [row["age"] for row in rows] == [74.0, None, None]
    assert [row["sex"] for row in rows] == ["male", "female", None]
    assert [row["snomed"] for row in rows] == [["426177001", "164934002"], [], None]
    assert [row["Rx"] for row in rows] == ["Unknown", None, None]
    assert rows[0]["comments"] == said
    with pytest.raises(ArchiveError, match=r"--carry Hx: .* There are: comments, "):
        ingest_wfdb(tmp_path / "src", tmp_path / "b", options=IngestOptions(carry=("Hx",)))


def test_a_record_line_that_names_a_mat_file(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    signal = wave(1, 3)
    scipy.io.savemat(tmp_path / "src/E1.mat", {"val": signal}, format="4")
    lines = [f"E1.mat 16+24 4880/mV 16 0 {signal[i, 0]} 0 0 {lead}" for i, lead in enumerate(LEADS)]
    text = "\n".join(["E1.mat 3 500 200 05-May-2020 14:50:55", *lines, "#Age: 40", "#Sex: Female"])
    (tmp_path / "src/E1.hea").write_text(text)
    with pytest.raises(Exception, match="invalid syntax in record line"):
        wfdb.rdrecord(str(tmp_path / "src/E1"))
    raw = ingested(tmp_path / "src", tmp_path / "a")
    np.testing.assert_array_equal(raw.signal(0), signal)
    assert (raw.record_ids, raw.units_per_mv.tolist()) == (["E1"], [4880.0])


def test_waves_of_annotation_files_named_after_leads(tmp_path: Path) -> None:
    write_wfdb(tmp_path / "src", "1", wave(1, 3), ("i", "ii", "v1"))
    marks = [(5, "N"), (9, ")"), (20, "("), (25, "t"), (30, ")"), (40, "("), (44, "p"), (50, "("), (52, "N"), (54, ")")]
    marks += [(60, "("), (61, ")"), (70, "("), (72, "t")]
    samples, symbols = zip(*marks, strict=True)
    wfdb.wrann("1", "ii", np.array(samples), list(symbols), write_dir=str(tmp_path / "src"))
    shutil.copy(tmp_path / "src/1.ii", tmp_path / "src/1.v1")
    raw = ingested(tmp_path / "src", tmp_path / "a")
    fiducials = raw.table.column("fiducials").to_pylist()[0]
    waves = [tuple(wave.values()) for wave in fiducials]
    expected = [
        ("QRS", None, 5, 9),
        ("T", 20, 25, 30),
        ("P", 40, 44, None),
        ("QRS", 50, 52, 54),
        ("T", 70, 72, None),
    ]
    assert waves == [("II", *one) for one in expected] + [("V1", *one) for one in expected]


def test_mimic_paths_name_patients_and_headers_times(tmp_path: Path) -> None:
    folder = tmp_path / "files/p1000/p10000032/s40689238"
    stem = write_wfdb(folder, "40689238", wave(1, 3), LEADS, gain=200)
    header = stem.with_suffix(".hea")
    header.write_text(header.read_text().replace("40689238 3 500 200", "40689238 3 500 200 12:36:00 04/01/2180"))
    raw = ingested(tmp_path / "files", tmp_path / "a")
    assert raw.table.column("patient_id").to_pylist() == ["10000032"]
    assert raw.table.column("acquired_at").to_pylist() == [datetime(2180, 1, 4, 12, 36, tzinfo=UTC)]


def test_names_that_repeat_become_paths(tmp_path: Path) -> None:
    for folder in ("x", "y"):
        write_wfdb(tmp_path / "src" / folder, "1", wave(1, 3), LEADS)
    write_wfdb(tmp_path / "src", "2", wave(2, 3), LEADS)
    assert ingested(tmp_path / "src", tmp_path / "a").record_ids == ["2", "x/1", "y/1"]


def test_records_that_cannot_be_read_keep_their_rows(tmp_path: Path) -> None:
    source = tmp_path / "src"
    write_wfdb(source, "1", wave(1, 3), LEADS)
    write_wfdb(source, "2", wave(2, 3), LEADS).with_suffix(".dat").unlink()
    short = write_wfdb(source, "3", wave(3, 3), LEADS).with_suffix(".dat")
    short.write_bytes(short.read_bytes()[:100])
    (source / "4.hea").write_text("what is this\n")
    (source / "5.hea").write_text("")
    (source / "6.hea").write_text("6 3 500 200\n6.dat 16 1000/mV\n")
    (source / "7.hea").write_text("7 1 500 200\n7.dat sixteen\n")
    (source / "8.hea").write_text("8/2 3 500 400\n1 200\n2 200\n")
    write_wfdb(source, "9", wave(9, 2), ("ABP", "Resp"), units=["mmHg", "NU"])
    write_wfdb(source, "10", wave(10, 3), ("I", "ABP", "II"), units=["mV", "mmHg", "mV"])
    short = write_wfdb(source, "11", wave(11, 3), LEADS, fmt="212").with_suffix(".dat")
    short.write_bytes(short.read_bytes()[:100])
    result = ingest_wfdb(source, tmp_path / "a")
    archive = Archive.open(tmp_path / "a")
    raw = next(archive.batches(archive.shards[0]))
    assert raw.record_ids == [str(i) for i in range(1, 12)]
    assert check_batch(raw, set())[0] == ["ok", *["empty_signal"] * 8, "ok", "empty_signal"]
    assert raw.leads[9] == ("I", "II")
    named = {line.split(":")[0]: line for line in result.problems.first}
    assert result.problems.count == len(named) == 10
    assert "No such file" in named["record 2"]
    assert "cut short: 50 of 600 samples" in named["record 3"]
    assert "no record line in the header, but 'what is this'" in named["record 4"]
    assert "empty header" in named["record 5"]
    assert "announces 3 signals and describes 1" in named["record 6"]
    assert "names no storage format" in named["record 7"]
    assert "2 segments (1, 2)" in named["record 8"]
    assert "none of 2 channels holds a voltage" in named["record 9"]
    assert "channels ABP hold no voltage (mmHg); left out" in named["record 10"]
    assert "cut short: 66 of 600 samples" in named["record 11"]


def test_defaults_of_the_header_format(tmp_path: Path) -> None:
    (tmp_path / "r.hea").write_text("r 2\nr.dat 16\nr.dat 212x2:3+8 0(7) 12 9\n")
    header = read_header(tmp_path / "r")
    assert (header.frame_rate, header.frames, header.acquired_at) == (250.0, 0, None)
    assert [(c.per_mv, c.baseline, c.lead) for c in header.channels] == [(200.0, 0, ""), (200.0, 7, "")]
    assert [(c.per_frame, c.skew, c.byte_offset) for c in header.channels] == [(1, 0, 0), (2, 3, 8)]
    with pytest.raises(UnreadableRecord, match="cannot be read"):
        read_header(tmp_path / "none")


def test_links_are_followed_and_circles_left(tmp_path: Path) -> None:
    source = tmp_path / "src"
    write_wfdb(source, "1", wave(1, 3), LEADS)
    write_wfdb(tmp_path / "elsewhere", "2", wave(2, 3), LEADS)
    (source / "link").symlink_to(tmp_path / "elsewhere")
    (source / "deep").mkdir()
    (source / "deep/circle").symlink_to(source)
    (tmp_path / "elsewhere/circle").symlink_to(tmp_path / "elsewhere")
    (source / "itself.hea").symlink_to(source / "itself.hea")
    assert ingested(source, tmp_path / "a").record_ids == ["1", "2"]


def test_files_that_look_like_records_are_counted(tmp_path: Path) -> None:
    source = tmp_path / "src"
    write_wfdb(source, "1", wave(1, 3), LEADS)
    write_wfdb(source, "2", wave(2, 3), LEADS)
    (source / "2.hea").rename(source / "2.HEA")
    (source / "3.hea.gz").write_bytes(b"")
    Path(os.fsdecode(os.fsencode(source) + b"/gr\xf6\xdfe.hea")).write_bytes(b"")
    write_wfdb(tmp_path / "apart", "4", wave(2, 3), LEADS)
    result = ingest_wfdb(source, tmp_path / "a")
    assert result.records == 1
    assert "1 entry of the source left out: called by a name that is not UTF-8" in result.notes
    assert "2 files look like headers and are not taken" in [note.split(",")[0] for note in result.notes]
    assert not_taken(["y/1.hea", "y/._1.hea", "y/._1.dat"]) == [
        "2 files called ._..., which macOS writes beside others, are no recordings and not taken"
    ]
    assert not_taken(["x/1.dat", "y/1.hea", "y/data/1.dat"]) == [
        "1 signal files (.dat, .mat) are not taken: neither in their folders nor above is there a header"
    ]


def test_what_nobody_thought_of_is_this_record_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("1", "2", "3"):
        write_wfdb(tmp_path / "src", name, wave(int(name), 3), LEADS)

    def described(header: Header, name: str, ingest: Ingest) -> dict[str, Any]:
        if name == "2":
            raise RecursionError("too deep")
        return {"sampling_rate": header.sampling_rate}

    monkeypatch.setattr("ecgscale.archive.sources.wfdb._described", described)
    result = ingest_wfdb(tmp_path / "src", tmp_path / "a")
    assert result.records == 3
    assert result.problems.first == ["record 2: RecursionError: too deep; kept with an empty signal"]


def test_ages_that_are_not_read_are_told(tmp_path: Path) -> None:
    write_wfdb(tmp_path / "src", "1", wave(1, 3), LEADS, comments=["Age: sixty", "Sex: 1"])
    write_wfdb(tmp_path / "src", "2", wave(2, 3), LEADS, comments=["Age: >89"])
    result = ingest_wfdb(tmp_path / "src", tmp_path / "a")
    assert result.problems.first == ["record 1: age 'sixty' and sex '1' not understood; left null"]
    assert result.notes == (AT_LEAST.format(1),)


def test_annotations_that_are_damaged_leave_the_record(tmp_path: Path) -> None:
    stem = write_wfdb(tmp_path / "src", "1", wave(1, 3), ("i", "ii", "v1"))
    wfdb.wrann("1", "ii", np.array([5, 5000]), ["N", "N"], write_dir=str(stem.parent))
    result = ingest_wfdb(tmp_path / "src", tmp_path / "a")
    assert "annotations 1.ii mark sample 5000, which the record does not have; kept without" in result.problems.first[0]
    (tmp_path / "src/1.ii").write_bytes(b"\x00" * 7)
    assert "7 bytes" in ingest_wfdb(tmp_path / "src", tmp_path / "b").problems.first[0]


def test_a_folder_without_records(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match=r"no \.hea file"):
        ingest_wfdb(tmp_path, tmp_path / "a")


@pytest.mark.realdata
def test_real_challenge_records(tmp_path: Path, test_data: Path) -> None:
    source = test_data / "cinc"
    result = ingest_wfdb(source, tmp_path / "a")
    assert (result.records, result.problems.count, result.signal) == (162, 0, "int16")
    archive = Archive.open(tmp_path / "a")
    flags: dict[str, list[str]] = {}
    for raw in archive.batches(archive.shards[0]):
        status, found = check_batch(raw, set())
        assert set(status) == {"ok"}
        flags |= {str(raw.record_ids[i]): marks for i, marks in enumerate(found) if marks}
    assert sorted(name for name, marks in flags.items() if any(mark.startswith("flat_lead") for mark in marks)) == [
        "JS11438",
        "JS20004",
        "JS20008",
    ]
    others = {name: mark for name, marks in flags.items() for mark in marks if not mark.startswith("flat_lead")}
    assert others == {
        "E07519": "inverted_lead:V2",
        "JS20011": "implausible_amplitude:V2",
        "JS23463": "implausible_amplitude",
        "JS37205": "saturated:V1",
    }
    signals = dict(all_records(archive))
    for name in ("E00001", "A0001", "Q0010"):
        np.testing.assert_array_equal(signals[name], scipy.io.loadmat(source / f"{name}.mat")["val"])


@pytest.mark.realdata
def test_real_annotated_records(tmp_path: Path, test_data: Path) -> None:
    source = tmp_path / "src"
    source.mkdir()
    for file in (test_data / "ludb/data").glob("1.*"):
        (source / file.name).symlink_to(file)
    raw = ingested(source, tmp_path / "a", carry=("Rhythm",))
    np.testing.assert_allclose(raw.signal(0), wfdb.rdrecord(str(source / "1")).p_signal.T, atol=1e-6)
    row = raw.table.to_pylist()[0]
    assert (row["age"], row["sex"], row["Rhythm"]) == (51.0, "female", "Sinus bradycardia.")
    assert {wave["lead"] for wave in row["fiducials"]} == set(raw.leads[0])
    assert all(w["onset"] <= w["peak"] <= w["offset"] for w in row["fiducials"] if w["onset"] and w["offset"])
    digital = ingested(source, tmp_path / "b", 1000.0).signal(0).astype(int)
    np.testing.assert_array_equal(digital[0] + digital[2], digital[1])
