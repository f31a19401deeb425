"""The main job on real recordings: all four sources in full, a network of the CODE shapes, a small one on everything.

Weights are drawn, not trained: what is checked here is arithmetic and bookkeeping. `make real` trains.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

from benchmarks.against_dense import compare, real_activations
from benchmarks.explained_rows import check_rows
from ecgscale.archive.reader import Archive
from ecgscale.cli import main
from ecgscale.clusters.model import ClusterModel
from ecgscale.encoders.resnet1d import ResNet1d
from ecgscale.encoders.spec import write_spec
from ecgscale.encoders.taps import Encoder
from ecgscale.leads import CANONICAL_LEADS
from ecgscale.progress import SILENT
from ecgscale.store import open_explanations
from tests.e2e.test_same_bits import torch_threads
from tests.worlds.formula.small_networks import spec_of

pytestmark = pytest.mark.realdata

SOURCES = {
    "ptbxl": (("ptbxl", "--shard-records", "100"), "ptbxl", 434),
    "ptbxl100": (("ptbxl", "--rate", "100"), "ptbxl", 434),
    "code15": (("code15",), "code15", 318),
    "ludb": (("wfdb", "--units-per-mv", "1000"), "ludb", 100),
    "cinc": (("wfdb",), "cinc", 162),
}
CODE_BLOCKS = [[64, 4096], [128, 1024], [196, 256], [256, 64], [320, 16]]
SMALL_BLOCKS = [[16, 1024], [24, 512], [48, 256], [64, 64], [80, 16]]


def typed(*words: object) -> dict[str, Any]:
    """The JSON of a command that succeeds."""
    result = CliRunner().invoke(main, [*map(str, words), "--json"])
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return found


def write_encoder(directory: Path, blocks: list[list[int]], rate: float, kernel_size: int) -> Path:
    """A ResNet1d with drawn weights, its last three blocks tapped."""
    arguments: dict[str, Any] = {
        "input_dim": [12, blocks[0][1]],
        "blocks_dim": blocks,
        "n_classes": 5,
        "kernel_size": kernel_size,
    }
    directory.mkdir()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        save_file(ResNet1d(**arguments).state_dict(), directory / "weights.safetensors")
    spec = spec_of(
        name="drawn",
        arguments=arguments,
        layers=["resblock1d_2", "resblock1d_3", "resblock1d_4"],
        input={"leads": list(CANONICAL_LEADS), "sampling_rate": rate, "length": blocks[0][1]},
        output={"kind": "multilabel", "scale": "logit", "names": ["CD", "HYP", "MI", "NORM", "STTC"]},
    )
    write_spec(directory, spec)
    return directory


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("real")


@pytest.fixture(scope="module")
def archives(test_data: Path, work: Path) -> dict[str, Path]:
    """All four sources, PTB-XL at both rates."""
    paths = {}
    for name, ((source, *options), folder, records) in SOURCES.items():
        found = typed("ingest", source, test_data / folder, work / name, *options)
        assert (found["records"], found["problems"]) == (records, 0), found
        paths[name] = work / name
    return paths


@pytest.fixture(scope="module")
def first(archives: dict[str, Path], work: Path) -> Path:
    """The first 100 recordings of PTB-XL as an archive of their own."""
    (work / "first").mkdir()
    for name in ("_archive.json", "part-00000.parquet"):
        shutil.copy(archives["ptbxl"] / name, work / "first" / name)
    return work / "first"


@pytest.fixture(scope="module")
def code_model(first: Path, work: Path) -> ClusterModel:
    """K = 20 on 64 recordings with a network of the CODE shapes."""
    encoder = write_encoder(work / "code-encoder", CODE_BLOCKS, 400.0, 17)
    fitted = typed("fit", first, "--encoder", encoder, "--out", work / "code", "--records", 64, "--max-epochs", 8)
    assert (fitted["records"], fitted["n_clusters"]) == (64, 20)
    assert 0 < fitted["explained_variance"] < 1
    return ClusterModel.load(fitted["path"])


@pytest.fixture(scope="module")
def small_model(archives: dict[str, Path], work: Path) -> ClusterModel:
    """K = 20 on folds 1 to 8 of PTB-XL with a small network at 100 Hz."""
    encoder = write_encoder(work / "small-encoder", SMALL_BLOCKS, 100.0, 9)
    fitted = typed("fit", archives["ptbxl"], "--encoder", encoder, "--out", work / "small", "--folds", "1-8")
    assert 300 < fitted["records"] < 434
    return ClusterModel.load(fitted["path"])


def explained(archive: Path, model: ClusterModel, root: Path) -> pa.Table:
    """Explanations with the entropy of every timestep; held to what is true of all of them."""
    message = typed("explain", archive, "--model", model.directory, "--out", root, "--entropy", "timestep")
    table = open_explanations(root, message["dataset_id"]).to_table()
    facts = check_rows(table, Archive.open(archive))
    assert facts.holds(), facts
    assert (facts.records, facts.explained) == (message["records"], message["records"] - message["quarantined"])
    return table


def test_a_network_of_the_code_shapes_on_ptbxl(first: Path, code_model: ClusterModel, work: Path) -> None:
    table = explained(first, code_model, work / "code")
    assert table.num_rows == 100
    assert table["status"].to_pylist() == ["ok"] * 100
    assert set(table["length"].to_pylist()) == {4096}
    assert set(zip(table["valid_start"].to_pylist(), table["valid_stop"].to_pylist(), strict=True)) == {(48, 4048)}
    assert {len(values) for values in table["entropy"].to_pylist()} == {4000}
    assert set(table["start_s"].to_pylist()) == {-0.12}


@pytest.mark.parametrize("name", SOURCES)
def test_every_recording_of_every_source(
    name: str, archives: dict[str, Path], small_model: ClusterModel, work: Path
) -> None:
    table = explained(archives[name], small_model, work / "small")
    assert table.num_rows == SOURCES[name][2]
    assert set(table["status"].to_pylist()) == {"ok"}
    flags = dict(zip(table["record_id"].to_pylist(), table["flags"].to_pylist(), strict=True))
    flat = {record for record, found in flags.items() if any(flag.startswith("flat_lead:") for flag in found)}
    cropped = [record for record, found in flags.items() if "cropped" in found]
    if name == "cinc":
        assert flat >= {"JS20004", "JS20008", "JS11438"}
        assert len(cropped) == sum(samples > 0 for samples in table["cropped"].to_pylist()) > 0
    elif name == "code15":
        spans = Counter(stop - start for start, stop in zip(*(table[c].to_pylist() for c in SPAN), strict=True))
        # Seven seconds, or a whole tracing; a few exams are shorter.
        assert {span for span, _ in spans.most_common(2)} == {733, 1024}
        assert set(spans) <= set(range(300, 1025))
    else:
        assert not cropped
        assert set(zip(*(table[c].to_pylist() for c in SPAN), strict=True)) == {(12, 1012)}
    if name == "ludb":
        assert all(table["fiducials"].to_pylist())
    if name.startswith("ptbxl"):
        assert {"superclasses", "scp_codes", "fold"} <= set(table.column_names)
    # A few recordings stand twice in the sources.
    assert len({tuple(shares) for shares in table["proportions"].to_pylist()}) > 0.97 * table.num_rows


SPAN = ("valid_start", "valid_stop")


def test_neither_threads_nor_shards_change_a_bit(
    test_data: Path, first: Path, code_model: ClusterModel, work: Path
) -> None:
    explain = ("--model", code_model.directory, "--entropy", "timestep", "--out")
    with torch_threads(1):
        one = typed("explain", first, *explain, work / "one-thread")
    with torch_threads(2):
        two = typed("explain", first, *explain, work / "two-threads")
    files = [sorted((Path(message["path"]) / "data").iterdir()) for message in (one, two)]
    assert [path.read_bytes() for path in files[0]] == [path.read_bytes() for path in files[1]]

    typed("ingest", "ptbxl", test_data / "ptbxl", work / "other-shards", "--shard-records", 23)
    for shard in sorted((work / "other-shards").glob("part-*.parquet"))[2:]:
        shard.unlink()
    other = typed("explain", work / "other-shards", *explain, work / "other")
    rows = {row["record_id"]: row for row in open_explanations(work / "one-thread").to_table().to_pylist()}
    others = open_explanations(work / "other").to_table().to_pylist()
    assert len(others) == other["records"] == 46
    for row in others:
        assert row | {"source_shard": ""} == rows[row["record_id"]] | {"source_shard": ""}


def test_factored_is_dense_on_a_network_of_the_code_shapes(first: Path, code_model: ClusterModel) -> None:
    encoder = Encoder.load(code_model.encoder_path)
    found = compare(real_activations(Archive.open(first), encoder, 8), code_model)
    assert found["kernels"].timesteps == 8 * 4000
    for name, agreement in found.items():
        assert agreement.holds(), (name, agreement)
        assert agreement.agreement >= 0.99999 or agreement.differing <= 1, (name, agreement)
    assert found["tensors64"].differing == 0
    assert found["tensors64"].square_distance < 1e-10
    assert found["kernels"].entropy < 1e-4


@pytest.mark.parametrize("name", ["ptbxl", "code15", "ludb", "cinc"])
def test_factored_is_dense_on_every_source(name: str, archives: dict[str, Path], small_model: ClusterModel) -> None:
    encoder = Encoder.load(small_model.encoder_path)
    found = compare(real_activations(Archive.open(archives[name]), encoder, 40), small_model)
    assert found["kernels"].records == 40
    assert found["kernels"].timesteps > 25_000
    for way, agreement in found.items():
        assert agreement.holds(), (way, agreement)
        assert agreement.differing <= 1, (way, agreement)


@pytest.mark.parametrize("name", SOURCES)
def test_duckdb_and_polars_read_the_archive_as_pyarrow_does(name: str, archives: dict[str, Path]) -> None:
    import duckdb
    import polars

    files = str(archives[name] / "part-*.parquet")
    table = pyarrow.dataset.dataset(sorted(archives[name].glob("part-*.parquet"))).to_table(
        columns=["record_id", "signal", "leads", "valid_stop"]
    )
    signals = [np.asarray(scalar.values) for scalar in table["signal"]]
    expected = [
        (record, len(signal), float(signal.min()), float(signal.max()), len(leads), stop)
        for record, signal, leads, stop in zip(
            table["record_id"].to_pylist(),
            signals,
            table["leads"].to_pylist(),
            table["valid_stop"].to_pylist(),
            strict=True,
        )
    ]
    facts = "record_id, len(signal), list_min(signal)::DOUBLE, list_max(signal)::DOUBLE, len(leads), valid_stop"
    assert sorted(duckdb.execute(f"SELECT {facts} FROM '{files}'").fetchall()) == sorted(expected)
    frame = polars.scan_parquet(files).select(
        "record_id",
        polars.col("signal").list.len(),
        polars.col("signal").list.min().cast(polars.Float64).alias("least"),
        polars.col("signal").list.max().cast(polars.Float64).alias("most"),
        polars.col("leads").list.len(),
        "valid_stop",
    )
    assert sorted(frame.collect().rows()) == sorted(expected)


def test_duckdb_and_polars_read_the_explanations_as_pyarrow_does(
    archives: dict[str, Path], small_model: ClusterModel, work: Path
) -> None:
    import duckdb
    import polars

    message = typed("explain", archives["ptbxl"], "--model", small_model.directory, "--out", work / "small")
    dataset = open_explanations(work / "small", message["dataset_id"])
    table = dataset.to_table().sort_by("record_id")
    columns = "record_id, fold, mean_entropy, len(segments), segments[1].cluster, proportions[1], superclasses"
    found = duckdb.execute(f"SELECT {columns} FROM dataset ORDER BY record_id").fetchall()
    for mine, row in zip(found, table.to_pylist(), strict=True):
        first, shares = row["segments"][0], row["proportions"]
        assert mine == (
            row["record_id"],
            row["fold"],
            row["mean_entropy"],
            len(row["segments"]),
            first["cluster"],
            shares[0],
            row["superclasses"],
        )
    [total] = duckdb.execute("SELECT sum(s.stop - s.start) FROM (SELECT unnest(segments) AS s FROM dataset)").fetchall()
    assert total[0] == 434 * 1000
    frame = polars.read_parquet(dataset.files).sort("record_id")
    for name in ("segments", "proportions", "prediction", "superclasses", "flags"):
        assert frame[name].to_list() == table[name].to_pylist(), name


def test_the_benchmark_of_all_this_runs(
    test_data: Path, archives: dict[str, Path], small_model: ClusterModel, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks import real_recordings

    monkeypatch.setattr(real_recordings, "COMPARED", 3)
    found = real_recordings.run(real_recordings.Job(test_data, work, small_model.encoder_path, SILENT))
    assert found["failed"] == []
    assert {name: facts["records"] for name, facts in found["explain"].items()} == {
        "ptbxl": 434,
        "code15": 318,
        "ludb": 100,
        "ludb by its gains": 100,
        "cinc": 162,
    }
    assert 0 < found["surrogate"]["scores"]["majority_agreement"] <= 1
    message = json.dumps(found)
    ids = Archive.open(archives["cinc"]).metadata(["record_id"])["record_id"].to_pylist()
    assert not [record for record in ids if record in message]
    assert real_recordings.page(found).endswith("all of it holds")
