"""Pseudonyms and tombstones: keys, hashes, what rows become, what errors tell, and who is not let in again."""

from __future__ import annotations

import hashlib
import hmac
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from ecgscale.archive import Archive
from ecgscale.archive.sources.code15 import ingest_code15
from ecgscale.archive.sources.files import key_of, place_of
from ecgscale.archive.sources.pseudonyms import (
    Pseudonyms,
    QuotesSource,
    check_key,
    open_pseudonyms,
    pseudonyms_of,
    read_key,
    redacted,
)
from ecgscale.archive.sources.ptbxl import ingest_ptbxl
from ecgscale.archive.sources.source import IngestOptions
from ecgscale.archive.sources.tombstones import new_tombstones, read_tombstones, write_tombstones
from ecgscale.archive.sources.wfdb import ingest_wfdb
from ecgscale.config import ArchiveConfig
from ecgscale.errors import ArchiveError, EcgscaleError, UsageError
from ecgscale.io.places import place
from tests.worlds.commands.arriving import Ward
from tests.worlds.formula.recordings import wave, write_code15, write_ptbxl, write_wfdb

KEY = hashlib.sha256(b"a key of the tests").digest()
HIDDEN = Pseudonyms(KEY)


def key_file(path: Path, content: bytes = KEY, mode: int = 0o600) -> Path:
    path.write_bytes(content)
    path.chmod(mode)
    return path


def options(**changes: Any) -> IngestOptions:
    return IngestOptions(**{"pseudonyms": HIDDEN, **changes})


def column(archive: Path, name: str) -> list[Any]:
    return list(Archive.open(archive).metadata([name]).column(name).to_pylist())


def test_a_pseudonym_is_a_keyed_hash() -> None:
    message = hmac.new(KEY, b"ecgscale\0record\0007", hashlib.sha256).hexdigest()
    assert HIDDEN.record("7") == message[:32]
    assert HIDDEN.record("7") == Pseudonyms(KEY, shift_dates=True).record("7")
    names = {HIDDEN.record("7"), HIDDEN.patient("7"), HIDDEN.record("8"), Pseudonyms(os.urandom(32)).record("7")}
    assert len(names) == 4
    assert KEY.hex() not in repr(HIDDEN)
    assert str(KEY) not in repr(HIDDEN)
    assert hashlib.sha256(KEY).hexdigest()[:16] != HIDDEN.key_id


@pytest.mark.parametrize(
    ("content", "mode", "message"),
    [
        (KEY[:31], 0o600, "248 bits; at least 256 are needed"),
        (b"0123456789abcdef" * 2 + b"\n", 0o600, "128 bits; at least 256"),
        (bytes(32), 0o600, "is not random"),
        (KEY, 0o644, "can be read by others (mode 644)"),
        (KEY, 0o640, "chmod 600"),
    ],
)
def test_a_key_that_is_none_is_refused(tmp_path: Path, content: bytes, mode: int, message: str) -> None:
    with pytest.raises(UsageError) as refused:
        read_key(key_file(tmp_path / "key", content, mode))
    assert message in str(refused.value)
    assert content.hex() not in str(refused.value)


def test_keys_as_bytes_and_as_text_are_the_same(tmp_path: Path) -> None:
    text = key_file(tmp_path / "text", KEY.hex().encode() + b"\n")
    assert read_key(text) == read_key(key_file(tmp_path / "raw")) == KEY


