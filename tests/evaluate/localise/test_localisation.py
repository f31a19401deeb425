"""Localisation of clusters that are known to follow the heartbeat, or not to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ecgscale.archive.waves import QRS, merge_leads
from ecgscale.evaluate.localise.localisation import Localisation, halves, localise
from ecgscale.evaluate.localise.shifts import shifted_matches
from ecgscale.evaluate.localise.timelines import PARTS, Timelines, timelines
from tests.worlds.published.heart_root import RATE, SOURCE_RATE, START_S, HeartRoot, K, publish_heart


@pytest.fixture(scope="module")
def heart(tmp_path_factory: pytest.TempPathFactory) -> HeartRoot:
    return publish_heart(tmp_path_factory.mktemp("heart"), noise=0.25)


def lines_of(heart: HeartRoot, change: Callable[[np.ndarray], np.ndarray] = lambda labels: labels) -> Timelines:
    n = len(heart.labels)
    waves = merge_leads(heart.records.column("fiducials"))
    return timelines(change(heart.labels), waves, RATE, np.full(n, START_S), np.full(n, SOURCE_RATE))


def run(lines: Timelines, patients: list[str] | None = None, n_bootstrap: int = 50) -> Localisation:
    return localise(lines, K, patients or [str(i) for i in range(len(lines))], n_bootstrap=n_bootstrap)


def test_clusters_that_follow_the_heartbeat(heart: HeartRoot) -> None:
    result = run(lines_of(heart))
    for name, least in (("information", 0.5), ("purity", 0.8), ("boundary_f1_20ms", 0.6), ("qrs_f1", 0.75)):
        score = result.scores[name]
        assert score.value is not None, name
        assert score.shifted_p99 is not None
        assert score.interval is not None
        assert score.value > least > score.shifted_p99
        assert score.interval[0] <= score.value <= score.interval[1]
        assert score.p_value == pytest.approx(1 / 201)
    assert result.unions[0].clusters == (QRS,)
    assert (result.unions[0].chosen_on, result.unions[0].scored_on) == (8, 8)
    assert result.to_dict()["purest"]["QRS"] == {"cluster": QRS, "share": 1.0}


def test_clusters_that_know_nothing_are_within_the_shifts(heart: HeartRoot) -> None:
    rng = np.random.default_rng(3)
    result = run(
        lines_of(heart, lambda labels: np.where(labels >= 0, np.roll(rng.permutation(labels), 37, axis=1).clip(0), -1))
    )
    for name in ("information", "purity", "qrs_f1"):
        p_value = result.scores[name].p_value
        assert p_value is not None
        assert p_value > 0.01, name


def test_shares_say_what_each_cluster_is(heart: HeartRoot) -> None:
    rows = run(lines_of(heart)).shares.to_pylist()
    assert len(rows) == K * len(PARTS)
    qrs = next(row for row in rows if (row["cluster"], row["part"]) == (QRS, "QRS"))
    assert qrs["share_of_cluster"] == 1.0
    assert qrs["share_of_part"] > qrs["share_of_part_shifted_p99"]
    for part in PARTS:
        assert sum(row["share_of_part"] for row in rows if row["part"] == part) == pytest.approx(1)


def test_patients_are_never_on_both_sides() -> None:
    patients = [f"p{i // 3}" for i in range(30)]
    half = halves(patients, 0)
    assert {patient: set() for patient in patients}.keys() == set(patients)
    assert all(len({half[i] for i in range(30) if patients[i] == patient}) == 1 for patient in set(patients))
    assert half.sum() == 15
    assert not (halves(patients, 1) == half).all()


def test_one_patient_has_no_other_half(heart: HeartRoot) -> None:
    result = run(lines_of(heart), ["one"] * 16)
    assert result.scores["qrs_f1"].value is None
    assert "one patient" in result.remarks[0]
    assert result.scores["information"].value is not None


def test_a_part_that_is_not_there_has_no_scores(heart: HeartRoot) -> None:
    lines = lines_of(heart)
    lines.parts[lines.parts != PARTS.index("TP")] = -1
    result = run(lines)
    assert result.scores["information"].value is None
    assert result.scores["qrs_f1"].value is None
    assert result.to_dict()["purest"]["QRS"] is None
    assert all(row["share_of_part"] is None for row in result.shares.to_pylist() if row["part"] == "QRS")


def test_records_without_waves_take_no_part(heart: HeartRoot, tmp_path: Path) -> None:
    lines = lines_of(heart)
    lines.stop[3:] = lines.start[3:]
    result = run(lines)
    assert result.records == 3


def test_the_f1_of_boundaries_counts_pairs_among_both(heart: HeartRoot) -> None:
    lines = lines_of(heart)
    spans, everyone = (lines.stop - lines.start) / lines.rate, np.zeros(len(lines), int)
    pairs = shifted_matches(lines.boundaries, lines.edges, spans, np.zeros((1, len(lines))), everyone, (0.02,))
    expected = 2 * pairs.item() / (len(lines.boundaries.values) + len(lines.edges.values))
    assert run(lines).scores["boundary_f1_20ms"].value == pytest.approx(expected)
    lines.stop[:] = lines.start
    assert run(lines).scores["boundary_f1_20ms"].value is None
