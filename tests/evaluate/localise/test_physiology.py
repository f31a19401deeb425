"""Localisation of a published ROOT, from its files to its evaluation."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pytest

from ecgscale.errors import UsageError
from ecgscale.evaluate.localise.physiology import NAME, localise_published
from ecgscale.evaluate.published import NEIGHBOURS, draw_records
from ecgscale.evaluate.written import read_evaluations
from tests.worlds.published.heart_root import HeartRoot, publish_heart

needs_neurokit = pytest.mark.skipif(importlib.util.find_spec("neurokit2") is None, reason="neurokit2 is not installed")


@pytest.fixture(scope="module")
def heart(tmp_path_factory: pytest.TempPathFactory) -> HeartRoot:
    return publish_heart(tmp_path_factory.mktemp("heart"), quarantined=1)


def test_what_is_found_is_written(heart: HeartRoot) -> None:
    done = localise_published(heart.root)
    written = read_evaluations(heart.root, heart.dataset_id)[NAME]
    assert written.facts["records"] == 15
    assert written.facts["waves_from"] == "fiducials"
    assert "1 quarantined records are left out" in written.facts["remarks"]
    assert written.facts["scores"]["information"]["value"] == done.result.scores["information"].value
    assert (done.result.scores["information"].value or 0) > 0.5
    assert written.facts["checkerboard"][0]["layer"] == "block"
    assert written.facts["seen_by_encoder"] is None
    records = written.table("records").to_pylist()
    assert len(records) == 15
    assert all(row["qrs_waves"] > 2 and row["reason"] is None and row["information"] > 0.2 for row in records)
    beats = written.table("beats")
    assert set(beats.column("lead").to_pylist()) == {
        "I",
        "II",
        "III",
        "aVR",
        "aVL",
        "aVF",
        *(f"V{i}" for i in range(1, 7)),
    }
    qrs = [row for row in beats.to_pylist() if row["cluster"] == 1 and row["lead"] == "II" and row["n"]]
    # The cluster of the QRS complex is around phase 0, where lead II has its largest deflection.
    assert all(abs(row["phase"]) < 0.15 for row in qrs)
    assert max(abs(row["active_mv"]) for row in qrs) > 0.3


def test_a_part_of_the_records(heart: HeartRoot) -> None:
    assert localise_published(heart.root, records=4).facts["records"] == 4
    drawn = draw_records(1000, 100, 0)
    assert len(drawn) == 100
    assert len(set((drawn // NEIGHBOURS).tolist())) == 4
    assert draw_records(5, None, 0).tolist() == [0, 1, 2, 3, 4]


@needs_neurokit
def test_waves_are_found_where_nobody_annotated_them(tmp_path: Path) -> None:
    heart = publish_heart(tmp_path, records=6, annotated=False)
    done = localise_published(heart.root)
    assert done.facts["waves_from"] == "delineated"
    assert "NeuroKit2" in done.facts["remarks"][0]
    assert (done.result.scores["information"].value or 0) > 0.3
    with pytest.raises(UsageError, match="--waves delineated"):
        localise_published(heart.root, waves="fiducials")
    shutil.move(heart.archive, tmp_path / "moved")
    with pytest.raises(UsageError, match="--archive"):
        localise_published(heart.root)
    assert localise_published(heart.root, archive=tmp_path / "moved").facts["records"] == done.facts["records"]


def test_without_the_archive_there_are_no_beats(tmp_path: Path) -> None:
    heart = publish_heart(tmp_path, records=4)
    shutil.rmtree(heart.archive)
    done = localise_published(heart.root)
    assert done.facts["beats"] == 0
    assert any("no average beats" in remark for remark in done.facts["remarks"])
    assert "beats" not in read_evaluations(heart.root, heart.dataset_id)[NAME].table_names


def test_records_that_the_archive_lost_are_told(tmp_path: Path) -> None:
    heart = publish_heart(tmp_path, records=4)
    (heart.archive / "part-00000.parquet").write_bytes(b"PAR1")
    assert any("part of the records" in remark for remark in localise_published(heart.root).facts["remarks"])


@pytest.mark.parametrize("records", [1, 2, 3])
def test_fewer_records_than_clusters(tmp_path: Path, records: int) -> None:
    done = localise_published(publish_heart(tmp_path, records=records).root)
    assert done.facts["records"] == records
    assert (done.result.scores["qrs_f1"].value is None) == (records == 1)


def test_a_dataset_without_records_to_look_at(tmp_path: Path) -> None:
    heart = publish_heart(tmp_path, records=2, quarantined=2)
    with pytest.raises(UsageError, match="quarantined"):
        localise_published(heart.root)
    with pytest.raises(UsageError, match="nowhere: no such folder"):
        localise_published(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()