def test_a_key_lies_on_this_machine_and_not_beside_what_it_protects(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not read from an object store"):
        read_key("s3://bucket/key")
    with pytest.raises(UsageError, match=r"cannot be read: No such file.*/dev/urandom"):
        read_key(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="beside what it protects"):
        open_pseudonyms(key_file(tmp_path / "key"), protected=(tmp_path,))


def test_what_a_row_becomes() -> None:
    row = {
        "record_id": "r",
        "patient_id": "p",
        "age": 93.0,
        "Age": "101",
        "sex": "female",
        "leads": ["I", "Jane Doe", "V1"],
        "snomed": ["426783006", "Jane Doe", "x1"],
        "acquired_at": datetime(2026, 3, 4, 12, tzinfo=UTC),
        "superclasses": ["NORM"],
    }
    hidden = HIDDEN.row(row)
    assert (hidden["record_id"], hidden["patient_id"]) == (HIDDEN.record("r"), HIDDEN.patient("p"))
    assert (hidden["age"], hidden["Age"], hidden["sex"]) == (90.0, "90", "female")
    assert (hidden["leads"], hidden["snomed"]) == (["I", "channel 2", "V1"], ["426783006"])
    assert (hidden["acquired_at"], hidden["superclasses"]) == (row["acquired_at"], ["NORM"])
    assert HIDDEN.row({"record_id": " ", "age": 89.5}) == {"record_id": " ", "age": 89.5, "patient_id": None}


def test_dates_move_by_whole_weeks_the_same_for_a_patient() -> None:
    shifting = Pseudonyms(KEY, shift_dates=True)
    moment = datetime(2026, 3, 4, 12, 30, tzinfo=UTC)
    one, two = (shifting.row({"record_id": r, "patient_id": "p", "acquired_at": moment}) for r in "ab")
    assert one["acquired_at"] == two["acquired_at"]
    days = {(moment - shifting.row({"record_id": "a", "patient_id": f"{i}", "acquired_at": moment})["acquired_at"]).days
            for i in range(400)}  # fmt: skip
    assert {day % 7 for day in days} == {0}
    assert (min(days), max(days), len(days)) == (7, 52 * 7, 52)


def test_every_source_is_pseudonymised(tmp_path: Path) -> None:
    write_ptbxl(tmp_path / "ptbxl")
    write_code15(tmp_path / "code15")
    write_wfdb(tmp_path / "wfdb", "r1", wave(1))
    ingest_ptbxl(tmp_path / "ptbxl", tmp_path / "a", 100, options())
    ingest_code15(tmp_path / "code15", tmp_path / "b", 1.0, options())
    ingest_wfdb(tmp_path / "wfdb", tmp_path / "c", None, options())
    assert column(tmp_path / "a", "record_id") == [HIDDEN.record(name) for name in "123"]
    assert column(tmp_path / "a", "patient_id") == [HIDDEN.patient("15709"), HIDDEN.patient("13243"), None]
    assert column(tmp_path / "b", "record_id") == [HIDDEN.record(name) for name in ("11", "12", "13", "99")]
    assert column(tmp_path / "c", "record_id") == [HIDDEN.record("r1")]
    for name in "abc":
        archive = Archive.open(tmp_path / name)
        check_key(archive.info["source"], HIDDEN, archive.path)
        assert "folder" not in archive.info["source"]
    problem = f"record {HIDDEN.record('3')}: kept with an empty signal"
    assert Archive.open(tmp_path / "a").info["source"]["first_problems"] == [problem]


def test_columns_come_along_by_an_allow_list(tmp_path: Path) -> None:
    write_ptbxl(tmp_path / "src")
    ingest_ptbxl(tmp_path / "src", tmp_path / "a", 100, options())
    assert Archive.open(tmp_path / "a").label_columns() == ["superclasses", "scp_codes"]
    ingest_ptbxl(tmp_path / "src", tmp_path / "b", 100, options(carry=("height",)))
    assert Archive.open(tmp_path / "b").label_columns() == ["superclasses", "scp_codes", "height"]
    for name in ("ecg_id", "patient_id", "filename_lr"):
        with pytest.raises(UsageError, match="no ids, file names"):
            ingest_ptbxl(tmp_path / "src", tmp_path / "c", 100, options(carry=(name,)))


def test_an_archive_has_one_key(tmp_path: Path) -> None:
    write_wfdb(tmp_path / "src", "r1", wave(1))
    ingest_wfdb(tmp_path / "src", tmp_path / "a", None, options())
    made = Archive.open(tmp_path / "a").info["source"]
    other = Pseudonyms(hashlib.sha256(b"another").digest())
    for wrong, message in (
        (other, "pseudonymised with key_id"),
        (None, "give that key"),
        (Pseudonyms(KEY, shift_dates=True), "with dates = 'kept'"),
    ):
        with pytest.raises(ArchiveError, match=message):
            check_key(made, wrong, tmp_path)
    with pytest.raises(ArchiveError, match="holds the ids of its source"):
        check_key({"kind": "wfdb"}, HIDDEN, tmp_path)


def test_a_configuration_names_the_key(tmp_path: Path) -> None:
    key = key_file(tmp_path / "key")
    config = ArchiveConfig(path=tmp_path / "a", source="wfdb", src=tmp_path / "src", pseudonymise=key)
    found = pseudonyms_of(config)
    assert found is not None
    assert found.key_id == HIDDEN.key_id
    assert pseudonyms_of(ArchiveConfig(path=tmp_path / "a")) is None
    with pytest.raises(UsageError, match="needs a key"):
        pseudonyms_of(config.model_copy(update={"pseudonymise": None, "shift_dates": True}))
    with pytest.raises(UsageError, match="is for an archive that is made from a source"):
        pseudonyms_of(config.model_copy(update={"source": "simulate"}))


class OtherError(EcgscaleError):
    """Of another kind."""


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (QuotesSource("no CSV: Jane Doe", "no CSV"), "no CSV. What it says may hold ids"),
        (OtherError("cannot read /data/src/Jane/Doe.hea: no"), "cannot read /data/src/… (the rest is not told"),
        (OtherError("/data/src/exams.csv is missing"), "/data/src/exams.csv is missing"),
        (OtherError("cannot read /tmp/ecgscale-arrivals-x1/source/Jane.hea"), "/source/… (the rest"),
        (FileNotFoundError(2, "No such file or directory", "/data/src/Jane"), "file of the source cannot be read: No"),
        (ValueError("Jane Doe"), "ValueError while the source was read"),
    ],
)
def test_errors_say_nothing_of_the_source(error: Exception, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EcgscaleError) as raised, redacted(HIDDEN, "/data/src"):
        raise error
    assert message in str(raised.value)
    assert "Jane" not in str(raised.value)
    assert raised.value.__cause__ is None
    assert raised.value.__suppress_context__
    with pytest.raises(type(error), match=r"Jane|exams"), redacted(None, "/data/src"):
        raise error
    monkeypatch.setenv("ECGSCALE_DEBUG", "1")
    with pytest.raises(type(error), match=r"Jane|exams"), redacted(HIDDEN, "/data/src"):
        raise error


