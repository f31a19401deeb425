"""Patients by folder, file name, comment or table, and labels from tables beside recordings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ecgscale.archive import Archive
from ecgscale.archive.sources.beside import Patients
from ecgscale.archive.sources.source import IngestOptions
from ecgscale.archive.sources.wfdb import ingest_wfdb
from ecgscale.errors import ArchiveError, UsageError
from tests.worlds.formula.recordings import wave, write_wfdb


def rows_of(archive: Path, *columns: str) -> list[tuple[Any, ...]]:
    found = Archive.open(archive).metadata(["record_id", *columns]).to_pylist()
    return [tuple(row[name] for name in ("record_id", *columns)) for row in found]


@pytest.fixture(scope="module")
def ptbdb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two patients with two recordings each, a folder a patient, and one recording beside the folders."""
    folder = tmp_path_factory.mktemp("ptbdb")
    for number, name in enumerate(("patient001/s0010_re", "patient001/s0014_re", "patient002/s0015_re", "s0099_re")):
        path = folder / name
        write_wfdb(path.parent, path.name, wave(number), comments=[f"Patient ID: {7 + number // 2}.0"])
    (folder / "who.csv").write_text("record,who\ns0010_re,a\npatient001/s0014_re,a\ns0015_re,b\nelse,c\n")
    return folder


@pytest.mark.parametrize(
    ("rule", "kind", "expected"),
    [
        ("folder", "folder", ["patient001", "patient001", "patient002", None]),
        (r"patient0*(\d+)/", "pattern", ["1", "1", "2", None]),
        ("comment:patient id", "comment", ["7", "7", "8", "8"]),
        ("{who}:record:who", "table", ["a", "a", "b", None]),
    ],
)
def test_patients_by_rule(ptbdb: Path, tmp_path: Path, rule: str, kind: str, expected: list[str | None]) -> None:
    rule = rule.replace("{who}", str(ptbdb / "who.csv"))
    result = ingest_wfdb(ptbdb, tmp_path / "a", patients=rule)
    assert [patient for _, patient in rows_of(tmp_path / "a", "patient_id")] == expected
    assert Archive.open(tmp_path / "a").info["source"]["patients"] == kind
    unknown = [note for note in result.notes if "have no patient" in note]
    assert unknown == (["1 records have no patient: none is known to `patients`"] if None in expected else [])


