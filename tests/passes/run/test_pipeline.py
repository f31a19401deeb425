"""The whole job from one configuration: what is there is left alone, what is missing is made, or told before work."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from ecgscale.config import load_config
from ecgscale.encoders.spec import load_spec
from ecgscale.errors import UsageError
from ecgscale.passes.run import pipeline
from ecgscale.passes.run.pipeline import run_pipeline
from tests.worlds.commands.explaining import Watching, rewrite, rows
from tests.worlds.commands.simulated import simulated
from tests.worlds.formula.small_networks import write_small_encoder

CONFIG = """
root = "results"
batch = 16
device = "cpu"
[archive]
path = "archive"
{archive}
[encoder]
path = "encoder"
{train}
[fit]
clusters = 4
max_epochs = 2
folds = [1, 2, 3, 4, 5, 6, 7, 8]
[explain]
entropy = "timestep"
"""
SIMULATE = 'source = "simulate"\nrecords = 48\nshard_records = 20'
TRAIN = """
[train]
target = "superclasses"
epochs = 1
train_folds = [1, 2, 3, 4, 5, 6, 7]
validation_folds = [8]
rate = 50
length = 256
blocks = [[4, 256], [4, 64], [8, 16]]
"""


def write_config(folder: Path, archive: str = SIMULATE, train: str = TRAIN) -> Path:
    path = folder / "job.toml"
    path.write_text(CONFIG.format(archive=archive, train=train))
    return path


def test_everything_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config(write_config(tmp_path))
    watch = Watching()
    first = run_pipeline(config, watch)
    assert first.made == ("archive", "encoder")
    assert (first.archive, first.encoder) == (tmp_path / "archive", tmp_path / "encoder")
    assert (first.explained.records, first.explained.shards, first.explained.computed) == (48, 3, 3)
    assert len(rows(tmp_path / "results")[0]["entropy"]) > 0
    assert load_spec(tmp_path / "encoder").arguments["blocks_dim"] == [[4, 256], [4, 64], [8, 16]]
    assert first.fitted.model.info["fitted_on"]["folds"] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert any("making the archive" in line for line in watch.said)
    assert any("training an encoder" in line for line in watch.said)

    def made_again(*_: object, **__: object) -> None:
        raise AssertionError("something that is there was made again")

    monkeypatch.setattr(pipeline, "simulate_archive", made_again)
    monkeypatch.setattr(pipeline, "train_encoder", made_again)
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    again = run_pipeline(config)
    assert again.made == ()
    assert again.fitted.already_there
    assert (again.explained.computed, again.explained.unchanged, again.explained.published) == (0, 3, False)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == stamps


def test_what_is_there_is_used(tmp_path: Path) -> None:
    simulated(tmp_path / "archive", 30, 20)
    write_small_encoder(tmp_path / "encoder")
    result = run_pipeline(load_config(write_config(tmp_path, archive="", train="")))
    assert result.made == ()
    assert result.explained.records == 30


def test_an_archive_that_has_grown_is_explained_where_it_is_new(tmp_path: Path) -> None:
    simulated(tmp_path / "archive", 40, 20)
    write_small_encoder(tmp_path / "encoder")
    config = load_config(write_config(tmp_path, archive="", train=""))
    first = run_pipeline(config)
    new = simulated(tmp_path / "longer", 60, 20) / "part-00002.parquet"
    nine = pa.array([9] * 20, pa.int16())
    rewrite(new, lambda table: table.set_column(table.schema.get_field_index("fold"), "fold", nine))
    new.rename(tmp_path / "archive" / new.name)
    grown = run_pipeline(config)
    assert grown.fitted.already_there
    assert (grown.explained.dataset_id, grown.explained.manifest) == (first.explained.dataset_id, 2)
    assert (grown.explained.computed, grown.explained.unchanged, grown.explained.records) == (1, 2, 60)


def test_an_unfinished_archive_is_made_from_the_beginning(tmp_path: Path) -> None:
    write_small_encoder(tmp_path / "encoder")
    simulated(tmp_path / "archive", 10, None)
    (tmp_path / "archive" / "_archive.json").unlink()
    result = run_pipeline(load_config(write_config(tmp_path, train="")))
    assert result.made == ("archive",)
    assert result.explained.records == 48


@pytest.mark.parametrize(
    ("archive", "train", "message"),
    [
        ("", TRAIN, "is no archive, and .archive. names no source"),
        (SIMULATE, "", r"has no encoder\.toml, and there is no .train. section"),
        ('source = "ptbxl"\nsrc = "nowhere"', TRAIN, "nowhere: no such folder"),
    ],
)
def test_what_is_missing_and_cannot_be_made_is_told_before_any_work(
    tmp_path: Path, archive: str, train: str, message: str
) -> None:
    config = load_config(write_config(tmp_path, archive, train))
    with pytest.raises(UsageError, match=message):
        run_pipeline(config)
    assert [path.name for path in tmp_path.iterdir()] == ["job.toml"]


def test_a_fit_that_cannot_be_is_told_before_any_work(tmp_path: Path) -> None:
    path = write_config(tmp_path)
    path.write_text(path.read_text().replace("clusters = 4", "clusters = 4\ntau = 1e-9"))
    with pytest.raises(UsageError, match="tau"):
        run_pipeline(load_config(path))
    assert [path.name for path in tmp_path.iterdir()] == ["job.toml"]


def test_an_encoder_that_is_damaged_is_told_before_the_archive_is_made(tmp_path: Path) -> None:
    encoder = write_small_encoder(tmp_path / "encoder")
    (encoder / "encoder.toml").write_text("name = 1")
    with pytest.raises(UsageError, match=r"encoder\.toml"):
        run_pipeline(load_config(write_config(tmp_path)))
    assert not (tmp_path / "archive").exists()