def forgotten(archive: Path, patients: tuple[str, ...], records: tuple[str, ...] = ()) -> None:
    made = Archive.open(archive).info["source"]
    write_tombstones(place(archive), new_tombstones(made).with_these(patients, records))


def test_who_was_forgotten_is_not_taken_in_again(tmp_path: Path) -> None:
    write_ptbxl(tmp_path / "src")
    ingest_ptbxl(tmp_path / "src", tmp_path / "a", 100)
    forgotten(tmp_path / "a", ("15709",), ("3",))
    text = (tmp_path / "a" / "_forgotten.json").read_text()
    assert "15709" not in text
    again = ingest_ptbxl(tmp_path / "src", tmp_path / "a", 100, IngestOptions(overwrite=True))
    assert (again.records, column(tmp_path / "a", "record_id")) == (1, ["2"])
    assert again.notes == ("2 records of patients who were forgotten: left out; remove them at the source",)
    assert Archive.open(tmp_path / "a").info["source"]["first_problems"] == []
    # They are remembered by ids as they are in this archive.
    with pytest.raises(ArchiveError, match="remembers that 1 patients were forgotten"):
        ingest_ptbxl(tmp_path / "src", tmp_path / "a", 100, options(overwrite=True))


def test_tombstones_of_pseudonyms(tmp_path: Path) -> None:
    write_ptbxl(tmp_path / "src")
    ingest_ptbxl(tmp_path / "src", tmp_path / "a", 100, options())
    forgotten(tmp_path / "a", (HIDDEN.patient("15709"),))
    assert ingest_ptbxl(tmp_path / "src", tmp_path / "a", 100, options(overwrite=True)).records == 2
    other = options(overwrite=True, pseudonyms=Pseudonyms(hashlib.sha256(b"another").digest()))
    with pytest.raises(ArchiveError, match=f"under key {HIDDEN.key_id}"):
        ingest_ptbxl(tmp_path / "src", tmp_path / "a", 100, other)