@pytest.mark.parametrize(
    ("rule", "why"),
    [
        ("(", "no regular expression"),
        ("patients", "needs one group"),
        ("(a)(b)", "needs one group"),
        ("nowhere.csv", "there is no table"),
    ],
)
def test_rules_that_can_be_none(rule: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        Patients(rule).of("1", "a/1", {})


def test_a_record_of_two_patients_is_told(tmp_path: Path) -> None:
    pq.write_table(pa.table({"record_id": [7, 7], "patient_id": ["a", "b"]}), tmp_path / "who.parquet")
    with pytest.raises(ArchiveError, match="different patients"):
        Patients(str(tmp_path / "who.parquet")).of("7", "7", {})
    pq.write_table(pa.table({"record_id": [7.0, 8.0], "patient_id": [1.0, 2.0]}), tmp_path / "who.parquet")
    assert Patients(str(tmp_path / "who.parquet")).of("7", "x/7", {}) == "1"
    assert Patients(str(tmp_path / "who.parquet")).of("007", "x/007", {}) is None


def test_labels_from_a_table_beside(ptbdb: Path, tmp_path: Path) -> None:
    table = tmp_path / "labels.csv"
    lines = ["name,age,gender,af,score,note,visit_id,length", "s0010_re,61,F,1,2.5,Jane Doe,9,5"]
    table.write_text("\n".join([*lines, "s0015_re,old,M,0,x,well,8,5", "other,50,M,1,1,none,7,5"]) + "\n")
    result = ingest_wfdb(ptbdb, tmp_path / "a", tables=[(table, "name")], options=IngestOptions(carry=("note",)))
    archive = Archive.open(tmp_path / "a")
    assert archive.label_columns() == ["af", "score", "note"] or set(archive.label_columns()) == {"af", "note"}
    assert rows_of(tmp_path / "a", "age", "sex", "af", "note") == [
        ("s0010_re", 61.0, "female", 1, "Jane Doe"),
        ("s0014_re", None, None, None, None),
        ("s0015_re", None, "male", 0, "well"),
        ("s0099_re", None, None, None, None),
    ]
    assert "record s0015_re: age is 'old', expected a number; left empty" in result.problems.first
    told = "\n".join(result.notes)
    assert "2 records have a row in none of the tables" in told
    assert "1 rows of labels.csv are of no record" in told
    assert "column length was left out" in told
    assert "only with --carry come score, note, visit_id" in told
    with pytest.raises(ArchiveError, match=r"--id nam: labels\.csv has no such column\. Did you mean 'name'"):
        ingest_wfdb(ptbdb, tmp_path / "b", tables=[(table, "nam")])
    with pytest.raises(ArchiveError, match=r"none of 3 rows of labels\.csv is of one of the 4 records"):
        ingest_wfdb(ptbdb, tmp_path / "b", tables=[(table, "visit_id")])


def test_tables_of_one_name_and_words_that_are_no_sex(ptbdb: Path, tmp_path: Path) -> None:
    tables = []
    for folder, text in (("x", "name,af,sex\ns0010_re,1,m\n"), ("y", "name,af,sex\ns0014_re,0,1\n")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "labels.csv").write_text(text)
        tables.append((tmp_path / folder / "labels.csv", "name"))
    result = ingest_wfdb(ptbdb, tmp_path / "a", tables=tables)
    assert rows_of(tmp_path / "a", "af", "sex")[:2] == [("s0010_re", 1, "male"), ("s0014_re", 0, None)]
    told = "record s0014_re: sex is '1', expected a word such as male, F (numbers mean either); left empty"
    assert result.problems.first == [told]


def test_tables_of_mimic_and_cinc_are_found_by_themselves(tmp_path: Path) -> None:
    folder = tmp_path / "mimic"
    for study in ("40689238", "44458630"):
        write_wfdb(folder / f"files/p1000/p10000032/s{study}", study, wave(1))
    listed = "subject_id,study_id,file_name,ecg_time,path\n"
    row = "10000032,40689238,40689238,2180-07-23 08:44:00,files/p1000/p10000032/s40689238/40689238\n"
    (folder / "record_list.csv").write_text(listed + row)
    (folder / "machine_measurements.csv").write_text(
        "subject_id,study_id,cart_id,ecg_time,report_0,bandwidth,rr_interval,p_onset\n"
        "10000032,40689238,6848296,2180-07-23 08:44:00,Sinus rhythm,0.005-150 Hz,659,40\n"
        "10000033,1,6848296,2180-07-23 08:44:00,Sinus rhythm,0.005-150 Hz,700,41\n"
    )
    result = ingest_wfdb(folder, tmp_path / "a", options=IngestOptions(carry=("report_0",)))
    first, second = rows_of(tmp_path / "a", "patient_id", "rr_interval", "p_onset", "report_0", "acquired_at")
    assert first[:5] == ("40689238", "10000032", 659, 40, "Sinus rhythm")
    assert str(first[5]) == "2180-07-23 08:44:00+00:00"
    assert second == ("44458630", "10000032", None, None, None, None)
    assert not {"cart_id", "bandwidth"} & set(Archive.open(tmp_path / "a").label_columns())
    assert "1 rows of record_list.csv, machine_measurements.csv are of no record" in result.notes

    for i in range(2):
        write_wfdb(tmp_path / "cinc", f"A0000{i}", wave(i))
    (tmp_path / "cinc/REFERENCE.csv").write_text("A00000,N\nA00001,A\n")
    ingest_wfdb(tmp_path / "cinc", tmp_path / "b")
    assert rows_of(tmp_path / "b", "reference") == [("A00000", "N"), ("A00001", "A")]
