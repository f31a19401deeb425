"""Traits of simulated recordings, and of what goes wrong with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from benchmarks.night_pool import arms_reversed
from ecgscale.archive.reader import Archive
from ecgscale.archive.synthetic.simulation import simulate, simulate_records
from ecgscale.archive.traits import TRAITS, traits, traits_of_shard, with_traits
from ecgscale.errors import EcgscaleError
from ecgscale.leads import CANONICAL_LEADS

RATE = 500.0


@pytest.fixture(scope="module")
def signals() -> np.ndarray:
    """(40, 12, 5000) in mV."""
    table = simulate_records(3, 0, 40, rate=RATE)
    flat = table["signal"].combine_chunks().flatten().to_numpy()
    return flat.reshape(40, 12, -1).astype(np.float64) / 1000


def median(signals: np.ndarray, rate: float = RATE) -> dict[str, float]:
    found = np.array([traits(signal, CANONICAL_LEADS, rate) for signal in signals])
    return dict(zip(("amplitude", "polarity", "hum", "frequency"), np.median(found, axis=0), strict=True))


def test_sound_recordings(signals: np.ndarray) -> None:
    found = median(signals)
    assert 0.05 < found["amplitude"] < 0.5
    assert found["polarity"] > 0.5
    assert found["hum"] < 0.01
    assert 3 < found["frequency"] < 20


def test_each_fault_shows_in_its_trait(signals: np.ndarray) -> None:
    sound = median(signals)
    assert median(10 * signals)["amplitude"] == pytest.approx(10 * sound["amplitude"])
    assert median(arms_reversed(signals, np.random.default_rng(0)))["polarity"] == pytest.approx(-sound["polarity"])
    assert median(signals, 2 * RATE)["frequency"] > 1.5 * sound["frequency"]
    assert median(signals, RATE / 2)["frequency"] < 0.7 * sound["frequency"]


@pytest.mark.parametrize("mains", [50.0, 49.8, 60.0])
def test_hum_is_measured_in_millivolts(signals: np.ndarray, mains: float) -> None:
    hum = 0.1 * np.sin(2 * np.pi * mains * np.arange(5000) / RATE)
    assert median(signals + hum)["hum"] == pytest.approx(0.1, rel=0.1)


def test_what_cannot_be_had_is_unknown(signals: np.ndarray) -> None:
    signal = signals[0]
    assert np.isnan(traits(signal[:1], ("V2",), RATE)[1])
    assert np.isfinite(traits(signal[6:9], ("V1", "V2", "V3"), RATE)[[0, 2, 3]]).all()
    assert np.isnan(traits(signal[:, :300], CANONICAL_LEADS, RATE)[2:]).all()
    assert np.isnan(traits(signal, CANONICAL_LEADS, 100.0)[2])
    assert np.isfinite(traits(signal, CANONICAL_LEADS, 100.0)[3])
    flat = signal.copy()
    flat[0] = 0
    assert np.isfinite(traits(flat, CANONICAL_LEADS, RATE)[[0, 2, 3]]).all()
    assert np.isnan(traits(flat, CANONICAL_LEADS, RATE)[1])


def test_a_shard_in_its_order(tmp_path: Path) -> None:
    simulate(tmp_path / "archive", 30, shard_records=20, rate=RATE, seconds=3)
    archive = Archive.open(tmp_path / "archive")
    found = traits_of_shard(archive, archive.shards[1])
    assert found.num_rows == 10
    assert found.column_names == list(TRAITS)
    [raw] = archive.batches(archive.shards[1], ())
    last = traits(raw.signal(9) / raw.units_per_mv[9], raw.leads[9], RATE)
    assert [found[name][9].as_py() for name in TRAITS] == pytest.approx(last.tolist(), rel=1e-5)
    rows = pa.table({"record_id": [f"r{i}" for i in range(10)]})
    assert with_traits(rows, found).column_names == ["record_id", *TRAITS]
    with pytest.raises(EcgscaleError, match="10 records have traits and 9 are explained"):
        with_traits(rows.slice(1), found)
