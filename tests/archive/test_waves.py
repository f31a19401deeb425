"""Waves merged over leads: the rule, checked against a slow reading of it."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from ecgscale.archive.schema import FIDUCIAL_TYPE
from ecgscale.archive.synthetic.simulation import simulate_records
from ecgscale.archive.waves import WAVES, Waves, merge_annotations, merge_leads


def mark(lead: str, wave: str, onset: int | None, peak: int | None, offset: int | None) -> dict:
    return {"lead": lead, "wave": wave, "onset": onset, "peak": peak, "offset": offset}


def merged(*records: list[dict] | None) -> Waves:
    return merge_leads(pa.array(list(records), FIDUCIAL_TYPE))


def listed(waves: Waves, record: int = 0) -> list[tuple[str, float, float, float]]:
    own = slice(waves.offsets[record], waves.offsets[record + 1])
    kinds = [WAVES[kind] for kind in waves.kind[own]]
    return list(zip(kinds, waves.onset[own], waves.peak[own], waves.offset[own], strict=True))


def test_the_median_of_overlapping_annotations() -> None:
    marks = [mark(lead, "QRS", 100 + i, 110 + i, 120 + 2 * i) for i, lead in enumerate(("I", "II", "V1"))]
    assert listed(merged(marks)) == [("QRS", 101.0, 111.0, 122.0)]
    assert listed(merged(marks[:2])) == [("QRS", 100.5, 110.5, 121.0)]


def test_half_of_the_leads_decide() -> None:
    leads = ("I", "II", "V1", "V2")
    everywhere = [mark(lead, "QRS", 100, 110, 120) for lead in leads]
    two, one = [mark(lead, "P", 40, 45, 50) for lead in leads[:2]], [mark("I", "P", 40, 45, 50)]
    assert [wave for wave, *_ in listed(merged(everywhere + two))] == ["P", "QRS"]
    assert [wave for wave, *_ in listed(merged(everywhere + one))] == ["QRS"]


def test_waves_of_one_kind_that_touch_stay_two() -> None:
    marks = [mark(lead, "T", at, at + 5, at + 10) for lead in ("I", "II") for at in (100, 112)]
    assert [onset for _, onset, _, _ in listed(merged(marks))] == [100.0, 112.0]


def test_records_without_waves_and_marks_that_cannot_be_placed() -> None:
    half = [
        mark("I", "P", None, 10, 20),
        mark("I", "T", 50, 40, None),
        mark("I", "U", 1, 2, 3),
        mark("I", "P", 9, 9, 8),
    ]
    waves = merged(None, [], half, [mark("I", "QRS", 5, None, 9)])
    assert waves.counts.tolist() == [0, 0, 0, 1]
    assert listed(waves, 3) == [("QRS", 5.0, 7.0, 9.0)]
    assert merged().counts.tolist() == []


def test_the_simulators_one_lead_is_kept_as_it_is() -> None:
    column = simulate_records(0, 0, 5, rate=250, seconds=4).column("fiducials")
    waves = merge_leads(column)
    for record, marks in enumerate(column.to_pylist()):
        expected = sorted((m["onset"], m["wave"], m["peak"], m["offset"]) for m in marks)
        assert [(on, kind, peak, off) for kind, on, peak, off in listed(waves, record)] == expected


def slow_merge(record: np.ndarray, lead: np.ndarray, kind: np.ndarray, on: np.ndarray, off: np.ndarray) -> list[tuple]:
    found = []
    for r in np.unique(record):
        n_leads = len(set(lead[record == r]))
        for k in range(3):
            own = (record == r) & (kind == k)
            depth = [int(((on[own] <= t) & (off[own] >= t)).sum()) for t in range(120)]
            t = 0
            while t < 120:
                if depth[t] and 2 * depth[t] >= n_leads:
                    stop = t
                    while stop < 120 and depth[stop] and 2 * depth[stop] >= n_leads:
                        stop += 1
                    found.append((int(r), k, t, stop - 1))
                    t = stop
                t += 1
    return sorted(found)


@pytest.mark.parametrize("seed", range(8))
def test_the_same_stretches_as_a_slow_reading_of_the_rule(seed: int) -> None:
    """With a median of one value each wave is its stretch: every lead says the same within a record and kind."""
    rng = np.random.default_rng(seed)
    n = 60
    record, lead, kind = np.sort(rng.integers(0, 4, n)), rng.integers(0, 5, n), rng.integers(0, 3, n)
    onset = rng.integers(0, 90, n).astype(float)
    offset = onset + rng.integers(0, 25, n)
    waves = merge_annotations(4, record, lead, kind, onset, onset, offset)
    stretches = slow_merge(record, lead, kind, onset, offset)
    assert len(stretches) == len(waves.kind)
    # Each merged wave lies around its stretch's annotations: its medians are among them or between two of them.
    for (r, k, first, last), w in zip(stretches, np.lexsort((waves.onset, waves.kind, waves.record)), strict=False):
        assert (waves.record[w], waves.kind[w]) == (r, k)
        own = (record == r) & (kind == k) & (onset <= last) & (offset >= first)
        assert onset[own].min() <= waves.onset[w] <= onset[own].max()
        assert offset[own].min() <= waves.offset[w] <= offset[own].max()