def test_an_archive_in_an_object_store_keeps_them_when_it_is_replaced(tmp_path: Path, s3_root: str) -> None:
    write_wfdb(tmp_path / "src", "r1", wave(1))
    write_wfdb(tmp_path / "src", "r2", wave(2))
    ingest_wfdb(tmp_path / "src", s3_root, None)
    forgotten(place(s3_root), (), ("r1",))
    assert ingest_wfdb(tmp_path / "src", s3_root, None, IngestOptions(overwrite=True)).records == 1
    assert read_tombstones(place(s3_root)) is not None


def test_files_that_arrive_later_come_in_under_the_same_names(tmp_path: Path) -> None:
    ward = Ward(tmp_path / "src", str(tmp_path / "archive"))
    key = key_file(tmp_path / "key")
    ward.record("70000001")
    assert ward.night(pseudonymise=key).sets_new == 1
    ward.record("70000002")
    assert (ward.night(pseudonymise=key).sets_new, ward.night(pseudonymise=key).sets_new) == (1, 0)
    assert ward.ids() == [HIDDEN.record("70000001"), HIDDEN.record("70000002")]
    # Moved as it was, and replaced: the log knows them by their pseudonyms.
    (ward.folder / "moved").mkdir()
    for suffix in ("hea", "dat"):
        (ward.folder / f"70000002.{suffix}").rename(ward.folder / "moved" / f"70000002.{suffix}")
    ward.record("70000001", seed=9)
    again = ward.night(pseudonymise=key)
    assert (again.sets_new, again.sets_changed, again.touched) == (0, 1, 1)
    logs = "".join(path.read_text() for path in sorted((tmp_path / "archive" / "_ingest").glob("*.json")))
    assert key_of(HIDDEN.record("70000001")) in logs
    for name in ("70000001", "70000002", "moved/70000002"):
        assert key_of(name) not in logs
        assert place_of(name) not in logs
    with pytest.raises(ArchiveError, match="give that key"):
        ward.night()
    other = key_file(tmp_path / "other", os.urandom(32))
    with pytest.raises(ArchiveError, match="pseudonymised with key_id"):
        ward.night(pseudonymise=other)


def test_an_archive_without_a_log_is_taken_on_with_the_key(tmp_path: Path) -> None:
    ward = Ward(tmp_path / "src", str(tmp_path / "archive"))
    key = key_file(tmp_path / "key")
    ward.record("70000001")
    ingest_wfdb(ward.folder, tmp_path / "archive", None, options())
    ward.record("70000002")
    arrived = ward.night(pseudonymise=key)
    assert (arrived.sets_new, len(ward.ids())) == (1, 2)


def test_forgotten_records_are_passed_over_every_night(tmp_path: Path) -> None:
    ward = Ward(tmp_path / "src", str(tmp_path / "archive"))
    ward.record("70000001")
    ward.record("70000002")
    ward.night()
    forgotten(tmp_path / "archive", (), ("70000001",))
    ward.record("70000001", seed=4)
    ward.record("70000003")
    night = ward.night()
    assert (night.forgotten, night.records, ward.night().forgotten) == (1, 1, 1)
    assert "1 record of patients who were forgotten" in " ".join(night.notes)
