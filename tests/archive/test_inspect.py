"""Facts about archives, good ones and bad ones."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ecgscale.archive import Archive
from ecgscale.archive.inspect import inspect_archive
from tests.worlds.formula.recordings import record, wave, write_archive

EXTRA = [
    pa.field("superclasses", pa.list_(pa.string())),
    pa.field("codes", pa.list_(pa.struct([("code", pa.string()), ("likelihood", pa.float32())]))),
    pa.field("AF", pa.bool_()),
]


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    wave_mark = {"lead": "I", "wave": "QRS", "onset": 1, "peak": 2, "offset": 3}
    rows = [
        record("1", patient_id="secret", superclasses=["NORM"], AF=True, age=50.0, fold=1, fiducials=[wave_mark]),
        record("2", patient_id="secret", superclasses=["MI", "NORM"], AF=False, age=70.0, fold=1, fiducials=[]),
        record("3", patient_id=None, codes=[{"code": "SR", "likelihood": 0.0}], sampling_rate=0.0),
        record("2", signal=wave(2, samples=300), acquired_at=datetime(2020, 1, 2, tzinfo=UTC)),
        record("4", signal=np.zeros((2, 100), dtype=np.int16), leads=["I", "II"], units_per_mv=200.0),
        record("5", signal=np.vstack([wave(1)[:11], np.zeros((1, 200), dtype=np.int16)])),
    ]
    return write_archive(tmp_path / "a", rows, extra=EXTRA, shard_records=3)


def test_facts(archive: Archive) -> None:
    facts = inspect_archive(archive)
    assert (facts["records"], facts["patients"], facts["without_patient"], facts["shards"]) == (6, 4, 1, 2)
    assert facts["signal"] == "int16"
    assert facts["leads"] == {"I II III aVR aVL aVF V1 V2 V3 V4 V5 V6": 5, "I II": 1}
    assert facts["sampling_rate"] == {"500": 5, "0": 1}
    assert facts["units_per_mv"] == {"1000": 5, "200": 1}
    assert facts["lengths"][0] == {"samples": 200, "seconds": 0.4, "records": 3}
    assert {"samples": 200, "seconds": None, "records": 1} in facts["lengths"]
    assert facts["valid_samples"] == {"200": 4, "300": 1, "100": 1}
    assert facts["fiducials"] == {"records": 1, "waves": {"QRS": 1}}
    columns = facts["columns"]
    assert columns["superclasses"]["values"] == {"NORM": 2, "MI": 1}
    assert columns["superclasses"]["present"] == 2
    assert columns["codes"]["values"] == {"SR": 1}
    assert columns["AF"] == {"type": "bool", "present": 2, "distinct": 2, "values": {"False": 1, "True": 1}}
    assert columns["age"]["quartiles"] == [50, 55, 60, 65, 70]
    assert columns["fold"]["values"] == {"1": 2}
    assert columns["acquired_at"]["range"] == ["2020-01-02 00:00:00"] * 2
    assert facts["labels"] == ["superclasses", "codes", "AF"]


def test_problems_name_shard_row_and_record(archive: Archive) -> None:
    facts = inspect_archive(archive)
    assert facts["status"] == {"ok": 4, "bad_sampling_rate": 1, "flat_signal": 1}
    assert facts["flags"] == {"flat_lead:V6": 1}
    assert facts["examples"]["bad_sampling_rate"][0].startswith(
        "part-00000.parquet, row 2, record '3': bad_sampling_rate"
    )
    assert facts["examples"]["flat_lead:V6"] == ["part-00001.parquet, row 2, record '5'"]
    assert facts["duplicates"] == {
        "across_shards": 1,
        "examples": ["record '2': part-00000.parquet, row 1 and part-00001.parquet, row 0"],
    }
    assert facts["peak_mv"]["50%"] == pytest.approx(np.abs(wave(1)).max() / 1000, rel=0.9)


def test_facts_are_json_and_name_no_patient(archive: Archive) -> None:
    text = json.dumps(inspect_archive(archive))
    assert "secret" not in text


def test_quick_leaves_signals_alone(archive: Archive) -> None:
    facts = inspect_archive(archive, quick=True)
    assert facts["records"] == 6
    assert "status" not in facts
    assert "lengths" not in facts


def test_a_broken_shard_is_listed_and_the_rest_goes_on(archive: Archive) -> None:
    broken = Path(archive.shards[0].path)
    broken.write_bytes(broken.read_bytes()[:-10])
    facts = inspect_archive(archive)
    assert list(facts["unreadable"]) == ["part-00000.parquet"]
    assert facts["records"] == 3
    assert sum(facts["status"].values()) == 3


def test_free_text_is_not_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ecgscale.archive.inspect._MANY_WORDS", 3)
    rows = [record(str(i), report=f"text {i}") for i in range(5)]
    archive = write_archive(tmp_path / "a", rows, extra=[pa.field("report", pa.string())])
    assert inspect_archive(archive)["columns"]["report"] == {"type": "string", "present": 5}
