"""Short gaps are filled by a straight line where that was asked for, and nothing else is touched."""

from __future__ import annotations

import numpy as np

from ecgscale.archive.reader import RawBatch
from ecgscale.encoders.preprocess import fill_gaps
from tests.worlds.formula.recordings import batch_of, record, wave

LEADS = ["I", "II", "V1"]


def gappy(*gaps: tuple[int, int, int]) -> tuple[RawBatch, np.ndarray]:
    """A batch of one record at 500 Hz with gaps (lead, start, stop), and what it was without."""
    whole = wave(1, 3).astype(np.float32)
    signal = whole.copy()
    for lead, start, stop in gaps:
        signal[lead, start:stop] = np.nan
    columns = {"signal": signal, "leads": LEADS, "valid_start": 10, "valid_stop": 190}
    return batch_of([record("1", **columns), record("2", signal=whole, leads=LEADS)], "float32"), whole


def test_a_gap_becomes_a_straight_line() -> None:
    raw, whole = gappy((1, 50, 55))
    filled, flags = fill_gaps(raw, ("II",), 10.0)
    assert flags == {0: ["filled_gap:II"]}
    expected = whole.copy()
    expected[1, 49:56] = np.linspace(whole[1, 49], whole[1, 55], 7)
    np.testing.assert_allclose(filled.signal(0), expected, rtol=1e-6)
    np.testing.assert_array_equal(filled.signal(1), raw.signal(1))
    assert np.isnan(raw.signal(0)).sum() == 5


def test_what_stays_a_gap() -> None:
    raw, _ = gappy((0, 50, 56), (1, 10, 12), (1, 188, 190), (2, 100, 101))
    filled, flags = fill_gaps(raw, ("I", "II"), 10.0)
    # Six samples are 12 ms; the ends of the valid span have nothing on one side; V1 is not taken.
    assert flags == {}
    np.testing.assert_array_equal(filled.values, raw.values)
    assert fill_gaps(raw, ("I",), 12.0)[1] == {0: ["filled_gap:I"]}
    assert fill_gaps(raw, ("III",), 12.0)[1] == {0: ["filled_gap:I"]}
    assert fill_gaps(raw, ("I",), 12.0, rows=[1])[1] == {}
    assert fill_gaps(raw, ("I",), 0.0) == (raw, {})


def test_infinite_samples_are_no_gap() -> None:
    raw, whole = gappy()
    whole[1, 5] = np.inf
    whole[1, 6] = np.nan
    raw = batch_of([record("1", signal=whole, leads=LEADS)], "float32")
    assert fill_gaps(raw, ("II",), 100.0)[1] == {}
