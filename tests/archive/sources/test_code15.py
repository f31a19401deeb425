"""CODE-15 %'s layout to an archive."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from ecgscale.archive import Archive, check_batch
from ecgscale.archive.sources.code15 import ingest_code15
from ecgscale.archive.sources.hdf5 import valid_span
from ecgscale.archive.sources.source import IngestOptions
from ecgscale.errors import ArchiveError
from tests.worlds.formula.recordings import all_records, write_code15


def test_exams_in_the_order_of_the_parts_less_the_zero_rows(tmp_path: Path) -> None:
    source = write_code15(tmp_path / "src")
    result = ingest_code15(source, tmp_path / "a")
    assert (result.records, result.dropped, result.signal) == (4, 2, "float32")
    archive = Archive.open(tmp_path / "a")
    assert archive.info["source"]["dropped"] == 2
    records = all_records(archive)
    assert [record_id for record_id, _ in records] == ["11", "12", "13", "99"]
    with h5py.File(source / "exams_part0.hdf5") as file:
        np.testing.assert_array_equal(records[1][1], file["tracings"][1].T)


def test_padding_becomes_the_valid_span(tmp_path: Path) -> None:
    ingest_code15(write_code15(tmp_path / "src"), tmp_path / "a")
    archive = Archive.open(tmp_path / "a")
    raw = next(archive.batches(archive.shards[0]))
    assert list(zip(raw.valid_start.tolist(), raw.valid_stop.tolist(), strict=True)) == [
        (581, 3515),
        (0, 4096),
        (0, 4096),
        (0, 4096),
    ]
    assert raw.sampling_rate.tolist() == [400.0] * 4
    assert check_batch(raw, set())[0] == ["ok", "ok", "flat_signal", "ok"]


def test_spans_end_where_any_lead_ends() -> None:
    signals = np.zeros((3, 2, 10))
    signals[0, 0, 2] = signals[0, 1, 6] = 1
    signals[1, 1] = np.nan
    spans = [tuple(valid_span(signal).values()) for signal in (*signals, signals[0, :, :0])]
    assert spans == [(2, 7), (0, 10), (), ()]


def test_labels_and_demographics(tmp_path: Path) -> None:
    result = ingest_code15(write_code15(tmp_path / "src"), tmp_path / "a", 1000.0, IngestOptions(carry=("death",)))
    archive = Archive.open(tmp_path / "a")
    columns = [*archive.label_columns(), "patient_id", "age", "sex", "fold", "units_per_mv"]
    first, second, _, last = archive.metadata(columns).to_pylist()
    assert archive.label_columns() == [
        "1dAVb",
        "RBBB",
        "LBBB",
        "SB",
        "ST",
        "AF",
        "normal_ecg",
        "nn_predicted_age",
        "death",
    ]
    assert (first["1dAVb"], first["AF"], first["normal_ecg"], first["nn_predicted_age"]) == (True, False, False, 40.5)
    assert (first["patient_id"], first["age"], first["sex"], first["fold"]) == ("48705", 43.0, "male", None)
    assert (second["sex"], second["1dAVb"], second["nn_predicted_age"], second["death"]) == ("female", None, None, None)
    assert first["units_per_mv"] == 1000.0
    assert {key: value for key, value in last.items() if value is not None and key not in ("shard", "row")} == {
        "units_per_mv": 1000.0
    }
    assert result.problems.first == ["record 99: in exams_part10.hdf5 but not in exams.csv; kept without labels"]


def test_a_folder_that_is_not_code15(tmp_path: Path) -> None:
    source = write_code15(tmp_path / "src")
    with pytest.raises(ArchiveError, match="units-per-mv 0"):
        ingest_code15(source, tmp_path / "a", 0)
    with pytest.raises(ArchiveError, match=r"no exams_part\*\.hdf5"):
        ingest_code15(tmp_path, tmp_path / "a")
    (source / "exams.csv").unlink()
    with pytest.raises(ArchiveError, match=r"exams\.csv is missing"):
        ingest_code15(source, tmp_path / "a")


def a_part(path: Path, ids: Any, tracings: Any = None, **names: Any) -> None:
    """A part with random tracings for these exams, or with `tracings`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if tracings is None:
        tracings = np.random.default_rng(0).normal(size=(len(ids), 40, 12)).astype(np.float32)
        tracings[[str(name).strip("b'[]\".") in ("0", "0.0") for name in np.asarray(ids).tolist()]] = 0
    with h5py.File(path, "w") as file:
        file.create_dataset("tracings", data=tracings)
        file.create_dataset("exam_id", data=ids, **names)


