"""What a contract may ask of its input, held to plain scipy and numpy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from scipy import signal as sp

from ecgscale.archive import check_batch
from ecgscale.encoders.inputs import InputSpec
from ecgscale.encoders.preprocess import MARGIN_S, Prepared, prepare
from ecgscale.encoders.spec import changes, encoder_digest, encoder_files, encoder_parts, load_spec
from ecgscale.encoders.taps import Encoder
from ecgscale.errors import EncoderError
from ecgscale.explain.record import raw_batch
from ecgscale.leads import CANONICAL_LEADS
from tests.worlds.formula.small_networks import noise, one_batch, write_archive, write_small_encoder

LEADS = ("I", "II", "V1")
RATE = 100.0


def spec_of(**keys: Any) -> InputSpec:
    return InputSpec.model_validate({"leads": LEADS, "sampling_rate": RATE, "length": 256, **keys})


def prepared(tmp_path: Path, spec: InputSpec, *records: dict[str, Any]) -> Prepared:
    raw = one_batch(write_archive(tmp_path, records))
    return prepare(raw, *check_batch(raw, set(), spec.leads), spec, 4)


def at(kind: str, hz: Any, order: int) -> Any:
    return sp.butter(order, hz, kind, fs=RATE, output="sos")


def baseline(x: np.ndarray) -> np.ndarray:
    return x - sp.medfilt(x, (1, 41))


TAPS = sp.firwin(31, [2.0, 30.0], pass_zero="bandpass", fs=RATE)
FILTERS: list[tuple[dict[str, Any], Callable[[np.ndarray], np.ndarray]]] = [
    ({"kind": "highpass", "hz": 0.5}, lambda x: sp.sosfiltfilt(at("highpass", 0.5, 4), x)),
    ({"kind": "lowpass", "hz": 40, "order": 2}, lambda x: sp.sosfiltfilt(at("lowpass", 40, 2), x)),
    ({"kind": "bandpass", "hz": [0.67, 40]}, lambda x: sp.filtfilt(*sp.butter(4, [0.67, 40], "bandpass", fs=RATE), x)),
    (
        {"kind": "bandstop", "hz": [10, 20], "order": 3, "phase": "causal"},
        lambda x: sp.sosfilt(at("bandstop", [10, 20], 3), x),
    ),
    ({"kind": "notch", "hz": 25.0}, lambda x: sp.filtfilt(*sp.iirnotch(25, 30, RATE), x)),
    ({"kind": "notch", "hz": 25.0, "q": 5, "phase": "causal"}, lambda x: sp.lfilter(*sp.iirnotch(25, 5, RATE), x)),
    ({"kind": "bandpass", "hz": [2, 30], "design": "fir", "order": 30}, lambda x: sp.filtfilt(TAPS, 1.0, x)),
    (
        {"kind": "bandpass", "hz": [2, 30], "design": "fir", "order": 30, "phase": "causal"},
        lambda x: sp.lfilter(TAPS, 1.0, x),
    ),
    ({"kind": "median-baseline", "seconds": 0.4}, baseline),
]


@pytest.mark.parametrize(("given", "plain"), FILTERS, ids=[str(given["kind"]) for given, _ in FILTERS])
def test_a_filter_is_scipys_over_the_valid_span_after_resampling(
    tmp_path: Path, given: dict[str, Any], plain: Callable[[np.ndarray], np.ndarray]
) -> None:
    x = noise(600, 3) + 2.0
    record = {"signal": x, "leads": LEADS, "sampling_rate": 500.0, "valid_start": 50, "valid_stop": 550}
    archive = write_archive(tmp_path / "a", [record])
    spec = spec_of(millivolt=2.0, filters=[given])
    raw = one_batch(archive)
    out = prepare(raw, *check_batch(raw, set()), spec, 4)
    resampled = sp.resample_poly(2.0 * x.astype(np.float64), 1, 5, axis=-1)
    start, stop = out.valid_start[0], out.valid_stop[0]
    assert (start, stop) == ((256 - 120) // 2 + 10, (256 - 120) // 2 + 110)
    np.testing.assert_allclose(out.x[0, :, start:stop], plain(resampled[:, 10:110]), rtol=1e-5, atol=1e-5)
    assert not out.x[0, :, :start].any()
    assert not out.x[0, :, stop:].any()


def test_filters_come_one_after_the_other_and_before_resampling_where_that_is_said(tmp_path: Path) -> None:
    x = noise(900, 3)
    early = {"kind": "bandpass", "hz": [1, 90], "before_resampling": True}
    spec = spec_of(filters=[{"kind": "highpass", "hz": 0.5, "order": 2}, early, {"kind": "lowpass", "hz": 30}])
    out = prepared(tmp_path, spec, {"signal": x, "leads": LEADS, "sampling_rate": 500.0})
    first = sp.sosfiltfilt(sp.butter(4, [1, 90], "bandpass", fs=500.0, output="sos"), x.astype(np.float64))
    second = sp.sosfiltfilt(at("highpass", 0.5, 2), sp.resample_poly(first, 1, 5, axis=-1))
    wanted = sp.sosfiltfilt(at("lowpass", 30, 4), second)
    np.testing.assert_allclose(out.x[0, :, out.valid_start[0] : out.valid_stop[0]], wanted, rtol=1e-5, atol=1e-5)


def test_filters_see_what_is_cropped_and_no_whole_holter(tmp_path: Path) -> None:
    x = noise(2000, 3).astype(np.float64)
    spec = spec_of(filters=[{"kind": "highpass", "hz": 1.0}])
    out = prepared(tmp_path, spec, {"signal": x.astype(np.float32), "leads": LEADS})
    whole = sp.sosfiltfilt(at("highpass", 1.0, 4), x[:, : 256 + round(MARGIN_S * RATE)])[:, :256]
    np.testing.assert_allclose(out.x[0], whole, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(out.x[0], sp.sosfiltfilt(at("highpass", 1.0, 4), x)[:, :256], atol=1e-4)
    assert out.flags == [["cropped"]]


def zscore(x: np.ndarray, axis: int | None) -> np.ndarray:
    return (x - x.mean(axis=axis, keepdims=True)) / x.std(axis=axis, keepdims=True)


def minmax(x: np.ndarray, axis: int | None) -> np.ndarray:
    low = x.min(axis=axis, keepdims=True)
    return (x - low) / (x.max(axis=axis, keepdims=True) - low)


NORMALISED: list[tuple[dict[str, Any], Callable[[np.ndarray], np.ndarray]]] = [
    ({"normalisation": "zscore-lead"}, lambda x: zscore(x, -1)),
    ({"normalisation": "zscore-record", "offset": 0.5}, lambda x: zscore(x, None) + 0.5),
    ({"normalisation": "minmax-lead"}, lambda x: minmax(x, -1)),
    ({"normalisation": "minmax-record", "range": [-1, 1]}, lambda x: 2 * minmax(x, None) - 1),
    ({"mean": 0.3, "std": 2}, lambda x: (x - 0.3) / 2),
    ({"mean": [1, 2, 3], "std": [1, 0.5, 4]}, lambda x: (x - [[1], [2], [3]]) / [[1], [0.5], [4]]),
    ({"offset": -3.0}, lambda x: x - 3),
]


@pytest.mark.parametrize(("keys", "plain"), NORMALISED)
def test_normalises_the_valid_span_and_nothing_else(
    tmp_path: Path, keys: dict[str, Any], plain: Callable[[np.ndarray], np.ndarray]
) -> None:
    x = noise(200, 3) * [[1], [2], [3]] + 1
    record = {"signal": x.astype(np.float32), "leads": LEADS, "valid_start": 20, "valid_stop": 180}
    out = prepared(tmp_path, spec_of(**keys), record, {"signal": noise(300, 3, 1), "leads": LEADS})
    start, stop = out.valid_start[0], out.valid_stop[0]
    wanted = plain(x[:, 20:180].astype(np.float32).astype(np.float64))
    np.testing.assert_allclose(out.x[0, :, start:stop], wanted, rtol=1e-5, atol=1e-6)
    assert not out.x[0, :, :start].any()
    alone = prepared(tmp_path / "alone", spec_of(**keys), {"signal": noise(300, 3, 1), "leads": LEADS})
    np.testing.assert_array_equal(alone.x[0], out.x[1])


def test_what_is_flat_is_zero_or_the_lower_end_of_the_range(tmp_path: Path) -> None:
    x = noise(100, 3)
    x[1] = 4.0
    for keys, level in (
        ({"normalisation": "zscore-lead"}, 0),
        ({"normalisation": "minmax-lead", "range": [-1, 1]}, -1),
    ):
        out = prepared(tmp_path / str(level), spec_of(**keys), {"signal": x, "leads": LEADS})
        assert (out.x[0, 1, out.valid_start[0] : out.valid_stop[0]] == level).all()


def test_what_a_filter_cannot_take_is_the_records_status(tmp_path: Path) -> None:
    early = {"kind": "lowpass", "hz": 60, "before_resampling": True}
    spec = spec_of(filters=[early, {"kind": "highpass", "hz": 0.5}])
    records = [
        {"signal": noise(100, 3), "leads": LEADS, "sampling_rate": 100.0},
        {"signal": noise(30, 3), "leads": LEADS, "sampling_rate": 200.0},
        {"signal": noise(300, 3), "leads": LEADS, "sampling_rate": 200.0},
    ]
    out = prepared(tmp_path, spec, *records)
    assert out.status == ["bad_sampling_rate", "too_short", "ok"]
    assert out.flags == [["filter:lowpass"], ["filter:highpass"], []]
    assert not out.x[:2].any()


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"filters": [{"kind": "highpass", "hz": 50}]}, "nothing from 50 Hz on; before_resampling = true"),
        ({"filters": [{"kind": "bandpass", "hz": 5}]}, "bandpass takes hz = .LOW, HIGH."),
        ({"filters": [{"kind": "notch", "hz": 5, "order": 2}]}, "notch takes neither order nor design"),
        ({"filters": [{"kind": "median-baseline"}]}, "median-baseline takes seconds"),
        ({"filters": [{"kind": "lowpass", "hz": 5, "design": "fir"}]}, "fir takes order"),
        ({"mean": [1, 2]}, "mean has 2 values for 3 leads"),
        ({"mean": 1, "normalisation": "zscore-lead"}, "leave out one of them"),
        ({"range": [0, 2]}, "range is for normalisation minmax"),
        ({"preprocess": "os:system"}, "standard library"),
        ({"preprocess": "mine"}, "package.module:function"),
    ],
)
def test_what_makes_no_sense_is_told(keys: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        spec_of(**keys)


OWN = """
import numpy as np
def halve(signal, rate):
    return signal / 2 + 0 * rate
