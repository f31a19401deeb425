"""Training end to end on small archives: it learns, repeats, keeps the best, and records what it has seen."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file

from ecgscale.archive import Archive, check_batch
from ecgscale.encoders.optimise import LoopSettings
from ecgscale.encoders.preprocess import prepare
from ecgscale.encoders.seen import seen_by
from ecgscale.encoders.spec import SPEC_FILE, load_spec
from ecgscale.encoders.splits import Folds
from ecgscale.encoders.taps import Encoder
from ecgscale.encoders.targets import score
from ecgscale.encoders.train import TrainSettings, default_blocks, train_encoder
from ecgscale.errors import EncoderError, UsageError
from tests.worlds.formula.small_networks import write_archive

FIELDS = [pa.field("classes", pa.list_(pa.string())), pa.field("rhythm", pa.string()), pa.field("coin", pa.string())]
SETTINGS = TrainSettings(
    target="classes",
    folds=Folds((1, 2, 3), (4,), (5,)),
    sampling_rate=100.0,
    length=128,
    blocks=((8, 128), (8, 32), (8, 8), (8, 4)),
    kernel_size=5,
    dropout=0.1,
    loop=LoopSettings(epochs=6, batch_size=8, learning_rate=1e-2),
)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    """100 records whose beats are upright or not, narrow or wide; age is the height of the beats."""
    rng = np.random.default_rng(0)
    records: list[dict[str, Any]] = []
    times = np.arange(128)
    for i in range(100):
        up, wide, height = i % 2, i // 2 % 2, rng.uniform(0.5, 2.0)
        beat = sum(np.exp(-(((times - at) / (6 if wide else 1.5)) ** 2)) for at in (20, 64, 108))
        signal = (height * (1 if up else -1) * beat + 0.02 * rng.normal(size=(12, 128))) * 1000
        classes = [name for name, there in (("up", up), ("wide", wide), ("narrow", not wide)) if there]
        records.append(
            {
                "signal": signal.astype(np.int16),
                "units_per_mv": 1000.0,
                "classes": classes if i < 95 else None,
                "rhythm": "wide" if wide else "narrow",
                "coin": str(rng.choice(["heads", "tails"])),
                "age": 40.0 * height,
                "fold": i % 5 + 1,
                "patient_id": f"p{i // 2 % 25}" if i % 7 else None,
            }
        )
    return write_archive(tmp_path_factory.mktemp("archive"), records, "int16", extra=FIELDS, shard_records=40)


def test_trains_a_multilabel_network_that_repeats(archive: Archive, tmp_path: Path) -> None:
    facts = train_encoder(archive, tmp_path / "a", SETTINGS)
    assert facts["kind"] == "multilabel"
    assert facts["names"] == ["narrow", "up", "wide"]
    assert facts["metrics"]["test"]["auroc_macro"] > 0.9
    assert facts["metrics"]["validation"]["auroc_macro"] > 0.9
    assert (facts["train_records"], facts["validation_records"], facts["test_records"]) == (57, 19, 19)
    again = train_encoder(archive, tmp_path / "b", SETTINGS)
    assert again["encoder_id"] == facts["encoder_id"]
    other = train_encoder(archive, tmp_path / "c", replace(SETTINGS, loop=replace(SETTINGS.loop, seed=1)))
    assert other["encoder_id"] != facts["encoder_id"]
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [SPEC_FILE, "seen.tsv", "weights.safetensors"]


def test_the_written_encoder_says_what_it_is_and_what_it_has_seen(archive: Archive, tmp_path: Path) -> None:
    facts = train_encoder(archive, tmp_path, SETTINGS)
    spec = load_spec(tmp_path)
    assert spec.layers == ("resblock1d_1", "resblock1d_2", "resblock1d_3")
    assert spec.depth_scales == (1.0, 1.0, 1.0)
    assert (spec.output.kind, spec.output.scale, spec.output.names) == ("multilabel", "logit", ("narrow", "up", "wide"))
    assert spec.training["archive_id"] == archive.archive_id
    assert (spec.training["train_folds"], spec.training["validation_folds"]) == ([1, 2, 3], [4])
    assert spec.training["metrics"] == facts["metrics"]
    table = archive.metadata(["record_id", "patient_id", "fold"])
    records, folds = table["record_id"].to_pylist(), np.array(table["fold"].to_pylist())
    seen = seen_by(tmp_path, "test", records, [None] * 100)
    assert seen is not None
    assert (seen == ((folds <= 4) & (np.arange(100) < 95))).all()
    text = (tmp_path / "seen.tsv").read_text()
    assert "p1\t" not in text
    assert "r1\t" not in text
    assert not np.any(seen_by(tmp_path, "another source", records, table["patient_id"].to_pylist()))
    assert np.all(seen_by(tmp_path, "test", ["unknown"], [table["patient_id"][1].as_py()]))


def test_the_saved_network_is_the_scored_one(archive: Archive, tmp_path: Path) -> None:
    facts = train_encoder(archive, tmp_path, SETTINGS)
    encoder = Encoder.load(tmp_path, batch=32)
    x, y = [], []
    for shard in archive.shards:
        for raw in archive.batches(shard, ["classes", "fold"], 100):
            prepared = prepare(raw, *check_batch(raw, set()), encoder.spec.input, encoder.hop)
            for i, fold in enumerate(raw.table.column("fold").to_pylist()):
                classes = raw.table.column("classes")[i].as_py()
                if fold == 5 and classes:
                    x.append(prepared.x[i])
                    y.append([name in classes for name in facts["names"]])
    predicted = encoder.forward(np.stack(x)).prediction.numpy()
    found = score("multilabel", facts["names"], predicted, np.array(y, np.float32))
    assert found == pytest.approx(facts["metrics"]["test"])


def test_a_regression_predicts_in_its_own_unit(archive: Archive, tmp_path: Path) -> None:
    settings = replace(SETTINGS, target="age", folds=Folds(), loop=replace(SETTINGS.loop, epochs=15))
    facts = train_encoder(archive, tmp_path, settings)
    spec = load_spec(tmp_path)
    assert (facts["kind"], spec.output.scale, facts["names"]) == ("regression", "value", ["age"])
    # Ages are 20 to 80; their mean absolute deviation is 15 years.
    assert facts["metrics"]["validation"]["mae"] < 10
    assert spec.training["split"] == "patient where known: 85 of 100"
    bias = load_file(tmp_path / "weights.safetensors")["lin.bias"]
    assert 20 < float(bias[0]) < 80


def test_trains_classes_of_strings(archive: Archive, tmp_path: Path) -> None:
    facts = train_encoder(archive, tmp_path, replace(SETTINGS, target="rhythm"))
    assert (facts["kind"], facts["names"]) == ("multiclass", ["narrow", "wide"])
    assert facts["metrics"]["test"]["accuracy"] > 0.9


def test_the_random_state_of_the_process_is_left_alone(archive: Archive, tmp_path: Path) -> None:
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    train_encoder(archive, tmp_path, replace(SETTINGS, loop=replace(SETTINGS.loop, epochs=1)))
    assert torch.rand(1) == expected


def test_stops_early_and_keeps_the_best(archive: Archive, tmp_path: Path) -> None:
    # A coin cannot be told from a signal: the network learns the training records by heart and validates ever worse.
    loop = LoopSettings(epochs=30, batch_size=8, learning_rate=2e-2, patience=2)
    facts = train_encoder(archive, tmp_path, replace(SETTINGS, target="coin", loop=loop))
    assert 15 < facts["epochs"] < 30
    assert facts["best_epoch"] <= facts["epochs"] - 2
    scores = load_spec(tmp_path).training["metrics"]["validation"]
    assert set(scores) == {"auroc_macro", "auroc:heads", "auroc:tails", "accuracy"}


def test_an_encoder_is_not_overwritten_unasked(archive: Archive, tmp_path: Path) -> None:
    quick = replace(SETTINGS, loop=replace(SETTINGS.loop, epochs=1))
    train_encoder(archive, tmp_path, quick)
    with pytest.raises(EncoderError, match="--overwrite"):
        train_encoder(archive, tmp_path, quick)
    train_encoder(archive, tmp_path, quick, overwrite=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(EncoderError, match="is a file"):
        train_encoder(archive, tmp_path / "file", quick)


def test_an_interrupted_training_leaves_no_encoder(
    archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_args: Any, **_kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ecgscale.encoders.train.optimise", killed)
    with pytest.raises(KeyboardInterrupt):
        train_encoder(archive, tmp_path / "e", SETTINGS)
    assert not (tmp_path / "e").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"blocks": ((8, 128), (8, 50))}, "no network has these blocks"),
        ({"kernel_size": 4}, "has to be odd"),
        ({"blocks": (), "length": 100}, "no multiple of 256"),
        ({"leads": ("I", "X9")}, "no usable record is left for train: missing_leads"),
        ({"target": "clases"}, "Did you mean 'classes'"),
        ({"device": "quantum"}, "choose auto"),
    ],
)
def test_settings_that_cannot_be(archive: Archive, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        train_encoder(archive, tmp_path, replace(SETTINGS, **changes))


def test_default_blocks_are_those_of_code() -> None:
    assert default_blocks(4096) == ((64, 4096), (128, 1024), (196, 256), (256, 64), (320, 16))