TEXT = h5py.string_dtype()
TWO = "exam_id,age,is_male,patient_id,AF\n"


@pytest.mark.parametrize(
    "ids",
    [
        np.array([11, 12, 0]),
        np.array([11, 12, 0], np.uint64),
        np.array([11.0, 12.0, 0.0]),
        np.array([b"11", b"12", b"0"]),
        np.array([b" 11 ", b"12.0", b"0.0"]),
        np.array(["11", "12", "0"], dtype=TEXT),
        np.array(["b'11'", 'b"12"', "b'0'"], dtype=TEXT),
        np.array([[11], [12], [0]]),
    ],
    ids=["int", "unsigned", "float", "bytes", "padded", "text", "repr", "column"],
)
@pytest.mark.parametrize("table", ["11,40,True,5,1\n12,50,False,6,0\n", "11.0,40,1,5.0,yes\n12.0,50,0,6.0,no\n"])
def test_exams_find_their_labels_whatever_type_their_ids_have(tmp_path: Path, ids: Any, table: str) -> None:
    a_part(tmp_path / "src/exams_part0.hdf5", ids)
    (tmp_path / "src/exams.csv").write_text(TWO + table)
    result = ingest_code15(tmp_path / "src", tmp_path / "a")
    rows = Archive.open(tmp_path / "a").metadata(["record_id", "patient_id", "age", "sex", "AF"]).to_pylist()
    assert [tuple(row[name] for name in ("record_id", "patient_id", "age", "sex", "AF")) for row in rows] == [
        ("11", "5", 40.0, "male", True),
        ("12", "6", 50.0, "female", False),
    ]
    assert (result.dropped, result.problems.count, result.notes) == (1, 0, ())


def test_labels_and_exams_that_do_not_find_each_other_are_counted(tmp_path: Path) -> None:
    a_part(tmp_path / "src/exams_part0.hdf5", np.array(["11", "007", "x", ""], dtype=TEXT))
    rows = "11,40,True,5,1\n7,41,True,5,1\n8,oops,2,,maybe\n11,44,False,5,0\n"
    (tmp_path / "src/exams.csv").write_text(TWO + rows)
    result = ingest_code15(tmp_path / "src", tmp_path / "a")
    assert [row["record_id"] for row in Archive.open(tmp_path / "a").metadata(["record_id"]).to_pylist()] == [
        "11",
        "007",
        "x",
        None,
    ]
    assert result.problems.first == [
        "record 007: in exams_part0.hdf5 but not in exams.csv; kept without labels",
        "record x: in exams_part0.hdf5 but not in exams.csv; kept without labels",
        "record 4 of exams_part0.hdf5: its exam_id is none; kept without an id",
    ]
    assert result.notes == (
        "1 rows of exams.csv are of exams with another row further down, which counts",
        "3 rows of exams.csv are of exams that are in none of the parts",
    )
    (tmp_path / "src/exams.csv").write_text(TWO + "TNMG11_N1,40,True,5,1\n")
    with pytest.raises(ArchiveError, match=r"none of 3 exams .* is in exams\.csv.*look like '007' and 'TNMG11_N1'"):
        ingest_code15(tmp_path / "src", tmp_path / "b")


def test_odd_rows_and_cells_of_the_table_end_nothing(tmp_path: Path) -> None:
    a_part(tmp_path / "src/exams_part0.hdf5", [11, 12, 13])
    table = (TWO + "11,forty,2,5,maybe\n12,50,False\n13,inf,T,M\xfcller,1\n").replace(",", ";").encode("latin1")
    (tmp_path / "src/exams.csv").write_bytes(table)
    result = ingest_code15(tmp_path / "src", tmp_path / "a")
    rows = Archive.open(tmp_path / "a").metadata(["record_id", "patient_id", "age", "sex", "AF"]).to_pylist()
    assert [tuple(row[name] for name in ("record_id", "patient_id", "age", "sex", "AF")) for row in rows] == [
        ("11", "5", None, None, None),
        ("12", None, None, None, None),
        ("13", "M\xfcller", None, "male", True),
    ]
    assert result.problems.first == [
        "record 11: age is 'forty', expected a number; left empty",
        "record 11: is_male is '2', expected true or false; left empty",
        "record 11: AF is 'maybe', expected true or false; left empty",
        "record 12: in exams_part0.hdf5 but not in exams.csv; kept without labels",
        "record 13: age is 'inf', expected a number; left empty",
    ]
    assert result.notes == (
        "exams.csv is not UTF-8 (at byte 75); it was read as Latin-1",
        "exams.csv: 1 rows are broken and were left out: 3 (3 cells, not 5)",
    )