def shorten(signal, rate):
    return signal[:, 1:]
def fail(signal, rate):
    raise KeyError(f"no {signal.shape} at {rate}")
def spoil(signal, rate):
    signal[0, 0] = np.nan
    return signal
NUMBER = 3
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"own_{abs(hash(str(tmp_path)))}"
    (tmp_path / f"{name}.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    return name


def test_a_users_own_function_takes_the_valid_span_and_gives_a_status_where_it_fails(own: str, tmp_path: Path) -> None:
    x = noise(200, 3)
    record = {"signal": x, "leads": LEADS, "valid_start": 20, "valid_stop": 180}
    out = prepared(tmp_path / "good", spec_of(preprocess=f"{own}:halve", offset=1), record)
    inside = out.x[0, :, out.valid_start[0] : out.valid_stop[0]]
    np.testing.assert_allclose(inside, x[:, 20:180] / 2 + 1, rtol=1e-6)
    for name, reason in (
        ("shorten", "gives shape (3, 159), expected (3, 160)"),
        ("fail", "KeyError: 'no (3, 160) at 100.0'"),
        ("spoil", "gives NaN or infinite samples"),
    ):
        bad = prepared(tmp_path / name, spec_of(preprocess=f"{own}:{name}"), record)
        assert (bad.status, bad.flags) == (["preprocess_failed"], [[f"preprocess:{reason}"]])
        assert not bad.x.any()


def test_its_source_is_part_of_the_encoder(own: str, tmp_path: Path) -> None:
    full = {
        "leads": load_spec(write_small_encoder(tmp_path / "plain")).input.leads,
        "sampling_rate": RATE,
        "length": 256,
    }
    directory = write_small_encoder(tmp_path / "enc", input=full | {"preprocess": f"{own}:halve"})
    assert encoder_digest(directory) != encoder_digest(tmp_path / "plain")
    before = encoder_parts(directory)
    (tmp_path / f"{own}.py").write_text(OWN + "\n")
    assert list(changes(encoder_parts(directory), before.digest, before.facts())) == [f"the network's code ({own}.py)"]
    assert load_spec(directory).input.preprocess == f"{own}:halve"
    assert [file.name for file in encoder_files(directory)] == ["encoder.toml", "weights.safetensors"]
    (directory / f"{own}.py").write_text(OWN.replace("/ 2", "/ 4"))
    assert encoder_files(directory)[-1] == directory / f"{own}.py"
    raw = raw_batch(noise(256), CANONICAL_LEADS, RATE, 1.0, None)
    beside = prepare(raw, ["ok"], [[]], Encoder.load(directory, batch=2).spec.input, 4)
    np.testing.assert_allclose(beside.x[0], noise(256) / 4)
    assert Encoder.load(directory, batch=2).parts is not None
    for name, words in (("NUMBER", "it is a int"), ("missing", "has no 'missing'")):
        broken = write_small_encoder(tmp_path / name, input=full | {"preprocess": f"{own}:{name}"})
        with pytest.raises(EncoderError, match=words):
            Encoder.load(broken, batch=2)


def test_a_contract_with_filters_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    full = load_spec(write_small_encoder(tmp_path / "plain")).input.model_dump(mode="json")
    full |= {"filters": [{"kind": "notch", "hz": 50.0 - 1}], "normalisation": "zscore-record", "offset": 0.25}
    full |= {"sampling_rate": 200.0}
    directory = write_small_encoder(tmp_path / "enc", input=full)
    assert load_spec(directory).input == InputSpec.model_validate(full)
    assert "preprocess" not in (directory / "encoder.toml").read_text()
    toml = (directory / "encoder.toml").read_text().replace('kind = "notch"', 'kind = "notch", herz = 3')
    (directory / "encoder.toml").write_text(toml)
    with pytest.raises(EncoderError, match=r"input.filters.0.herz; known are kind, hz"):
        load_spec(directory)
