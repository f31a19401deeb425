"""One signal in a notebook gives what the pass over an archive writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ecgscale.clusters.model import ClusterModel
from ecgscale.errors import ModelError, UsageError
from ecgscale.explain.record import explain_record
from ecgscale.store import open_explanations
from tests.explain.golden import LEADS, RATE, good_row, signal, write_encoder, write_model, write_rows
from tests.worlds.commands.explaining import explain


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("root"))


def record(model: Path | ClusterModel, values: Any, leads: Any = LEADS, rate: float = RATE, **options: Any) -> Any:
    options = {"units_per_mv": 1000.0, "batch": 4, "device": "cpu", **options}
    return explain_record(values, leads, rate, model=model, **options)


def test_the_same_bits_as_the_pass(model: Path, tmp_path: Path) -> None:
    row = good_row(3) | {"signal": signal(3, rate=250.0), "sampling_rate": 250.0, "valid_start": 50, "valid_stop": 500}
    explain(write_rows(tmp_path / "archive", [good_row(1), row]), model, tmp_path / "out", entropy="timestep")
    written = open_explanations(tmp_path / "out").to_table().to_pylist()[1]
    found = record(model, row["signal"], rate=250.0, valid=(50, 500))
    for name in ("start", "stop", "cluster", "entropy"):
        assert found.segments[name].tolist() == [segment[name] for segment in written["segments"]]
    for name in ("proportions", "soft_proportions", "entropy"):
        assert getattr(found, name).tolist() == written[name]
    for name in ("mean_entropy", "distortion", "valid_start", "valid_stop", "start_s", "cropped", "length", "flags"):
        assert getattr(found, name) == written[name]
    assert list(found.prediction.values()) == written["prediction"]
    assert list(found.prediction) == ["A", "B"]


def test_times_are_those_of_the_recording(model: Path) -> None:
    found = record(model, signal(0))
    assert found.segments["start_s"][0] == pytest.approx(0)
    assert found.segments["stop_s"][-1] == pytest.approx(2.2)
    assert found.time_s[[0, -1]] == pytest.approx([0, 2.19])
    assert len(found.labels) == len(found.time_s) == len(found.entropy) == 220
    assert "segments of 4 clusters over 2.20 s" in repr(found)


def test_millivolts_aliases_and_loaded_models(model: Path) -> None:
    found = record(ClusterModel.load(model), signal(0) / 1000.0, leads=["DI", "dii", "v1"], units_per_mv=1.0)
    np.testing.assert_allclose(found.proportions, record(model, signal(0), entropy=False).proportions, atol=1e-6)
    assert record(model, signal(0), entropy=False).entropy is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"values": signal(0).T}, r"signal has shape \(220, 3\).*pass signal.T"),
        ({"values": np.zeros((3, 220), np.int16)}, "flat_signal: every lead constant"),
        ({"values": np.full((3, 220), np.nan)}, "non_finite_samples"),
        ({"values": signal(0)[:, :0]}, "empty_signal"),
        ({"rate": 0.0}, r"bad_sampling_rate.*found sampling_rate 0"),
        ({"units_per_mv": -1.0}, "bad_units"),
        ({"leads": ["I", "II", "V2"]}, "missing_leads.*the encoder takes I, II, V1"),
        ({"leads": ["I", "II", "II"]}, "malformed_signal"),
        ({"valid": (10, 500)}, "bad_valid_span"),
    ],
)
def test_a_signal_that_cannot_be_explained_is_an_error(model: Path, change: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"values": signal(0), **change}
    with pytest.raises(UsageError, match=message):
        record(model, given.pop("values"), **given)


def test_an_encoder_that_was_exchanged_is_told(tmp_path: Path) -> None:
    model = write_model(tmp_path)
    (encoder,) = (tmp_path / "encoders").iterdir()
    contract = (encoder / "encoder.toml").read_text()
    (encoder / "encoder.toml").write_text(contract.replace("millivolt = 1.0", "millivolt = 2.0"))
    with pytest.raises(ModelError, match="put that encoder back"):
        record(model, signal(0))
    assert write_encoder(tmp_path / "another").is_dir()
