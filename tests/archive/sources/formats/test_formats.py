"""Files of every format to archives, against true millivolts; and what of a person comes along."""

from __future__ import annotations

import os
import sys
import time
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from ecgscale.archive import Archive, RawBatch
from ecgscale.archive.intake.arrivals import ingest_arrivals
from ecgscale.archive.sources.formats.recording import Recorded, exactly, format_of, microvolts_of, read_recording
from ecgscale.archive.sources.formats.source import FormatsSource, ingest_formats
from ecgscale.archive.sources.source import IngestOptions
from ecgscale.cli import main
from ecgscale.config import ArchiveConfig
from ecgscale.errors import ArchiveError
from ecgscale.io.places import place, upload
from ecgscale.passes.ingest.ingest import ingest_archive
from ecgscale.runtime.scheduler import choose_runtime
from tests.archive.sources.formats import exports
from tests.archive.sources.formats.exports import LEADS, MICROVOLTS, WRITERS, levels
from tests.worlds.commands.arriving import HOUR
from tests.worlds.commands.arriving import age as aged


def batch_of(archive: Path) -> RawBatch:
    opened = Archive.open(archive)
    return next(opened.batches(opened.shards[0]))


def millivolts(found: Recorded) -> np.ndarray:
    return found.levels * np.array([float(one) for one in found.microvolts])[:, None] / 1000


@pytest.mark.parametrize("kind", WRITERS)
def test_values_rate_leads_and_person(tmp_path: Path, kind: str) -> None:
    stored = levels()
    # Whatever the file is called.
    found = read_recording(WRITERS[kind](tmp_path / "a.txt", stored))
    assert found.format == kind
    np.testing.assert_array_equal(found.levels, stored)
    assert set(found.microvolts) == {Fraction(str(MICROVOLTS[kind]))}
    assert (found.leads, found.sampling_rate, found.fits_int16) == (LEADS, 500.0, True)
    assert (found.patient_id, found.sex, found.age) == ("p1", "female", 49)
    assert found.acquired_at == datetime(2002, 11, 22, 14, 10, tzinfo=UTC)
    said = repr(found)
    assert not [word for word in ("Doe", "Döe", "Jane", "1953") if word in said], "a name, or a date of birth"
    signal, units_per_mv = found.signal("int16")
    assert signal.dtype == np.int16
    np.testing.assert_allclose(signal / units_per_mv, stored * MICROVOLTS[kind] / 1000, rtol=1e-12)


@pytest.mark.parametrize(("differences", "huffman"), [(0, True), (1, False), (1, True), (2, False), (2, True)])
def test_scp_ecg_is_unpacked(tmp_path: Path, differences: int, huffman: bool) -> None:
    stored = np.cumsum(levels(reach=9), axis=1)
    stored[:, 100] += 900
    found = read_recording(exports.scp(tmp_path / "a", stored, differences=differences, huffman=huffman))
    np.testing.assert_array_equal(found.levels, stored)


def test_units_corrections_and_zeros(tmp_path: Path) -> None:
    stored = levels()
    # DICOM: sample × sensitivity × correction + baseline, in the units of the sensitivity.
    found = read_recording(
        exports.dicom(tmp_path / "a", stored, sensitivity="0.005", unit="mV", correction="0.5", baseline="0.25")
    )
    np.testing.assert_allclose(millivolts(found), stored * 0.0025 + 0.25, rtol=0, atol=1e-12)
    # aECG: origin + scale × digit.
    found = read_recording(exports.aecg(tmp_path / "b", stored, scale="0.0025", unit="mV", origin="-1.5"))
    np.testing.assert_allclose(millivolts(found), stored * 0.0025 - 1.5, rtol=0, atol=1e-12)
    # A zero between two levels: a finer resolution, and no rounding.
    found = read_recording(exports.dicom(tmp_path / "e", stored, sensitivity="0.5", baseline="0.2"))
    np.testing.assert_allclose(millivolts(found), (stored * 0.5 + 0.2) / 1000, rtol=0, atol=1e-15)
    # EDF: mV from one limit to the other.
    found = read_recording(exports.edf(tmp_path / "c", stored, unit="mV"))
    np.testing.assert_allclose(millivolts(found), stored * 0.1, rtol=1e-12)
    assert found.told == ("1 signal without an ECG; left out",)
    found = read_recording(exports.ishne(tmp_path / "d", stored, nanovolts=390, whole=True))
    np.testing.assert_allclose(millivolts(found), stored * 0.00039, rtol=1e-12)


