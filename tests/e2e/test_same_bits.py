"""The same answer again: from scratch, on other numbers of threads, from other shard sizes, to the last bit."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from ecgscale.cli import main
from ecgscale.clusters.model import ClusterModel
from ecgscale.store import open_explanations
from tests.worlds.commands.simulated import QUICK, RATE, SECONDS, same_centroids
from tests.worlds.formula.small_networks import write_small_encoder

RECORDS = 90


def typed(*words: object) -> dict[str, Any]:
    """The JSON of a command that succeeds."""
    result = CliRunner().invoke(main, [*map(str, words), "--json"])
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return found


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def whole_job(folder: Path, shard_records: int = 32, seed: int = 5) -> tuple[ClusterModel, dict[str, Any]]:
    """Simulate, fit and explain below `folder`; the model, and what `explain` told."""
    shape = ["--records", RECORDS, "--seed", seed, "--rate", RATE, "--seconds", SECONDS]
    typed("simulate", folder / "archive", *shape, "--shard-records", shard_records)
    encoder = write_small_encoder(folder / "encoder", seed=2)
    fitted = typed("fit", folder / "archive", "--encoder", encoder, "--out", folder / "root", *QUICK)
    explained = typed(
        "explain", folder / "archive", "--model", fitted["path"], "--out", folder / "root", "--entropy", "timestep"
    )
    return ClusterModel.load(fitted["path"]), explained


def files(folder: Path, pattern: str) -> dict[str, bytes]:
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.glob(pattern))}
    assert found
    return found


def sorted_rows(root: Path) -> list[dict[str, Any]]:
    table = open_explanations(root).to_table().drop_columns(["source_shard"])
    rows: list[dict[str, Any]] = table.sort_by("record_id").to_pylist()
    return rows


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("once")
    with torch_threads(1):
        whole_job(folder)
    return folder


def test_from_scratch_every_file_is_the_same(once: Path, tmp_path: Path) -> None:
    with torch_threads(1):
        whole_job(tmp_path)
    for pattern in (
        "archive/part-*.parquet",
        "root/models/*/centroids.safetensors",
        "root/models/*/seen.tsv",
        "root/encoders/*/*",
        "root/explanations/*/data/*.parquet",
        "root/explanations/*/_dataset.json",
    ):
        assert files(tmp_path, pattern) == files(once, pattern), pattern
    [one], [other] = (list(folder.glob("root/models/*/model.json")) for folder in (once, tmp_path))
    message = [json.loads(path.read_text()) for path in (one, other)]
    assert all(facts.pop("seconds") for facts in message)
    assert message[0] == message[1]


def test_two_threads_give_the_bits_of_one(once: Path, tmp_path: Path) -> None:
    with torch_threads(2):
        whole_job(tmp_path)
    for pattern in ("root/models/*/centroids.safetensors", "root/explanations/*/data/*.parquet"):
        assert files(tmp_path, pattern) == files(once, pattern), pattern


@pytest.mark.parametrize("shard_records", [7, 40, RECORDS])
def test_other_shards_give_the_same_centroids_and_rows(once: Path, tmp_path: Path, shard_records: int) -> None:
    model, explained = whole_job(tmp_path, shard_records)
    assert explained["shards"] == -(-RECORDS // shard_records)
    [first] = (once / "root" / "models").iterdir()
    assert same_centroids(model, ClusterModel.load(first))
    assert model.info["history"] == ClusterModel.load(first).info["history"]
    assert sorted_rows(tmp_path / "root") == sorted_rows(once / "root")


def test_another_seed_gives_other_recordings_and_centroids(once: Path, tmp_path: Path) -> None:
    model, _ = whole_job(tmp_path, seed=6)
    [first] = (once / "root" / "models").iterdir()
    assert not same_centroids(model, ClusterModel.load(first))


def test_a_model_explains_the_same_records_in_any_archive_alike(once: Path, tmp_path: Path) -> None:
    shape = ["--seed", 5, "--rate", RATE, "--seconds", SECONDS, "--shard-records", 11]
    typed("simulate", tmp_path / "archive", "--records", 30, *shape)
    [model] = (once / "root" / "models").iterdir()
    typed("explain", tmp_path / "archive", "--model", model, "--out", tmp_path / "root", "--entropy", "timestep")
    ours = {row["record_id"]: row for row in sorted_rows(tmp_path / "root")}
    theirs = {row["record_id"]: row for row in sorted_rows(once / "root")}
    assert len(ours) == 30
    assert all(theirs[record] == row for record, row in ours.items())
