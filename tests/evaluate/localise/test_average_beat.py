"""Average beats of a signal that is a function of the phase, and where in it a cluster is."""

from __future__ import annotations

import numpy as np
import pytest

from ecgscale.evaluate.localise.physiology import PHASES, BeatSums

RATE, LABEL_RATE, START_S = 500.0, 400.0, -0.25


def sums_of(rr_s: np.ndarray, share: float = 0.25) -> BeatSums:
    """Two leads, the phase itself and twice its cosine; cluster 1 in the first `share` of every interval, else 0."""
    peaks_s = np.cumsum(np.concatenate([[0.3], rr_s]))
    seconds = np.arange(round((peaks_s[-1] + 0.5) * RATE)) / RATE
    phase = np.interp(seconds, peaks_s, np.arange(len(peaks_s)))
    steps_s = START_S + np.arange(round((seconds[-1] - START_S) * LABEL_RATE)) / LABEL_RATE
    inside = np.mod(np.interp(steps_s, peaks_s, np.arange(len(peaks_s))), 1) < share
    labels = np.where((steps_s >= 0) & (steps_s <= seconds[-1]), inside, -1).astype(np.int16)
    sums = BeatSums(3, ("I", "II"))
    sums.add(
        np.stack([np.mod(phase + 0.5, 1), 2 * np.cos(2 * np.pi * phase)]),
        RATE,
        peaks_s * RATE,
        labels,
        LABEL_RATE,
        START_S,
    )
    return sums


def test_slow_and_fast_beats_lie_on_each_other() -> None:
    sums = sums_of(np.array([0.8, 1.1, 0.6, 0.9, 1.2, 0.7]))
    assert sums.beats == 5
    rows = sums.table().to_pylist()
    beat = np.array([row["mean_mv"] for row in rows if row["lead"] == "II" and row["cluster"] == 0])
    np.testing.assert_allclose(beat, 2 * np.cos(2 * np.pi * sums.phases), atol=0.02)
    assert {row["cluster"] for row in rows} == {0, 1}
    assert len(rows) == 2 * 2 * PHASES
    times = [row["time_s"] for row in rows[:PHASES]]
    assert times[0] == pytest.approx(sums.phases[0] * (sums.mean_rr_s or 0))


def test_where_a_cluster_is_in_the_beat() -> None:
    sums = sums_of(np.full(8, 0.9))
    shares = {row["phase"]: row["share"] for row in sums.table().to_pylist() if row["cluster"] == 1}
    assert all(share == 1 for phase, share in shares.items() if 0.02 < phase < 0.23)
    assert all(share == 0 for phase, share in shares.items() if phase < -0.02 or phase > 0.27)
    active = {row["phase"]: row["active_mv"] for row in sums.table().to_pylist() if row["cluster"] == 1}
    assert active[sums.phases[-1]] is None
    (there,) = [entry for entry in sums.where() if entry["cluster"] == 1]
    assert -0.02 <= there["phase_from"] < there["phase_to"] <= 0.27


@pytest.mark.parametrize("rr_s", [[0.9], [0.1] * 6, [5.0] * 4])
def test_beats_that_are_none_are_left_out(rr_s: list[float]) -> None:
    sums = sums_of(np.array(rr_s))
    assert sums.beats == 0
    assert sums.mean_rr_s is None
    assert sums.table().num_rows == 0
    assert sums.where() == []