def test_leads_of_two_resolutions_are_millivolts(tmp_path: Path) -> None:
    src = tmp_path / "src"
    src.mkdir()
    stored = levels()
    exports.dicom(src / "a.dcm", stored, change=finer)
    exports.muse(src / "b.xml", stored)
    ingest_formats(src, tmp_path / "a")
    raw = batch_of(tmp_path / "a")
    assert raw.values.dtype == np.float32
    truth = stored * np.array([4.88, 4.88, 1.22])[:, None] / 1000
    np.testing.assert_allclose(raw.signal(0), truth, rtol=1e-6)
    np.testing.assert_allclose(raw.signal(1), stored * 0.00488, rtol=1e-6)
    assert raw.units_per_mv.tolist() == [1.0, 1.0]


def test_a_folder_of_everything_on_any_number_of_workers(tmp_path: Path) -> None:
    src = tmp_path / "src"
    (src / "sub").mkdir(parents=True)
    for number, (kind, write) in enumerate(WRITERS.items()):
        write(src / ("sub" if number % 2 else ".") / f"{number}-{kind}", levels(number))
    (src / "README.txt").write_text("not a recording")
    (src / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    exports.muse(src / "cut.xml", levels()).write_bytes((src / "cut.xml").read_bytes()[:4000])
    config = ArchiveConfig(path=tmp_path / "whole", source="formats", src=src, shard_records=3)
    whole = ingest_archive(config)
    assert (whole.records, whole.signal, whole.problems.count) == (7, "int16", 2)
    assert "files that are no recordings, left out: 1: README.txt" in whole.notes
    assert [line for line in whole.problems.first if "cut.xml: it is not whole XML" in line]
    table = Archive.open(tmp_path / "whole").metadata(["record_id", "file_format", "age"])
    rows = {row["record_id"]: row for row in table.to_pylist()}
    assert rows["cut.xml"]["file_format"] is None
    assert {row["file_format"] for row in rows.values()} == {*WRITERS, None}
    assert {row["age"] for name, row in rows.items() if name != "cut.xml"} == {49.0}
    key = tmp_path / "key"
    key.write_bytes(bytes(range(32)))
    key.chmod(0o600)
    hidden = ingest_archive(config.model_copy(update={"path": tmp_path / "hidden", "pseudonymise": key}))
    assert "README" not in (tmp_path / "hidden" / "_archive.json").read_text()
    assert "cut.xml" not in (tmp_path / "hidden" / "_archive.json").read_text()
    assert "files that are no recordings, left out: 1" in hidden.notes
    shared = config.model_copy(update={"path": tmp_path / "shared"})
    ingest_archive(shared, pool=choose_runtime("local", 2))
    for shard in sorted((tmp_path / "whole").glob("part-*.parquet")):
        assert shard.read_bytes() == (tmp_path / "shared" / shard.name).read_bytes()


def test_from_a_bucket_into_a_bucket(tmp_path: Path, s3_root: str) -> None:
    src = tmp_path / "src"
    src.mkdir()
    for kind, write in WRITERS.items():
        write(src / kind, levels())
    (src / "empty.txt").write_bytes(b"")
    upload(src, f"{s3_root}/src")
    there = ArchiveConfig(path=f"{s3_root}/a", source="formats", src=f"{s3_root}/src", shard_records=4)
    found = ingest_archive(there, pool=choose_runtime("local", 2))
    assert (found.records, found.shards, found.problems.count) == (6, 2, 1)
    here = ingest_archive(there.model_copy(update={"path": tmp_path / "a", "src": src}))
    assert here.records == 6
    for i in range(2):
        name = f"part-0000{i}.parquet"
        assert (place(f"{s3_root}/a") / name).read_bytes() == (tmp_path / "a" / name).read_bytes()


def test_files_arrive_night_after_night(tmp_path: Path) -> None:
    src, config = tmp_path / "src", ArchiveConfig(path=tmp_path / "a", source="formats", src=tmp_path / "src")
    src.mkdir()
    exports.dicom(src / "1.dcm", levels(1))
    (src / "README").write_text("not a recording")
    aged(src, HOUR)
    first = ingest_arrivals(config, 15.0, 24.0)
    assert (first.sets_new, first.records, first.refused) == (1, 1, 1)
    exports.muse(src / "2.xml", levels(2))
    exports.ishne(src / "3", levels(3)).write_bytes(b"ISHNE1.0 cut short")
    exports.dicom(src / "4.dcm", levels(4), change=finer)
    exports.dicom(src / "1.dcm", levels(5))
    aged(src, HOUR)
    os.utime(src / "1.dcm", (time.time() - HOUR / 2,) * 2)
    second = ingest_arrivals(config, 15.0, 24.0)
    assert (second.sets_new, second.sets_changed, second.records, second.refused) == (2, 1, 3, 2)
    archive = Archive.open(tmp_path / "a")
    rows = archive.metadata(["record_id", "file_format"]).to_pylist()
    assert [(row["record_id"], row["file_format"]) for row in rows] == [
        ("1.dcm", "dicom"), ("1.dcm", "dicom"), ("2.xml", "muse"), ("3", None),
    ]  # fmt: skip
    assert ingest_arrivals(config, 15.0, 24.0).records == 0


def finer(dataset: Any, group: Any) -> None:
    """One lead of a finer resolution."""
    group.ChannelDefinitionSequence[2].ChannelSensitivity = "1.22"


def test_an_age_comes_from_the_day_or_from_the_file(tmp_path: Path) -> None:
    def without_birth(dataset: Any, group: Any) -> None:
        dataset.PatientBirthDate, dataset.PatientAge = "", "018M"

    def too_old(dataset: Any, group: Any) -> None:
        dataset.PatientBirthDate = "18000101"

    assert read_recording(exports.dicom(tmp_path / "a", levels(), change=without_birth)).age == 1
    found = read_recording(exports.dicom(tmp_path / "b", levels(), change=too_old))
    assert (found.age, found.told) == (None, ("an age that nobody has; left out",))


def test_the_library_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "src").mkdir()
    exports.dicom(tmp_path / "src" / "a", levels())
    monkeypatch.setitem(sys.modules, "pydicom", None)
    told = CliRunner().invoke(main, ["ingest", "formats", str(tmp_path / "src"), str(tmp_path / "a")])
    assert told.exit_code == 2
    assert "this needs pydicom: pip install 'ecgscale[formats]'" in told.output
    assert not (tmp_path / "a").exists()


