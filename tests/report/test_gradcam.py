"""Grad-CAM of probed recordings: read from the probe run that the evaluation names, on the recording's own clock."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ecgscale.evaluate.written import write_evaluation
from ecgscale.passes.probe.probe import probe_store
from ecgscale.passes.probe.schema import EMPTY, SCHEMA
from ecgscale.report.reader_study import heat_of, write_study
from ecgscale.report.subject import open_subject
from ecgscale.store.commit import Source, commit_output
from ecgscale.store.manifest import Content, ShardEntry, Totals, publish
from ecgscale.store.provenance import run_facts
from tests.worlds.published.page_root import LENGTH, RATE, PublishedRoot, publish_by_hand

PROBED = {
    "sim0-0000002": [[1.0, 1.0, 1.0, 1.0], [0.0, 0.5]],
    "sim0-0000003": [[0.0] * 4, [0.0, 0.0]],
    "sim0-0000004": [[0.0] * 4, [3.0, 1.0]],
    "sim0-0000005": None,
}


@pytest.fixture(scope="module")
def probed(tmp_path_factory: pytest.TempPathFactory) -> PublishedRoot:
    made = publish_by_hand(tmp_path_factory.mktemp("probed"), records=20)
    rows = [{**EMPTY, "record_id": name, "status": "ok", "gradcam": maps} for name, maps in PROBED.items()]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), sink)
    store, run = probe_store(made.root, made.dataset_id, "probe"), run_facts()
    source = Source(key="part-00000.parquet", size=1, stamp="s", rows=len(rows), content_digest="c")
    data = bytes(sink.getvalue())
    commit = commit_output(store, source, data, record_ids=list(PROBED), quarantined={}, rows=len(rows), run=run)
    explained = open_subject(made.root).manifest.content
    content = Content(
        dataset_id="probe",
        archive=explained.archive,
        identity=explained.identity,
        plan_digest="p",
        totals=Totals(shards=1, records=len(rows), quarantined={}),
        shards=(ShardEntry.of(commit),),
        set_aside=(),
    )
    assert publish(store, content, 0, run)
    write_evaluation(made.root, made.dataset_id, "probes", {"probe_id": "probe", "records": 4})
    return made


def test_heat_is_the_deepest_layer_on_the_recordings_clock(probed: PublishedRoot) -> None:
    heat = heat_of(open_subject(probed.root))
    assert sorted(heat) == ["sim0-0000002", "sim0-0000004"], (
        "nothing mattered in the third, nothing is known of the last"
    )
    times, values = heat["sim0-0000004"]
    np.testing.assert_allclose(values, [1, 1 / 3])
    # Two steps of 256 timesteps; timestep 0 lies 0.06 s before the recording.
    np.testing.assert_allclose(times, [-0.06 + (LENGTH / 4 - 0.5) / RATE, -0.06 + (3 * LENGTH / 4 - 0.5) / RATE])


def test_a_study_of_probed_records_has_three_forms(probed: PublishedRoot, tmp_path: Path) -> None:
    study = write_study(open_subject(probed.root), tmp_path / "study", 2)
    assert study.kinds == ("clusters", "gradcam", "neither")
    with study.key.open() as stream:
        key = list(csv.DictReader(stream))
    assert {row["record_id"] for row in key} == {"sim0-0000002", "sim0-0000004"}
    assert len(key) == 6
    assert not study.remarks
