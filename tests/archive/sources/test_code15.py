"""CODE-15 %'s layout to an archive."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from ecgscale.archive import Archive, check_batch
from ecgscale.archive.sources.code15 import ingest_code15, valid_spans
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
    tracings = np.zeros((3, 10, 2))
    tracings[0, 2, 0] = tracings[0, 6, 1] = 1
    tracings[1, :, 1] = np.nan
    starts, stops = valid_spans(tracings)
    assert (starts.tolist(), stops.tolist()) == ([2, 0, 0], [7, 10, 0])


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
    part = source / "exams_part2.hdf5"
    part.write_bytes(part.read_bytes()[:500])
    with pytest.raises(ArchiveError, match=r"exams_part2\.hdf5 is not a whole HDF5 file"):
        ingest_code15(source, tmp_path / "a")
    with h5py.File(part, "w") as file:
        file["tracings"] = np.zeros((2, 4096, 8))
        file["exam_id"] = np.zeros(2)
    with pytest.raises(ArchiveError, match=r"expected tracings \(N, samples, 12\)"):
        ingest_code15(source, tmp_path / "a")
    (source / "exams.csv").unlink()
    with pytest.raises(ArchiveError, match=r"exams\.csv is missing"):
        ingest_code15(source, tmp_path / "a")


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
