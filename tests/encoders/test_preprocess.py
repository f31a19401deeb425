"""Preprocessing: what the contract says, for every record the same bits whatever it is batched with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.signal import resample_poly

from ecgscale.archive import RawBatch, check_batch
from ecgscale.encoders.inputs import InputSpec
from ecgscale.encoders.preprocess import Prepared, prepare, resampling_ratio
from ecgscale.errors import EcgscaleError
from ecgscale.explain.record import raw_batch
from ecgscale.leads import CANONICAL_LEADS
from tests.worlds.formula.small_networks import noise, one_batch, write_archive

SPEC = InputSpec(leads=CANONICAL_LEADS, sampling_rate=100.0, length=256)


def prepared(raw: RawBatch, spec: InputSpec = SPEC, hop: int = 4) -> Prepared:
    status, flags = check_batch(raw, set())
    return prepare(raw, status, flags, spec, hop)


def test_pads_centrally_and_keeps_the_time(tmp_path: Path) -> None:
    signal = noise(101)
    out = prepared(one_batch(write_archive(tmp_path, [{"signal": signal * 1000, "units_per_mv": 1000.0}])))
    left = (256 - 101) // 2
    assert (out.valid_start[0], out.valid_stop[0]) == (left, left + 101)
    assert out.start_s[0] == -left / 100
    np.testing.assert_allclose(out.x[0, :, left : left + 101], signal, rtol=2e-6)
    assert not out.x[0, :, :left].any()
    assert not out.x[0, :, left + 101 :].any()
    assert (out.cropped[0], out.status, out.flags) == (0, ["ok"], [[]])


def test_pads_at_the_end_and_scales_to_the_encoders_unit(tmp_path: Path) -> None:
    signal = noise(100)
    spec = SPEC.model_copy(update={"padding": "end", "millivolt": 1000.0})
    out = prepared(one_batch(write_archive(tmp_path, [{"signal": signal, "units_per_mv": 0.5}])), spec)
    np.testing.assert_allclose(out.x[0, :, :100], signal * 2000, rtol=1e-6)
    assert (out.valid_start[0], out.valid_stop[0], out.start_s[0]) == (0, 100, 0.0)


def test_crops_and_says_so(tmp_path: Path) -> None:
    signal = noise(300)
    out = prepared(one_batch(write_archive(tmp_path, [{"signal": signal, "valid_start": 10, "valid_stop": 290}])))
    np.testing.assert_array_equal(out.x[0], signal[:, :256])
    assert (out.valid_start[0], out.valid_stop[0], out.cropped[0]) == (10, 256, 44)
    assert out.flags == [["cropped"]]


@pytest.mark.parametrize(("rate", "ratio"), [(500.0, (1, 5)), (128.0, (25, 32)), (50.0, (2, 1)), (99.5, (200, 199))])
def test_resamples_as_scipy_does(tmp_path: Path, rate: float, ratio: tuple[int, int]) -> None:
    assert resampling_ratio(rate, 100.0) == ratio
    signal = noise(120)
    archive = write_archive(tmp_path, [{"signal": signal, "sampling_rate": rate, "valid_start": 11, "valid_stop": 109}])
    out = prepared(one_batch(archive))
    expected = resample_poly(signal.astype(np.float64), *ratio, axis=-1)
    n = expected.shape[1]
    left = (256 - n) // 2
    np.testing.assert_array_equal(out.x[0, :, left : left + n], expected.astype(np.float32))
    # A sample of the new axis is valid if the recording time it stands for is.
    times = np.arange(n) * ratio[1] / ratio[0]
    valid = np.flatnonzero((times >= 11) & (times < 109)) + left
    assert (out.valid_start[0], out.valid_stop[0]) == (valid[0], valid[-1] + 1)


@pytest.mark.parametrize("rate", [500.0, 37.0, 100.0])
def test_a_long_recording_costs_no_more_but_gives_the_same(tmp_path: Path, rate: float) -> None:
    signal = noise(20_000)
    out = prepared(one_batch(write_archive(tmp_path, [{"signal": signal, "sampling_rate": rate}])))
    ratio = resampling_ratio(rate, 100.0)
    whole = signal if ratio == (1, 1) else resample_poly(signal.astype(np.float64), *ratio, axis=-1)
    np.testing.assert_array_equal(out.x[0], whole[:, :256].astype(np.float32))
    assert out.cropped[0] == 20_000 - int(np.ceil(256 * rate / 100))


def test_missing_limb_leads_are_derived_and_order_does_not_matter(tmp_path: Path) -> None:
    full = noise(256)
    full[2] = full[1] - full[0]
    full[3:6] = [-(full[0] + full[1]) / 2, full[0] - full[1] / 2, full[1] - full[0] / 2]
    kept = [7, 1, 0, 11, 10, 9, 8, 6]
    records = [{"signal": full}, {"signal": full[kept], "leads": [CANONICAL_LEADS[i] for i in kept]}]
    out = prepared(one_batch(write_archive(tmp_path, records)))
    assert out.status == ["ok", "ok"]
    np.testing.assert_allclose(out.x[1], out.x[0], atol=1e-6)


def test_what_cannot_be_used_gets_a_status_and_zeros(tmp_path: Path) -> None:
    records = [
        {"signal": noise(100)},
        {"signal": noise(100, 3), "leads": ["I", "II", "V1"]},
        {"signal": noise(100), "valid_start": 50, "valid_stop": 53},
        {"signal": noise(100), "sampling_rate": 0.001},
        {"signal": noise(100), "sampling_rate": 1e9},
        {"signal": noise(100) * 1e37, "units_per_mv": 1e-5},
        {"signal": noise(300), "valid_start": 270, "valid_stop": 290},
        {"signal": noise(100) * np.nan},
    ]
    out = prepared(one_batch(write_archive(tmp_path, records)))
    expected = ["ok", "missing_leads", "too_short", "bad_sampling_rate", "bad_sampling_rate", "bad_units"]
    assert out.status == [*expected, "too_short", "non_finite_samples"]
    assert not out.x[1:].any()
    assert not out.valid_stop[1:].any()
    assert out.x[0].any()
    # Of one lead alone: the others say that the unit is right.
    one = noise(100)
    one[7] *= 1e37
    archive = write_archive(tmp_path / "one", [{"signal": one}])
    assert prepared(one_batch(archive), SPEC.model_copy(update={"millivolt": 1000.0})).status == ["non_finite_samples"]


def test_a_records_bits_do_not_depend_on_its_neighbours(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    records = []
    for i in range(40):
        leads = list(CANONICAL_LEADS) if i % 3 else ["II", "I", "V1", "V2", "V3", "V4", "V5", "V6"]
        signal = rng.integers(-3000, 3000, (len(leads), int(rng.choice([401, 500, 777, 3000])))).astype(np.int16)
        rate, unit = float(rng.choice([100, 250, 400, 500, 257])), float(rng.choice([1000, 200]))
        records.append({"signal": signal, "leads": leads, "sampling_rate": rate, "units_per_mv": unit})
    archive = write_archive(tmp_path, records, "int16")
    for normalisation in ("none", "zscore-lead"):
        spec = SPEC.model_copy(update={"normalisation": normalisation})
        together = prepared(one_batch(archive), spec)
        for size in (1, 7):
            parts = [prepared(raw, spec) for raw in archive.batches(archive.shards[0], batch_records=size)]
            np.testing.assert_array_equal(np.concatenate([part.x for part in parts]), together.x)
            np.testing.assert_array_equal(np.concatenate([part.valid_stop for part in parts]), together.valid_stop)
        assert together.status == ["ok"] * 40


def test_one_record_from_memory_equals_the_archives(tmp_path: Path) -> None:
    signal = (noise(777) * 800).astype(np.int16)
    record = {"signal": signal, "sampling_rate": 360.0, "units_per_mv": 204.8, "valid_start": 5, "valid_stop": 700}
    batch = prepared(one_batch(write_archive(tmp_path, [record], "int16")))
    one = prepared(raw_batch(signal, CANONICAL_LEADS, 360.0, 204.8, (5, 700)))
    np.testing.assert_array_equal(one.x, batch.x)
    for name in ("valid_start", "valid_stop", "start_s", "cropped", "status", "flags"):
        assert np.all(getattr(one, name) == getattr(batch, name))


def test_standardises_each_lead_over_its_valid_samples(tmp_path: Path) -> None:
    signal = noise(200) * 3 + 5
    signal[4] = 2.0
    spec = SPEC.model_copy(update={"normalisation": "zscore-lead"})
    out = prepared(one_batch(write_archive(tmp_path, [{"signal": signal, "valid_start": 20, "valid_stop": 180}])), spec)
    inside = out.x[0, :, out.valid_start[0] : out.valid_stop[0]]
    np.testing.assert_allclose(inside.mean(axis=1), 0, atol=1e-6)
    np.testing.assert_allclose(np.delete(inside.std(axis=1), 4), 1, rtol=1e-5)
    assert not inside[4].any()
    assert not out.x[0, :, : out.valid_start[0]].any()


def test_a_batch_shape_follows_the_contract_even_when_nothing_is_usable(tmp_path: Path) -> None:
    raw = one_batch(write_archive(tmp_path, [{"signal": noise(50)}]))
    out = prepare(replace(raw), ["flat_signal"], [[]], SPEC, 4)
    assert out.x.shape == (1, 12, 256)
    assert out.x.dtype == np.float32
    assert out.status == ["flat_signal"]


def test_a_rate_that_can_only_be_a_mistake_is_an_error() -> None:
    with pytest.raises(EcgscaleError, match="cannot sensibly be brought"):
        resampling_ratio(1e-4, 100.0)
