"""Bad input, all of it at once, as a user meets it: told, kept, and never in the way of the rest."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner, Result

from ecgscale.archive.validate import RECORD_STATUS
from ecgscale.archive.writer import ArchiveWriter
from ecgscale.cli import main
from ecgscale.leads import CANONICAL_LEADS
from ecgscale.store import open_explanations
from tests.worlds.commands.explaining import rewrite
from tests.worlds.commands.simulated import QUICK, cut_short
from tests.worlds.formula.small_networks import noise, write_small_encoder

LEADS = list(CANONICAL_LEADS)
SAMPLES = 220


def good(number: int, **changes: Any) -> dict[str, Any]:
    row = {
        "record_id": f"r{number}",
        "patient_id": f"p{number}",
        "signal": noise(SAMPLES, seed=number),
        "leads": LEADS,
        "sampling_rate": 100.0,
        "units_per_mv": 1.0,
        "fold": number % 4 + 1,
        "superclasses": ["NORM"] if number % 2 else ["MI", "CD"],
    }
    return row | changes


def spoilt(value: float) -> np.ndarray:
    signal = noise(SAMPLES, seed=99)
    signal[4, 100] = value
    return signal


ONE_OF_EACH: dict[str, dict[str, Any]] = {
    "non_finite_samples": {"signal": spoilt(np.nan)},
    "non_finite_samples (infinite)": {"signal": spoilt(-np.inf)},
    "flat_signal": {"signal": np.full((12, SAMPLES), 0.7, np.float32)},
    "missing_leads": {"signal": noise(SAMPLES, 3), "leads": ["I", "V1", "V2"]},
    "bad_sampling_rate": {"sampling_rate": 0.0},
    "bad_units": {"units_per_mv": -1.0},
    "empty_signal": {"signal": np.zeros((12, 0), np.float32)},
    "malformed_signal": {"leads": ["I", "I", *LEADS[2:]]},
    "bad_valid_span": {"valid_start": 30, "valid_stop": 20},
    "too_short": {"sampling_rate": 400.0, "valid_start": 5, "valid_stop": 7},
    "duplicate_record_id": {"record_id": "r0"},
    "missing_record_id": {"record_id": None},
}
FIRST_BAD = 3
IN_A_SHARD = FIRST_BAD + len(ONE_OF_EACH) + 2


@dataclass(frozen=True)
class BadWorld:
    """An archive of five shards, and a network: good and bad records, two good shards, a torn one, one that is text."""

    archive: Path
    encoder: Path
    root: Path

    def run(self, command: str, *options: object) -> Result:
        return CliRunner().invoke(main, [command, str(self.archive), *map(str, options), "--json"])

    def shard(self, number: int) -> Path:
        return self.archive / f"part-0000{number}.parquet"


def write_world(folder: Path) -> BadWorld:
    rows = [good(i) for i in range(5 * IN_A_SHARD)]
    for i, changes in enumerate(ONE_OF_EACH.values()):
        rows[FIRST_BAD + i] |= changes
    rows[1] = good(1, signal=np.vstack([noise(SAMPLES)[:11], np.zeros((1, SAMPLES), np.float32)]))
    rows[2] = good(2, signal=noise(400))
    rows[4 * IN_A_SHARD + 2] = good(4 * IN_A_SHARD + 2, record_id=f"r{IN_A_SHARD + 5}")
    extra = [pa.field("superclasses", pa.list_(pa.string()))]
    with ArchiveWriter(folder / "archive", {"kind": "test"}, "float32", extra, shard_records=IN_A_SHARD) as writer:
        for row in rows:
            writer.append(row)
    return BadWorld(folder / "archive", write_small_encoder(folder / "encoder"), folder / "root")


def facts(result: Result) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return found


def status_of(name: str) -> str:
    return name.split(" ")[0]


def test_one_archive_that_holds_all_of_it(tmp_path: Path) -> None:
    world = write_world(tmp_path)
    whole = {number: world.shard(number).read_bytes() for number in (2, 3)}
    cut_short(world.shard(2))
    world.shard(3).write_text("id,signal\n1,0\n")

    inspected = world.run("inspect")
    assert inspected.exit_code == 3
    counted = facts(inspected)["status"]
    for name in ONE_OF_EACH:
        if status_of(name) not in ("missing_leads", "too_short"):  # those depend on the network
            assert counted[status_of(name)] >= 1
    assert "publishing will refuse them" in inspected.stdout
    assert "unreadable shard part-00003.parquet" in inspected.stdout

    fitted = world.run("fit", "--encoder", world.encoder, "--out", world.root, *QUICK)
    assert fitted.exit_code == 0, fitted.output
    assert facts(fitted)["records"] == 3 * IN_A_SHARD - len(ONE_OF_EACH)
    message = fitted.stderr
    assert f"{len(ONE_OF_EACH)} of {3 * IN_A_SHARD} records take no part:" in message
    assert all(f" {status_of(name)}" in message for name in ONE_OF_EACH)
    assert "part-00002.parquet" in message
    assert "part-00003.parquet" in message

    model = facts(fitted)["path"]
    explain = ("--model", model, "--out", world.root)
    twice = world.run("explain", *explain)
    assert twice.exit_code == 1
    assert f"record_id 'r{IN_A_SHARD + 5}': shard part-00001.parquet row 5 and shard part-00004.parquet row 2" in (
        twice.stderr
    )
    assert not list(world.root.rglob("_manifests/*"))

    def unique(table: pa.Table) -> pa.Table:
        ids = table["record_id"].to_pylist()
        ids[2] = "r-unique"
        return table.set_column(table.schema.get_field_index("record_id"), "record_id", pa.array(ids))

    rewrite(world.shard(4), unique)
    without = world.run("explain", *explain)
    assert without.exit_code == 3
    found = facts(without)
    assert (found["records"], found["shards"], found["quarantined"]) == (3 * IN_A_SHARD, 3, len(ONE_OF_EACH))
    assert [aside["key"] for aside in found["set_aside"]] == ["part-00002.parquet", "part-00003.parquet"]
    assert "not a whole Parquet file" in without.stdout
    assert (found["computed"], found["unchanged"]) == (1, 2)
    check_rows(world)

    for number, data in whole.items():
        world.shard(number).write_bytes(data)
    complete = world.run("explain", *explain)
    assert complete.exit_code == 0, complete.output
    assert (facts(complete)["records"], facts(complete)["computed"]) == (5 * IN_A_SHARD, 2)
    check_rows(world)


def check_rows(world: BadWorld) -> None:
    """Every readable record has one row; the bad ones say why and have no facts, the others do not notice."""
    rows = open_explanations(world.root).to_table().to_pylist()
    first = [row for row in rows if row["source_shard"] == "part-00000.parquet"]
    expected = ["ok"] * FIRST_BAD + [status_of(name) for name in ONE_OF_EACH] + ["ok"] * 2
    assert [row["status"] for row in first] == expected
    assert {row["status"] for row in rows} <= set(RECORD_STATUS)
    assert {row["status"] for row in rows if row["source_shard"] != "part-00000.parquet"} == {"ok"}
    for row in rows:
        for fact in ("prediction", "proportions", "soft_proportions", "mean_entropy", "distortion", "segments"):
            assert (row[fact] is None) == (row["status"] != "ok"), (row["record_id"], fact)
        assert row["superclasses"] in (["NORM"], ["MI", "CD"])
    assert first[1]["flags"] == ["flat_lead:V6"]
    assert (first[2]["flags"], first[2]["cropped"]) == (["cropped"], 144)
    ids = [row["record_id"] for row in rows if row["status"] not in ("missing_record_id", "duplicate_record_id")]
    assert len(set(ids)) == len(ids)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> BadWorld:
    """The same with unique ids and whole shards, and a model."""
    made = write_world(tmp_path_factory.mktemp("bad"))
    made.shard(4).unlink()
    fitted = made.run("fit", "--encoder", made.encoder, "--out", made.root, *QUICK)
    assert fitted.exit_code == 0, fitted.output
    return made


def model_of(world: BadWorld) -> Path:
    [model] = (world.root / "models").iterdir()
    return model


def test_an_absent_label_column_lists_those_there_are(world: BadWorld, tmp_path: Path) -> None:
    trained = world.run("train", "--target", "superclass", "--out", tmp_path / "e")
    assert trained.exit_code == 2
    assert "no column 'superclass' to train on. Did you mean 'superclasses'? There are: superclasses" in trained.stderr
    assert not (tmp_path / "e").exists() or not list((tmp_path / "e").iterdir())
    world.run("explain", "--model", model_of(world), "--out", world.root)
    scored = CliRunner().invoke(main, ["surrogate", str(world.root), "--target", "superclass"])
    assert scored.exit_code == 2
    assert "Did you mean 'superclasses'? There are: " in scored.stderr


def test_a_carried_column_with_a_reserved_name(world: BadWorld, tmp_path: Path) -> None:
    shutil.copytree(world.archive, tmp_path / "archive")
    other = BadWorld(tmp_path / "archive", world.encoder, tmp_path / "root")
    for number in range(4):
        rewrite(other.shard(number), lambda table: table.append_column("status", pa.nulls(table.num_rows, pa.string())))
    result = other.run("explain", "--model", model_of(world), "--out", other.root)
    assert result.exit_code == 2
    assert "column status: reserved for the explanations" in result.stderr
    assert not list(other.root.rglob("*.parquet"))


def test_no_shard_that_can_be_read(world: BadWorld, tmp_path: Path) -> None:
    shutil.copytree(world.archive, tmp_path / "archive")
    other = BadWorld(tmp_path / "archive", world.encoder, tmp_path / "root")
    for number in range(4):
        cut_short(other.shard(number))
    for result in (
        other.run("explain", "--model", model_of(world), "--out", other.root),
        other.run("fit", "--encoder", world.encoder, "--out", other.root, *QUICK),
    ):
        assert result.exit_code in (1, 2)
        assert "none of" in result.stderr
        assert "can be read" in result.stderr


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("resblock1d_2", "resblock1d_7"), ["no layer 'resblock1d_7'", "Did you mean", "resblock1d_0", "resblock1d_1"]),
        (
            ("n_classes = 2", "n_classes = 3"),
            ["weights.safetensors does not fit", "lin.weight is (2, ", "expected (3, "],
        ),
        (("[16, 16]", "[24, 16]"), ["does not fit", "resblock1d_2"]),
        (("ResNet1d", "ResNet2d"), ["has no 'ResNet2d'. Did you mean 'ResNet1d'?"]),
        (("depth_scales = [1.0, ", "depth_scales = ["), ["2 depth_scales for 3 layers"]),
        (("layers =", "layer ="), ["unknown key layer", "Did you mean 'layers'?"]),
        (("weights.safetensors", "nowhere.safetensors"), ["no weights at"]),
    ],
)
def test_an_encoder_that_does_not_fit(
    world: BadWorld, tmp_path: Path, change: tuple[str, str], message: list[str]
) -> None:
    encoder = write_small_encoder(tmp_path / "encoder")
    text = (encoder / "encoder.toml").read_text()
    assert change[0] in text
    (encoder / "encoder.toml").write_text(text.replace(*change))
    for result in (
        CliRunner().invoke(main, ["encoder", "check", str(encoder)]),
        world.run("fit", "--encoder", encoder, "--out", tmp_path / "root", *QUICK),
    ):
        assert result.exit_code == 2, result.output
        assert all(words in result.stderr for words in message), result.stderr
    assert not (tmp_path / "root").exists()


def test_weights_cut_short(world: BadWorld, tmp_path: Path) -> None:
    encoder = write_small_encoder(tmp_path / "encoder")
    weights = encoder / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    result = world.run("fit", "--encoder", encoder, "--out", tmp_path / "root", *QUICK)
    assert (result.exit_code, "cannot be read as weights" in result.stderr) == (2, True)


def test_an_encoder_that_was_changed_after_the_fit(world: BadWorld, tmp_path: Path) -> None:
    shutil.copytree(world.root, tmp_path / "root")
    [encoder] = (tmp_path / "root" / "encoders").iterdir()
    write_small_encoder(encoder, seed=5)
    result = world.run(
        "explain", "--model", tmp_path / "root" / "models" / model_of(world).name, "--out", tmp_path / "o"
    )
    assert result.exit_code == 2
    assert "put that encoder back, or fit again" in result.stderr
