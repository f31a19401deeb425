"""The atlas: beats from a localisation where there is one, averages of segments where there is none."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ecgscale.evaluate.written import write_evaluation
from ecgscale.report.atlas import CYCLE, atlas_of, segment_averages
from ecgscale.report.charts import Beat, Series, beat_chart, box_chart, inline, line_chart, reach_of
from ecgscale.report.reader_study import heat_of
from ecgscale.report.relations import Group
from ecgscale.report.subject import open_subject
from ecgscale.report.sweeps import sweep_series, sweep_tables
from tests.report.test_surrogate import SURROGATE
from tests.worlds.published.page_root import K, PublishedRoot, publish_by_hand


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> PublishedRoot:
    return publish_by_hand(tmp_path_factory.mktemp("published"), records=60)


def test_averages_stand_in_for_beats(published: PublishedRoot) -> None:
    atlas = atlas_of(open_subject(published.root))
    assert not atlas.aligned
    assert atlas.leads == ("II", "V1", "V5")
    assert [facts.cluster for facts in atlas.clusters] == list(range(K))
    assert sum(facts.share for facts in atlas.clusters) == pytest.approx(1, abs=1e-4)
    first = atlas.clusters[0]
    assert first.beat is not None
    assert first.beat.signal_mv.shape == (12, len(first.beat.times))
    # Segments of 0.62 s are wider than half of the window of 1 s on either side of the middle.
    assert first.beat.times[first.beat.inside > 0].tolist() == pytest.approx(np.arange(-77, 78) / 250)
    assert first.importance is None
    assert first.by_class["CD"] > first.by_class["NORM"], "cluster 0 follows CD"


def test_an_average_is_the_mean_over_segments(published: PublishedRoot) -> None:
    found = segment_averages(open_subject(published.root))
    assert {average.records for average in found.values()} == {59}
    # Segments begin every 0.62 s: of the eight the first and the last lie too near the ends of 5 s.
    assert found[2].segments == 59
    assert found[2].median_s == pytest.approx(0.62, abs=1e-3)


def test_a_localisation_gives_beats_and_the_cycle(published: PublishedRoot, tmp_path: Path) -> None:
    root = tmp_path / "root"
    shutil.copytree(published.root, root)
    phases = np.linspace(-0.4, 0.6, 20)
    beats = pa.table(
        {
            "cluster": pa.array(np.repeat([1, 4], 40), pa.int16()),
            "lead": (["II"] * 20 + ["V1"] * 20) * 2,
            "phase": np.tile(phases, 4),
            "time_s": np.tile(phases * 0.8, 4),
            "mean_mv": np.tile(np.sin(phases), 4),
            "active_mv": np.tile(np.sin(phases), 4),
            "n": np.tile(np.arange(20), 4),
            "share": np.tile(np.linspace(0, 0.5, 20), 4),
        }
    )
    shares = pa.table(
        {"cluster": [1, 1], "part": ["QRS", "T"], "share_of_cluster": [0.7, 0.3], "share_of_part": [1.0, None]}
    )
    write_evaluation(root, published.dataset_id, "localisation", {}, {"beats": beats, "shares": shares})
    write_evaluation(root, published.dataset_id, "surrogate-superclasses", SURROGATE)
    atlas = atlas_of(open_subject(root))
    assert atlas.aligned
    assert atlas.leads == ("II", "V1")
    assert atlas.clusters[0].beat is None
    own = atlas.clusters[1]
    assert own.beat is not None
    assert own.beat.inside.max() == 1.0
    assert own.beat_summary.startswith("at most 50")
    assert own.cycle == {"QRS": 0.7, "T": 0.3}
    assert set(own.cycle) < set(CYCLE)
    assert atlas.clusters[3].importance == 0.02


def test_charts_are_svg_and_survive_gaps() -> None:
    times = np.linspace(-0.5, 0.5, 101)
    signal = np.stack([np.sin(7 * times), np.full(101, np.nan)])
    beat = Beat(times, signal, ("II", "V<1>"), (np.abs(times) < 0.1).astype(float))
    drawn = str(beat_chart(beat, beat.leads, reach_of({0: beat}, beat.leads), "#000", 'a "beat"'))
    assert drawn.count("<path") == 2 * 2 + 1
    assert "not recorded" in drawn
    assert "V&lt;1&gt;" in drawn
    assert 'aria-label="a &#34;beat&#34;"' in drawn
    assert "NaN" not in drawn.replace("nan", "NaN")
    lines = [Series("$\\frac{", [5, 10], [0.5, float("nan")], [0.1, float("nan")]), Series("<b>", [5, 10], [0.2, 0.9])]
    drawn = inline(line_chart(lines, "x", "<y>"), '"l"')
    assert "NaN" not in drawn.replace("nan", "NaN")
    assert drawn.startswith('<svg class="chart" role="img" aria-label="&#34;l&#34;"')
    assert "$\\frac{" in drawn, "a dollar sign in a name is no formula"
    assert "&lt;b&gt;" in drawn
    assert "&lt;y&gt;" in drawn
    boxes = inline(box_chart([Group("<g>", 5, (0.1, 0.1, 0.1, 0.1, 0.1))], "x"), "l")
    assert boxes.count("&lt;g&gt;") == 1
    for svg in (drawn, boxes):
        assert "var(--s0)" in svg, "colours are the page's"
        assert not re.search(r"<style|<script|<metadata|<\?xml|#0072b2|<!--", svg)


def test_sweeps_are_charts_and_tables(published: PublishedRoot, tmp_path: Path) -> None:
    root = tmp_path / "root"
    shutil.copytree(published.root, root)
    rows = [
        {"setting": str(k), "x": float(k), "agreement": 0.8 + k / 100, "agreement_sd": 0.01, "auroc": None}
        for k in (10, 5, 20)
    ]
    layers = [{"setting": "a", "x": None, "agreement": 0.9}, {"setting": "b", "x": None, "agreement": 0.8}]
    facts = {"summary": {"clusters": rows, "layers": layers, "depth": []}, "elbow": 10.0, "plateau": None, "records": 9}
    write_evaluation(root, published.dataset_id, "sweep-superclasses", facts)
    found = open_subject(root).evaluations["sweep-superclasses"]
    (chart,) = sweep_series(found)
    assert list(chart.series[0].x) == [5, 10, 20]
    assert "bends at K = 10" in chart.caption
    assert [len(table.rows) for table in sweep_tables(found)] == [3, 2]


def test_without_probes_there_is_no_heat(published: PublishedRoot) -> None:
    assert heat_of(open_subject(published.root)) == {}