def broken_parts(folder: Path) -> None:
    """Files called like parts that are none, each in its own way."""
    good = np.random.default_rng(1).normal(size=(2, 40, 12)).astype(np.float32)
    a_part(folder / "exams_part1.hdf5", [21, 22])
    part = folder / "exams_part1.hdf5"
    part.write_bytes(part.read_bytes()[:500])
    (folder / "exams_part2.hdf5").write_text("a message of the proxy")
    a_part(folder / "exams_part3.hdf5", [23, 24], good.transpose(0, 2, 1))
    a_part(folder / "exams_part4.hdf5", np.array([(1,), (2,)], dtype=[("id", "i8")]), good)
    a_part(folder / "exams_part5.hdf5", [25, 26], np.full((2, 4, 12), b"1.5"))
    a_part(folder / "exams_part6.hdf5", [25, 26, 27], good)
    with h5py.File(folder / "exams_part7.hdf5", "w") as file:
        file["tracings"] = h5py.ExternalLink(str(folder / "exams_part0.hdf5"), "tracings")
        file["exam_id"] = [27, 28]
    with h5py.File(folder / "exams_part8.hdf5", "w") as file:
        file.create_dataset("tracings", (2**40, 4096, 12), "f4", chunks=(1, 4096, 12))
        file["exam_id"] = [29]


BROKEN = {
    "exams_part1.hdf5": "not a whole HDF5 file",
    "exams_part2.hdf5": "not a whole HDF5 file",
    "exams_part3.hdf5": r"has 40 leads \(shape \(2, 12, 40\), record, sample, lead\), expected 12",
    "exams_part4.hdf5": "expected numbers or texts",
    "exams_part5.hdf5": r"tracings holds \|S3, expected numbers",
    "exams_part6.hdf5": "has 3 ids and 2 records",
    "exams_part7.hdf5": "link into another file",
    "exams_part8.hdf5": "claims",
}


def test_a_part_that_cannot_be_read_is_set_aside_and_the_rest_goes_on(tmp_path: Path) -> None:
    a_part(tmp_path / "src/exams_part0.hdf5", [11, 12])
    broken_parts(tmp_path / "src")
    (tmp_path / "src/exams.csv").write_text(TWO + "11,40,True,5,1\n")
    result = ingest_code15(tmp_path / "src", tmp_path / "a")
    assert result.records == 2
    assert list(result.set_aside) == list(BROKEN)
    for name, reason in BROKEN.items():
        assert re.search(reason, result.set_aside[name]), name
    (tmp_path / "src/exams_part0.hdf5").unlink()
    with pytest.raises(ArchiveError, match="not a whole HDF5 file"):
        ingest_code15(tmp_path / "src", tmp_path / "b")


def test_rows_whose_samples_are_damaged_are_kept_with_an_empty_signal(tmp_path: Path) -> None:
    part = tmp_path / "src/exams_part0.hdf5"
    part.parent.mkdir()
    tracings = np.random.default_rng(0).normal(size=(3, 400, 12)).astype(np.float32)
    with h5py.File(part, "w") as file:
        data = file.create_dataset("tracings", data=tracings, chunks=(1, 400, 12), compression="gzip")
        file["exam_id"] = [11, 12, 13]
        where = data.id.get_chunk_info(1).byte_offset
    torn = bytearray(part.read_bytes())
    torn[where : where + 200] = bytes(200)
    part.write_bytes(torn)
    (part.parent / "exams.csv").write_text(TWO + "11,40,1,5,1\n12,41,1,5,1\n13,42,1,5,1\n")
    result = ingest_code15(part.parent, tmp_path / "a")
    records = all_records(Archive.open(tmp_path / "a"))
    assert [(name, signal.shape) for name, signal in records] == [("11", (12, 400)), ("12", (12, 0)), ("13", (12, 400))]
    np.testing.assert_array_equal(records[2][1], tracings[2].T)
    assert result.problems.count == 1
    assert "its samples in exams_part0.hdf5 cannot be read" in result.problems.first[0]


@pytest.mark.realdata
def test_real_recordings(tmp_path: Path, test_data: Path) -> None:
    result = ingest_code15(test_data / "code15", tmp_path / "a")
    assert result.records + result.dropped == 318
    archive = Archive.open(tmp_path / "a")
    spans = set()
    for raw in archive.batches(archive.shards[0]):
        assert set(check_batch(raw, set())[0]) == {"ok"}
        spans |= set(zip(raw.valid_start.tolist(), raw.valid_stop.tolist(), strict=True))
    assert {(0, 4096), (581, 3515)} <= spans