def test_nothing_to_ingest_and_nothing_to_carry(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "a.txt").write_text("<html></html>")
    with pytest.raises(ArchiveError, match="holds no recording in DICOM"):
        ingest_formats(tmp_path / "src", tmp_path / "a")
    exports.ishne(tmp_path / "src" / "b", levels())
    with pytest.raises(ArchiveError, match="--carry report: such files have no further columns"):
        ingest_formats(tmp_path / "src", tmp_path / "a", IngestOptions(carry=("report",)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("uV", 1),
        ("µV", 1),
        ("mV", 1000),
        ("nV", Fraction(1, 1000)),
        ("V", 10**6),
        ("MICROVOLTS", 1),
        ("mm[Hg]", None),
        ("", None),
    ],
)
def test_units(text: str, expected: int | None) -> None:
    assert microvolts_of(text) == expected


def test_numbers_are_exact() -> None:
    assert exactly("4.88", "x") == Fraction(122, 25)
    assert exactly(" -1e-3 ", "x") == Fraction(-1, 1000)


def test_formats_are_told_by_their_first_bytes() -> None:
    assert format_of(b'<?xml version="1.0"?><!-- <AnnotatedECG> --><RestingECG>') == "muse"
    assert format_of('<?xml version="1.0" encoding="UTF-16"?><h:AnnotatedECG xmlns:h="x">'.encode("utf-16")) == "aecg"
    assert format_of(b"\xef\xbb\xbf\n<RestingECG ") == "muse"
    assert format_of(b"<html><RestingECG>") is None
    assert format_of(b"") is None
    assert FormatsSource.kind == "formats"
