"""What a job takes, by arithmetic that can be checked by hand, and an outlook that knows what is there."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from ecgscale.archive.reader import Archive
from ecgscale.config import load_config
from ecgscale.errors import UsageError
from ecgscale.passes.run.outlook import look_ahead, memory_summary, outlook_encoder
from ecgscale.passes.run.pipeline import explain_config, fit_config, make_archive, run_pipeline
from ecgscale.passes.run.sizing import (
    KMEANS_FACTOR,
    STEP_S,
    Rates,
    Sizes,
    calibrate,
    duration,
    estimate,
    explained_bytes,
    shard_bytes,
    shard_count,
    sizing_table,
    volume,
)
from tests.passes.run.test_pipeline import SIMULATE, write_config
from tests.worlds.commands.simulated import cut_short
from tests.worlds.formula.small_networks import write_small_encoder

RATES = Rates(forward=100.0, explain=50.0, kmeans=10_000.0, source="given")
SIZES = Sizes(
    records=10_000,
    shards=10,
    bytes_in=1_000_000,
    fit_records=5_000,
    pending_records=10_000,
    bytes_out=17_000,
    activation_bytes=300,
    passes=2,
    steps=100,
)


def test_one_worker_does_everything_in_turn() -> None:
    one = estimate(SIZES, RATES, 1)
    # 5,000 forward at 100/s, two passes and 100 steps of 64 at 10,000/s, and the driver.
    assert one.fit_s == pytest.approx(50 + 1.0 + 0.64 + 102 * STEP_S)
    assert one.explain_s == pytest.approx(10_000 / 50)
    assert one.worker_hours == pytest.approx(one.seconds / 3600)
    assert (one.bytes_read, one.bytes_written) == (1_500_000, 17_000)
    assert one.activations_a_worker == 5_000 * 300


def test_shards_are_handed_out_whole() -> None:
    four, ten, many = (estimate(SIZES, RATES, n) for n in (4, 10, 1000))
    # Ten shards on four workers: one of them does three.
    assert four.explain_s == pytest.approx(3 * 1000 / 50)
    assert four.activations_a_worker == 3 * 500 * 300
    assert ten.explain_s == many.explain_s == pytest.approx(1000 / 50)
    assert many.worker_hours == pytest.approx(100 * ten.worker_hours)


def test_what_is_done_costs_nothing() -> None:
    done = replace(SIZES, fit_records=0, pending_records=0, bytes_out=0)
    nothing = estimate(done, RATES, 4)
    assert (nothing.seconds, nothing.bytes_read, nothing.activations_a_worker) == (0.0, 0, 0)
    some = estimate(replace(done, pending_records=1500), RATES, 4)
    assert some.explain_s == pytest.approx(750 / 50)
    assert some.bytes_read == 150_000


def test_sizes_of_the_sources() -> None:
    # PTB-XL at 500 Hz was measured at 44 KB a recording, CODE-15 % at 110 KB.
    assert shard_bytes(1, 12, 5000, "int16") == pytest.approx(44_000, rel=0.05)
    assert shard_bytes(1, 12, 4096, "float32") == pytest.approx(110_000, rel=0.05)
    assert shard_count(1000, 10**9, None) == 8
    assert shard_count(1001, 10**9, 100) == 11
    assert explained_bytes(100, 4000, "none") == 170_000
    assert explained_bytes(1, 4000, "timestep") == pytest.approx(17_700)


@pytest.mark.parametrize(
    ("seconds", "message"), [(45, "45 s"), (89.6, "90 s"), (720, "12 min"), (5399, "90 min"), (12_240, "3.4 h")]
)
def test_durations(seconds: float, message: str) -> None:
    assert duration(seconds) == message


@pytest.mark.parametrize(("size", "message"), [(900, "1 kB"), (5.6e8, "560 MB"), (3.4e10, "34 GB"), (1.2e12, "1.2 TB")])
def test_volumes(size: float, message: str) -> None:
    assert volume(size) == message


def test_the_table_has_a_line_for_each_number_of_workers() -> None:
    lines = sizing_table(SIZES, RATES, (1, 100))
    assert len(lines) == 4
    assert len({line.count("|") for line in lines}) == 1
    assert re.match(r"\| 100 \| 10,000 \|", lines[3])


def test_the_outlook_follows_the_work(tmp_path: Path) -> None:
    config = load_config(write_config(tmp_path, SIMULATE))
    encoder = outlook_encoder(config)
    before = look_ahead(config, encoder)
    assert (before.archive.there, before.encoder_there, before.model) == (False, False, None)
    assert (before.archive.records, before.archive.shards) == (48, 3)
    assert (before.explain.pending, before.explain.pending_records) == (3, 48)
    assert before.fit_records == 48 * 8 // 10
    assert not list(tmp_path.glob("[!j]*")), "planning wrote something"
    make_archive(config)
    write_small_encoder(tmp_path / "encoder")
    encoder = outlook_encoder(config)
    there = look_ahead(config, encoder)
    assert (there.archive.there, there.encoder_there, there.train_records) == (True, True, 0)
    archive = Archive.open(tmp_path / "archive")
    assert there.archive.bytes == sum(shard.size for shard in archive.shards)
    fitted = fit_config(config)
    assert fitted.records <= there.fit_records <= 48
    after_fit = look_ahead(config, encoder)
    assert (after_fit.model, after_fit.fit_records) == (fitted.model.model_id, 0)
    explain_config(config, fitted.directory)
    done = look_ahead(config, encoder)
    assert (done.explain.committed, done.explain.pending, done.anything) == (3, 0, False)
    cut_short(tmp_path / "archive" / "part-00002.parquet")
    broken = look_ahead(config, encoder, fitted.directory)
    assert (broken.explain.committed, list(broken.explain.set_aside)) == (2, ["part-00002.parquet"])


def test_what_if_needs_nothing_to_be_there(tmp_path: Path) -> None:
    missing = 'source = "code15"\nsrc = "nowhere"'
    config = load_config(write_config(tmp_path, missing))
    million = look_ahead(config, outlook_encoder(config), records=1_000_000)
    assert million.archive.records == million.explain.pending_records == 1_000_000
    assert million.fit_records == 800_000
    assert million.archive.shards == pytest.approx(110_000 * 1e6 / 2**27, rel=0.05)


def test_a_network_that_will_be_trained_is_as_large_as_it_will_be(tmp_path: Path) -> None:
    config = load_config(write_config(tmp_path))
    planned = outlook_encoder(config)
    run = run_pipeline(config)
    made = outlook_encoder(config)
    assert planned.layout == made.layout
    assert planned.spec.layers == made.spec.layers
    assert planned.spec.input == made.spec.input
    # But for the last layer, whose outputs are the labels that the archive turns out to have.
    assert planned.n_parameters == pytest.approx(made.n_parameters, rel=0.2)
    assert run.encoder == config.encoder.path


def test_memory_is_said_a_worker_and_refused_when_it_cannot_be(tmp_path: Path) -> None:
    config = load_config(write_config(tmp_path))
    encoder = outlook_encoder(config)
    assert "a worker" in memory_summary(config, encoder, SIZES, 4)
    tight = config.model_copy(update={"memory": "1MiB"})
    with pytest.raises(UsageError, match="cannot hold the fit"):
        memory_summary(tight, encoder, SIZES, 1)


def test_calibration_measures_this_machine(tmp_path: Path) -> None:
    config = load_config(write_config(tmp_path, train=""))
    write_small_encoder(tmp_path / "encoder")
    archive = make_archive(config)
    encoder = outlook_encoder(config)
    rates = calibrate(encoder, 4, archive, threads=1)
    assert 0 < rates.explain <= rates.forward
    assert rates.kmeans > rates.explain
    assert rates.source == "measured here on 1 CPU thread(s)"
    assert KMEANS_FACTOR > 1
