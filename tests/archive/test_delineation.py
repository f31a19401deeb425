"""Waves found by NeuroKit2, against the simulator's, and recordings in which it finds none."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import numpy as np
import pytest

from ecgscale.archive import Archive
from ecgscale.archive.reader import raw_batch
from ecgscale.archive.sources.wfdb import ingest_wfdb
from ecgscale.archive.synthetic.simulation import simulate_records
from ecgscale.archive.waves import QRS, delineate, merge_leads, require_neurokit
from ecgscale.errors import UsageError
from tests.worlds.formula.recordings import batch_of, record

needs_neurokit = pytest.mark.skipif(importlib.util.find_spec("neurokit2") is None, reason="neurokit2 is not installed")


@needs_neurokit
def test_beats_are_where_the_simulator_put_them() -> None:
    table = simulate_records(0, 0, 6, rate=250, seconds=8)
    truth = merge_leads(table.column("fiducials"))
    found = delineate(raw_batch("part-00000.parquet", 0, table), range(6))
    assert found.failures == [""] * 6
    for record_number in range(6):
        beats, real = (
            waves.peak[(waves.record == record_number) & (waves.kind == QRS)] for waves in (found.waves, truth)
        )
        near = np.abs(real[:, None] - beats).min(axis=1) <= 0.04 * 250
        assert near.mean() >= 0.7


@needs_neurokit
def test_waves_are_on_the_recordings_own_samples_behind_padding() -> None:
    table = simulate_records(0, 0, 1, rate=250, seconds=8)
    signal = np.asarray(table.column("signal")[0].values).reshape(12, -1)
    rows = [record("1", signal=signal, sampling_rate=250.0)]
    padded = np.concatenate([np.zeros((12, 500), np.int16), signal], axis=1)
    rows.append(record("2", signal=padded, sampling_rate=250.0, valid_start=500))
    plain, shifted = (delineate(batch_of([row]), [0]).waves for row in rows)
    np.testing.assert_allclose(shifted.onset, plain.onset + 500)


@needs_neurokit
def test_a_recording_that_cannot_be_read_fails_alone() -> None:
    table = simulate_records(0, 0, 1, rate=250, seconds=8)
    good = record("1", signal=np.asarray(table.column("signal")[0].values).reshape(12, -1), sampling_rate=250.0)
    short = record("2", signal=np.ones((12, 20), np.int16), sampling_rate=250.0)
    noise = np.random.default_rng(0).integers(-3, 3, (12, 40)).astype(np.int16)
    found = delineate(batch_of([short, good, record("3", signal=noise, sampling_rate=250.0)]), [0, 1, 2])
    assert found.failures[1] == ""
    assert found.failures[0]
    assert found.failures[2]
    assert found.waves.counts[1] > 10
    assert found.waves.counts[[0, 2]].tolist() == [0, 0]


@needs_neurokit
@pytest.mark.realdata
def test_annotations_of_ludb_are_found_again(test_data: Path, tmp_path: Path) -> None:
    for file in (test_data / "ludb").rglob("*"):
        if file.is_file() and file.stem in ("1", "2", "5", "9", "20"):
            shutil.copy(file, tmp_path / file.name)
    ingest_wfdb(tmp_path, tmp_path / "archive", units_per_mv=1000)
    archive = Archive.open(tmp_path / "archive")
    (raw,) = archive.batches(archive.shards[0])
    annotated, found = merge_leads(raw.table.column("fiducials")), delineate(raw, range(len(raw))).waves
    # Annotations leave out the first and last beats; what they have, has to be found where they say.
    for number in range(len(raw)):
        theirs, ours = (waves.peak[(waves.record == number) & (waves.kind == QRS)] for waves in (annotated, found))
        assert len(theirs) > 3
        assert (np.abs(theirs[:, None] - ours).min(axis=1) <= 0.03 * 500).mean() >= 0.8


def test_without_neurokit_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'ecgscale\[evaluate\]'"):
        require_neurokit()
